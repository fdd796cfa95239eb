package tunnel_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/tunnel"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

func TestRequestsShareAConnection(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	srv := m.orders(t)
	d, _ := m.dialer(t, nil)
	l := newLink(t, func() netip.AddrPort { return srv.addr })
	for range 20 {
		h := mustGet(t, d, want(l.addr, 3))
		if got := string(h.Get("peer")); got != shop.String() {
			t.Fatalf("the server saw %q, want %q", got, shop)
		}
		if got := string(h.Get("slot")); got != "3.orders.default."+string(east) {
			t.Fatalf("the server saw the name %q", got)
		}
	}
	l.mu.Lock()
	dials := l.dials
	l.mu.Unlock()
	if dials != 1 || len(d.Conns()) != 1 {
		t.Errorf("%d connections made, %d live, want 1", dials, len(d.Conns()))
	}
}

func TestConnectStreamsHaveTheirOwnConnection(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	srv := m.orders(t)
	d, _ := m.dialer(t, nil)
	mustGet(t, d, want(srv.addr, 0))
	w := want(srv.addr, 0)
	w.Target.Connect = true
	s, err := d.Open(time.Time{}, w)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.SetDeadline(time.Now().Add(10 * time.Second))
	var h message.Head
	h.Reset()
	h.Method, h.Authority, h.Length = h.KeepString("CONNECT"), h.KeepString("orders.default:5432"), message.LengthUnknown
	if err := s.Send(&h, false); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Receive(&h); err != nil || h.Status != 200 {
		t.Fatalf("CONNECT: %d, %v", h.Status, err)
	}
	if _, err := s.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	if err := s.CloseWrite(nil); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(s); string(b) != "ping" || err != nil {
		t.Fatalf("echo: %q, %v", b, err)
	}
	if n := len(d.Conns()); n != 2 {
		t.Errorf("%d connections, want one for requests and one for tunnels", n)
	}
}

const marker = "the-secret-of-the-isthmus"

// TestGatewaysCannotRead has a marker in path, header and both bodies, and looks at every byte
// before and behind the gateway.
func TestGatewaysCannotRead(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	srv, _ := m.server(t, m.east.svid(t, orders, time.Hour), answerWith(marker))
	behind := newLink(t, func() netip.AddrPort { return srv.addr })
	gw, g := m.gateway(t, always(behind.addr))
	before := newLink(t, func() netip.AddrPort { return gw.addr })
	d, _ := m.dialer(t, nil)
	body, _, err := get(d, want(before.addr, 7), func(h *message.Head) {
		h.Path = h.KeepString("/" + marker)
		h.Add("cookie", marker)
	})
	if err != nil || body != marker {
		t.Fatalf("get: %q, %v", body, err)
	}
	for name, l := range map[string]*link{"before": before, "behind": behind} {
		l.mu.Lock()
		seen := bytes.Clone(l.seen.Bytes())
		l.mu.Unlock()
		if !bytes.Contains(seen, []byte("7.orders.default.")) {
			t.Errorf("%s the gateway: the capture of %d bytes lacks the server name", name, len(seen))
		}
		if bytes.Contains(seen, []byte(marker)) {
			t.Errorf("%s the gateway: the marker is in the clear", name)
		}
	}
	if s := g.Stats(); s.Passing != 1 || s.BytesIn == 0 || s.BytesOut == 0 {
		t.Errorf("Stats = %+v", s)
	}
}

func TestWhoIsRefused(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	stranger := newAuthority(t, "mars.isthmus.local")
	alien := mesh.Identity{TrustDomain: "mars.isthmus.local", Namespace: "default", ServiceAccount: "shop"}
	both := bundlesOf(t, m.west, m.east, stranger)
	tests := []struct {
		name   string
		server *trust.SVID
		client *trust.SVID
		trusts *trust.Bundles // of the client
		want   func(*tunnel.Want)
		reason mesh.Reason
		logged string // by the server
	}{
		{name: "a client of an unknown trust domain", client: stranger.svid(t, alien, time.Hour), trusts: both, reason: mesh.ReasonTLS, logged: "unknown_trust_domain"},
		{name: "a client whose certificate has ended", client: m.west.svid(t, shop, -time.Minute), reason: mesh.ReasonOwnFault},
		// It answers internal_error, as a gateway does for an endpoint that cannot be reached.
		{name: "a server whose certificate has ended", server: m.east.svid(t, orders, -time.Minute), reason: mesh.ReasonUnreachable, logged: "own_certificate"},
		{name: "a server of the right domain and the wrong identity", server: m.east.svid(t, thief, time.Hour), reason: mesh.ReasonTLS, logged: "remote error"},
		{name: "a server of another trust domain", server: m.west.svid(t, mesh.Identity{TrustDomain: west, Namespace: "default", ServiceAccount: "orders"}, time.Hour), reason: mesh.ReasonTLS},
		{name: "no identity may serve", want: func(w *tunnel.Want) { w.Identities = nil }, reason: mesh.ReasonTLS},
		{name: "a name that is not served", want: func(w *tunnel.Want) { w.Target.SNI.Service.Name = "payments" }, reason: mesh.ReasonUnreachable, logged: "no certificates"},
	}
	for _, tt := range tests {
		for _, through := range []string{"directly", "through a gateway"} {
			t.Run(tt.name+" "+through, func(t *testing.T) {
				m := *m
				m.log = &logBuffer{}
				if tt.server == nil {
					tt.server = m.east.svid(t, orders, time.Hour)
				}
				if tt.client == nil {
					tt.client = m.west.svid(t, shop, time.Hour)
				}
				var handled atomic.Int64
				srv, _ := m.server(t, tt.server, func(ex message.Exchange, p tunnel.Peer) {
					handled.Add(1)
					answerWith("hello")(ex, p)
				})
				if through != "directly" {
					srv, _ = m.gateway(t, always(srv.addr))
				}
				d, source := m.dialerAs(t, tt.client, nil)
				if tt.trusts != nil {
					if err := source.Update(nil, tt.trusts); err != nil {
						t.Fatal(err)
					}
				}
				w := want(srv.addr, 0)
				if tt.want != nil {
					tt.want(w)
				}
				_, _, err := get(d, w, nil)
				refused(t, err, tt.reason)
				if handled.Load() != 0 {
					t.Error("the request was executed")
				}
				if tt.logged != "" {
					eventually(t, "the refusal in the log", func() bool { return m.log.has(tt.logged) })
				}
			})
		}
	}
}

// refused checks an error of Open.
func refused(t *testing.T, err error, reason mesh.Reason) {
	t.Helper()
	var e *tunnel.Error
	if !errors.As(err, &e) {
		t.Fatalf("error %v, want a *tunnel.Error", err)
	}
	if e.Reason() != reason || !errors.Is(err, message.ErrNotExecuted) {
		t.Errorf("reason %q (not executed: %v), want %q: %v", e.Reason(), errors.Is(err, message.ErrNotExecuted), reason, err)
	}
}

func TestAClientWithoutACertificateIsRefused(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	srv := m.orders(t)
	err := rawClient(t, srv.addr, "0.orders.default."+string(east))
	if err == nil || !strings.Contains(err.Error(), "certificate required") {
		t.Errorf("error %v, want the alert certificate_required", err)
	}
	eventually(t, "the refusal in the log", func() bool { return m.log.has("didn't provide a certificate") })
}

func TestWhatGatewaysRefuseInWords(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	dead := addrOf(closedListener(t))
	tests := []struct {
		name   string
		route  func(mesh.SNI) (netip.AddrPort, bool)
		alert  string
		reason mesh.Reason
	}{
		{"an unknown slot", func(mesh.SNI) (netip.AddrPort, bool) { return netip.AddrPort{}, false }, "unrecognized name", mesh.ReasonUnreachable},
		{"an endpoint that is gone", always(dead), "internal error", mesh.ReasonUnreachable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			gw, _ := m.gateway(t, tt.route)
			d, _ := m.dialer(t, nil)
			_, _, err := get(d, want(gw.addr, 0), nil)
			refused(t, err, tt.reason)
			if !strings.Contains(err.Error(), tt.alert) {
				t.Errorf("error %q does not hold the alert %q", err, tt.alert)
			}
		})
	}
}

func closedListener(t testing.TB) net.Listener {
	ln := listen(t)
	ln.Close()
	return ln
}

// load makes requests until stopped, and counts those that fail.
type load struct {
	done, failed atomic.Int64
	first        atomic.Pointer[error]
	stop         func()
}

func startLoad(d *tunnel.Dialer, workers int, w func(worker, i int) *tunnel.Want) *load {
	l := &load{}
	end := make(chan struct{})
	var wg sync.WaitGroup
	for k := range workers {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-end:
					return
				default:
				}
				if _, _, err := get(d, w(k, i), nil); err != nil {
					l.failed.Add(1)
					l.first.CompareAndSwap(nil, &err)
				}
				l.done.Add(1)
			}
		})
	}
	l.stop = sync.OnceFunc(func() { close(end); wg.Wait() })
	return l
}

// some waits until n more requests are done.
func (l *load) some(t testing.TB, n int64) {
	t.Helper()
	from := l.done.Load()
	eventually(t, fmt.Sprintf("%d more requests", n), func() bool { return l.done.Load() >= from+n })
}

func (l *load) none(t testing.TB) {
	t.Helper()
	l.stop()
	if n := l.failed.Load(); n > 0 {
		t.Errorf("%d of %d requests failed, the first: %v", n, l.done.Load(), *l.first.Load())
	}
}

// TestRenewalFailsNoRequest: new certificates at both ends under load. In the control whatever serves then is cut off, in place of being
// left when what it does has ended.
func TestRenewalFailsNoRequest(t *testing.T) {
	t.Parallel()
	for _, cuts := range []bool{false, true} {
		m := newMesh(t)
		srv, serverSource := m.server(t, m.east.svid(t, orders, time.Hour), answerWith("hello"))
		l := newLink(t, func() netip.AddrPort { return srv.addr })
		d, source := m.dialer(t, nil)
		load := startLoad(d, 4, func(int, int) *tunnel.Want { return want(l.addr, 0) })
		defer load.stop()
		load.some(t, 50)
		for i := range 3 {
			if err := source.Update(m.west.svid(t, shop, time.Hour), nil); err != nil {
				t.Fatal(err)
			}
			if err := serverSource.Update(m.east.svid(t, orders, time.Hour), nil); err != nil {
				t.Fatal(err)
			}
			if cuts {
				l.breakAll()
			}
			eventually(t, "a new connection", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return l.dials >= i+2 })
			load.some(t, 50)
		}
		if cuts {
			if load.stop(); load.failed.Load() == 0 {
				t.Errorf("control: none of %d requests failed though their connections were cut: the load proves nothing", load.done.Load())
			}
			continue
		}
		load.none(t)
		eventually(t, "the old connections end", func() bool { return len(d.Conns()) == 1 })
	}
}

func TestALostRootCutsLiveConnections(t *testing.T) {
	t.Parallel()
	for _, side := range []string{"client", "server"} {
		t.Run(side, func(t *testing.T) {
			m := newMesh(t)
			hang, inside := make(chan struct{}), make(chan struct{})
			srv, serverSource := m.server(t, m.east.svid(t, orders, time.Hour), func(ex message.Exchange, _ tunnel.Peer) {
				close(inside)
				<-hang
			})
			defer close(hang)
			d, source := m.dialer(t, nil)
			failed := make(chan error, 1)
			go func() {
				_, _, err := get(d, want(srv.addr, 0), nil)
				failed <- err
			}()
			<-inside
			var err error
			if side == "client" {
				err = source.Update(nil, bundlesOf(t, m.west))
			} else {
				err = serverSource.Update(nil, bundlesOf(t, m.east))
			}
			if err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-failed:
				if err == nil || errors.Is(err, message.ErrNotExecuted) {
					t.Errorf("error %v, want one that leaves open whether it was executed", err)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("the stream lives on")
			}
			_, _, err = get(d, want(srv.addr, 0), nil)
			refused(t, err, mesh.ReasonTLS)
		})
	}
}

// TestIdentitiesAreHeldAgainstLiveConnections narrows the set while a connection lives.
func TestIdentitiesAreHeldAgainstLiveConnections(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	srv := m.orders(t)
	d, _ := m.dialer(t, nil)
	mustGet(t, d, want(srv.addr, 0))
	w := want(srv.addr, 0)
	w.Identities = []mesh.Identity{thief}
	_, _, err := get(d, w, nil)
	refused(t, err, mesh.ReasonTLS)
	mustGet(t, d, want(srv.addr, 0))
}

func TestAMovedSlotDrainsItsOldConnection(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	a, b := m.orders(t), m.orders(t)
	var to atomic.Pointer[netip.AddrPort]
	to.Store(&a.addr)
	gw, _ := m.gateway(t, func(mesh.SNI) (netip.AddrPort, bool) { return *to.Load(), true })
	d, _ := m.dialer(t, nil)
	w := want(gw.addr, 5)
	w.Target.Moved = 1
	mustGet(t, d, w)
	s, err := d.Open(time.Time{}, w) // in flight over the move
	if err != nil {
		t.Fatal(err)
	}
	to.Store(&b.addr)
	moved := want(gw.addr, 5)
	moved.Target.Moved = 2
	mustGet(t, d, moved)
	if n := len(d.Conns()); n != 2 {
		t.Errorf("%d connections while a stream of the old one is open, want 2", n)
	}
	s.SetDeadline(time.Now().Add(10 * time.Second))
	var h message.Head
	requestHead(&h)
	if err := s.Send(&h, true); err != nil {
		t.Errorf("the stream that was open when the slot moved: %v", err)
	}
	if _, err := s.Receive(&h); err != nil {
		t.Errorf("the stream that was open when the slot moved: %v", err)
	}
	if _, err := io.ReadAll(s); err != nil {
		t.Errorf("the stream that was open when the slot moved: %v", err)
	}
	s.Close()
	eventually(t, "the old connection ends", func() bool { return len(d.Conns()) == 1 })
}

func TestAKilledGatewayIsReplacedByAnother(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	srv := m.orders(t)
	g1, _ := m.gateway(t, always(srv.addr))
	g2, second := m.gateway(t, always(srv.addr))
	d, _ := m.dialer(t, nil)
	w := want(g1.addr, 0)
	w.Alternates = []netip.AddrPort{g2.addr}
	mustGet(t, d, w)
	if n := second.Stats().Passing; n != 0 {
		t.Fatalf("%d connections through the alternate before the first is dead", n)
	}
	g1.stop()
	eventually(t, "the broken connection goes", func() bool { return len(d.Conns()) == 0 })
	mustGet(t, d, w)
	if n := second.Stats().Passing; n != 1 {
		t.Errorf("%d connections through the alternate, want 1", n)
	}
}

// TestConnectionsGrowInNumber has more streams than one connection should carry.
func TestConnectionsGrowInNumber(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	hang := make(chan struct{})
	var inside atomic.Int64
	srv, _ := m.server(t, m.east.svid(t, orders, time.Hour), func(message.Exchange, tunnel.Peer) { inside.Add(1); <-hang })
	d, _ := m.dialer(t, func(c *tunnel.DialerConfig) { c.MaxConns = 2 })
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(hang)
	for range 300 {
		wg.Go(func() { _, _, _ = get(d, want(srv.addr, 0), nil) })
	}
	eventually(t, "all requests arrive", func() bool { return inside.Load() == 300 })
	if n := len(d.Conns()); n != 2 {
		t.Errorf("%d connections for 300 streams, want 2", n)
	}
}

// TestACongestedConnectionGetsAnother uploads through a slow link: one stream only, but its
// connection's send queue does not empty.
func TestACongestedConnectionGetsAnother(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	srv, _ := m.server(t, m.east.svid(t, orders, time.Hour), func(ex message.Exchange, p tunnel.Peer) {
		_, _ = io.Copy(io.Discard, struct{ io.Reader }{ex})
		answerWith("hello")(ex, p)
	})
	l := newLink(t, func() netip.AddrPort { return srv.addr })
	l.mu.Lock()
	l.perRead = 20 * time.Millisecond
	l.mu.Unlock()
	d, _ := m.dialer(t, nil)
	s, err := d.Open(time.Time{}, want(l.addr, 0))
	if err != nil {
		t.Fatal(err)
	}
	var h message.Head
	requestHead(&h)
	h.Method, h.Length = h.KeepString("POST"), message.LengthUnknown
	if err := s.Send(&h, false); err != nil {
		t.Fatal(err)
	}
	uploaded := make(chan struct{})
	go func() {
		defer close(uploaded)
		for b := make([]byte, 64<<10); ; {
			if _, err := s.Write(b); err != nil {
				return
			}
		}
	}()
	eventually(t, "another connection", func() bool {
		s, err := d.Open(time.Now().Add(10*time.Second), want(l.addr, 0))
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
		return len(d.Conns()) == 2
	})
	s.Close()
	<-uploaded
}
