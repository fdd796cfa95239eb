package handover_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/handover"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// process is one process's part: a port that answers with its name, offered to a successor.
type process struct {
	name    string
	ports   handover.Ports
	ln      net.Listener
	work    sync.WaitGroup
	yielded chan struct{}
	ended   chan error
	stop    context.CancelFunc
}

// socketPath is short: the path of a socket has 103 bytes.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ho")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

func (p *process) listen(t *testing.T, address string) string {
	t.Helper()
	ln, err := p.ports.Listen(t.Context(), net.ListenConfig{}, "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	p.ln = ln
	return ln.Addr().String()
}

func (p *process) serve() {
	p.work.Go(func() {
		for {
			c, err := p.ln.Accept()
			if err != nil {
				return
			}
			p.work.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(time.Minute))
				_, _ = io.WriteString(c, p.name)
			})
		}
	})
}

func (p *process) offer(t *testing.T, path, id string) {
	t.Helper()
	o := &handover.Offer{Ports: &p.ports, ID: id, Log: slog.New(slog.DiscardHandler), Yield: func() { p.ln.Close(); close(p.yielded) }}
	ln, err := o.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	p.ended = make(chan error, 1)
	p.work.Go(func() { p.ended <- o.Serve(ctx, ln) })
	p.stop = sync.OnceFunc(func() { stop(); p.ln.Close(); p.work.Wait() })
	t.Cleanup(p.stop)
}

func newProcess(name string) *process { return &process{name: name, yielded: make(chan struct{})} }

// calls dials without pause, a new connection each time, and counts what failed.
type calls struct {
	failed, done atomic.Int64
	stop         chan struct{}
	work         sync.WaitGroup
	mu           sync.Mutex
	by           map[string]int
	first        error
}

func load(address string) *calls {
	c := &calls{stop: make(chan struct{}), by: map[string]int{}}
	for range 8 {
		c.work.Go(func() {
			for {
				select {
				case <-c.stop:
					return
				default:
				}
				who, err := call(address)
				c.mu.Lock()
				c.by[who]++
				if err != nil && c.first == nil {
					c.first = err
				}
				c.mu.Unlock()
				c.done.Add(1)
				if err != nil {
					c.failed.Add(1)
				}
			}
		})
	}
	return c
}

func call(address string) (string, error) {
	conn, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	b, err := io.ReadAll(conn)
	if err == nil && len(b) == 0 {
		err = io.ErrUnexpectedEOF
	}
	return string(b), err
}

// until waits for so many more calls.
func (c *calls) until(t *testing.T, more int64) {
	t.Helper()
	limit, tick := time.After(time.Minute), time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for want := c.done.Load() + more; c.done.Load() < want; {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal("20 s passed without so many calls")
		}
	}
}

func (c *calls) end() {
	close(c.stop)
	c.work.Wait()
}

// TestAGenerationTakesOverWithoutARefusedConnection replaces a loaded process five times.
func TestAGenerationTakesOverWithoutARefusedConnection(t *testing.T) {
	path := socketPath(t)
	old := newProcess("g0")
	address := old.listen(t, "127.0.0.1:0")
	old.serve()
	old.offer(t, path, "shop/a")
	c := load(address)
	// The name must be the one that the successor asks by.
	named := newProcess("g1")
	taken, err := handover.Take(t.Context(), path, "shop/a", &named.ports)
	if err != nil {
		t.Fatal(err)
	}
	named.listen(t, "127.0.0.1:0")
	named.serve()
	for g := 1; ; g++ {
		c.until(t, 50)
		if err := taken.Serving(); err != nil {
			t.Fatal(err)
		}
		<-old.yielded
		if err := <-old.ended; err != nil {
			t.Errorf("generation %d: %v", g-1, err)
		}
		old.stop()
		old = named
		if g == 5 {
			break
		}
		old.offer(t, path, "shop/a")
		named = newProcess(fmt.Sprint("g", g+1))
		if taken, err = handover.Take(t.Context(), path, "shop/a", &named.ports); err != nil {
			t.Fatal(err)
		}
		named.listen(t, "127.0.0.1:0")
		named.serve()
	}
	c.until(t, 50)
	c.end()
	named.ln.Close()
	named.work.Wait()
	if n := c.failed.Load(); n > 0 {
		t.Errorf("%d of %d calls failed: %v", n, c.done.Load(), c.first)
	}
	if len(c.by) != 6 {
		t.Errorf("answered by %v: want six generations", c.by)
	}
}

// TestWithoutHandOverConnectionsAreRefused is the control run: the same load over a restart that
// closes the port and opens it again.
func TestWithoutHandOverConnectionsAreRefused(t *testing.T) {
	old := newProcess("old")
	address := old.listen(t, "127.0.0.1:0")
	old.serve()
	c := load(address)
	c.until(t, 50)
	old.ln.Close()
	c.until(t, 50)
	c.end()
	old.work.Wait()
	if c.failed.Load() == 0 {
		t.Error("no call failed without a hand-over: the load proves nothing")
	}
}

func TestASuccessorThatFailsChangesNothing(t *testing.T) {
	path := socketPath(t)
	old := newProcess("old")
	address := old.listen(t, "127.0.0.1:0")
	old.serve()
	old.offer(t, path, "shop/a")
	for name, fail := range map[string]func() error{
		"another proxy": func() error {
			_, err := handover.Take(t.Context(), path, "shop/b", new(handover.Ports))
			return err
		},
		"one that dies before it serves": func() error {
			var p handover.Ports
			taken, err := handover.Take(t.Context(), path, "shop/a", &p)
			if err != nil {
				return err
			}
			if p.Inherited() != 2 { // the port, and the socket that offers it
				return fmt.Errorf("%d ports", p.Inherited())
			}
			taken.Close()
			p.Drop()
			return errors.New("gone")
		},
		"one that speaks something else": func() error {
			c, err := net.Dial("unix", path)
			if err != nil {
				return err
			}
			defer c.Close()
			_, _ = c.Write([]byte("\xff\xff\xff\xffGET / HTTP/1.1\r\n\r\n"))
			_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
			if n, err := c.Read(make([]byte, 1)); err == nil {
				return fmt.Errorf("%d bytes for an answer", n)
			}
			return errors.New("refused")
		},
		"one that says it serves before it has the ports": func() error {
			c, err := net.Dial("unix", path)
			if err != nil {
				return err
			}
			defer c.Close()
			_, _ = c.Write([]byte("\x00\x00\x00\x11" + `{"Say":"serving"}`))
			_, err = io.ReadAll(c)
			return errors.Join(err, errors.New("refused"))
		},
	} {
		if err := fail(); err == nil {
			t.Errorf("%s took the ports", name)
		} else if strings.Contains(err.Error(), "ports\"") {
			t.Errorf("%s: %v", name, err)
		}
		select {
		case <-old.yielded:
			t.Fatalf("the old process yielded to %s", name)
		default:
		}
		if who, err := call(address); err != nil || who != "old" {
			t.Errorf("after %s: %q, %v", name, who, err)
		}
	}
}

func TestManyPortsAndDatagramsGoOver(t *testing.T) {
	path := socketPath(t)
	old := newProcess("old")
	const many = 300 // more than one message takes
	var names []string
	for range many {
		ln, err := old.ports.Listen(t.Context(), net.ListenConfig{}, "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		names = append(names, ln.Addr().String())
	}
	old.ln, _ = old.ports.Listen(t.Context(), net.ListenConfig{}, "tcp", "127.0.0.1:0")
	closed, err := old.ports.Listen(t.Context(), net.ListenConfig{}, "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close() // served no more: not given
	udp, err := old.ports.ListenPacket(t.Context(), net.ListenConfig{}, "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	old.offer(t, path, "shop/a")
	var next handover.Ports
	taken, err := handover.Take(t.Context(), path, "shop/a", &next)
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if n := next.Inherited(); n != many+3 { // and old.ln, the datagrams', the offer's
		t.Errorf("%d sockets, want %d", n, many+3)
	}
	got := map[string]bool{}
	for range many {
		ln, err := next.Listen(t.Context(), net.ListenConfig{}, "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		got[ln.Addr().String()] = true
	}
	for _, n := range names {
		if !got[n] {
			t.Errorf("%s did not come over", n)
		}
	}
	c, err := next.ListenPacket(t.Context(), net.ListenConfig{}, "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.LocalAddr().String() != udp.LocalAddr().String() {
		t.Errorf("datagrams at %s, want %s", c.LocalAddr(), udp.LocalAddr())
	}
	udp.Close()
	next.Drop()
}

func TestTheSocketIsItsOwnersAlone(t *testing.T) {
	path := socketPath(t)
	old := newProcess("old")
	old.listen(t, "127.0.0.1:0")
	old.offer(t, path, "shop/a")
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v: want 0600", info.Mode(), err)
	}
	// A second process without --replace says what to do and takes nothing.
	o := &handover.Offer{Ports: new(handover.Ports), ID: "shop/a", Log: slog.New(slog.DiscardHandler)}
	if _, err := o.Open(t.Context(), path); err == nil || !strings.Contains(err.Error(), "--replace") {
		t.Errorf("a second process opened the socket: %v", err)
	}
	old.stop()
	ln, err := o.Open(t.Context(), path) // what a dead process left is replaced
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
}
