package link

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Tests over a world run the whole relay in virtual time, between streams in memory, so that its instants can be
// compared exactly.

var errReset = errors.New("reset by peer")

// pipe is one direction of a stream in memory.
type pipe struct {
	mu    sync.Mutex
	cond  *sync.Cond
	data  []byte
	max   int // bytes it takes before its writer waits
	fin   bool
	reset bool
}

func newPipe(max int) *pipe {
	p := &pipe{max: max}
	p.cond = sync.NewCond(&p.mu)
	return p
}

func (p *pipe) set(do func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	do()
	p.cond.Broadcast()
}

func (p *pipe) write(b []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(b) > 0 {
		for len(p.data) >= p.max && !p.reset {
			p.cond.Wait()
		}
		if p.reset || p.fin {
			return errReset
		}
		n := min(len(b), p.max-len(p.data))
		p.data = append(p.data, b[:n]...)
		b = b[n:]
		p.cond.Broadcast()
	}
	return nil
}

// read waits for bytes, then copies into what room returns.
func (p *pipe) read(room func() []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.data) == 0 && !p.fin && !p.reset {
		p.cond.Wait()
	}
	if len(p.data) == 0 { // as in Linux, what came before a reset can still be read
		if p.reset {
			return 0, errReset
		}
		return 0, io.EOF
	}
	n := copy(room(), p.data)
	p.data = p.data[n:]
	p.cond.Broadcast()
	return n, nil
}

// memory is the relay's end of a stream in memory, and peer the other.
type memory struct{ in, out *pipe }

func newMemory(max int) *memory { return &memory{in: newPipe(1 << 30), out: newPipe(max)} }

func (m *memory) fill(b buffer) (int, error)    { return m.in.read(b.room) }
func (m *memory) closeWrite() error             { m.out.set(func() { m.out.fin = true }); return nil }
func (m *memory) close()                        { _ = m.closeWrite(); m.in.set(func() { m.in.reset = true }) }
func (m *memory) write(bufs *net.Buffers) error { return m.out.write(bytes.Join(*bufs, nil)) }
func (m *memory) reset() {
	m.out.set(func() { m.out.reset = true })
	m.in.set(func() { m.in.reset = true })
}
func (m *memory) closed() (fin, rst bool) {
	m.in.set(func() { fin, rst = m.in.fin, m.in.reset })
	return fin, rst
}

// The peer's view: what a program at the far side of the socket does.
func (m *memory) say(b []byte) { _ = m.in.write(b) }
func (m *memory) sayEnd()      { m.in.set(func() { m.in.fin = true }) }
func (m *memory) hangUp()      { m.reset() }
func (m *memory) unheard() (n int) {
	m.in.set(func() { n = len(m.in.data) })
	return n
}

// hear reads n bytes, fewer at an end, which it returns.
func (m *memory) hear(n int) ([]byte, error) {
	b, got := make([]byte, n), 0
	for got < n {
		k, err := m.out.read(func() []byte { return b[got:] })
		got += k
		if err != nil {
			return b[:got], err
		}
	}
	return b, nil
}

// world is a relay in a synctest bubble whose targets are streams in memory.
type world struct {
	*testing.T
	relay   *relay
	dialled chan *memory
	dialErr error
	peerMax int // what a target takes before it stops reading
}

func inWorld(t *testing.T, shape Shape, do func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		at := netip.MustParseAddrPort("127.0.0.1:1")
		cfg := Config{A: "a", B: "b", Shape: shape, Seed: 1, Forwards: []Forward{
			{Name: "there", Direction: AtoB, Listen: at, Target: at, Source: at.Addr()},
			{Name: "back", Direction: BtoA, Listen: at, Target: at, Source: at.Addr()},
		}}.withDefaults()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		w := &world{T: t, relay: newRelay(ctx, cfg, slog.New(slog.DiscardHandler)), dialled: make(chan *memory, 100), peerMax: 1 << 30}
		for _, f := range w.relay.forwards {
			f.dial = func(context.Context) (stream, error) {
				if w.dialErr != nil {
					return nil, w.dialErr
				}
				m := newMemory(w.peerMax)
				w.dialled <- m
				return m, nil
			}
		}
		do(w)
		w.relay.stop()
		if held := w.relay.held.Load(); held != 0 {
			t.Errorf("the stopped relay counts %d bytes in flight", held)
		}
		for _, f := range w.relay.forwards {
			if s := f.stats(); s.Active != 0 {
				t.Errorf("the stopped relay counts %d active connections", s.Active)
			}
		}
	})
}

// call opens a connection.
func (w *world) call(d Direction) (client *memory) {
	client = newMemory(1 << 30)
	w.relay.relay(w.relay.forwards[d], client)
	return client
}

// connect opens a connection and waits until it stands, an instant at which nothing is in flight.
func (w *world) connect(d Direction) (client, server *memory) {
	client = w.call(d)
	server = <-w.dialled
	w.sleep(10 * time.Second)
	return client, server
}

// sleep lets virtual time pass and everything that happens in it happen.
func (w *world) sleep(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func (w *world) wantAt(what string, want time.Duration) {
	w.Helper()
	if got := w.relay.now(); got != want {
		w.Errorf("%s at %v, want %v", what, got, want)
	}
}

func (w *world) wantHeard(m *memory, want []byte) {
	w.Helper()
	got, err := m.hear(len(want))
	if err != nil || !bytes.Equal(got, want) {
		w.Fatalf("heard %d bytes, error %v; want the %d that were said", len(got), err, len(want))
	}
}

// wantSilence checks that d passes without a byte or an end.
func (w *world) wantSilence(m *memory, d time.Duration) {
	w.Helper()
	w.sleep(d)
	m.out.mu.Lock()
	defer m.out.mu.Unlock()
	if len(m.out.data) > 0 || m.out.fin || m.out.reset {
		w.Fatalf("after %v: %d bytes, fin %v, reset %v; want silence", d, len(m.out.data), m.out.fin, m.out.reset)
	}
}

func (w *world) do(line string) {
	w.Helper()
	if a := w.relay.answer([]byte(line)); !a.OK {
		w.Fatalf("%s: %s", line, a.Error)
	}
}

func noise(n int, seed uint64) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed)}).Read(b) // never fails
	return b
}
