package probe

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-mesh/isthmus/core/liveness"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// told collects what a Prober says.
type told struct {
	news chan liveness.State
}

func newTold() *told { return &told{make(chan liveness.State, 1<<12)} }

func (o *told) changed(_ mesh.ClusterName, s liveness.State) { o.news <- s }

// until waits for a state.
func (o *told) until(t testing.TB, what string, is func(liveness.State) bool) liveness.State {
	t.Helper()
	limit := time.NewTimer(30 * time.Second)
	defer limit.Stop()
	for {
		select {
		case s := <-o.news:
			if is(s) {
				return s
			}
		case <-limit.C:
			t.Fatalf("not told of a path that is %s within 30s", what)
		}
	}
}

func down(s liveness.State) bool { return s.Reach() == mesh.Unreachable }
func up(s liveness.State) bool   { return s.Reach() == mesh.Alive && s.RTT > 0 }

func config(k keys, o *told, gateways ...netip.AddrPort) Config {
	return Config{Peer: mesh.Cluster{Name: "us-east", TrustDomain: east, Gateways: gateways}, Source: k.observer,
		Gateway: gateway, Name: "gateway." + string(east), Changed: o.changed, Clock: clock.Real{}, Log: slog.New(slog.DiscardHandler)}
}

func listen(t testing.TB, at string) (net.Listener, netip.AddrPort) {
	t.Helper()
	ln, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	return ln, ln.Addr().(*net.TCPAddr).AddrPort()
}

func TestOverSockets(t *testing.T) {
	k := newKeys(t, gateway)
	g := newAnswerer(k.gateway)
	ln, addr := listen(t, "127.0.0.1:0")
	g.accept(ln)
	o := newTold()
	cfg := config(k, o, addr)
	cfg.Local = netip.MustParseAddr("127.0.0.1")
	p := New(cfg)
	stop := running(t, p)
	o.until(t, "up", up)

	// Refused: no process, no port.
	ln.Close()
	g.hangUp()
	o.until(t, "down", down)

	ln, _ = listen(t, addr.String())
	g.accept(ln)
	o.until(t, "up again", up)
	stop()
	ln.Close()
	g.hangUp()
	g.tasks.Wait()
}

func TestAGatewayOfAnotherNameIsNoWitness(t *testing.T) {
	k := newKeys(t, mesh.Identity{TrustDomain: east, Namespace: "default", ServiceAccount: "shop"})
	g := newAnswerer(k.gateway)
	ln, addr := listen(t, "127.0.0.1:0")
	g.accept(ln)
	o := newTold()
	stop := running(t, New(config(k, o, addr)))
	o.until(t, "down", down)
	stop()
	ln.Close()
	g.tasks.Wait()
	if n := g.answered(); n != 0 {
		t.Errorf("%d pings were sent to somebody else", n)
	}
}

func TestAPeerWithoutGatewaysIsAnError(t *testing.T) {
	if err := New(Config{}).Run(t.Context()); err == nil {
		t.Error("Run of a prober with nobody to ask returned nil")
	}
}

// pass lets time pass, that of a bubble.
func pass(t testing.TB, d time.Duration) {
	t.Helper()
	if err := clock.Wait(t.Context(), clock.Real{}, d); err != nil {
		t.Fatal(err)
	}
}

// inBubble runs f in virtual time with a prober over a wan of two gateways.
func inBubble(t *testing.T, rtt time.Duration, f func(t *testing.T, w *wan, p *Prober, o *told)) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeys(t, gateway)
		g := newAnswerer(k.gateway)
		w := &wan{rtt: rtt, serve: func(_ netip.AddrPort, c net.Conn) { g.serve(c) }, dead: map[netip.AddrPort]bool{}}
		o := newTold()
		cfg := config(k, o, netip.MustParseAddrPort("10.0.0.1:15443"), netip.MustParseAddrPort("10.0.0.2:15443"))
		cfg.Dial = w.dial
		p := New(cfg)
		stop := running(t, p)
		o.until(t, "up", up)
		pass(t, 10*time.Second) // the RTT settles
		f(t, w, p, o)
		stop()
		g.hangUp()
		w.end()
		g.tasks.Wait()
	})
}

func TestAPathIsMeasured(t *testing.T) {
	inBubble(t, 80*time.Millisecond, func(t *testing.T, w *wan, p *Prober, _ *told) {
		if s := p.State(); s.RTT < 79*time.Millisecond || s.RTT > 82*time.Millisecond {
			t.Errorf("RTT %v, want 80ms", s.RTT)
		}
		if n := w.dials(); n != 2 {
			t.Errorf("%d dials for a healthy path, want 2", n)
		}
	})
}

func TestCutsAreFoundWithinASecondAndHealed(t *testing.T) {
	for _, c := range []struct {
		name        string
		there, back bool
	}{{"both ways", true, true}, {"there", true, false}, {"back", false, true}} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, 60*time.Millisecond, func(t *testing.T, w *wan, _ *Prober, o *told) {
				began := time.Now()
				w.cut(c.there, c.back)
				o.until(t, "down", down)
				if took := time.Since(began); took > time.Second {
					t.Errorf("found after %v, want at most 1s", took)
				}
				pass(t, 20*time.Second)
				w.cut(false, false)
				healed := time.Now()
				o.until(t, "up again", up)
				if took := time.Since(healed); took > 3*time.Second {
					t.Errorf("back after %v, want at most 3s", took)
				}
			})
		})
	}
}

func TestOneGatewayOfTwoIsEnough(t *testing.T) {
	inBubble(t, 20*time.Millisecond, func(t *testing.T, w *wan, p *Prober, _ *told) {
		since := p.State().Since
		w.kill(netip.MustParseAddrPort("10.0.0.2:15443"))
		pass(t, time.Minute)
		if s := p.State(); s.Reach() != mesh.Alive || !s.Since.Equal(since) {
			t.Errorf("%v since %v, though a gateway answers", s.Reach(), s.Since)
		}
	})
}

// TestBeforeTheFirstAnswerNothingIsLost: clusters start together, and the gateways of a peer answer when they have their
// certificates. A cut afterwards is loss, which is the control.
func TestBeforeTheFirstAnswerNothingIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeys(t, gateway)
		g := newAnswerer(k.gateway)
		a, b := netip.MustParseAddrPort("10.0.0.1:15443"), netip.MustParseAddrPort("10.0.0.2:15443")
		w := &wan{rtt: 20 * time.Millisecond, serve: func(_ netip.AddrPort, c net.Conn) { g.serve(c) }, dead: map[netip.AddrPort]bool{a: true, b: true}}
		o := newTold()
		cfg := config(k, o, a, b)
		cfg.Dial = w.dial
		p := New(cfg)
		stop := running(t, p)
		pass(t, 20*time.Second)
		if ratio, of := p.Loss(); of != 0 {
			t.Errorf("loss %.2f of %d questions before any was answered", ratio, of)
		}
		w.mu.Lock()
		clear(w.dead)
		w.mu.Unlock()
		o.until(t, "up", up)
		pass(t, 10*time.Second)
		// One dial may have begun before and come to nothing afterwards.
		if ratio, of := p.Loss(); ratio*float64(of) > 1.5 || of == 0 {
			t.Errorf("loss %.2f of %d questions on a path that loses nothing", ratio, of)
		}
		w.cut(true, true)
		pass(t, 20*time.Second)
		if ratio, of := p.Loss(); ratio == 0 {
			t.Errorf("a cut path loses nothing of %d questions: %+v", of, p.State())
		}
		w.cut(false, false)
		stop()
		g.hangUp()
		w.end()
		g.tasks.Wait()
	})
}

func TestTheLeaseIsTold(t *testing.T) {
	inBubble(t, 20*time.Millisecond, func(t *testing.T, _ *wan, p *Prober, o *told) {
		p.Lease(false, time.Time{})
		o.until(t, "served by a stale partition", func(s liveness.State) bool { return s.Reach() == mesh.StaleServing })
		p.Lease(true, time.Time{})
		o.until(t, "alive again", up)
	})
}

// wan carries bytes after half its rtt, in virtual time.
type wan struct {
	rtt   time.Duration
	serve func(netip.AddrPort, net.Conn)

	mu          sync.Mutex
	there, back bool // cut
	dead        map[netip.AddrPort]bool
	all         []*wire
	dialled     int
	carriers    sync.WaitGroup
}

// wire is one end of a connection. What is written into a cut is lost for good, as if TCP
// did not retransmit: only a new connection heals it.
type wire struct {
	net.Conn // of a net.Pipe; reading
	w        *wan
	addr     netip.AddrPort
	far      net.Conn // the writing end of what the other side reads
	back     bool
	queue    chan []byte
	done     chan struct{}
	once     *sync.Once
}

func (w *wan) dial(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	if err := clock.Wait(ctx, clock.Real{}, w.rtt); err != nil { // SYN, SYN-ACK
		return nil, err
	}
	w.mu.Lock()
	w.dialled++
	lost := w.there || w.back || w.dead[addr]
	w.mu.Unlock()
	if lost {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	atClient, toClient := net.Pipe()
	atServer, toServer := net.Pipe()
	done, once := make(chan struct{}), &sync.Once{}
	client := &wire{atClient, w, addr, toServer, false, make(chan []byte, 64), done, once}
	server := &wire{atServer, w, addr, toClient, true, make(chan []byte, 64), done, once}
	for _, e := range []*wire{client, server} {
		w.carriers.Go(e.carry)
	}
	w.mu.Lock()
	w.all = append(w.all, client)
	w.mu.Unlock()
	w.serve(addr, server)
	return client, nil
}

// Write never waits: it is the kernel's buffer.
func (e *wire) Write(b []byte) (int, error) {
	select {
	case <-e.done:
		return 0, net.ErrClosed
	case e.queue <- append([]byte(nil), b...):
	default: // lost
	}
	return len(b), nil
}

// carry delivers what is written, late.
func (e *wire) carry() {
	for {
		select {
		case b := <-e.queue:
			if clock.Wait(context.Background(), clock.Real{}, e.w.rtt/2) != nil {
				return
			}
			e.w.mu.Lock()
			lost := e.w.there && !e.back || e.w.back && e.back || e.w.dead[e.addr]
			e.w.mu.Unlock()
			if lost {
				continue
			}
			if _, err := e.far.Write(b); err != nil {
				return
			}
		case <-e.done:
			return
		}
	}
}

// Close ends both ends at once.
func (e *wire) Close() error {
	e.once.Do(func() { close(e.done) })
	e.far.Close()
	return e.Conn.Close()
}

func (e *wire) SetWriteDeadline(time.Time) error { return nil }

func (w *wan) cut(there, back bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.there, w.back = there, back
}

func (w *wan) kill(addr netip.AddrPort) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dead[addr] = true
}

func (w *wan) dials() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dialled
}

// end closes everything and waits for it.
func (w *wan) end() {
	w.mu.Lock()
	for _, e := range w.all {
		e.Close()
	}
	w.mu.Unlock()
	w.carriers.Wait()
}
