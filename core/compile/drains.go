package compile

import (
	"net/netip"
	"slices"

	"github.com/isthmus-mesh/isthmus/core/derive"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// drains are what the Drains in force say of one thing. When they are over is for whoever looks at a clock: a Drain
// that has done its work says so for ever, and costs nothing.
var drains = derive.NewFunc("drains", slices.Equal[mesh.Ramps], func(c *derive.Ctx, t mesh.DrainTarget) mesh.Ramps {
	var out mesh.Ramps
	for _, f := range gather(c, world.DrainsOf(t)) {
		if d := f.Value.(*mesh.Drain); d.Target == t { // another origin's of this name may be the one in force
			out = append(out, d.Ramp())
		}
	}
	return out
})

// workloadDrains are those of an endpoint: its own and its zone's. Those of the whole cluster stand in ir.Cluster.
func workloadDrains(c *derive.Ctx, cluster mesh.ClusterName, namespace string, e local) mesh.Ramps {
	own := drains.Get(c, mesh.DrainTarget{Cluster: cluster, Namespace: namespace, Workload: e.workload})
	if e.zone == "" {
		return own
	}
	zone := drains.Get(c, mesh.DrainTarget{Cluster: cluster, Zone: e.zone})
	if len(own) == 0 {
		return zone
	}
	return slices.Concat(own, zone)
}

// slotDrains tells peers which slots' endpoints are being drained, as they do not know whose they are.
func slotDrains(c *derive.Ctx, cluster mesh.ClusterName, s mesh.ServiceName, t *mesh.SlotTable) []mesh.SlotRamps {
	var out []mesh.SlotRamps
	for _, e := range serving.Get(c, s) {
		r := workloadDrains(c, cluster, s.Namespace, e)
		if len(r) == 0 {
			continue
		}
		if i := slices.Index(t.Slots, e.proxy); i >= 0 {
			out = append(out, mesh.SlotRamps{Slot: uint32(i), Ramps: r})
		}
	}
	slices.SortFunc(out, func(a, b mesh.SlotRamps) int { return int(a.Slot) - int(b.Slot) })
	return out
}

// undrained are the gateways of a cluster without those that are to be drained, unless none would be left: what passes through
// one ends there, and what begins takes another, so that there is no part of it to be had in between.
func undrained(c *derive.Ctx, n mesh.ClusterName, all, in []netip.AddrPort) []netip.AddrPort {
	var out []netip.AddrPort
	for _, a := range in {
		r := drains.Get(c, mesh.DrainTarget{Cluster: n, Gateway: uint32(slices.Index(all, a) + 1)})
		if !slices.ContainsFunc(r, func(r mesh.Ramp) bool { return r.To == 0 }) {
			out = append(out, a)
		}
	}
	if len(out) == 0 {
		return in
	}
	return out
}

// Drained are the clusters that are taken out of use as a whole, or come back, with the part of its share that each
// gets at an instant, in Unix nanoseconds.
func Drained(w *world.World, now int64) map[mesh.ClusterName]float64 {
	var out map[mesh.ClusterName]float64
	for _, k := range w.Members(world.Small(mesh.KindDrain)) {
		f, ok := w.Get(k)
		if !ok {
			continue
		}
		t := f.Value.(*mesh.Drain).Target
		if t != (mesh.DrainTarget{Cluster: t.Cluster}) {
			continue
		}
		if out == nil {
			out = map[mesh.ClusterName]float64{}
		}
		if r, err := derive.Eval(w, drains, t); err == nil {
			out[t.Cluster] = r.At(now)
		}
	}
	return out
}

// Drains are the Drain objects in force, by name.
func Drains(w *world.World) []*mesh.Fact {
	var out []*mesh.Fact
	last := objectName{}
	for _, k := range w.Members(world.Small(mesh.KindDrain)) {
		n := objectName{k.Kind, k.Namespace, k.Name}
		if n == last {
			continue
		}
		last = n
		if f, err := derive.Eval(w, effective, n); err == nil && f != nil {
			out = append(out, f)
		}
	}
	return out
}
