package sim

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Deadlines of the drills.
const (
	goneWithin     = 2 * time.Second
	repairedWithin = 10 * time.Second
)

// drills are the faults whose repair has a deadline, or that chance seldom brings together, on a mesh that has converged
// and in which nothing else happens.
func (m *simMesh) drills() {
	m.drillDeleted()
	m.drillCorrupted()
	if m.cfg.Seed%3 == 0 && len(m.names) <= 20 {
		m.drillHeldOver()
	}
}

// drillDeleted deletes an endpoint while its cluster is cut off.
func (m *simMesh) drillDeleted() {
	c, w := m.anEndpoint()
	if w == nil {
		return
	}
	cut := m.seconds(5, 15)
	m.isolate(c, cut)
	m.clock.RunUntil(m.clock.Now.Add(cut / 2))
	s := m.stores[c]
	key := mesh.Key{Kind: mesh.KindWorkload, Origin: c, Namespace: w.Namespace, Name: w.Name}
	if !m.throughReplica(s, func() { s.write(change{local: []world.Edit{world.Remove(key)}}, s.part.Lineage) }) {
		return
	}
	m.count("endpoint-deleted-while-cut")
	m.clock.RunUntil(m.clock.Now.Add(cut - cut/2 + goneWithin))
	m.oracle.gone(c, mesh.ServiceName{Namespace: w.Namespace, Name: w.ServiceAccount}, w.Proxy)
}

// anEndpoint is a workload that serves an exported service, and its cluster; nil if there is none.
func (m *simMesh) anEndpoint() (mesh.ClusterName, *mesh.Workload) {
	for range 20 {
		c := m.names[m.rng.IntN(len(m.names))]
		all := m.services
		s := all[m.rng.IntN(len(all))]
		local := m.stores[c].local
		if local[mesh.Key{Kind: mesh.KindService, Origin: c, Namespace: s.Namespace, Name: s.Name}] == nil ||
			local[mesh.Key{Kind: mesh.KindServiceExport, Origin: c, Namespace: s.Namespace, Name: s.Name}] == nil {
			continue
		}
		for i := range 3 {
			f := local[mesh.Key{Kind: mesh.KindWorkload, Origin: c, Namespace: s.Namespace, Name: fmt.Sprintf("%s-%d", s.Name, i)}]
			if f == nil {
				continue
			}
			if w := f.Value.(*mesh.Workload); !w.Unready && w.Proxy.IsValid() {
				return c, w
			}
		}
	}
	return "", nil
}

// gone complains of whoever still knows an endpoint of a cluster.
func (o *oracle) gone(c mesh.ClusterName, s mesh.ServiceName, at netip.AddrPort) {
	table := 0
	if f := o.m.stores[c].local[mesh.Key{Kind: mesh.KindSlotTable, Origin: c, Namespace: s.Namespace, Name: s.Name}]; f != nil {
		table = len(f.Value.(*mesh.SlotTable).Slots)
	}
	knows := func(who string, v any) {
		eps, ok := v.(*ir.Endpoints)
		if !ok {
			return
		}
		for _, g := range eps.Groups {
			if g.Cluster != c {
				continue
			}
			o.checked["deleted-while-cut"]++
			if len(g.Slots) > table || slices.ContainsFunc(g.Endpoints, func(e ir.Endpoint) bool { return e.Proxy == at }) {
				o.fail("deleted-while-cut", "%s knows %s of %s %v after its cluster healed", who, at, s, goneWithin)
			}
		}
	}
	for _, p := range o.m.proxies {
		i := o.m.catalogs[p.cluster].Endpoints[s]
		if p.config != nil {
			knows(fmt.Sprintf("proxy %s/%d", p.cluster, p.id), p.config.entries[i].Value)
		}
	}
}

// drillCorrupted corrupts what a node holds of a cluster.
func (m *simMesh) drillCorrupted() {
	for range 20 {
		if !m.corrupt() {
			continue
		}
		m.count("corrupted-in-quiet")
		m.clock.RunUntil(m.clock.Now.Add(repairedWithin))
		for _, n := range m.nodes {
			for _, owner := range m.names {
				im := n.importers[owner]
				if im == nil {
					continue
				}
				m.oracle.checked["corrupted"]++
				if told := m.of(owner)[0].tells[n.cluster]; !im.InForce().Equal(m.oracle.inForce(told)) {
					m.oracle.fail("corrupted", "%s/%d: what it holds of %s is not repaired after %v", n.cluster, n.id, owner, repairedWithin)
				}
			}
		}
		return
	}
}

// corrupt makes one resource of one partition that a node holds another than what was stated, as a defect would that
// digests its own mistake: lost, older, or one that was never stated. Nothing raises an alarm; the node follows on in
// the same session. It spares policies, of which no checker could tell then who loosened them.
func (m *simMesh) corrupt() bool {
	n := m.nodes[m.rng.IntN(len(m.nodes))]
	owner := m.names[m.rng.IntN(len(m.names))]
	s := n.sessions[owner]
	if !n.up || s == nil || s.closed || s.down.Len() > 0 {
		return false
	}
	im := n.importers[owner]
	held := im.Stated()
	var all []*replica.Resource
	for r := range held.All() {
		if !replica.Tightens(r.Kind) {
			all = append(all, r)
		}
	}
	if !im.Status().InSync || len(all) == 0 || !im.InForce().Equal(held.Live()) {
		return false
	}
	r := all[m.rng.IntN(len(all))]
	forged := &replica.Response{Seq: s.seq + 1, Nonce: 1 << 40, Sync: s.sync, Position: held.Position, Last: true, Lineage: held.Lineage}
	kind := "lost"
	if old := m.oracle.older(owner, n.cluster, r); old != nil && m.rng.IntN(2) == 0 {
		forged.Set, kind = []*replica.Resource{old}, "older"
	} else {
		forged.Removed = []replica.Name{r.Name}
	}
	wrong := held.With(forged.Set, forged.Removed)
	forged.Root = wrong.Root()
	m.oracle.remember(tale{owner, n.cluster}, wrong) // that it is passed on is the fault's doing
	s.tainted = true
	rd := im.Step(n.now(), s.id, forged)
	rd.Send = nil // nobody hears of it
	n.apply(owner, s, rd)
	m.count("corrupted-" + kind)
	return true
}

// drillHeldOver restarts a replica that alone knows the end of a history: it has crossed into the next one, and could not
// tell its owner. What it holds over, and that it does, must outlive the restart; the last checks see whether everybody
// agrees after all.
func (m *simMesh) drillHeldOver() {
	c, s := m.aPrimary(), m.stores[m.aPrimary()]
	for tries := 1; len(m.of(c)) > 1 || s.owner == c; tries++ {
		if c, s = m.aPrimary(), m.stores[m.aPrimary()]; tries == 20 {
			return
		}
	}
	n := m.of(c)[0]
	im, before := n.importers[s.owner], s.backup()
	m.net.Isolate(s.owner, slices.DeleteFunc(slices.Clone(m.names), func(o mesh.ClusterName) bool { return o == c })...)
	defer func() {
		m.net.Heal()
		m.converge()
	}()
	m.throughReplica(s, func() {
		var policy change
		s.put(&policy, s.make.Make(mesh.KindAccessPolicy))
		s.write(policy, s.part.Lineage)
	})
	m.clock.RunUntil(m.clock.Now.Add(goneWithin))
	if im.Stated().Position != s.part.Position {
		return // it did not hear of it in time
	}
	m.rewindUnseen(s, before)
	for range 1000 {
		m.clock.RunUntil(m.clock.Now.Add(10 * time.Millisecond))
		if im.Status().HeldOver > 0 {
			break
		}
	}
	m.net.Isolate(s.owner, c)
	m.clock.RunUntil(m.clock.Now.Add(saveEvery + goneWithin))
	if im.Status().HeldOver == 0 {
		return
	}
	m.count("restart-while-holding-over")
	n.kill()
	n.boot()
	m.clock.RunUntil(m.clock.Now.Add(goneWithin))
}
