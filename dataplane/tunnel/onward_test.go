package tunnel_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/isthmus-mesh/isthmus/dataplane/tunnel"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

const south = mesh.TrustDomain("ap-south.isthmus.local")

// third is a gateway of a third cluster, that passes on to the gateways of others.
func (m *mesh2) third(t testing.TB, most int, onward func(mesh.TrustDomain) []netip.AddrPort) (*running, *tunnel.Gateway) {
	t.Helper()
	a := newAuthority(t, south)
	id := mesh.Identity{TrustDomain: south, Namespace: "isthmus", ServiceAccount: "gateway"}
	g := tunnel.NewGateway(tunnel.GatewayConfig{Route: func(mesh.SNI) (netip.AddrPort, bool) { return netip.AddrPort{}, false }, Onward: onward, MaxConns: most,
		Source: sourceOf(t, a.svid(t, id, time.Hour), bundlesOf(t, a, m.west, m.east)), Domain: func() mesh.TrustDomain { return south }, Log: m.logger()})
	return serve(t, listen(t), g.Serve), g
}

// to passes on to the gateways of the east.
func to(gateways ...netip.AddrPort) func(mesh.TrustDomain) []netip.AddrPort {
	return func(td mesh.TrustDomain) []netip.AddrPort {
		if td != east {
			return nil
		}
		return gateways
	}
}

// by is slot 0 by way of a gateway of the third cluster.
func by(gateway netip.AddrPort) *tunnel.Want {
	w := want(gateway, 0)
	w.Gateway, w.Target.By = true, south
	return w
}

// TestAThirdClustersGatewayPassesOn: end to end as ever, and the gateway between, whose authority neither end believes, sees
// nothing of what passes. Gateways of the destination that are not there are passed over.
func TestAThirdClustersGatewayPassesOn(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	last, _ := m.gateway(t, always(m.orders(t).addr))
	wire := newLink(t, func() netip.AddrPort { return last.addr })
	ln := listen(t)
	gone := addrOf(ln)
	ln.Close()
	middle, g := m.third(t, 0, to(gone, wire.addr))
	d, _ := m.dialer(t, nil)
	d.SetGateways(east, []netip.AddrPort{last.addr})
	d.SetGateways(south, []netip.AddrPort{middle.addr})
	for range 3 {
		h := mustGet(t, d, by(middle.addr))
		if got := h.Get("peer"); string(got) != shop.String() {
			t.Errorf("the server sees %q, want the client %s", got, shop)
		}
	}
	if s := g.Stats(); s.Onward != 1 || s.PassedOn != 1 {
		t.Errorf("%+v after three requests, want one connection", s)
	}
	wire.mu.Lock()
	seen := wire.seen.Bytes()
	if len(seen) == 0 || seen[0] != 22 || bytes.Contains(seen, []byte("/orders/1")) || bytes.Contains(seen, []byte("hello")) {
		t.Error("what goes on does not begin as TLS does, or can be read")
	}
	wire.mu.Unlock()
	// A gateway of the third cluster is withdrawn, and not one of the destination's: that is the one that passes it on.
	d.SetGateways(south, []netip.AddrPort{gone})
	eventually(t, "what a withdrawn gateway passes on ends", func() bool { return g.Stats().Onward == 0 })
}

// TestGatewaysOfAnEarlierVersionRefuseToPassOn, as one does that is not configured to: in a word that is a reason to try elsewhere.
func TestGatewaysOfAnEarlierVersionRefuseToPassOn(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	last, _ := m.gateway(t, always(m.orders(t).addr))
	middle, g := m.third(t, 0, nil)
	d, _ := m.dialer(t, nil)
	_, _, err := get(d, by(middle.addr), nil)
	var why *tunnel.Error
	if !asError(err, &why) || why.Why != mesh.ReasonUnreachable {
		t.Errorf("got %v, want unreachable", err)
	}
	w := by(middle.addr)
	w.Alternates = []netip.AddrPort{last.addr} // it knows the words, and is not the one that they are for
	if _, _, err := get(d, w, nil); !asError(err, &why) || why.Why != mesh.ReasonUnreachable {
		t.Errorf("by a gateway of another cluster: got %v, want unreachable", err)
	}
	if s := g.Stats(); s.PassedOn != 0 || s.Refused == 0 {
		t.Errorf("%+v", s)
	}
}

func asError(err error, to **tunnel.Error) bool {
	e, ok := err.(*tunnel.Error)
	*to = e
	return ok
}

// TestWhatIsNotPassedOn asks a gateway of the third cluster in ways in which it must refuse. The control is the first.
func TestWhatIsNotPassedOn(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	var came atomic.Int64
	sink := accepting(t, func(net.Conn) { came.Add(1) })
	middle, _ := m.third(t, 0, to(sink.addr))
	for i, c := range []struct {
		what, before, name string
		passes             bool
	}{
		{"control: to a cluster that is joined", string(mesh.PassOn(south)), "0.orders.default." + string(east), true},
		{"the gateways of such a cluster", string(mesh.PassOn(south)), "gateway." + string(east), true},
		{"nobody asks for it", "", "0.orders.default." + string(east), false},
		{"another's gateway is asked", string(mesh.PassOn(west)), "0.orders.default." + string(east), false},
		{"asked twice", string(mesh.PassOn(south)) + string(mesh.PassOn(south)), "0.orders.default." + string(east), false},
		{"to the own cluster", string(mesh.PassOn(south)), "0.orders.default." + string(south), false},
		{"to the own gateways", string(mesh.PassOn(south)), "gateway." + string(south), false},
		{"to a cluster that is not joined", string(mesh.PassOn(south)), "0.orders.default." + string(west), false},
		{"a name of nothing", string(mesh.PassOn(south)), "www.example.org", false},
	} {
		before := came.Load()
		word := shakes(t, middle.addr, c.before, c.name)
		if c.passes {
			eventually(t, c.what, func() bool { return came.Load() == before+1 })
		} else if came.Load() != before || word == "" && c.before == "" {
			t.Errorf("%d, %s: passed on %d times, the alert is %q", i, c.what, came.Load()-before, word)
		}
	}
}

// shakes sends what comes before, and a ClientHello, and returns the alert that comes back; "" is the end without one.
func shakes(t testing.TB, addr netip.AddrPort, before, name string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(bound))
	for i := range len(before) { // however it comes
		if _, err := c.Write([]byte{before[i]}); err != nil {
			return err.Error() // it was refused meanwhile
		}
	}
	err = tls.Client(c, &tls.Config{ServerName: name, InsecureSkipVerify: true}).Handshake()
	if err == nil {
		return ""
	}
	word, _ := strings.CutPrefix(err.Error(), "remote error: ")
	if word == err.Error() {
		return ""
	}
	return word
}

// TestALoopOfGatewaysEnds: two gateways are configured to pass on to each other, and to themselves, and what comes passes one of
// them once.
func TestALoopOfGatewaysEnds(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	var one, other netip.AddrPort
	a, ga := m.third(t, 0, func(mesh.TrustDomain) []netip.AddrPort { return []netip.AddrPort{one, other} })
	b, gb := m.third(t, 0, func(mesh.TrustDomain) []netip.AddrPort { return []netip.AddrPort{one, other} })
	one, other = a.addr, b.addr
	for range 4 {
		if word := shakes(t, a.addr, string(mesh.PassOn(south)), "0.orders.default."+string(east)); word != "tls: unrecognized name" {
			t.Errorf("the alert is %q", word)
		}
	}
	eventually(t, "nothing is passed on", func() bool { return ga.Stats().Onward+gb.Stats().Onward == 0 })
	if n := ga.Stats().PassedOn + gb.Stats().PassedOn; n != 4 {
		t.Errorf("four connections were passed on %d times, want once each", n)
	}
}

// TestWhatIsPassedOnLeavesRoomForTheOwnCluster floods a gateway with connections to pass on, from several addresses: a quarter of its
// room is theirs, the others are refused, and who asks for the gateway itself is answered.
func TestWhatIsPassedOnLeavesRoomForTheOwnCluster(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	ln := listen(t) // the kernel takes them, and nobody answers
	defer ln.Close()
	const most = 64
	middle, g := m.third(t, most, to(addrOf(ln)))
	const asked = 3 * most / 5
	for i := range asked {
		c := helloAfter(t, netip.AddrFrom4([4]byte{127, 0, 0, byte(2 + i%3)}), middle.addr, mesh.PassOn(south))
		defer c.Close()
	}
	eventually(t, "all are answered", func() bool { s := g.Stats(); return s.Onward+s.Refused == asked })
	if s := g.Stats(); s.Onward != most/4 || s.PassedOn != most/4 {
		t.Errorf("%+v, want %d passed on of %d", s, most/4, asked)
	}
	if word := shakes(t, middle.addr, "", "gateway."+string(south)); word != "" {
		t.Errorf("who asks for the gateway itself is told %q", word)
	}
}

// TestThePathByAThirdClusterIsPinged: a gateway answers for itself also where another passes the question on.
func TestThePathByAThirdClusterIsPinged(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	last, _ := m.gateway(t, always(m.orders(t).addr))
	middle, _ := m.third(t, 0, to(last.addr))
	c, err := net.Dial("tcp", middle.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(mesh.PassOn(south)); err != nil {
		t.Fatal(err)
	}
	source := sourceOf(t, m.west.svid(t, shop, time.Hour), m.bundles)
	ctx, stop := context.WithTimeout(t.Context(), bound)
	defer stop()
	tc := tls.Client(c, trust.ClientConfig(source, trust.AcceptServers(east, gate), tunnel.GatewayName(east), "h2"))
	if err := tc.HandshakeContext(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := tc.Write([]byte(http2.ClientPreface)); err != nil {
		t.Fatal(err)
	}
	f := http2.NewFramer(tc, tc)
	if err := f.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	if err := f.WritePing(false, [8]byte{1}); err != nil {
		t.Fatal(err)
	}
	for {
		fr, err := f.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if p, ok := fr.(*http2.PingFrame); ok && p.IsAck() {
			return
		}
	}
}
