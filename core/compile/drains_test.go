package compile

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestDrainsReachProxiesAndPeers: of a cluster with the cluster, of a zone and a workload with the endpoint, and peers on
// another network are told by slot.
func TestDrainsReachProxiesAndPeers(t *testing.T) {
	port := func(i byte) netip.AddrPort { return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, i}), 15008) }
	workload := func(n string, i byte, zone mesh.Zone) *mesh.Fact {
		return fact(mesh.KindWorkload, "eu", "shop", n, &mesh.Workload{Namespace: "shop", Name: n, Labels: map[string]string{"app": "a"}, Proxy: port(i), Zone: zone, ServiceAccount: "a"})
	}
	drained := func(n string, t mesh.DrainTarget, over time.Duration) *mesh.Fact {
		return fact(mesh.KindDrain, "us", "", n, &mesh.Drain{Target: t, Goal: mesh.GoalDrained, Over: over, From: mesh.AllParts})
	}
	ramps := func(over time.Duration) mesh.Ramp { return mesh.Ramp{Over: over, From: mesh.AllParts} }
	base := []*mesh.Fact{
		fact(mesh.KindCluster, "eu", "", "eu", &mesh.Cluster{Name: "eu", Network: "eu", Accepts: []mesh.Accept{{Origin: "*", Kind: "*", Namespace: "*"}}}),
		fact(mesh.KindCluster, "eu", "", "us", &mesh.Cluster{Name: "us", Network: "us", Gateways: []netip.AddrPort{port(100), port(101)}}),
		fact(mesh.KindService, "eu", "shop", "a", &mesh.Service{ServiceName: services[0], Selector: map[string]string{"app": "a"}, Ports: []mesh.ServicePort{{Port: 80}}}),
		fact(mesh.KindServiceExport, "eu", "shop", "a", &mesh.ServiceExport{ServiceName: services[0]}),
		fact(mesh.KindSlotTable, "eu", "shop", "a", &mesh.SlotTable{Service: services[0], Generation: 1, Slots: []netip.AddrPort{port(2), port(1)}, Moved: []uint64{1, 1}}),
		workload("w0", 1, "a"), workload("w1", 2, "b"),
	}
	with := func(more ...*mesh.Fact) []*mesh.Fact { return append(base[:len(base):len(base)], more...) }
	drains := with(drained("c", mesh.DrainTarget{Cluster: "us"}, time.Second), drained("z", mesh.DrainTarget{Cluster: "eu", Zone: "b"}, 2*time.Second),
		drained("w", mesh.DrainTarget{Cluster: "eu", Namespace: "shop", Workload: "w1"}, 3*time.Second), drained("g", mesh.DrainTarget{Cluster: "us", Gateway: 1}, 0))
	us := compiled(t, ClusterOf, "us", drains...)
	if d := cmp.Diff(mesh.Ramps{ramps(time.Second)}, us.Drains); d != "" {
		t.Errorf("the cluster: %s", d)
	}
	if len(us.Gateways) != 1 || us.Gateways[0] != port(101) {
		t.Errorf("its gateways are %v", us.Gateways)
	}
	both := with(drained("g", mesh.DrainTarget{Cluster: "us", Gateway: 1}, 0), drained("h", mesh.DrainTarget{Cluster: "us", Gateway: 2}, 0))
	if got := compiled(t, ClusterOf, "us", both...).Gateways; len(got) != 2 {
		t.Errorf("of all gateways drained %v are left: want all, as there is no other way in", got)
	}
	want := mesh.Ramps{ramps(3 * time.Second), ramps(2 * time.Second)}
	got := compiled(t, EndpointsOf, In{services[0], ir.View{Cluster: "eu", Network: "eu"}}, drains...).Groups[0].Endpoints
	if d := cmp.Diff([]mesh.Ramps{nil, want}, []mesh.Ramps{got[0].Drains, got[1].Drains}); d != "" {
		t.Errorf("the endpoints: %s", d)
	}
	if d := cmp.Diff([]mesh.SlotRamps{{Slot: 0, Ramps: want}}, compiled(t, ExportOf, Export{services[0], "us"}, drains...).Draining); d != "" {
		t.Errorf("what a peer is told: %s", d)
	}
	// Whom this cluster does not obey drains nothing here.
	base[0] = fact(mesh.KindCluster, "eu", "", "eu", &mesh.Cluster{Name: "eu", Network: "eu"})
	if got := compiled(t, ClusterOf, "us", append(base[:len(base):len(base)], drains[len(base):]...)...); len(got.Drains) != 0 || len(got.Gateways) != 2 {
		t.Errorf("a drain of somebody who is not listed: %+v", got)
	}
}

// TestTheLastWordOnADrainCounts, whoever says it, and Drained is what it makes of it at an instant.
func TestTheLastWordOnADrainCounts(t *testing.T) {
	w := world.New("eu")
	state := func(origin mesh.ClusterName, stamp int64, goal mesh.DrainGoal, from uint32) {
		f := fact(mesh.KindDrain, origin, "", "us", &mesh.Drain{Target: mesh.DrainTarget{Cluster: "us"}, Goal: goal, SinceMillis: 1000, Over: 10 * time.Second, From: from})
		f.Stamp.WallMillis = stamp
		w, _ = w.Edit([]world.Edit{world.Put(f)})
	}
	w, _ = w.Edit([]world.Edit{world.Put(fact(mesh.KindCluster, "eu", "", "eu", &mesh.Cluster{Name: "eu", Accepts: []mesh.Accept{{Origin: "*", Kind: "*", Namespace: "*"}}}))})
	middle := int64(6 * time.Second)
	if got := Drained(w, middle); got != nil {
		t.Errorf("without any: %v", got)
	}
	state("us", 1, mesh.GoalDrained, mesh.AllParts)
	if got := Drained(w, middle)["us"]; got != 0.5 {
		t.Errorf("half way: %g", got)
	}
	state("eu", 2, mesh.GoalServing, 0)
	if got := Drained(w, middle)["us"]; got != 0.55 || len(Drains(w)) != 1 {
		t.Errorf("half way back: %g of %d", got, len(Drains(w)))
	}
}
