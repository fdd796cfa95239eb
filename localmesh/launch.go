package localmesh

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/parent"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

// launcher makes commands of specs: everything that processes are given.
type launcher struct {
	plan       *Plan
	executable string
	environ    []string
	// parent is the read end whose other end only this process has; alive is the lock that
	// every process holds.
	parent, alive *os.File
	// issue makes a join token for an identity.
	issue func(context.Context, *Cluster, mesh.Identity) (string, error)
	log   *slog.Logger
	// joins are the goroutines that answer proxies.
	joins sync.WaitGroup

	// keys is held while a seal key is made: several processes may have one in common.
	keys sync.Mutex
}

// environment is the caller's, with the descriptor of the pipe.
func environment(environ []string) []string {
	return append(environmentWithout(environmentWithout(environ, ReportEnv), parent.Env), parent.Env+"="+strconv.Itoa(fdParent))
}

// command makes the command of one run of a process. ended must be called after the run, or
// when it did not start.
func (l *launcher) command(ctx context.Context, s Spec, out io.Writer) (cmd *exec.Cmd, ended func(), err error) {
	var closers []io.Closer
	ended = func() {
		for _, c := range closers {
			_ = c.Close()
		}
	}
	defer func() {
		if err != nil { // which left nothing in ended
			for _, c := range closers {
				_ = c.Close()
			}
		}
	}()
	cmd = exec.Command(l.executable, append(slices.Clone(s.Args), "--config", cmp.Or(s.ConfigFile, l.plan.specFile(s.Name)))...)
	cmd.Env = environment(l.environ)
	cmd.Dir = l.plan.StateDir
	cmd.Stdout, cmd.Stderr = out, out
	cmd.ExtraFiles = []*os.File{l.parent, l.alive}
	if s.Sealed {
		key, err := l.sealKey(cmp.Or(s.Seals, s.Name))
		if err != nil {
			return nil, nil, err
		}
		closers = append(closers, key)
		cmd.ExtraFiles = append(cmd.ExtraFiles, key)
	}
	if !s.Identity.IsZero() {
		theirs, ours, err := socketPair()
		if err != nil {
			return nil, nil, fmt.Errorf("open the way for join tokens: %w", err)
		}
		closers = append(closers, theirs, ours)
		cmd.ExtraFiles = append(cmd.ExtraFiles, theirs)
		l.joins.Go(func() { l.serveJoin(ctx, ours, s) })
	}
	return cmd, ended, nil
}

// sealKey returns a pipe that yields the seal key of a process, made at its first start. The
// process finds the same key as long as the state directory lives.
func (l *launcher) sealKey(name string) (*os.File, error) {
	l.keys.Lock()
	defer l.keys.Unlock()
	path := l.plan.keyFile(name)
	key, err := readSmall(path, trust.SealKeyBytes)
	if errors.Is(err, fs.ErrNotExist) {
		key = trust.NewSealKey().Reveal()
		err = writeFile(path, key)
	}
	if err == nil && len(key) != trust.SealKeyBytes {
		err = fmt.Errorf("%s has %d bytes, want %d", path, len(key), trust.SealKeyBytes)
	}
	if err != nil {
		return nil, fmt.Errorf("seal key of %s: %w", name, err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("seal key of %s: %w", name, err)
	}
	_, err = w.Write(key) // fits into the pipe
	if err = errors.Join(err, w.Close()); err != nil {
		_ = r.Close()
		return nil, fmt.Errorf("seal key of %s: %w", name, err)
	}
	return r, nil
}

// socketPair is two connected sockets, one to give away and one to keep.
func socketPair() (theirs *os.File, ours net.Conn, err error) {
	syscall.ForkLock.RLock()
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(pair[0])
		syscall.CloseOnExec(pair[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, err
	}
	theirs = os.NewFile(uintptr(pair[0]), "join")
	kept := os.NewFile(uintptr(pair[1]), "join")
	defer kept.Close()
	ours, err = net.FileConn(kept) // a descriptor of its own
	if err != nil {
		_ = theirs.Close()
		return nil, nil, err
	}
	return theirs, ours, nil
}

// joinTimeout is less than a proxy waits for a token, so that a late answer is never taken
// for that to the next question.
const joinTimeout = 4 * time.Second

// serveJoin answers each line of a proxy with a fresh token for its identity, an empty line
// where there is none to be had, until the connection ends.
func (l *launcher) serveJoin(ctx context.Context, conn net.Conn, s Spec) {
	defer conn.Close()
	in := bufio.NewScanner(conn)
	in.Buffer(nil, 1<<10)
	for in.Scan() {
		if in.Text() != "join" {
			l.log.Warn("a proxy asked for what is not known", "process", s.Name, "line", in.Text())
			return
		}
		ask, cancel := context.WithTimeout(ctx, joinTimeout)
		token, err := l.issue(ask, s.Cluster, s.Identity)
		cancel()
		if err != nil {
			l.log.Warn("no join token for a proxy", "process", s.Name, "error", err)
		}
		if _, err := io.WriteString(conn, token+"\n"); err != nil {
			return
		}
	}
}

// writeSpec writes the configuration that a process reads.
func (p *Plan) writeSpec(s Spec) error {
	if s.ConfigFile != "" { // makeDirs wrote it
		return nil
	}
	text, err := json.MarshalIndent(s.Config, "", "  ")
	if err == nil {
		err = writeFile(p.specFile(s.Name), append(text, '\n'))
	}
	if err != nil {
		return fmt.Errorf("configure %s: %w", s.Name, err)
	}
	return nil
}

// makeDirs makes what the processes expect to be there.
func (p *Plan) makeDirs() error {
	dirs := []string{p.StateDir, p.path("keys"), p.path("logs"), p.path("run"), p.path("snapshots"), p.path("clusters")}
	for _, c := range p.Clusters {
		for i := range c.Planes() {
			dirs = append(dirs, p.planeDir(c, i))
		}
	}
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make the state directory: %w", err)
		}
	}
	for _, c := range p.Clusters {
		if err := p.makeStore(c); err != nil {
			return err
		}
	}
	return nil
}

// makeStore writes what the members of a shared store are told. A store of another kind that is there is not replaced: what it holds,
// the cluster's authority with it, would be lost.
func (p *Plan) makeStore(c *Cluster) error {
	own, shared := filepath.Join(p.clusterDir(c), "store"), p.membersDir(c)
	other, kept := shared, "replicas: 2 or 3"
	if c.Planes() > 1 {
		other, kept = own, "one control plane"
	}
	if _, err := os.Stat(other); err == nil {
		return fmt.Errorf("start the mesh: what cluster %s knows is in %s, of %s, and the mesh file says replicas: %d; write what it was, or give another --state-dir", c.Name, other, kept, c.Planes())
	}
	if c.Planes() == 1 {
		return nil
	}
	if err := p.store(c).Write(time.Now()); err != nil {
		return fmt.Errorf("make the store of cluster %s: %w", c.Name, err)
	}
	return nil
}

// lastLine is the end of a log, for a person who asks why.
func lastLine(path string) string {
	f, err := os.Open(filepath.Clean(path))
	if err != nil {
		return ""
	}
	defer f.Close()
	const tail = 4 << 10
	if info, err := f.Stat(); err == nil && info.Size() > tail {
		_, _ = f.Seek(-tail, io.SeekEnd)
	}
	text, _ := io.ReadAll(io.LimitReader(f, tail))
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return lines[len(lines)-1]
}
