package sim

import (
	"slices"

	"github.com/isthmus-mesh/isthmus/control/peer"
	"github.com/isthmus-mesh/isthmus/core/balance"
	"github.com/isthmus-mesh/isthmus/core/compile"
	"github.com/isthmus-mesh/isthmus/core/derive"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/sim/catalog"
	"github.com/isthmus-mesh/isthmus/sim/defence"
)

// watchAll watches what proxies and peers of a cluster can be told.
func (m *simMesh) watchAll(c mesh.ClusterName, e *derive.Engine) {
	for _, r := range m.catalogs[c].Resources {
		r.Watch(e)
	}
	for _, s := range m.services {
		compile.ReadyOf.Watch(e, s)
		for _, peer := range m.names {
			if peer != c {
				compile.ExportOf.Watch(e, compile.Export{Service: s, Peer: peer})
			}
		}
	}
}

// published is what a node offers to proxies: all that follows from one revision of its world. It is immutable.
type published struct {
	of      *node
	life    int
	entries []catalog.Entry // by catalog
	known   knowledge
	parts   []*replica.Partition // by owner, as simMesh.names has them
}

// covers reports whether what is published takes into account all that somebody with the knowledge may have held; see
// replica.Importer.Covers.
func (p *published) covers(owner mesh.ClusterName, shown replica.Knowledge) bool {
	mine, part := p.known[owner], p.parts[p.of.m.index[owner]]
	knows := func(at mesh.Position) bool {
		return at == mesh.Position{} || at.Epoch == mine.Position.Epoch && at.Revision <= mine.Position.Revision || part.Lineage.Knows(at) || mine.Crossed.Knows(at)
	}
	for e, r := range shown.Crossed {
		if !knows(mesh.Position{Epoch: e, Revision: r}) {
			return false
		}
	}
	return knows(shown.Position)
}

// readFact is a resource as the product reads it.
type readFact struct {
	fact *mesh.Fact
	err  error
}

// read reads what an owner stated, once for the whole mesh: reading is a function of what is read.
func (m *simMesh) read(owner mesh.ClusterName, r *replica.Resource) readFact {
	got, ok := m.facts[r]
	if !ok {
		got.fact, got.err = peer.Fact(owner, mesh.TrustDomainOf(owner, mesh.DefaultDomain), r)
		m.facts[r] = got
	}
	return got
}

// fact is the fact that a resource states; nil if it states none.
func (m *simMesh) fact(owner mesh.ClusterName, r *replica.Resource) *mesh.Fact {
	if r.Gone {
		return nil
	}
	got := m.read(owner, r)
	if got.err != nil {
		m.oracle.fail("unreadable", "%s of %s: %v", r.Name, owner, got.err)
		return nil
	}
	return got.fact
}

// changes are the edits that lead from one view of a store to another.
func (m *simMesh) changes(owner mesh.ClusterName, from, to *view) []world.Edit {
	var out []world.Edit
	for k := range from.local {
		if to.local[k] == nil {
			out = append(out, world.Remove(k))
		}
	}
	for k, f := range to.local {
		if from.local[k] != f {
			out = append(out, world.Put(f))
		}
	}
	slices.SortFunc(out, func(a, b world.Edit) int { return a.Key.Compare(b.Key) }) // maps have no order
	set, removed := replica.Diff(from.part, to.part)
	for _, r := range set {
		if f := m.fact(owner, r); f != nil {
			out = append(out, world.Put(f))
		} else {
			out = append(out, world.Remove(r.Key(owner)))
		}
	}
	for _, n := range removed {
		out = append(out, world.Remove(n.Key(owner)))
	}
	return out
}

// stated is the edit that a resource of a peer is.
func (n *node) stated(owner mesh.ClusterName, r *replica.Resource) []world.Edit {
	if f := n.m.fact(owner, r); f != nil {
		n.m.imported[f.Kind]++
		return []world.Edit{world.Put(f)}
	}
	return nil
}

// bring makes the world what is in force of a peer.
func (n *node) bring(owner mesh.ClusterName, e *replica.Edit) {
	var edits []world.Edit
	for _, r := range e.Set {
		n.m.stores[n.cluster].clock.Observe(n.now(), r.Stamp)
		edits = append(edits, n.stated(owner, r)...)
	}
	for _, name := range e.Removed {
		edits = append(edits, world.Remove(name.Key(owner)))
		if n.m.cfg.Without == defence.NoOrigins && name.Kind == mesh.KindRemoteService {
			edits = append(edits, world.Remove(mesh.Key{Kind: mesh.KindService, Origin: n.cluster, Namespace: name.Namespace, Name: name.Name}))
		}
	}
	n.change(edits)
}

// compute begins with the facts that are known from the disk.
func (n *node) compute(edits []world.Edit) {
	w, _ := world.New(n.cluster).Edit(edits)
	n.settled = settled{world: w, engine: derive.New(w), tells: map[mesh.ClusterName]*replica.Partition{}}
	n.m.watchAll(n.cluster, n.engine)
	n.settle()
}

// change edits the world; what follows is computed soon, with what comes until then.
func (n *node) change(edits []world.Edit) {
	next, changed := n.world.Edit(edits)
	if n.m.cfg.Without == defence.NoInvalidation && len(changed) > 0 && n.m.rng.IntN(4) == 0 {
		changed = changed[1:]
	}
	n.world = next
	n.engine.Commit(next, changed...)
	if !n.settling {
		n.settling = true
		n.later(n.m.between(n.m.shape.Settles), n.settle)
	}
}

// settle computes what follows from the world, and tells peers and proxies.
func (n *node) settle() {
	n.settling = false
	res := n.engine.Settle(1)
	for _, f := range res.Failed {
		n.m.oracle.fail("settled", "%s/%d: %s: %v", n.cluster, n.id, f.Root, f.Err)
	}
	cat := n.m.catalogs[n.cluster]
	pub := &published{of: n, life: n.life, known: n.knowledge(), parts: n.inForce()}
	if n.pub != nil {
		pub.entries = n.pub.entries
	}
	owned := false
	exported := map[mesh.ClusterName][]compile.Export{}
	for _, c := range res.Changed {
		if k, _, _, ok := compile.ExportOf.Change(c); ok {
			exported[k.Peer] = append(exported[k.Peer], k)
			continue
		}
		i, ok := cat.ByRef[c.Root]
		if !ok {
			continue
		}
		if !owned {
			pub.entries, owned = append(make([]catalog.Entry, 0, len(cat.Resources)), pub.entries...), true
			pub.entries = pub.entries[:len(cat.Resources)]
		}
		pub.entries[i] = catalog.EntryOf(cat.Resources[i].Value(n.engine))
		n.m.oracle.local(n, pub.entries[i].Value)
	}
	n.pub = pub
	n.tellPeers(exported)
	n.cover()
}

// tellPeers makes what each peer is told from the own objects and what is exported to it.
func (n *node) tellPeers(exported map[mesh.ClusterName][]compile.Export) {
	if n.own.part.Position == (mesh.Position{}) {
		return // a control plane that has not read its store tells nothing
	}
	from := n.toldPart
	if from == nil {
		from = replica.NewPartition(n.cluster)
	}
	set, removed := replica.Diff(from, n.own.part)
	n.toldPart = n.own.part
	for _, to := range n.m.names {
		if to == n.cluster {
			continue
		}
		was, all, gone := n.tells[to], set, removed
		if was == nil {
			was = replica.NewPartition(n.cluster)
		}
		for _, k := range exported[to] {
			if r := n.m.remoteService(n.cluster, n.engine, k); r != nil {
				all = append(all[:len(all):len(all)], r)
			} else {
				gone = append(gone[:len(gone):len(gone)], replica.Name{Kind: mesh.KindRemoteService, Namespace: k.Service.Namespace, Name: k.Service.Name})
			}
		}
		if f := n.own.bundle(); f != nil {
			if r, ok := peer.Resource(f); ok {
				all = append(all[:len(all):len(all)], r)
			}
		}
		next := was.Next(all, gone, n.own.part.Position, n.own.part.Lineage)
		if next.Position == was.Position && next.Root() == was.Root() {
			continue
		}
		n.tells[to] = next
		n.m.oracle.remember(tale{n.cluster, to}, next)
		n.publish(n.cluster, to, next)
	}
}

// bundle is the cluster's own.
func (v *view) bundle() *mesh.Fact {
	for k, f := range v.local {
		if k.Kind == mesh.KindBundle {
			return f
		}
	}
	return nil
}

// remoteService is what a peer is told of a service; nil is nothing.
func (m *simMesh) remoteService(self mesh.ClusterName, e *derive.Engine, k compile.Export) *replica.Resource {
	v, ok := compile.ExportOf.Value(e, k)
	if !ok || v == nil {
		return nil
	}
	f := &mesh.Fact{Key: mesh.Key{Kind: mesh.KindRemoteService, Origin: self, Namespace: k.Service.Namespace, Name: k.Service.Name}, Value: v, Digest: ir.DigestOf(v)}
	r, _ := peer.Resource(f)
	m.made[mesh.KindRemoteService]++
	return r
}

// cover stores the slot tables that the ready endpoints call for. Whoever writes has seen the store as it is: with two
// replicas one of them comes too late, and finds nothing to do.
func (n *node) cover() {
	s := n.m.stores[n.cluster]
	var edits []world.Edit
	for _, name := range n.m.services {
		ready, ok := compile.ReadyOf.Value(n.engine, name)
		if !ok || ready == nil {
			continue
		}
		key := mesh.Key{Kind: mesh.KindSlotTable, Origin: n.cluster, Namespace: name.Namespace, Name: name.Name}
		table := mesh.SlotTable{Service: name}
		if f, ok := n.world.Get(key); ok {
			table = *f.Value.(*mesh.SlotTable)
		}
		if next, changed := balance.NextSlots(table, *ready); changed {
			edits = append(edits, world.Put(&mesh.Fact{Key: key, Value: &next, Digest: ir.DigestOf(&next)}))
		}
	}
	if len(edits) == 0 || n.m.clock.Now.Before(n.hungTil) || s.view != n.own {
		return // what is newer comes by the watch, and then this again
	}
	s.skew = n.skew
	s.write(change{local: edits}, s.part.Lineage)
	n.later(n.m.watchLag(), n.watch)
}
