package tunnel_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/tunnel"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	west = mesh.TrustDomain("eu-west.isthmus.local")
	east = mesh.TrustDomain("us-east.isthmus.local")
)

var (
	shop   = mesh.Identity{TrustDomain: west, Namespace: "default", ServiceAccount: "shop"}
	orders = mesh.Identity{TrustDomain: east, Namespace: "default", ServiceAccount: "orders"}
	thief  = mesh.Identity{TrustDomain: east, Namespace: "default", ServiceAccount: "thief"}
	gate   = mesh.Identity{TrustDomain: east, Namespace: "isthmus", ServiceAccount: "gateway"}

	ordersName = mesh.ServiceName{Namespace: "default", Name: "orders"}
)

// authority is a trust domain's root.
type authority struct {
	td   mesh.TrustDomain
	cert *x509.Certificate
	key  trust.PrivateKey
}

func newAuthority(t testing.TB, td mesh.TrustDomain) *authority {
	t.Helper()
	now := time.Now()
	a := &authority{td: td}
	a.cert, a.key = sign(t, nil, &x509.Certificate{
		Subject: pkix.Name{CommonName: "root"}, NotBefore: now.Add(-48 * time.Hour), NotAfter: now.Add(48 * time.Hour),
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign,
		URIs: []*url.URL{{Scheme: "spiffe", Host: string(td)}}})
	return a
}

func sign(t testing.TB, by *authority, template *x509.Certificate) (*x509.Certificate, trust.PrivateKey) {
	t.Helper()
	key, err := trust.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber, _ = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	parent, signer := template, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func (a *authority) bundle() mesh.Bundle {
	return mesh.Bundle{TrustDomain: a.td, Generation: 1, Roots: [][]byte{a.cert.Raw}}
}

// svid is a certificate of id that ends at the given time from now.
func (a *authority) svid(t testing.TB, id mesh.Identity, ends time.Duration) *trust.SVID {
	t.Helper()
	u, err := url.Parse(id.String())
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	cert, key := sign(t, a, &x509.Certificate{
		NotBefore: now.Add(min(0, ends) - 10*time.Minute), NotAfter: now.Add(ends), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, URIs: []*url.URL{u},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}})
	s, err := trust.NewSVID(key, [][]byte{cert.Raw})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func bundlesOf(t testing.TB, as ...*authority) *trust.Bundles {
	t.Helper()
	var bs []mesh.Bundle
	for _, a := range as {
		bs = append(bs, a.bundle())
	}
	b, err := trust.NewBundles(bs...)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func sourceOf(t testing.TB, s *trust.SVID, b *trust.Bundles) *trust.Source {
	t.Helper()
	source := trust.NewSource(clock.Real{})
	if err := source.Update(s, b); err != nil {
		t.Fatal(err)
	}
	return source
}

// mesh2 is two trust domains that believe each other.
type mesh2 struct {
	mute       bool // servers say nothing of what reaches them
	patient    bool // servers give up no silent client
	west, east *authority
	bundles    *trust.Bundles
	log        *logBuffer
}

func newMesh(t testing.TB) *mesh2 {
	t.Helper()
	m := &mesh2{west: newAuthority(t, west), east: newAuthority(t, east), log: &logBuffer{}}
	m.bundles = bundlesOf(t, m.west, m.east)
	return m
}

func (m *mesh2) logger() *slog.Logger { return slog.New(slog.NewTextHandler(m.log, nil)) }

// logBuffer is a log that tests read.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) has(s string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Contains(l.b.Bytes(), []byte(s))
}

// line is the first line with s.
func (l *logBuffer) line(s string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range bytes.Lines(l.b.Bytes()) {
		if bytes.Contains(line, []byte(s)) {
			return string(line)
		}
	}
	return ""
}

// running is something that serves until the test ends or stop is called.
type running struct {
	addr netip.AddrPort
	stop func() // waits
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func addrOf(ln net.Listener) netip.AddrPort { return ln.Addr().(*net.TCPAddr).AddrPort() }

func serve(t testing.TB, ln net.Listener, f func(context.Context, net.Listener) error) *running {
	t.Helper()
	r := &running{addr: addrOf(ln)}
	r.stop = run(t, func(ctx context.Context) error { return f(ctx, ln) })
	return r
}

func run(t testing.TB, f func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = f(ctx)
	}()
	stop = func() {
		cancel()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Error("what was to stop goes on")
		}
	}
	t.Cleanup(stop)
	return stop
}

// answerWith answers requests with 200 and the body, and CONNECT by echoing.
func answerWith(body string) func(message.Exchange, tunnel.Peer) {
	return func(ex message.Exchange, p tunnel.Peer) {
		var h message.Head
		h.Reset()
		h.Status, h.Length = 200, message.LengthUnknown
		h.Add("peer", p.Identity.String())
		h.Add("slot", p.SNI.String())
		if ex.Respond(&h, false) != nil {
			return
		}
		if ex.Request().IsConnect() {
			_, _ = io.Copy(struct{ io.Writer }{ex}, struct{ io.Reader }{ex})
		} else if _, err := ex.Write([]byte(body)); err != nil {
			return
		}
		_ = ex.Finish(nil)
	}
}

func (m *mesh2) server(t testing.TB, s *trust.SVID, handle func(message.Exchange, tunnel.Peer)) (*running, *trust.Source) {
	t.Helper()
	source := sourceOf(t, s, m.bundles)
	srv := tunnel.NewServer(tunnel.ServerConfig{Source: source, Now: time.Now, Log: m.logger(), Handle: handle,
		Serves: func(n mesh.SNI) bool { return n.Service == ordersName }})
	if m.mute {
		srv.Mute()
	}
	if m.patient {
		srv.Wait()
	}
	return serve(t, listen(t), srv.Serve), source
}

func (m *mesh2) orders(t testing.TB) *running {
	t.Helper()
	r, _ := m.server(t, m.east.svid(t, orders, time.Hour), answerWith("hello"))
	return r
}

func (m *mesh2) gateway(t testing.TB, route func(mesh.SNI) (netip.AddrPort, bool)) (*running, *tunnel.Gateway) {
	t.Helper()
	g := tunnel.NewGateway(tunnel.GatewayConfig{Route: route, Source: sourceOf(t, m.east.svid(t, gate, time.Hour), m.bundles),
		Domain: func() mesh.TrustDomain { return east }, Log: m.logger()})
	return serve(t, listen(t), g.Serve), g
}

func always(a netip.AddrPort) func(mesh.SNI) (netip.AddrPort, bool) {
	return func(mesh.SNI) (netip.AddrPort, bool) { return a, true }
}

func (m *mesh2) dialer(t testing.TB, change func(*tunnel.DialerConfig)) (*tunnel.Dialer, *trust.Source) {
	t.Helper()
	return m.dialerAs(t, m.west.svid(t, shop, time.Hour), change)
}

func (m *mesh2) dialerAs(t testing.TB, s *trust.SVID, change func(*tunnel.DialerConfig)) (*tunnel.Dialer, *trust.Source) {
	t.Helper()
	cfg := tunnel.DialerConfig{Source: sourceOf(t, s, m.bundles), Now: time.Now, Log: m.logger()}
	if change != nil {
		change(&cfg)
	}
	d := tunnel.NewDialer(cfg)
	run(t, d.Run)
	return d, cfg.Source
}

// bound is how long what must happen may take: no measure, but an end, on a machine that many others use as well.
const bound = time.Minute

func want(addr netip.AddrPort, slot uint32) *tunnel.Want {
	return &tunnel.Want{Target: tunnel.Target{Addr: addr, SNI: mesh.SNI{Slot: slot, Service: ordersName, TrustDomain: east}},
		Identities: []mesh.Identity{orders}, ConnectTimeout: bound}
}

func requestHead(h *message.Head) {
	h.Reset()
	h.Method, h.Scheme, h.Path = h.KeepString("GET"), h.KeepString("https"), h.KeepString("/orders/1")
	h.Authority = h.KeepString("orders.default")
	h.Length = 0
}

// get makes one request, wholly, and returns the body and the head.
func get(d *tunnel.Dialer, w *tunnel.Want, change func(*message.Head)) (string, *message.Head, error) {
	deadline := time.Now().Add(bound)
	s, err := d.Open(deadline, w)
	if err != nil {
		return "", nil, err
	}
	defer s.Close()
	s.SetDeadline(deadline)
	h := &message.Head{}
	requestHead(h)
	if change != nil {
		change(h)
	}
	if err := s.Send(h, true); err != nil {
		return "", nil, err
	}
	if _, err := s.Receive(h); err != nil {
		return "", nil, err
	}
	body, err := io.ReadAll(s)
	return string(body), h, err
}

func mustGet(t testing.TB, d *tunnel.Dialer, w *tunnel.Want) *message.Head {
	t.Helper()
	body, h, err := get(d, w, nil)
	if err != nil || body != "hello" {
		t.Fatalf("get %s at %s: %q, %v", w.Target.SNI, w.Target.Addr, body, err)
	}
	return h
}

// eventually waits for what other goroutines do.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	end := time.After(bound)
	for !f() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("not in time: %s", what)
		}
	}
}

// seenMax is how much of what passes a link is recorded. A record that grew with an upload copied itself under the lock
// that both directions need: beside load the link stood still for a second, and was rightly taken for silent.
const seenMax = 64 << 10

// link relays TCP and can be held, so that bytes stay in the relay, or broken; it
// records the first of what passes.
type link struct {
	addr netip.AddrPort
	to   func() netip.AddrPort

	mu      sync.Mutex
	narrow  bool          // towards the server as little waits in the kernel as it allows; set before the first connection
	perRead time.Duration // how long each read of up to 16 KiB towards the server costs
	slow    time.Duration // how long each 2 KiB cost, both ways, once it is set
	heldIn  chan struct{} // towards the server; closed: flows
	heldOut chan struct{}
	seen    bytes.Buffer
	dials   int
	conns   []net.Conn
}

func newLink(t testing.TB, to func() netip.AddrPort) *link {
	t.Helper()
	open := make(chan struct{})
	close(open)
	l := &link{to: to, heldIn: open, heldOut: open}
	l.seen.Grow(seenMax)
	r := serve(t, listen(t), func(ctx context.Context, ln net.Listener) error {
		var all sync.WaitGroup
		defer all.Wait()
		context.AfterFunc(ctx, func() { ln.Close(); l.breakAll(); l.hold(false, false) })
		for {
			c, err := ln.Accept()
			if err != nil {
				return err
			}
			all.Go(func() { l.relay(c) })
		}
	})
	l.addr = r.addr
	return l
}

func (l *link) hold(in, out bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	set := func(c *chan struct{}, held bool) {
		select {
		case <-*c:
			if held {
				*c = make(chan struct{})
			}
		default:
			if !held {
				close(*c)
			}
		}
	}
	set(&l.heldIn, in)
	set(&l.heldOut, out)
}

func (l *link) breakAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.conns {
		c.Close()
	}
}

func (l *link) relay(c net.Conn) {
	up, err := net.Dial("tcp", l.to().String())
	if err != nil {
		c.Close()
		return
	}
	l.mu.Lock()
	if l.dials++; l.narrow {
		_ = c.(*net.TCPConn).SetReadBuffer(8 << 10)
	}
	l.conns = append(l.conns, c, up)
	l.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { l.flow(up, c, &l.heldIn, &l.perRead) })
	l.flow(c, up, &l.heldOut, new(time.Duration))
	both.Wait()
}

func (l *link) flow(to, from net.Conn, held *chan struct{}, perRead *time.Duration) {
	defer to.Close()
	buf := make([]byte, 16<<10)
	for {
		l.mu.Lock()
		if l.slow > 0 {
			buf, perRead = buf[:2<<10], &l.slow
		}
		l.mu.Unlock()
		n, err := from.Read(buf)
		l.mu.Lock()
		l.seen.Write(buf[:min(n, seenMax-l.seen.Len())])
		gate, cost := *held, *perRead
		l.mu.Unlock()
		<-gate
		if cost > 0 {
			<-time.After(cost)
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
