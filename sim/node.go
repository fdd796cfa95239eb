package sim

import (
	"maps"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// node is a control-plane replica, or the relay: the driver that package
// control/peer is in the product, reduced to what matters here.
type node struct {
	m       *simMesh
	cluster mesh.ClusterName
	id      int
	relay   bool
	up      bool
	life    int // counts starts, so that events of an earlier life find nobody

	own       *replica.Partition // our view of the own store; never goes back
	importers map[mesh.ClusterName]*replica.Importer
	sessions  map[mesh.ClusterName]*session
	serving   map[uint64]*session
	redial    map[mesh.ClusterName]time.Time
	disk      disk
	oldDisk   *disk
}

// disk is a replica's cache.
type disk struct {
	own   *replica.Partition
	saved map[mesh.ClusterName]*replica.Saved
}

func (d disk) clone() *disk { return &disk{d.own, maps.Clone(d.saved)} }

// boot starts the process from its disk.
func (n *node) boot() {
	if n.up {
		return
	}
	n.up = true
	n.life++
	n.own = n.disk.own
	if n.own == nil {
		n.own = replica.NewPartition(n.cluster)
	}
	n.importers, n.sessions, n.serving = map[mesh.ClusterName]*replica.Importer{}, map[mesh.ClusterName]*session{}, map[uint64]*session{}
	n.redial = map[mesh.ClusterName]time.Time{}
	for _, owner := range clusterNames {
		if owner != n.cluster {
			n.importers[owner] = replica.NewImporter(n.importerConfig(owner), n.disk.saved[owner])
			n.m.oracle.started(n, owner)
		}
	}
	life := n.life
	n.m.clock.after(n.m.watchLag(), func() { n.tick(life) })
}

func (n *node) importerConfig(owner mesh.ClusterName) replica.ImporterConfig {
	cfg := replica.ImporterConfig{Owner: owner, TrustDomain: mesh.TrustDomainOf(owner, mesh.DefaultDomain),
		Holders: []mesh.ClusterName{n.cluster}, Without: n.m.cfg.Without.defences()}
	if n.relay {
		cfg.Holders = primaries
	}
	return cfg
}

// kill ends the process as kill -9 does.
func (n *node) kill() {
	if !n.up {
		return
	}
	n.up = false
	for _, s := range n.allSessions() {
		s.close()
	}
}

func (n *node) allSessions() []*session {
	all := slices.Collect(maps.Values(n.sessions))
	all = append(all, slices.Collect(maps.Values(n.serving))...)
	slices.SortFunc(all, func(a, b *session) int { return int(a.id) - int(b.id) })
	return all
}

// servingSorted keeps runs repeatable.
func (n *node) servingSorted() []*session {
	return slices.SortedFunc(maps.Values(n.serving), func(a, b *session) int { return int(a.id) - int(b.id) })
}

// tick is the driver's timer.
func (n *node) tick(life int) {
	if !n.up || n.life != life {
		return
	}
	n.watch()
	now := n.m.clock.now
	for _, owner := range clusterNames {
		im := n.importers[owner]
		if im == nil {
			continue
		}
		n.apply(owner, n.sessions[owner], im.Tick(now))
		if n.sessions[owner] == nil && !now.Before(n.redial[owner]) {
			n.dial(owner)
		}
	}
	for _, s := range n.servingSorted() {
		if im := n.importers[s.owner]; im != nil {
			s.ex.SetBeat(im.Beat())
		}
		s.sendDown(s.ex.Tick(now).Send)
	}
	n.m.clock.after(250*time.Millisecond+n.m.watchLag(), func() { n.tick(life) })
}

// watch reads the own store. A store that is behind what we have seen of it was
// rewound: the history must begin anew. So it must when no living replica remembers
// any of it, for then nobody could tell; if nothing was lost, that costs peers a
// comparison of digests.
func (n *node) watch() {
	s := n.m.stores[n.cluster]
	if s.part.Position.Revision > 1 && !slices.ContainsFunc(n.m.of(n.cluster), func(o *node) bool { return o.up && o.own.Position != mesh.Position{} }) {
		s.restart(s.part.Position, nil)
		n.m.count("nobody-remembers")
	}
	if s.part.Position.Compare(n.own.Position) < 0 {
		s.restart(n.own.Position, n.own)
		n.m.count("rollback-seen-by-replica")
	}
	if was := n.own.Position; was.Epoch != s.part.Position.Epoch && was != (mesh.Position{}) && !s.part.Lineage.Knows(was) &&
		n.m.cfg.Without != NoHoldOver {
		// A new epoch that somebody else began: we are a witness of the old one.
		s.adopt(&replica.Witness{Crossed: n.own.Lineage.Union(replica.Lineage{was.Epoch: was.Revision}), Orphans: slices.Collect(n.own.All())})
	}
	if s.part.Position.Compare(n.own.Position) > 0 {
		n.own = s.part
		n.disk.own = s.part
		n.publish(n.cluster, s.part)
	}
}

func (n *node) publish(owner mesh.ClusterName, p *replica.Partition) {
	for _, s := range n.servingSorted() {
		if s.owner == owner {
			s.sendDown(s.ex.Publish(p).Send)
		}
	}
}

// dial opens a stream for a partition: to its owner, to a sibling that holds it, and
// for the relay to any primary.
func (n *node) dial(owner mesh.ClusterName) {
	n.redial[owner] = n.m.clock.now.Add(time.Duration(200+n.m.rng.IntN(800)) * time.Millisecond)
	im := n.importers[owner]
	var to []*node
	for _, c := range n.m.nodes {
		direct := c.cluster == owner
		holds := c.cluster == n.cluster && c != n || n.relay && !c.relay
		if c.up && (direct || holds && n.m.rng.IntN(3) == 0) {
			to = append(to, c)
		}
	}
	if len(to) == 0 {
		return
	}
	server := to[n.m.rng.IntN(len(to))]
	out, back := direction{n.cluster, server.cluster}, direction{server.cluster, n.cluster}
	if n.m.net.cut[out] || n.m.net.cut[back] {
		return // the handshake times out
	}
	part := server.own
	if server.cluster != owner {
		part = server.importers[owner].Stated()
	}
	n.m.sessionCount++
	s := &session{m: n.m, id: n.m.sessionCount, client: n, server: server, owner: owner,
		down: pipe{dir: back}, up: pipe{dir: out}}
	s.ex = replica.NewExporter(replica.ExporterConfig{Server: server.cluster, Owner: owner,
		TrustDomain: mesh.TrustDomainOf(owner, mesh.DefaultDomain), ResponseBytes: 2 << 10}, part)
	n.sessions[owner], server.serving[s.id] = s, s
	n.apply(owner, s, im.Connect(n.m.clock.now, s.id, server.cluster))
	s.sendDown(s.ex.Open(n.m.clock.now).Send)
}

func (n *node) receiveDown(s *session, d replica.Down) {
	if n.up && n.sessions[s.owner] == s {
		s.checkHandOver(d)
		n.apply(s.owner, s, n.importers[s.owner].Step(n.m.clock.now, s.id, d))
	}
}

// receiveUp is the serving side's driver.
func (n *node) receiveUp(s *session, u replica.Up) {
	if !n.up {
		return
	}
	out := s.ex.Step(u)
	s.sendDown(out.Send)
	if s.owner == n.cluster {
		st := n.m.stores[n.cluster]
		if out.Ahead != nil && st.part.Position.Compare(*out.Ahead) < 0 &&
			out.Ahead.Epoch.StartMillis <= n.m.clock.now.Add(mesh.MaxStampAhead).UnixMilli() {
			st.restart(*out.Ahead, nil)
			n.m.count("rollback-told-by-peer")
		}
		if out.Witness != nil {
			st.adopt(out.Witness)
		}
		n.watch()
	} else if out.Witness != nil && (s.client.cluster == n.cluster || s.client.relay) {
		n.importers[s.owner].Pass(out.Witness)
	}
	if out.Close != "" {
		n.m.oracle.fail("protocol", "exporter closed: %s", out.Close)
		s.close()
	}
}

// apply does what an importer's Ready asks for.
func (n *node) apply(owner mesh.ClusterName, s *session, rd replica.Ready) {
	if rd.Edit != nil {
		n.m.oracle.replicaEdit(n, owner, rd.Edit)
		n.publish(owner, n.importers[owner].Stated())
	}
	if rd.Save != nil {
		n.disk.saved[owner] = rd.Save
	}
	for _, a := range rd.Alarms {
		n.m.count("alarm-" + string(a.Kind))
	}
	if s == nil {
		return
	}
	for _, u := range rd.Send {
		if sub, ok := u.(*replica.Subscribe); ok {
			s.have, s.haveSync, s.names, s.first = n.importers[owner].Have(), sub.Sync, 0, true
		}
	}
	s.sendUp(rd.Send)
	if rd.Redial != "" {
		n.m.count("redial-" + string(rd.Redial))
		s.close()
	}
}

// knowledge is how much the node knows, by owner.
func (n *node) knowledge() knowledge {
	k := knowledge{n.cluster: {Position: n.own.Position}}
	for owner, im := range n.importers {
		k[owner] = im.Knowledge()
	}
	return k
}

// covers reports whether the node may serve a proxy that shows the knowledge.
func (n *node) covers(shown knowledge) bool {
	for owner, k := range shown {
		if im := n.importers[owner]; im != nil {
			if !im.Covers(k) {
				return false
			}
			continue
		}
		p := k.Position
		if n.m.cfg.Without != NoPositions && (p.Epoch != n.own.Position.Epoch || p.Revision > n.own.Position.Revision) && !n.own.Lineage.Knows(p) {
			return false
		}
	}
	return true
}

// world is everything in force at the node.
func (n *node) world() map[mesh.ClusterName]*replica.Partition {
	w := map[mesh.ClusterName]*replica.Partition{n.cluster: n.m.oracle.inForce(n.own)}
	for owner, im := range n.importers {
		w[owner] = im.InForce()
	}
	return w
}
