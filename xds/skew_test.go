package xds_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/skew"
	"github.com/isthmus-mesh/isthmus/xds"
)

// TestProxiesOfVersionsThatAreNotServedAreRefused: two minor versions back and one ahead are served; another proxy is told what to upgrade
// first, keeps what it has, and is listed until it is served.
func TestProxiesOfVersionsThatAreNotServedAreRefused(t *testing.T) {
	all, first := skew.Range{}, skew.Range{Min: 1, Max: 1}
	for _, c := range []struct {
		plane  skew.Build
		proxy  skew.Build
		refuse string
	}{
		{skew.Build{Version: "v0.3.0"}, skew.Build{Version: "v0.3.0"}, ""},
		{skew.Build{Version: "v0.3.0"}, skew.Build{Version: "v0.1.9", Protocols: first}, ""},
		{skew.Build{Version: "v0.3.0"}, skew.Build{Version: "v0.4.0"}, ""},
		{skew.Build{Version: "1637067"}, skew.Build{Version: "dev"}, ""},
		{skew.Build{Version: "v0.4.0", Protocols: all}, skew.Build{Version: "v0.1.0", Protocols: first}, "upgrade proxy shop/cart-0 first, to 0.2 at least"},
		{skew.Build{Version: "v0.3.0"}, skew.Build{Version: "v0.5.0"}, "upgrade this control plane first, to 0.4 at least"},
		{skew.Build{Protocols: skew.Range{Min: 2, Max: 4}}, skew.Build{Protocols: first}, "upgrade proxy shop/cart-0 first, to a version that speaks protocol 2"},
		{skew.Build{Protocols: first}, skew.Build{Protocols: skew.Range{Min: 2, Max: 4}}, "upgrade this control plane first, to a version that speaks protocol 2"},
	} {
		t.Run(fmt.Sprint(c.plane, c.proxy), func(t *testing.T) {
			story(t, func(s *xds.ServerConfig) { s.Build = c.plane }, func(t *testing.T, r *replica) {
				r.keep([]xds.Update{put(typeLoose, "a", "1")})
				var build atomic.Pointer[skew.Build]
				build.Store(&c.proxy)
				p := newProxy(r, "shop/cart-0", func(x *xds.ClientConfig) {
					x.Node = func() xds.Node {
						return xds.Node{ID: "shop/cart-0", Vector: at(0), Version: build.Load().Version, Protocols: build.Load().Protocols}
					}
				})
				p.Subscribe(typeLoose, "a")
				p.start()
				defer p.stop()
				r.settle()
				refused := r.RefusedNodes()
				if c.refuse == "" {
					wantBatches(t, p, "test/Loose +a=1 complete")
					if len(refused) > 0 {
						t.Errorf("refused %+v", refused)
					}
					return
				}
				if len(refused) != 1 || !strings.Contains(refused[0].Why, c.refuse) || refused[0].Node.Version != c.proxy.Version {
					t.Errorf("refused %+v, want %q", refused, c.refuse)
				}
				if s := p.State(); !strings.Contains(s.Error, c.refuse) || len(p.take()) > 0 {
					t.Errorf("the proxy knows %q, want %q", s.Error, c.refuse)
				}
				build.Store(&c.plane) // upgraded, or taken back
				pass(time.Minute)
				r.settle()
				if left := r.RefusedNodes(); len(left) > 0 || len(p.take()) == 0 {
					t.Errorf("after the upgrade %+v are refused", left)
				}
			})
		})
	}
}

// TestRefusedNodesAreBounded: a thousand old proxies cost no more memory than are worth showing.
func TestRefusedNodesAreBounded(t *testing.T) {
	story(t, func(s *xds.ServerConfig) { s.Build.Protocols = skew.Range{Min: 2, Max: 3} }, func(t *testing.T, r *replica) {
		for i := range 80 {
			p := newProxy(r, fmt.Sprint("shop/p-", i), func(x *xds.ClientConfig) {
				x.Node = func() xds.Node {
					return xds.Node{ID: fmt.Sprint("shop/p-", i), Vector: at(0), Protocols: skew.Range{Min: 1, Max: 1}}
				}
			})
			p.Subscribe(typeLoose, "a")
			p.start()
			r.settle()
			p.stop()
		}
		if n := len(r.RefusedNodes()); n != 64 {
			t.Errorf("%d refused nodes are remembered, want 64", n)
		}
	})
}
