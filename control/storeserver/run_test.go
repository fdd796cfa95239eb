package storeserver

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/isthmus-mesh/isthmus/internal/failpoint"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// waitMax bounds every wait; none asserts how long it took.
const waitMax = time.Minute

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// running runs a store in this process until the test ends or stop is called,
// and returns after it is ready.
func running(t *testing.T, c Config, log *slog.Logger) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	c.Ready = func() { close(ready) }
	go func() { done <- Run(ctx, c, log) }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatalf("Run: %v", err)
	case <-time.After(waitMax):
		t.Fatal("not ready")
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run after a clean stop: %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func config(t *testing.T) Config {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return Config{DataDir: filepath.Join(dir, "data"), ClientSocket: filepath.Join(dir, "run", "store.sock")}
}

func client(t *testing.T, socket string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{
		Endpoints: []string{"http://store"},
		Logger:    zap.NewNop(),
		DialOptions: []grpc.DialOption{
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
				dir, err := os.Open(filepath.Dir(socket))
				if err != nil {
					return nil, err
				}
				defer dir.Close()
				return net.Dial("unix", "/proc/self/fd/"+strconv.Itoa(int(dir.Fd()))+"/"+filepath.Base(socket))
			}),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestStoreKeepsWhatItHoldsOverAStop(t *testing.T) {
	c := config(t)
	stop := running(t, c, quiet())
	ctx, cancel := context.WithTimeout(t.Context(), waitMax)
	defer cancel()
	if _, err := client(t, c.ClientSocket).Put(ctx, "k", "v"); err != nil {
		t.Fatal(err)
	}
	stop()
	if _, err := os.Stat(c.ClientSocket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket outlived a clean stop: %v", err)
	}
	running(t, c, quiet())
	resp, err := client(t, c.ClientSocket).Get(ctx, "k")
	if err != nil || len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != "v" {
		t.Errorf("got %v, %v", resp, err)
	}
}

func TestNothingButOwnerOnlySockets(t *testing.T) {
	c := config(t)
	c.PeerSocket = filepath.Join(filepath.Dir(c.ClientSocket), "peer.sock")
	before := listening(t)
	running(t, c, quiet())
	for _, path := range []string{c.ClientSocket, c.PeerSocket} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 || info.Mode().Type() != fs.ModeSocket {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	if after := listening(t); after != before {
		t.Errorf("%d TCP ports listen, %d did before", after, before)
	}
}

// listening counts the listening TCP sockets among this process's descriptors.
func listening(t *testing.T) int {
	t.Helper()
	inodes := make(map[string]bool)
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		data, err := os.ReadFile(table)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			if f := strings.Fields(line); len(f) > 9 && f[3] == "0A" {
				inodes["socket:["+f[9]+"]"] = true
			}
		}
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skipf("no /proc here: %v", err)
	}
	n := 0
	for _, fd := range fds {
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && inodes[to] {
			n++
		}
	}
	return n
}

func TestPathLongerThanASocketAddress(t *testing.T) {
	c := config(t)
	deep := filepath.Join(filepath.Dir(c.DataDir), strings.Repeat("d", 120), strings.Repeat("e", 120))
	c.DataDir, c.ClientSocket = filepath.Join(deep, "data"), filepath.Join(deep, "store.sock")
	c.PeerSocket = filepath.Join(deep, "peer.sock")
	running(t, c, quiet())
	ctx, cancel := context.WithTimeout(t.Context(), waitMax)
	defer cancel()
	if _, err := client(t, c.ClientSocket).Put(ctx, "k", "v"); err != nil {
		t.Fatal(err)
	}
}

func TestRefusals(t *testing.T) {
	open := func(c Config) string { return filepath.Dir(c.DataDir) + "/open" }
	cut := errors.New("cut")
	points := failpoint.New(Failpoints()...)
	if err := points.Enable(PointStart, failpoint.Error(cut)); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		spoil func(*Config)
		want  string
	}{
		"folder others can enter": {func(c *Config) { c.ClientSocket = open(*c) + "/s.sock" }, "run chmod 700"},
		"data others can read":    {func(c *Config) { c.DataDir = open(*c) }, "run chmod 700"},
		"path taken by a file":    {func(c *Config) { c.ClientSocket = filepath.Dir(c.DataDir) + "/file" }, "not a socket"},
		"peer path taken":         {func(c *Config) { c.PeerSocket = filepath.Dir(c.DataDir) + "/file" }, "not a socket"},
		"long name":               {func(c *Config) { c.ClientSocket += strings.Repeat("x", 100) }, "fit a socket address"},
		"nothing set":             {func(c *Config) { *c = Config{} }, "clientSocket: must be set"},
		"one socket for two":      {func(c *Config) { c.PeerSocket = c.ClientSocket }, "is clientSocket too"},
		"tiny quota":              {func(c *Config) { c.QuotaBytes = 1 }, "quotaBytes"},
		"failpoint":               {func(c *Config) { c.Failpoints = points }, "cut"},
	} {
		t.Run(name, func(t *testing.T) {
			c := config(t)
			if err := errors.Join(os.Mkdir(open(c), 0o700), os.Chmod(open(c), 0o755),
				os.WriteFile(filepath.Dir(c.DataDir)+"/file", []byte("x"), 0o600)); err != nil {
				t.Fatal(err)
			}
			tc.spoil(&c)
			ctx, cancel := context.WithTimeout(t.Context(), waitMax)
			defer cancel()
			err := Run(ctx, c, quiet())
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Run = %v, want %q", err, tc.want)
			}
			if data, err := os.ReadFile(filepath.Dir(c.DataDir) + "/file"); c.DataDir != "" && (err != nil || string(data) != "x") {
				t.Errorf("the file in the way was touched: %q, %v", data, err)
			}
		})
	}
}

func TestSecondStoreOnADirectoryIsRefusedAndHarmless(t *testing.T) {
	c := config(t)
	running(t, c, quiet())
	err := Run(t.Context(), c, quiet())
	if err == nil || !strings.Contains(err.Error(), "another store is running") {
		t.Errorf("Run = %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), waitMax)
	defer cancel()
	if _, err := client(t, c.ClientSocket).Put(ctx, "k", "v"); err != nil {
		t.Errorf("the first store: %v", err)
	}
}

func TestLogIsQuietWhenAllIsWell(t *testing.T) {
	var out bytes.Buffer
	stop := running(t, config(t), slog.New(slog.NewTextHandler(&out, nil)))
	stop()
	if out.Len() > 0 {
		t.Errorf("a start and a stop logged:\n%s", &out)
	}
}

func TestLogPassesOnWhatMatters(t *testing.T) {
	var out bytes.Buffer
	lg := newZap(slog.New(slog.NewTextHandler(&out, nil))).With(zap.String("member", "m"))
	lg.Info("not this")
	lg.Warn("slow disk", zap.Int("ms", 7))
	lg.DPanic("cannot write")
	got := out.String()
	for _, want := range []string{"level=WARN", `message="slow disk"`, "ms=7", "member=m", "level=ERROR", "etcd gives up"} {
		if !strings.Contains(got, want) {
			t.Errorf("log lacks %s:\n%s", want, got)
		}
	}
	if strings.Contains(got, "not this") {
		t.Errorf("log has what is not worth reading:\n%s", got)
	}
}

func TestReadConfig(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.json")
	for text, want := range map[string]string{
		`{"dataDir":"/d","clientSocket":"/c","historyKeep":"2m"}`:   "",
		`{"dataDir":"/d","clientSocket":"/c","historyKeep":"soon"}`: "historyKeep",
		`{"dataDir":"/d","clientSockets":"/c"}`:                     "clientSockets",
		`{"dataDir":"/d"}`:                                          "clientSocket: must be set",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := ReadConfig(path)
		if want == "" && (err != nil || c.HistoryKeep != 2*time.Minute || c.DataDir != "/d") {
			t.Errorf("%s: %+v, %v", text, c, err)
		}
		if want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
