package http2

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// farm is a server whose handlers wait, and which can be told to leave.
type farm struct {
	addr    string
	dials   atomic.Int32
	held    chan struct{} // a handler answers for each value
	begun   chan struct{} // a value for each request that a handler has
	mu      sync.Mutex
	drain   context.CancelFunc
	ctx     context.Context
	refused func() error
}

func newFarm(t *testing.T, cfg Config) *farm {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &farm{addr: l.Addr().String(), held: make(chan struct{}, 1024), begun: make(chan struct{}, 1024)}
	f.ctx, f.drain = context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { l.Close(); close(f.held); f.leave(); wg.Wait() })
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f.mu.Lock()
			ctx := f.ctx
			f.mu.Unlock()
			wg.Go(func() {
				_ = ServeConn(ctx, c, cfg, func(x message.Exchange) {
					f.begun <- struct{}{}
					<-f.held
					_ = x.Respond(&message.Head{Status: 200}, true)
				})
			})
		}
	})
	return f
}

// leave has every connection drained; those made later are not.
func (f *farm) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drain()
	f.ctx, f.drain = context.WithCancel(context.Background())
}

func (f *farm) dial(ctx context.Context, target string) (net.Conn, error) {
	f.dials.Add(1)
	if f.refused != nil {
		if err := f.refused(); err != nil {
			return nil, err
		}
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", target)
}

func newTestPool(t *testing.T, f *farm, cfg PoolConfig) *Pool {
	cfg.Dial = f.dial
	p := NewPool(cfg)
	t.Cleanup(func() {
		ctx, stop := context.WithTimeout(context.Background(), bound)
		defer stop()
		if err := p.Close(ctx); err != nil {
			t.Error(err)
		}
		if _, err := p.Get(t.Context(), f.addr); !errors.Is(err, ErrPoolClosed) || !errors.Is(err, message.ErrNotExecuted) {
			t.Errorf("a closed pool: %v", err)
		}
	})
	return p
}

// ask begins a request.
func ask(t *testing.T, p *Pool, target string) message.Stream {
	t.Helper()
	s, err := p.Get(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	s.SetDeadline(time.Now().Add(bound))
	h := &message.Head{}
	h.Reset()
	h.Method, h.Path, h.Authority = []byte("GET"), []byte("/"), []byte("x")
	if err := s.Send(h, true); err != nil {
		t.Fatal(err)
	}
	return s
}

func answered(t *testing.T, s message.Stream) {
	t.Helper()
	var h message.Head
	if _, err := s.Receive(&h); err != nil || h.Status != 200 {
		t.Errorf("%d, %v", h.Status, err)
	}
	if _, err := s.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("body: %v", err)
	}
	s.Close()
}

// TestPoolSharesConnections: requests at once share a connection, and more of them than it should
// have get another, up to the bound.
func TestPoolSharesConnections(t *testing.T) {
	f := newFarm(t, Config{})
	p := newTestPool(t, f, PoolConfig{StreamsMax: 4, PerTargetMax: 2})
	var all []message.Stream
	for want, n := range []int{0, 4, 4, 12} {
		for range n {
			all = append(all, ask(t, p, f.addr))
		}
		if got := p.Conns(); got != min(want, 2) {
			t.Errorf("%d streams: %d connections, want %d", len(all), got, min(want, 2))
		}
	}
	for range all {
		f.held <- struct{}{}
	}
	for _, s := range all {
		answered(t, s)
	}
	if n := f.dials.Load(); n != 2 {
		t.Errorf("%d dials, want 2", n)
	}
}

// TestPoolDialsOnce: who comes while the first connection is made waits for it.
func TestPoolDialsOnce(t *testing.T) {
	f := newFarm(t, Config{})
	gate := make(chan struct{})
	f.refused = func() error { <-gate; return nil }
	p := newTestPool(t, f, PoolConfig{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { answered(t, ask(t, p, f.addr)) })
		f.held <- struct{}{}
	}
	close(gate)
	wg.Wait()
	if n := f.dials.Load(); n != 1 {
		t.Errorf("%d dials, want 1", n)
	}
}

// TestPoolFollowsGoAway: a server that leaves finishes what it has, and what comes then goes
// over another connection without a failure.
func TestPoolFollowsGoAway(t *testing.T) {
	f := newFarm(t, Config{})
	p := newTestPool(t, f, PoolConfig{})
	for range 3 {
		old := ask(t, p, f.addr)
		<-f.begun // who has not been accepted yet would not be told
		f.leave()
		end := time.Now().Add(bound)
		for p.mu.Lock(); p.targets[f.addr].conns[0].Usable() && time.Now().Before(end); p.mu.Lock() {
			p.mu.Unlock()
			<-time.After(time.Millisecond)
		}
		p.mu.Unlock()
		fresh := ask(t, p, f.addr)
		<-f.begun
		f.held <- struct{}{}
		f.held <- struct{}{}
		answered(t, old)
		answered(t, fresh)
	}
	if n := f.dials.Load(); n != 4 {
		t.Errorf("%d dials, want 4", n)
	}
}

// TestPoolErrorsAreNotExecuted: a dial that fails, and a server that allows no more streams in
// time, leave the request free to go elsewhere.
func TestPoolErrorsAreNotExecuted(t *testing.T) {
	f := newFarm(t, Config{MaxConcurrentStreams: 1})
	broken := errors.New("no route")
	f.refused = func() error { return broken }
	p := newTestPool(t, f, PoolConfig{DialTimeout: 50 * time.Millisecond, PerTargetMax: 1})
	if _, err := p.Get(t.Context(), f.addr); !errors.Is(err, broken) || !errors.Is(err, message.ErrNotExecuted) {
		t.Errorf("a dial that failed: %v", err)
	}
	f.refused = nil
	s := ask(t, p, f.addr)
	f.held <- struct{}{}
	answered(t, s) // by now SETTINGS have come
	s = ask(t, p, f.addr)
	if _, err := p.Get(t.Context(), f.addr); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, message.ErrNotExecuted) {
		t.Errorf("no stream in time: %v", err)
	}
	f.held <- struct{}{}
	answered(t, s)
}

// TestPoolForgetsIdleConnections: they are drained by Sweep, and busy ones are not.
func TestPoolForgetsIdleConnections(t *testing.T) {
	f := newFarm(t, Config{})
	p := newTestPool(t, f, PoolConfig{IdleTimeout: time.Nanosecond})
	s := ask(t, p, f.addr)
	p.Sweep()
	if p.Conns() != 1 {
		t.Error("a connection with a stream was given up")
	}
	f.held <- struct{}{}
	answered(t, s)
	p.Sweep()
	if n := p.Conns(); n != 0 {
		t.Errorf("%d connections after a sweep, want none", n)
	}
}

// TestClientSaysThatItsServerSpeaksHTTP1: the most common mistake in a declaration has its name.
func TestClientSaysThatItsServerSpeaksHTTP1(t *testing.T) {
	a, b := net.Pipe()
	go func() {
		buf := make([]byte, 1024)
		_, _ = b.Read(buf)
		_, _ = io.WriteString(b, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
		_ = b.Close()
	}()
	c, err := NewClientConn(a, Config{})
	if err != nil {
		t.Fatal(err)
	}
	<-c.Done()
	if want := "the server speaks HTTP/1"; c.Err() == nil || !strings.Contains(c.Err().Error(), want) {
		t.Errorf("%v, want %q", c.Err(), want)
	}
	_ = c.Close()
}
