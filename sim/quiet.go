package sim

import (
	"fmt"
	"slices"

	"github.com/isthmus-mesh/isthmus/control/peer"
	"github.com/isthmus-mesh/isthmus/core/compile"
	"github.com/isthmus-mesh/isthmus/core/derive"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/sim/catalog"
	"github.com/isthmus-mesh/isthmus/sim/facts"
)

// scratch is what ought to be, made from nothing but what the stores hold.
type scratch struct {
	// told is what each cluster ought to tell each other, without statements of deletion.
	told map[tale]*replica.Partition
	// engines have compiled each cluster's world.
	engines map[mesh.ClusterName]*derive.Engine
}

// scratch makes it: what is exported follows from the own facts and everybody's objects, and the world of each cluster
// from that.
func (m *simMesh) scratch() scratch {
	out := scratch{map[tale]*replica.Partition{}, map[mesh.ClusterName]*derive.Engine{}}
	objects := map[mesh.ClusterName][]world.Edit{}
	for _, c := range m.names {
		for r := range m.stores[c].part.All() {
			if f := m.fact(c, r); f != nil {
				objects[c] = append(objects[c], world.Put(f))
			}
		}
	}
	worlds := map[mesh.ClusterName]*world.World{}
	for _, c := range m.names {
		var edits []world.Edit
		for f := range m.stores[c].facts(m, c) {
			edits = append(edits, world.Put(f))
		}
		for _, o := range m.names {
			if o != c {
				edits = append(edits, objects[o]...)
				edits = append(edits, world.Put(facts.Reach(c, o, mesh.Alive)))
			}
		}
		worlds[c], _ = world.New(c).Edit(edits)
		m.tell(c, worlds[c], out.told)
	}
	for _, c := range m.names {
		var edits []world.Edit
		for _, o := range m.names {
			if o == c {
				continue
			}
			for r := range out.told[tale{o, c}].All() {
				if f := m.fact(o, r); f != nil && !f.Kind.Replicated() {
					edits = append(edits, world.Put(f))
				}
			}
		}
		w, _ := worlds[c].Edit(edits)
		e := derive.New(w)
		m.watchAll(c, e)
		e.Settle(1)
		out.engines[c] = e
	}
	return out
}

// tell makes what a cluster ought to tell each other.
func (m *simMesh) tell(c mesh.ClusterName, w *world.World, told map[tale]*replica.Partition) {
	e := derive.New(w)
	m.watchAll(c, e)
	e.Settle(1)
	s := m.stores[c]
	for _, to := range m.names {
		if to == c {
			continue
		}
		var set []*replica.Resource
		for _, name := range m.services {
			if r := m.remoteService(c, e, compile.Export{Service: name, Peer: to}); r != nil {
				set = append(set, r)
			}
		}
		if f := s.bundle(); f != nil {
			r, _ := peer.Resource(f)
			set = append(set, r)
		}
		told[tale{c, to}] = s.part.Live().With(set, nil)
	}
}

// quiet checks the end: everybody holds exactly what the origins state, and every proxy what follows from it.
func (o *oracle) quiet() {
	want := o.m.scratch()
	for _, n := range o.m.nodes {
		who := fmt.Sprintf("%s/%d", n.cluster, n.id)
		o.same(who, o.m.stores[n.cluster].part, n.own.part)
		for _, owner := range o.m.names {
			if im := n.importers[owner]; im != nil {
				o.same(who, want.told[tale{owner, n.cluster}], im.InForce())
			}
		}
		if n.engine != nil && n.up {
			o.forgotten(who, n.engine, want.engines[n.cluster])
		}
	}
	for _, p := range o.m.proxies {
		who := fmt.Sprintf("proxy %s/%d", p.cluster, p.id)
		if !p.serving() {
			o.fail("boot", "%s does not serve at the end", who)
			continue
		}
		o.compiled(who, p, want.engines[p.cluster])
	}
}

// forgotten complains of an engine that remembers what nobody reads any more.
func (o *oracle) forgotten(who string, got, want *derive.Engine) {
	o.checked["bounded"]++
	if a, b := got.Stats(), want.Stats(); a.Nodes > b.Nodes || a.Cells > b.Cells {
		o.fail("bounded", "%s: %d nodes and %d cells are alive, a compile from nothing has %d and %d", who, a.Nodes, a.Cells, b.Nodes, b.Cells)
	}
}

// compiled holds what a proxy has of each resource that it asked for against a compile from nothing.
func (o *oracle) compiled(who string, p *proxy, e *derive.Engine) {
	wrong := 0
	for i, r := range o.m.catalogs[p.cluster].Resources {
		if !p.wants(&r) {
			continue
		}
		o.checked["compiled"]++
		if want := catalog.EntryOf(r.Value(e)); p.config.entries[i].Version != want.Version {
			if wrong++; wrong < 4 {
				o.fail("compiled", "%s: %s %s is %+v: want %+v", who, r.Type, r.Name, p.config.entries[i].Value, want.Value)
			}
		}
	}
}

func (o *oracle) same(who string, want, got *replica.Partition) {
	o.checked["quiet"]++
	if got != nil && got.Position == want.Position && got.Equal(want) {
		return
	}
	var pos mesh.Position
	var differ []replica.Name
	if got != nil {
		pos = got.Position
		set, removed := replica.Diff(got, want)
		for _, r := range set {
			differ = append(differ, r.Name)
		}
		differ = append(differ, removed...)
		slices.SortFunc(differ, replica.Name.Compare)
	}
	o.fail("quiet", "%s holds %s at %v: want %v; %d resources differ: %v", who, want.Owner, pos, want.Position, len(differ), differ[:min(5, len(differ))])
}
