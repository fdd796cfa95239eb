package agent_test

import (
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
)

// relay stands before a server proxy, to be killed as a process is: all connections are
// reset at once and new ones refused.
type relay struct {
	ln   net.Listener
	to   string
	runs sync.WaitGroup

	mu    sync.Mutex
	dead  bool
	conns []*net.TCPConn
}

func newRelay(t testing.TB, to netip.AddrPort) *relay {
	t.Helper()
	ln, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{ln: ln, to: to.String()}
	r.runs.Go(r.accept)
	t.Cleanup(func() { r.kill(); r.runs.Wait() })
	return r
}

func (r *relay) addr() netip.AddrPort { return r.ln.Addr().(*net.TCPAddr).AddrPort() }

func (r *relay) accept() {
	for {
		c, err := r.ln.Accept()
		if err != nil {
			return
		}
		up, err := net.Dial("tcp", r.to)
		if err != nil {
			c.Close()
			continue
		}
		r.mu.Lock()
		r.conns = append(r.conns, c.(*net.TCPConn), up.(*net.TCPConn))
		dead := r.dead
		r.mu.Unlock()
		if dead {
			c.Close()
			up.Close()
			return
		}
		r.runs.Go(func() { _, _ = io.Copy(up, c); up.Close(); c.Close() })
		r.runs.Go(func() { _, _ = io.Copy(c, up); up.Close(); c.Close() })
	}
}

func (r *relay) kill() {
	r.ln.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dead = true
	for _, c := range r.conns {
		_ = c.SetLinger(0)
		c.Close()
	}
}
