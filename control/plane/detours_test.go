package plane_test

import (
	"context"
	"io"
	"maps"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/isthmus-mesh/isthmus/core/event"
)

// wire is a TCP relay that can be cut: what passes breaks, and nothing is let in.
type wire struct {
	addr netip.AddrPort

	mu    sync.Mutex
	cut   bool
	conns []net.Conn
}

func newWire(t *testing.T, ctx context.Context, parts *sync.WaitGroup, to netip.AddrPort) *wire {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{addr: ln.Addr().(*net.TCPAddr).AddrPort()}
	context.AfterFunc(ctx, func() { ln.Close(); w.set(true) })
	parts.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", to.String())
			if err != nil {
				c.Close()
				continue
			}
			if !w.holds(c, up) {
				continue
			}
			for _, pair := range [][2]net.Conn{{c, up}, {up, c}} {
				parts.Go(func() {
					_, _ = io.Copy(pair[0], pair[1])
					pair[0].Close()
				})
			}
		}
	})
	return w
}

// holds notes connections, unless it is cut.
func (w *wire) holds(conns ...net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut {
		for _, c := range conns {
			c.Close()
		}
		return false
	}
	w.conns = append(w.conns, conns...)
	return true
}

func (w *wire) set(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut = cut; cut {
		for _, c := range w.conns {
			c.Close()
		}
		w.conns = nil
	}
}

// TestAThirdClusterPassesOnWhatCannotGoDirectly: the path to the only cluster that serves breaks, and requests go by a third, which
// serves nothing, until it is back. A law that does not allow the third ends that, and one that does lets it be again.
func TestAThirdClusterPassesOnWhatCannotGoDirectly(t *testing.T) {
	ctx, parts := lasting(t)
	eu, us, in := startCluster(t, ctx, parts, "eu"), startCluster(t, ctx, parts, "us"), startCluster(t, ctx, parts, "in")
	link := newWire(t, ctx, parts, us.addr["gateway"])
	for _, c := range []*cluster{eu, us, in} {
		for _, o := range []*cluster{eu, us, in} {
			if c != eu || o != us {
				c.join(o)
			}
		}
	}
	addr := maps.Clone(us.addr)
	addr["gateway"] = link.addr
	eu.apply(clusterYAML("us", us.plane.Bundle(), addr))
	us.serve("catalog")
	client := eu.client()
	answers := func() string { return get(client, "http://catalog.shop.svc.clusterset.local/") }
	way := func() string {
		for _, p := range eu.plane.Peers() {
			if p.Cluster == "us" {
				return p.State.String() + " by " + string(p.Via.By)
			}
		}
		return ""
	}
	eventually(t, "200 us catalog", answers)
	eventually(t, "Alive by ", way)
	link.set(true)
	eventually(t, "Unreachable by in", way)
	eventually(t, "200 us catalog", answers)
	if got := eu.happened("detour_begun"); !strings.Contains(got, "by the gateways of in") || !strings.Contains(got, "after path_lost") {
		t.Errorf("what is told: %s", got)
	}
	law := func(jurisdictions string) {
		eu.apply(`
apiVersion: isthmus.dev/v1alpha1
kind: ResidencyPolicy
metadata: {name: ends, namespace: shop}
spec: {targetRefs: [{group: "", kind: Service, name: catalog}], jurisdictions: [` + jurisdictions + `]}
`)
	}
	law("EU, US")
	eventually(t, "503 unreachable", answers)
	law("EU, US, IN")
	eventually(t, "200 us catalog", answers)
	link.set(false)
	eventually(t, "Alive by ", way)
	eventually(t, "200 us catalog", answers)
	eventually(t, "because its own gateways have answered again", func() string { return eu.happened("detour_ended") })
	if n := len(eu.plane.Events().List(event.Filter{Cluster: "in", Kinds: []event.Kind{event.Path}}).Events); n != 2 {
		t.Errorf("%d events of ways by the third cluster, want that one began and that it ended", n)
	}
}
