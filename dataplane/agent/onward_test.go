package agent

import (
	"net/netip"
	"testing"

	"github.com/isthmus-mesh/isthmus/core/balance"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestWhereAGatewayPassesOnTo: into clusters that are joined and reached without another's help, never into its own, and nowhere where
// its owner wants none of that. The control is the first.
func TestWhereAGatewayPassesOnTo(t *testing.T) {
	gateways := []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1")}
	own := &ir.Cluster{Name: "ap-south", TrustDomain: "ap-south.mesh", Gateways: gateways}
	east := ir.Cluster{Name: "us-east", TrustDomain: "us-east.mesh", Gateways: gateways}
	for _, c := range []struct {
		what   string
		change func(own, to *ir.Cluster)
		td     mesh.TrustDomain
		want   bool
	}{
		{"", func(_, _ *ir.Cluster) {}, "us-east.mesh", true},
		{"whose control plane is not heard", func(_, to *ir.Cluster) { to.Reach = mesh.StaleServing }, "us-east.mesh", true},
		{"that is not reached", func(_, to *ir.Cluster) { to.Reach = mesh.Unreachable }, "us-east.mesh", false},
		{"that is reached by another only", func(_, to *ir.Cluster) {
			to.Reach, to.Via = mesh.Unreachable, &ir.Via{Cluster: "af-west", Gateways: gateways}
		}, "us-east.mesh", false},
		{"of another mesh's name", func(_, _ *ir.Cluster) {}, "us-east.other", false},
		{"its own", func(_, _ *ir.Cluster) {}, "ap-south.mesh", false},
		{"that is not joined", func(_, _ *ir.Cluster) {}, "af-west.mesh", false},
		{"and its owner wants nothing passed on", func(own, _ *ir.Cluster) { own.NoTransit = true }, "us-east.mesh", false},
	} {
		self, to := *own, east
		c.change(&self, &to)
		a := &Agent{cfg: Config{Cluster: "ap-south", TrustDomain: "ap-south.mesh"}, store: &store{}}
		a.store.state.Store(&proxy.State{Clusters: map[mesh.ClusterName]*ir.Cluster{"ap-south": &self, "us-east": &to}})
		if got := a.onward(c.td); (len(got) > 0) != c.want {
			t.Errorf("to a cluster %s: %v, want some: %v", c.what, got, c.want)
		}
	}
}

// TestAWayThroughAThirdClusterIsAskedFor at the third's gateways, by its name, for the destination's slot; and not without one.
func TestAWayThroughAThirdClusterIsAskedFor(t *testing.T) {
	third := []netip.AddrPort{netip.MustParseAddrPort("127.0.0.3:1"), netip.MustParseAddrPort("127.0.0.4:1")}
	c := &ir.Cluster{Name: "us-east", TrustDomain: "us-east.mesh", Gateways: third, Via: &ir.Via{Cluster: "ap-south", TrustDomain: "ap-south.mesh", Gateways: third}}
	d := &proxy.Destination{Service: mesh.ServiceName{Namespace: "shop", Name: "catalog"}, Cluster: c, Endpoint: &balance.Endpoint{Key: balance.Key{Slot: 1, Moved: 7}}}
	w, err := wantOf(d)
	if err != nil || w.Target.By != "ap-south.mesh" || w.Target.Addr != third[1] || w.Alternates[0] != third[0] || w.Target.SNI.TrustDomain != "us-east.mesh" || w.Target.SNI.Slot != 1 || !w.Gateway {
		t.Errorf("%+v, %v", w, err)
	}
	c.Via = nil
	if w, err = wantOf(d); err != nil || w.Target.By != "" {
		t.Errorf("without one: %+v, %v", w, err)
	}
}
