//go:build unix

package http1

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// use has a pool make n connections to target, and leaves them idle.
func use(t *testing.T, p *Pool, target string, n int) {
	t.Helper()
	var streams []message.Stream
	for range n {
		s, _, err := p.Get(context.Background(), target)
		if err != nil {
			t.Fatal(err)
		}
		s.SetDeadline(time.Now().Add(guard))
		if err := s.Send(request("GET", "/a", 0), true); err != nil {
			t.Fatal(err)
		}
		var h message.Head
		if _, err := s.Receive(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(s); err != nil {
			t.Fatal(err)
		}
		streams = append(streams, s)
	}
	for _, s := range streams {
		s.Close()
	}
	if p.Idle() != n {
		t.Fatalf("%d idle, want %d", p.Idle(), n)
	}
}

// end closes the backend's connections, and waits until the pool's own ends show it.
func (b *backend) end(t *testing.T, p *Pool) {
	t.Helper()
	b.closeAll()
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.live {
		for start := time.Now(); c.in.idleGood(); {
			if time.Since(start) > guard {
				t.Fatal("the end of a connection does not arrive")
			}
		}
	}
}

func TestPoolSeesClosedConnectionsThatWereIdle(t *testing.T) {
	b := newBackend(t, reply)
	var later atomic.Int64
	p := newTestPool(t, PoolConfig{Now: func() time.Time { return time.Now().Add(time.Duration(later.Load())) }})
	mustAsk(t, p, b.addr, false)
	mustAsk(t, p, b.addr, true)
	b.end(t, p)
	later.Store(int64(freshFor))
	mustAsk(t, p, b.addr, false)
	if p.Idle() != 1 || b.conns.Load() != 2 {
		t.Errorf("%d idle, %d connections made; want 1 and 2", p.Idle(), b.conns.Load())
	}
}

// Nothing is sent on a connection that was used a moment ago and proves closed, and the others are looked at from then
// on: however many there are, a request is tried once more and no more.
func TestAFreshConnectionThatIsClosedCostsOneTry(t *testing.T) {
	for _, body := range []bool{false, true} {
		b := newBackend(t, reply)
		p := newTestPool(t, PoolConfig{})
		use(t, p, b.addr, 3)
		b.end(t, p)
		s, reused, err := p.Get(context.Background(), b.addr)
		if err != nil || !reused {
			t.Fatal(reused, err)
		}
		if body {
			err = s.Send(request("POST", "/", 1), false)
		} else if err = s.Send(request("GET", "/", 0), true); err == nil {
			_, err = s.Receive(new(message.Head))
		}
		s.Close()
		if !errors.Is(err, message.ErrNotExecuted) || errors.Is(err, message.ErrStale) {
			t.Errorf("with a body %v: %v, want ErrNotExecuted", body, err)
		}
		mustAsk(t, p, b.addr, false)
		if b.conns.Load() != 4 || p.Idle() != 1 {
			t.Errorf("with a body %v: %d connections made, %d idle; want 4 and 1", body, b.conns.Load(), p.Idle())
		}
	}
}

// What came unasked on a fresh connection answers no request (RFC 9112 §9.2).
func TestAnAnswerThatNobodyAskedForIsNotTaken(t *testing.T) {
	b := newBackend(t, reply)
	p := newTestPool(t, PoolConfig{})
	use(t, p, b.addr, 1)
	b.mu.Lock()
	server := b.open[0]
	b.mu.Unlock()
	if _, err := io.WriteString(server, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"); err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	for c := range p.live {
		for start := time.Now(); c.in.idleGood(); { // takes one byte of it: an interim read must not hide the rest
			if time.Since(start) > guard {
				t.Fatal("the bytes do not arrive")
			}
		}
	}
	p.mu.Unlock()
	if body, _, err := ask(p, b.addr, "/mine"); !errors.Is(err, message.ErrNotExecuted) {
		t.Errorf("%q, %v; want ErrNotExecuted", body, err)
	}
	mustAsk(t, p, b.addr, false)
}

// A head for which the socket has no room at once arrives whole.
func TestAFreshConnectionTakesALargeHead(t *testing.T) {
	var got atomic.Int64
	b := newBackend(t, func(ex message.Exchange) {
		got.Store(int64(len(ex.Request().Get("x"))))
		reply(ex)
	})
	p := newTestPool(t, PoolConfig{Dial: func(ctx context.Context, target string) (net.Conn, error) {
		c, err := dialTCP(ctx, target)
		if err == nil {
			err = c.(*net.TCPConn).SetWriteBuffer(4 << 10)
		}
		return c, err
	}})
	use(t, p, b.addr, 1)
	s, reused, err := p.Get(context.Background(), b.addr)
	if err != nil || !reused {
		t.Fatal(reused, err)
	}
	defer s.Close()
	s.SetDeadline(time.Now().Add(guard))
	h := request("GET", "/", 0)
	const size = 60 << 10
	h.Add("x", strings.Repeat("x", size))
	if err := s.Send(h, true); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Receive(h); err != nil || h.Status != 200 || got.Load() != size {
		t.Errorf("%d, %v, and %d bytes arrived; want 200 and %d", h.Status, err, got.Load(), size)
	}
}

// sets counts how often a connection's timers are set.
type sets struct {
	net.Conn
	read, write int
}

func (s *sets) SetReadDeadline(time.Time) error  { s.read++; return nil }
func (s *sets) SetWriteDeadline(time.Time) error { s.write++; return nil }

func TestDeadlinesThatMoveForwardSetNoTimer(t *testing.T) {
	c := &sets{}
	d := deadlines{conn: c, lazy: true}
	start := time.Now()
	for i := range 1000 {
		d.set(start.Add(15*time.Second + time.Duration(i)*time.Millisecond))
		d.startWrite(time.Time{})
		d.endWrite()
		d.startRead(time.Time{})
		d.endRead()
		d.set(time.Time{})
	}
	if c.read != 1 || c.write != 1 {
		t.Errorf("timers set %d and %d times for 1000 requests, want 1 each", c.read, c.write)
	}
	d.set(start)
	d.startRead(time.Time{})
	d.startWrite(time.Time{})
	if c.read != 2 || c.write != 2 {
		t.Errorf("an earlier deadline: timers set %d and %d times, want 2 each", c.read, c.write)
	}
}

// A call goes on when the timer of a request before it fires, and ends at its own deadline.
func TestACallOutlivesTheTimerOfTheOneBefore(t *testing.T) {
	client, server := tcpPair(t)
	defer server.Close()
	c := NewClientConn(client, &Config{})
	defer c.Close()
	fires := time.Now().Add(30 * time.Millisecond)
	c.dl.mu.Lock()
	c.dl.armReadAt(fires)
	c.dl.armWriteAt(fires)
	c.dl.mu.Unlock()
	large := make([]byte, 8<<20) // more than sockets hold: the write waits as well
	served := make(chan error, 1)
	go func() {
		<-time.After(time.Until(fires) + 30*time.Millisecond)
		in := NewServerConn(server, &Config{})
		ex, err := in.Next()
		if err == nil {
			_, err = io.Copy(io.Discard, ex)
		}
		if err == nil {
			err = ex.Respond(head(204, 0), true)
		}
		served <- err
	}()
	s := c.Open()
	s.SetDeadline(time.Now().Add(guard))
	if err := s.Send(request("PUT", "/", int64(len(large))), false); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write(large); err != nil {
		t.Fatal(err)
	}
	if err := s.CloseWrite(nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Receive(new(message.Head)); err != nil {
		t.Fatal(err)
	}
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	s.Close()

	end := time.Now().Add(50 * time.Millisecond)
	s = c.Open()
	defer s.Close()
	s.SetDeadline(end)
	if err := s.Send(request("GET", "/", 0), true); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Receive(new(message.Head)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Now().Before(end) {
		t.Errorf("%v, %v before the deadline", err, time.Until(end))
	}
}
