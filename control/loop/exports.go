package loop

import (
	"net/netip"

	"github.com/isthmus-mesh/isthmus/core/balance"
	"github.com/isthmus-mesh/isthmus/core/compile"
	"github.com/isthmus-mesh/isthmus/core/derive"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// exports follows what each peer is told of each exported service, and keeps the slot
// tables in step with the ready endpoints. It is owned by the loop's goroutine.
type exports struct {
	loop    *Loop
	watched map[compile.Export]bool
	ready   map[mesh.ServiceName]bool
	// tables holds the newest table computed for a service, until the stored one is as
	// new.
	tables map[mesh.ServiceName]mesh.SlotTable
}

// noticed watches what an export or a peer brings into being.
func (x *exports) noticed(key mesh.Key) {
	if key.Origin != x.loop.cfg.Self {
		return
	}
	switch key.Kind {
	case mesh.KindServiceExport:
		s := mesh.ServiceName{Namespace: key.Namespace, Name: key.Name}
		if !x.ready[s] {
			x.ready[s] = true
			compile.ReadyOf.Watch(x.loop.engine, s)
		}
		for _, k := range x.loop.World().Members(world.Small(mesh.KindCluster)) {
			x.tell(compile.Export{Service: s, Peer: mesh.ClusterName(k.Name)})
		}
	case mesh.KindCluster:
		for s := range x.ready {
			x.tell(compile.Export{Service: s, Peer: mesh.ClusterName(key.Name)})
		}
	case mesh.KindSlotTable:
		s := mesh.ServiceName{Namespace: key.Namespace, Name: key.Name}
		if v, ok := compile.ReadyOf.Value(x.loop.engine, s); ok && v != nil {
			x.cover(s, *v)
		}
	}
}

func (x *exports) tell(k compile.Export) {
	if k.Peer == x.loop.cfg.Self || x.watched[k] {
		return
	}
	x.watched[k] = true
	compile.ExportOf.Watch(x.loop.engine, k)
}

// settled hands out what changed and lets go of what no fact speaks of any more.
func (x *exports) settled(changed []derive.Change) {
	for _, c := range changed {
		if k, _, v, ok := compile.ExportOf.Change(c); ok {
			if v != nil || !c.First {
				x.loop.cfg.Export(Export{k.Peer, k.Service, v})
			}
			if v == nil && !x.stands(k) {
				delete(x.watched, k)
				compile.ExportOf.Unwatch(x.loop.engine, k)
			}
		}
		if s, _, v, ok := compile.ReadyOf.Change(c); ok {
			if v != nil {
				x.cover(s, *v)
			} else if _, exported := x.loop.World().Get(x.own(mesh.KindServiceExport, s.Namespace, s.Name)); !exported {
				delete(x.ready, s)
				delete(x.tables, s)
				compile.ReadyOf.Unwatch(x.loop.engine, s)
			}
		}
	}
}

// stands reports whether both the export and the peer are still stated.
func (x *exports) stands(k compile.Export) bool {
	_, exported := x.loop.World().Get(x.own(mesh.KindServiceExport, k.Service.Namespace, k.Service.Name))
	_, joined := x.loop.World().Get(x.own(mesh.KindCluster, "", string(k.Peer)))
	return exported && joined
}

func (x *exports) own(kind mesh.Kind, ns, name string) mesh.Key {
	return mesh.Key{Kind: kind, Origin: x.loop.cfg.Self, Namespace: ns, Name: name}
}

// cover computes the slot table that follows the one in force, if the ready endpoints
// call for another.
func (x *exports) cover(s mesh.ServiceName, ready []netip.AddrPort) {
	table := x.tables[s]
	if f, ok := x.loop.World().Get(x.own(mesh.KindSlotTable, s.Namespace, s.Name)); ok {
		if stored := f.Value.(*mesh.SlotTable); stored.Generation >= table.Generation {
			table = *stored
		}
	}
	table.Service = s
	next, changed := balance.NextSlots(table, ready)
	if changed {
		x.tables[s] = next
		x.loop.cfg.SaveSlots(next)
	}
}
