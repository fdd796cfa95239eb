package http1

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// backend serves on loopback until the test ends.
type backend struct {
	addr  string
	conns atomic.Int64
	mu    sync.Mutex
	open  []net.Conn
}

func newBackend(tb testing.TB, handle func(message.Exchange)) *backend {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	b := &backend{addr: ln.Addr().String()}
	cfg := &Config{LingerTimeout: 100 * time.Millisecond}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			b.conns.Add(1)
			b.mu.Lock()
			b.open = append(b.open, conn)
			b.mu.Unlock()
			wg.Go(func() { <-serve(conn, cfg, handle) })
		}
	})
	tb.Cleanup(func() {
		ln.Close()
		b.closeAll()
		wg.Wait()
	})
	return b
}

func (b *backend) closeAll() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.open {
		c.Close()
	}
	b.open = nil
}

func dialTCP(ctx context.Context, target string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", target)
}

func newTestPool(tb testing.TB, cfg PoolConfig) *Pool {
	tb.Helper()
	cfg.Conn = &Config{}
	if cfg.Dial == nil {
		cfg.Dial = dialTCP
	}
	p := NewPool(cfg)
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), guard)
		defer cancel()
		if err := p.Close(ctx); err != nil {
			tb.Error(err)
		}
	})
	return p
}

// ask sends a request over the pool and returns the body.
func ask(p *Pool, target, path string) (body string, reused bool, err error) {
	s, reused, err := p.Get(context.Background(), target)
	if err != nil {
		return "", false, err
	}
	defer s.Close()
	s.SetDeadline(time.Now().Add(guard))
	if err := s.Send(request("GET", path, 0), true); err != nil {
		return "", reused, err
	}
	var h message.Head
	if _, err := s.Receive(&h); err != nil {
		return "", reused, err
	}
	b, err := io.ReadAll(s)
	return string(b), reused, err
}

func mustAsk(tb testing.TB, p *Pool, target string, wantReused bool) {
	tb.Helper()
	body, reused, err := ask(p, target, "/a")
	if body != "/a" || reused != wantReused || err != nil {
		tb.Fatalf("body %q, reused %v, %v; want reused %v", body, reused, err, wantReused)
	}
}

func TestStaleIsSaidOnlyOfAReusedConnectionBeforeAnyByte(t *testing.T) {
	for _, tc := range []struct {
		name   string
		before int    // requests served first
		bytes  string // then this, and the end
		stale  bool
	}{
		{"reused, nothing came", 1, "", true},
		{"reused, a byte came", 1, "H", false},
		{"reused, an interim head came", 1, "HTTP/1.1 103 Early Hints\r\n\r\n", false},
		{"new, nothing came", 0, "", false},
	} {
		client, server := tcpPair(t)
		var wg sync.WaitGroup
		wg.Go(func() {
			defer server.Close()
			buf := make([]byte, 1024)
			for range tc.before {
				_, _ = server.Read(buf)
				_, _ = io.WriteString(server, "HTTP/1.1 204 No Content\r\n\r\n")
			}
			_, _ = server.Read(buf)
			_, _ = io.WriteString(server, tc.bytes)
		})
		c := NewClientConn(client, &Config{})
		var h message.Head
		var err error
		for i := range tc.before + 1 {
			s := c.Open()
			if err = s.Send(request("GET", "/", 0), true); err != nil {
				t.Fatal(err)
			}
			for h.Status = 100; h.Status < 200 && err == nil; {
				_, err = s.Receive(&h)
			}
			if i < tc.before && err != nil {
				t.Fatal(err)
			}
			s.Close()
		}
		if err == nil || errors.Is(err, message.ErrStale) != tc.stale {
			t.Errorf("%s: %v, want stale %v", tc.name, err, tc.stale)
		}
		wg.Wait()
	}
}

func TestFailedDialIsNotExecuted(t *testing.T) {
	refused := errors.New("refused")
	p := newTestPool(t, PoolConfig{PerTargetMax: 1, Dial: func(context.Context, string) (net.Conn, error) { return nil, refused }})
	for range 3 { // a failed dial gives its place back
		if _, _, err := p.Get(context.Background(), "a"); !errors.Is(err, message.ErrNotExecuted) || !errors.Is(err, refused) {
			t.Errorf("Get: %v", err)
		}
	}
}

func TestPoolBounds(t *testing.T) {
	b := newBackend(t, reply)
	p := newTestPool(t, PoolConfig{PerTargetMax: 2, IdlePerTargetMax: 1})
	var streams []message.Stream
	for range 2 {
		s, _, err := p.Get(context.Background(), b.addr)
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, s)
	}
	if _, _, err := p.Get(context.Background(), b.addr); !errors.Is(err, ErrPoolFull) || !errors.Is(err, message.ErrNotExecuted) {
		t.Errorf("third Get: %v, want ErrPoolFull", err)
	}
	for _, s := range streams {
		s.Close()
	}
	if p.Idle() != 1 {
		t.Errorf("%d idle, want 1", p.Idle())
	}
	p.CloseIdle(b.addr)
	if p.Idle() != 0 || len(p.targets) != 0 {
		t.Errorf("%d idle, %d targets after CloseIdle", p.Idle(), len(p.targets))
	}
}

func TestUnfinishedResponseIsNotReused(t *testing.T) {
	b := newBackend(t, reply)
	p := newTestPool(t, PoolConfig{})
	s, _, err := p.Get(context.Background(), b.addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(request("GET", "/a", 0), true); err != nil {
		t.Fatal(err)
	}
	var h message.Head
	if _, err := s.Receive(&h); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if p.Idle() != 0 {
		t.Error("a connection with an unread body is idle")
	}
	mustAsk(t, p, b.addr, false)
}

func TestIdleConnectionsExpire(t *testing.T) {
	b := newBackend(t, reply)
	var now atomic.Int64
	clock := func() time.Time { return time.Unix(now.Load(), 0) }
	p := newTestPool(t, PoolConfig{IdleTimeout: 10 * time.Second, Now: clock})
	mustAsk(t, p, b.addr, false)
	now.Add(9)
	p.Sweep()
	mustAsk(t, p, b.addr, true)
	now.Add(10)
	mustAsk(t, p, b.addr, false)
	now.Add(10)
	p.Sweep()
	if p.Idle() != 0 {
		t.Errorf("%d idle after their time", p.Idle())
	}
}

func TestRunSweeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPool(PoolConfig{Conn: &Config{}, IdleTimeout: 10 * time.Second,
			Dial: func(context.Context, string) (net.Conn, error) {
				client, server := net.Pipe()
				server.Close()
				return client, nil
			}})
		s, _, err := p.Get(context.Background(), "a")
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
		if p.Idle() != 1 {
			t.Fatalf("%d idle, want 1", p.Idle())
		}
		ctx, cancel := context.WithTimeout(t.Context(), 16*time.Second)
		defer cancel()
		if err := p.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if p.Idle() != 0 {
			t.Errorf("%d idle after Run", p.Idle())
		}
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestCloseWaitsForStreams(t *testing.T) {
	b := newBackend(t, reply)
	p := newTestPool(t, PoolConfig{})
	s, _, err := p.Get(context.Background(), b.addr)
	if err != nil {
		t.Fatal(err)
	}
	expired, cancel := context.WithCancel(context.Background())
	cancel()
	if err := p.Close(expired); !errors.Is(err, context.Canceled) {
		t.Errorf("Close with a stream open: %v", err)
	}
	if err := s.Send(request("GET", "/", 0), true); err == nil {
		t.Error("Send on a connection that was closed under its stream")
	}
	s.Close()
	if err := p.Close(context.Background()); err != nil {
		t.Error(err)
	}
	if _, _, err := p.Get(context.Background(), b.addr); !errors.Is(err, ErrPoolClosed) {
		t.Errorf("Get after Close: %v", err)
	}
}

func TestPoolIsSafeForConcurrentUse(t *testing.T) {
	var n atomic.Int64
	b := newBackend(t, func(ex message.Exchange) {
		if n.Add(1)%50 == 0 { // now and then a server closes instead
			ex.Abort(errors.New("test"))
			return
		}
		reply(ex)
	})
	p := newTestPool(t, PoolConfig{})
	var wg sync.WaitGroup
	var served atomic.Int64
	for g := range 8 {
		wg.Go(func() {
			for i := range 100 {
				path := fmt.Sprintf("/%d/%d", g, i)
				body, _, err := ask(p, b.addr, path)
				if err == nil && body != path {
					t.Errorf("asked %s, got %s", path, body)
				}
				if err == nil {
					served.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if served.Load() < 700 || b.conns.Load() > 100 {
		t.Errorf("%d of 800 served over %d connections", served.Load(), b.conns.Load())
	}
}

// TestASettledStreamHoldsLittle: a stream whose caller waits for his client holds what has come and no buffer, and goes on as
// before, whatever comes meanwhile and in whichever pieces it is read.
func TestASettledStreamHoldsLittle(t *testing.T) {
	body := strings.Repeat("0123456789abcdef", 5000)
	for _, framing := range []string{"length", "chunked"} {
		head := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(body))
		sent := head + body
		if framing == "chunked" {
			sent = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + fmt.Sprintf("%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n", 1000, body[:1000], len(body)-1000, body[1000:])
		}
		for _, step := range []int{1500, 0} {
			s := NewClientConn(&chopped{in: []byte(sent), step: step}, &Config{}).Open().(*Stream)
			var h message.Head
			h.Reset()
			h.Method, h.Path, h.Authority = h.KeepString("GET"), h.KeepString("/"), h.KeepString("x")
			if err := s.Send(&h, true); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Receive(&h); err != nil {
				t.Fatal(err)
			}
			in := &s.c.in
			var got []byte
			small := make([]byte, 700)
			for {
				n, err := s.Read(small)
				got = append(got, small[:n]...)
				left := len(in.buffered())
				s.Settle()
				if held := in.buf; held != nil && left <= bufferSize/4 && cap(held.b) > bufferSize/4 {
					t.Fatalf("%s: %d bytes are held for %d", framing, cap(held.b), left)
				}
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatalf("%s, in steps of %d: after %d bytes: %v", framing, step, len(got), err)
				}
			}
			if string(got) != body {
				t.Errorf("%s, in steps of %d: %d bytes came, want %d, or others", framing, step, len(got), len(body))
			}
		}
	}
}

// TestWhoHasNoRoomTakesLittle: a stream whose caller has said that he is about to wait reads little ahead of what he asks for. The
// control has not said so.
func TestWhoHasNoRoomTakesLittle(t *testing.T) {
	for _, waits := range []bool{true, false} {
		sent := fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", 10*bufferSize, strings.Repeat("x", 10*bufferSize))
		s := NewClientConn(&chopped{in: []byte(sent)}, &Config{}).Open().(*Stream)
		var h message.Head
		h.Reset()
		h.Method, h.Path, h.Authority = h.KeepString("GET"), h.KeepString("/"), h.KeepString("x")
		if err := s.Send(&h, true); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Receive(&h); err != nil {
			t.Fatal(err)
		}
		in, small, got := &s.c.in, make([]byte, 512), 0
		read := func() {
			n, err := s.Read(small)
			if got += n; err != nil {
				t.Fatal(err)
			}
		}
		for len(in.buffered()) > 0 { // what came with the head
			read()
		}
		if waits {
			s.Settle()
		}
		read()
		if held := len(in.buf.b); (held <= 2*len(small)) != waits {
			t.Errorf("%d bytes are held for a caller who waits: %v", held, waits)
		}
		n, err := io.Copy(io.Discard, struct{ io.Reader }{s})
		if got += int(n); err != nil || got != 10*bufferSize {
			t.Errorf("%d bytes of %d came: %v", got, 10*bufferSize, err)
		}
	}
}
