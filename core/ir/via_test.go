package ir_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestAWayThroughAThirdClusterServes where the law of the service lets requests pass there, and only behind gateways, and only
// while there is no direct one. Of what is not said, or not known, nothing follows but no.
func TestAWayThroughAThirdClusterServes(t *testing.T) {
	own, third := []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1")}, []netip.AddrPort{netip.MustParseAddrPort("127.0.0.2:1")}
	slots := &ir.Group{Cluster: "us-east", Slots: []uint64{1}}
	by := func(j mesh.Jurisdiction) *ir.Via {
		return &ir.Via{Cluster: "ap-south", Jurisdiction: j, TrustDomain: "ap-south.mesh", Gateways: third, RTT: 300 * time.Millisecond}
	}
	for _, c := range []struct {
		what    string
		cluster ir.Cluster
		part    *ir.Group
		transit []mesh.Jurisdiction
		want    bool
		barred  bool
	}{
		{"no law", ir.Cluster{Reach: mesh.Unreachable, Via: by("IN")}, slots, []mesh.Jurisdiction{ir.Anywhere}, true, false},
		{"no law, and a third of none", ir.Cluster{Reach: mesh.Unreachable, Via: by("")}, slots, []mesh.Jurisdiction{ir.Anywhere}, true, false},
		{"a law that allows it", ir.Cluster{Reach: mesh.Unreachable, Via: by("IN")}, slots, []mesh.Jurisdiction{"EU", "IN"}, true, false},
		{"a law that allows both ends and not the third", ir.Cluster{Reach: mesh.Unreachable, Via: by("IN")}, slots, []mesh.Jurisdiction{"EU", "US"}, false, true},
		{"a law, and a third of no known jurisdiction", ir.Cluster{Reach: mesh.Unreachable, Via: by("")}, slots, []mesh.Jurisdiction{"EU", "US"}, false, true},
		{"a third that says its jurisdiction is anywhere", ir.Cluster{Reach: mesh.Unreachable, Via: by(ir.Anywhere)}, slots, []mesh.Jurisdiction{"EU"}, false, true},
		{"a law that allows nothing, or none that was told of", ir.Cluster{Reach: mesh.Unreachable, Via: by("IN")}, slots, nil, false, true},
		{"addresses in place of slots", ir.Cluster{Reach: mesh.Unreachable, Via: by("IN")}, &ir.Group{Endpoints: []ir.Endpoint{{}}}, []mesh.Jurisdiction{ir.Anywhere}, false, false},
		{"there is a direct way", ir.Cluster{Reach: mesh.Alive, Via: by("IN")}, slots, []mesh.Jurisdiction{ir.Anywhere}, false, false},
	} {
		c.cluster.Gateways, c.cluster.RTT = own, 80*time.Millisecond
		e := &ir.Endpoints{Transit: c.transit}
		before, got := c.cluster, c.cluster.For(e, c.part)
		if c.cluster.Via != before.Via || c.cluster.Reach != before.Reach {
			t.Errorf("%s: it was changed", c.what)
		}
		if served := got.Via != nil; served != c.want || got.Reach.Usable() != (c.want || before.Reach.Usable()) {
			t.Errorf("%s: %+v, want it to serve: %v", c.what, got, c.want)
		}
		gateways, rtt := own, 80*time.Millisecond
		if c.want {
			gateways, rtt = third, 300*time.Millisecond
		}
		if got.Gateways[0] != gateways[0] || got.RTT != rtt {
			t.Errorf("%s: by %v, %v", c.what, got.Gateways, got.RTT)
		}
		if barred := c.cluster.Barred(e) != ""; barred != c.barred {
			t.Errorf("%s: said to be barred: %v", c.what, barred)
		}
	}
	if (*ir.Cluster)(nil).For(&ir.Endpoints{}, slots) != nil {
		t.Error("something of nothing")
	}
	stale := &ir.Cluster{Reach: mesh.Unreachable, StaleSinceMillis: 1, Via: by("IN")}
	if got := stale.For(&ir.Endpoints{Transit: []mesh.Jurisdiction{ir.Anywhere}}, slots); got.Reach != mesh.StaleServing || got.StaleSinceMillis != 1 || got.Way() != "StaleServing by ap-south" {
		t.Errorf("%+v", got)
	}
}
