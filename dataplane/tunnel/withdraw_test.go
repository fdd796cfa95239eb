package tunnel_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/tunnel"
	"github.com/isthmus-mesh/isthmus/trust"
)

// through is a Want of slot 0 through the first of some gateways.
func through(gateways []netip.AddrPort) *tunnel.Want {
	w := want(gateways[0], 0)
	w.Gateway, w.Alternates = true, gateways[1:]
	return w
}

// TestAWithdrawnGatewayIsLeft withdraws one of two gateways under load: nothing fails, what is long ends in its
// own time, and then nothing passes there any more.
func TestAWithdrawnGatewayIsLeft(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	hang := make(chan struct{})
	srv, _ := m.server(t, m.east.svid(t, orders, time.Hour), func(ex message.Exchange, p tunnel.Peer) {
		if string(ex.Request().Path) == "/long" {
			<-hang
		}
		answerWith("hello")(ex, p)
	})
	leaving, old := m.gateway(t, always(srv.addr))
	staying, other := m.gateway(t, always(srv.addr))
	d, _ := m.dialer(t, nil)
	both := []netip.AddrPort{leaving.addr, staying.addr}
	var list atomic.Pointer[[]netip.AddrPort]
	list.Store(&both)
	d.SetGateways(east, both)
	direct := want(srv.addr, 0)
	mustGet(t, d, direct)

	var work sync.WaitGroup
	var done atomic.Int64
	fail := make(chan error, 16)
	work.Go(func() {
		_, _, err := get(d, through(both), func(h *message.Head) { h.Path = h.KeepString("/long") })
		if err != nil {
			fail <- fmt.Errorf("what is long: %w", err)
		}
	})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	for range 3 {
		work.Go(func() {
			for ctx.Err() == nil {
				if _, _, err := get(d, through(*list.Load()), func(h *message.Head) { h.Method = h.KeepString("POST") }); err != nil {
					fail <- err
					return
				}
				done.Add(1)
			}
		})
	}
	more := func() {
		n := done.Load() + 50
		eventually(t, "more requests", func() bool { return done.Load() >= n || len(fail) > 0 })
	}
	more()
	if a, b := old.Stats().Passing, other.Stats().Passing; a == 0 || b != 0 {
		t.Fatalf("%d and %d connections pass, want all through the first", a, b)
	}
	rest := []netip.AddrPort{staying.addr}
	d.SetGateways(east, rest)
	list.Store(&rest)
	more()
	if a, b := old.Stats().Passing, other.Stats().Passing; a == 0 || b == 0 {
		t.Errorf("%d and %d connections pass while something long does, want some each", a, b)
	}
	close(hang)
	eventually(t, "nothing passes through the gateway that was withdrawn", func() bool { return old.Stats().Passing == 0 })
	stop()
	work.Wait()
	close(fail)
	for err := range fail {
		t.Error(err)
	}
	// What uses no gateway is not concerned, and to have none is no news.
	d.SetGateways(east, nil)
	conns := len(d.Conns())
	mustGet(t, d, direct)
	mustGet(t, d, through(rest))
	if n := len(d.Conns()); n != conns {
		t.Errorf("%d connections, then %d: one was left for no reason", conns, n)
	}
}

// TestALateConnectionLeavesAWithdrawnGateway opens through a gateway that was withdrawn since the caller
// looked: it is served all the same, and its connection ends long before connections are swept.
func TestALateConnectionLeavesAWithdrawnGateway(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	srv := m.orders(t)
	gone, old := m.gateway(t, always(srv.addr))
	d, _ := m.dialer(t, nil)
	d.SetGateways(east, []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1")})
	mustGet(t, d, through([]netip.AddrPort{gone.addr}))
	eventually(t, "the connection is drained", func() bool { return old.Stats().Passing == 0 })
}

// TestALeavingGatewaySaysSo: on what is open and on what comes later, while it passes as before.
func TestALeavingGatewaySaysSo(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	srv := m.orders(t)
	gw, g := m.gateway(t, always(srv.addr))
	cfg := trust.ClientConfig(sourceOf(t, m.west.svid(t, shop, time.Hour), m.bundles), trust.AcceptServers(east, gate), tunnel.GatewayName(east), "h2")
	visit := func() *http2.Framer {
		c, err := tls.Dial("tcp", gw.addr.String(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		fr := http2.NewFramer(c, c)
		if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
			t.Fatal(err)
		}
		if err := fr.WriteSettings(); err != nil {
			t.Fatal(err)
		}
		return fr
	}
	until := func(fr *http2.Framer, typ http2.FrameType) {
		for {
			f, err := fr.ReadFrame()
			if err != nil {
				t.Fatalf("no %s: %v", typ, err)
			}
			if f.Header().Type == typ {
				return
			}
			if _, early := f.(*http2.GoAwayFrame); early {
				t.Fatal("it says that it leaves")
			}
		}
	}
	before := visit()
	until(before, http2.FrameSettings)
	g.Leave()
	until(before, http2.FrameGoAway)
	until(visit(), http2.FrameGoAway)
	d, _ := m.dialer(t, nil)
	mustGet(t, d, through([]netip.AddrPort{gw.addr}))
}
