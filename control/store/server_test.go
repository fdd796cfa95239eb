package store_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/control/storeserver"
)

// serverEnv makes this test binary a store server: a real process, so that
// kill -9 is one.
const serverEnv = "ISTHMUS_TEST_STORE_DIR"

// waitMax bounds every wait of these tests; none asserts how long it took.
const waitMax = time.Minute

func TestMain(m *testing.M) {
	if dir := os.Getenv(serverEnv); dir != "" {
		os.Exit(serve(dir))
	}
	goleak.VerifyTestMain(m)
}

// serve runs a store in dir until standard input ends, which it does at the
// latest with the test.
func serve(dir string) int {
	if os.Getenv(diskEnv) != "" {
		if err := faultyDisk(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	c := storeserver.Config{
		DataDir:      filepath.Join(dir, "data"),
		ClientSocket: filepath.Join(dir, "store.sock"),
		QuotaBytes:   32 << 20, // etcd's file grows by 16 MiB
		Ready:        func() { fmt.Println("ready") },
	}
	if err := storeserver.Run(ctx, c, slog.New(slog.NewTextHandler(os.Stderr, nil))); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// A server is a store process over a directory that outlives it.
type server struct {
	t     testing.TB
	dir   string
	cmd   *exec.Cmd
	stdin io.Closer
	took  time.Duration // from start to ready
	env   []string      // more than the test's
}

// newServer starts a store on a fresh directory.
func newServer(t testing.TB) *server {
	t.Helper()
	dir, err := os.MkdirTemp("", "isthmus-store-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &server{t: t, dir: dir}
	s.start()
	t.Cleanup(s.kill)
	return s
}

// start starts the process and waits until it is ready.
func (s *server) start() {
	s.t.Helper()
	if err := s.run(); err != nil {
		s.t.Fatal(err)
	}
}

// run is start for other goroutines than the test's.
func (s *server) run() error {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), serverEnv+"="+s.dir), s.env...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	s.cmd, s.stdin = cmd, in
	line := make(chan string, 1)
	go func() {
		text, _ := bufio.NewReader(out).ReadString('\n')
		line <- text
	}()
	select {
	case text := <-line:
		if text != "ready\n" {
			return fmt.Errorf("store process said %q instead of ready", text)
		}
	case <-time.After(waitMax):
		return fmt.Errorf("store process is not ready after %v", waitMax)
	}
	s.took = time.Since(begin)
	return nil
}

// kill ends the process with SIGKILL.
func (s *server) kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	s.cmd = nil
}

// stop asks the process to end and returns how it did.
func (s *server) stop() error {
	s.stdin.Close()
	err := s.cmd.Wait()
	s.cmd = nil
	return err
}

func (s *server) endpoint() string { return "unix://" + filepath.Join(s.dir, "store.sock") }

// open returns a client that comes back soon, and whose calls fail where nothing moves: a bound, not a measure.
func (s *server) open(change ...func(*store.Config)) *store.Store {
	s.t.Helper()
	c := store.Config{
		Endpoints:        []string{s.endpoint()},
		RequestTimeout:   waitMax,
		ProgressInterval: 50 * time.Millisecond,
		BackoffMax:       100 * time.Millisecond,
	}
	for _, f := range change {
		f(&c)
	}
	st, err := store.Open(c)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if err := st.Close(); err != nil {
			s.t.Error(err)
		}
	})
	return st
}

// pss returns the process's proportional set size in bytes.
func (s *server) pss() int {
	s.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", s.cmd.Process.Pid))
	if err != nil {
		s.t.Skipf("no smaps_rollup here: %v", err)
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "Pss:" {
			kb, err := strconv.Atoi(f[1])
			if err != nil {
				s.t.Fatal(err)
			}
			return kb << 10
		}
	}
	s.t.Fatal("smaps_rollup has no Pss")
	return 0
}
