package sim

import (
	"maps"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/core/derive"
	"github.com/isthmus-mesh/isthmus/core/liveness"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/core/skew"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/sim/defence"
	"github.com/isthmus-mesh/isthmus/sim/facts"
	"github.com/isthmus-mesh/isthmus/sim/shape"
	"github.com/isthmus-mesh/isthmus/sim/virtual"
)

// node is a control-plane replica, or the relay of a remote cluster: the driver that packages
// control/peer, control/loop and control/plane are in the product, reduced to what matters here.
type node struct {
	m       *simMesh
	cluster mesh.ClusterName
	id      int
	relay   bool
	up      bool
	life    int // counts starts, so that events of an earlier life find nobody
	skew    time.Duration
	build   skew.Build

	own       *view // our view of the own store; never goes back
	importers map[mesh.ClusterName]*replica.Importer
	sessions  map[mesh.ClusterName]*session
	serving   map[uint64]*session
	redial    map[mesh.ClusterName]redial
	reached   map[mesh.ClusterName]mesh.Reachability // what is not here is Alive
	// attached is the primary through which a relay reaches and is reached.
	attached *node
	disk     disk
	oldDisk  *disk
	// saves wait for the disk, which may be slow or full until an instant.
	saves              map[mesh.ClusterName]*replica.Saved
	saving             bool
	slowUntil          time.Time
	fullUntil, hungTil time.Time

	settled
}

// settled is what a node computes of what it knows.
type settled struct {
	world    *world.World
	engine   *derive.Engine
	settling bool // a settle is due
	tells    map[mesh.ClusterName]*replica.Partition
	toldPart *replica.Partition // of the own store, as tells has it
	pub      *published
}

// saveEvery is how often a cache is written, as control/peer does.
const saveEvery = 2 * time.Second

// disk is a replica's cache.
type disk struct {
	own   *view
	saved map[mesh.ClusterName]*replica.Saved
}

func (d disk) clone() *disk { return &disk{d.own, maps.Clone(d.saved)} }

// now is the node's clock.
func (n *node) now() time.Time { return n.m.clock.Now.Add(n.skew) }

// later runs do unless the process has ended meanwhile.
func (n *node) later(d time.Duration, do func()) {
	life := n.life
	n.m.clock.After(d, func() {
		if n.up && n.life == life {
			do()
		}
	})
}

// boot starts the process from its disk.
func (n *node) boot() {
	if n.up {
		return
	}
	n.up = true
	n.life++
	n.own, n.attached = n.disk.own, nil
	if n.own == nil {
		n.own = newView(n.cluster)
	}
	n.importers, n.sessions, n.serving = map[mesh.ClusterName]*replica.Importer{}, map[mesh.ClusterName]*session{}, map[uint64]*session{}
	n.reached = map[mesh.ClusterName]mesh.Reachability{}
	n.redial, n.saves, n.saving = map[mesh.ClusterName]redial{}, map[mesh.ClusterName]*replica.Saved{}, false
	edits := n.m.changes(n.cluster, newView(n.cluster), n.own)
	for _, owner := range n.m.names {
		if owner == n.cluster {
			continue
		}
		im := replica.NewImporter(n.importerConfig(owner), n.disk.saved[owner])
		n.importers[owner] = im
		n.m.oracle.started(n, owner)
		for r := range im.InForce().All() {
			edits = append(edits, n.stated(owner, r)...)
		}
		edits = append(edits, world.Put(facts.Reach(n.cluster, owner, mesh.Alive)))
	}
	n.compute(edits)
	n.later(n.m.watchLag(), n.tick)
}

func (n *node) importerConfig(owner mesh.ClusterName) replica.ImporterConfig {
	td := mesh.TrustDomainOf(owner, mesh.DefaultDomain)
	return replica.ImporterConfig{Owner: owner, TrustDomain: td, Holders: []mesh.ClusterName{n.cluster}, Build: n.build,
		Check: func(r *replica.Resource) error { return n.m.read(owner, r).err }, Without: n.m.cfg.Without.Importer()}
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
	for _, o := range n.m.nodes { // those that it passed on
		for _, s := range o.allSessions() {
			if slices.Contains(s.via, n) {
				s.close()
			}
		}
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
func (n *node) tick() {
	n.watch()
	now := n.now()
	for _, owner := range n.m.names {
		im := n.importers[owner]
		if im == nil {
			continue
		}
		s := n.sessions[owner]
		if s != nil && n.m.clock.Now.Sub(s.heard) >= silentMax {
			n.m.count("redial-dead-connection")
			s.close()
			s = nil
		}
		n.apply(owner, s, im.Tick(now))
		if n.sessions[owner] == nil {
			n.dial(owner)
		}
		n.observe(owner)
	}
	for _, s := range n.servingSorted() {
		if im := n.importers[s.owner]; im != nil {
			s.ex.SetBeat(im.Beat())
		}
		s.sendDown(s.ex.Tick(now).Send)
	}
	n.later(n.m.between(n.m.shape.Ticks), n.tick)
}

// observe judges a cluster by its lease and the path to it.
func (n *node) observe(c mesh.ClusterName) {
	there, back := virtual.Way(n.cluster, c), virtual.Way(c, n.cluster)
	st := liveness.State{LeaseLost: n.importers[c].Status().Stale, PathDown: n.m.net.Cut(there) || n.m.net.Cut(back)}
	if r := st.Reach(); n.reached[c] != r {
		n.reached[c] = r
		n.m.made[mesh.KindReach]++
		n.change([]world.Edit{world.Put(facts.Reach(n.cluster, c, r))})
	}
}

// watch reads the own store. A store that is behind what we have seen of it, or has it no longer, was
// rewound: the history must begin anew. So it must when no living replica remembers
// any of it, for then nobody could tell; if nothing was lost, that costs peers a
// comparison of digests.
func (n *node) watch() {
	s := n.m.stores[n.cluster]
	if n.m.clock.Now.Before(n.hungTil) {
		return
	}
	if s.part.Position.Revision > 1 && !slices.ContainsFunc(n.m.of(n.cluster), func(o *node) bool { return o.up && o.own.part.Position != mesh.Position{} }) {
		s.restart(s.part.Position, nil)
		n.m.count("nobody-remembers")
	}
	if behind := s.part.Position.Compare(n.own.part.Position) < 0; behind || s.parted(n.own.part) {
		s.restart(n.own.part.Position, n.own.part)
		n.m.count("rollback-seen-by-replica")
		if !behind {
			n.m.count("rollback-written-over")
		}
	}
	if was := n.own.part.Position; was.Epoch != s.part.Position.Epoch && was != (mesh.Position{}) && !s.part.Lineage.Knows(was) &&
		n.m.cfg.Without != defence.NoHoldOver {
		// A new epoch that somebody else began: we are a witness of the old one.
		s.adopt(&replica.Witness{Crossed: n.own.part.Lineage.Union(replica.Lineage{was.Epoch: was.Revision}), Orphans: slices.Collect(n.own.part.All())})
	}
	if s.part.Position.Compare(n.own.part.Position) > 0 {
		edits := n.m.changes(n.cluster, n.own, s.view)
		n.own, n.disk.own = s.view, s.view
		n.change(edits)
	}
}

// publish offers a newer state of an owner to those who follow it here, of one cluster.
func (n *node) publish(owner, consumer mesh.ClusterName, p *replica.Partition) {
	for _, s := range n.servingSorted() {
		if s.owner == owner && s.client.cluster == consumer {
			s.newest = p
			s.sendDown(s.ex.Publish(p).Send)
		}
	}
}

// open is a stream that was opened.
func (n *node) open(owner mesh.ClusterName, server *node, out virtual.Route, via []*node) {
	rd := n.redial[owner]
	rd.trying = false
	n.redial[owner] = rd
	part, beat := server.tells[n.cluster], int64(0)
	if server.cluster != owner {
		part, beat = server.holds(owner)
	}
	if part == nil || n.sessions[owner] != nil { // it does not know its own state yet
		n.redialSoon(owner, false, false)
		return
	}
	n.m.sessionCount++
	now := n.m.clock.Now
	s := &session{m: n.m, id: n.m.sessionCount, client: n, server: server, owner: owner, via: via, began: now, heard: now, newest: part}
	s.down, s.up = n.m.net.NewPipe(out.Back(), s.lost), n.m.net.NewPipe(out, s.lost)
	s.ex = replica.NewExporter(replica.ExporterConfig{Server: server.cluster, Owner: owner, Build: server.build,
		TrustDomain: mesh.TrustDomainOf(owner, mesh.DefaultDomain), ResponseBytes: 2 << 10}, part)
	s.ex.SetBeat(beat)
	n.sessions[owner], server.serving[s.id] = s, s
	n.apply(owner, s, n.importers[owner].Connect(n.now(), s.id, server.cluster))
	s.sendDown(s.ex.Open(server.now()).Send)
}

// holds is what a node tells its siblings of an owner: nothing unless it follows that one itself, and has all.
func (n *node) holds(owner mesh.ClusterName) (*replica.Partition, int64) {
	im, s := n.importers[owner], n.sessions[owner]
	if s == nil || s.server.cluster != owner || !im.Status().InSync {
		return nil, 0
	}
	return im.Stated(), im.Beat()
}

func (n *node) receiveDown(s *session, d replica.Down) {
	if n.up && n.sessions[s.owner] == s {
		s.heard = n.m.clock.Now
		s.checkHandOver(d)
		n.apply(s.owner, s, n.importers[s.owner].Step(n.now(), s.id, d))
	}
}

// receiveUp is what a client said.
func (n *node) receiveUp(s *session, u replica.Up) {
	if a, ok := u.(*replica.Ack); ok && a.Sync == s.answers && a.Nonce == s.nonce {
		s.unanswered = 0
	}
	n.step(s, u)
}

// step is the serving side's driver.
func (n *node) step(s *session, u replica.Up) {
	if !n.up || s.closed {
		return
	}
	out := s.ex.Step(u)
	n.m.oracle.acknowledged(s)
	s.sendDown(out.Send)
	if s.owner == n.cluster {
		st := n.m.stores[n.cluster]
		if out.Ahead != nil && st.part.Position.Compare(*out.Ahead) < 0 &&
			out.Ahead.Epoch.StartMillis <= n.now().Add(mesh.MaxStampAhead).UnixMilli() {
			st.restart(*out.Ahead, nil)
			n.m.count("rollback-told-by-peer")
		}
		if out.Witness != nil {
			st.adopt(out.Witness)
		}
		n.watch()
	} else if out.Witness != nil {
		n.importers[s.owner].Pass(out.Witness)
	}
	if out.Close != "" {
		if shape.Fits(n.build, s.client.build) {
			n.m.oracle.fail("protocol", "exporter closed: %s", out.Close)
		}
		n.m.count("refused-for-version")
		s.close()
	}
}

// apply does what an importer's Ready asks for.
func (n *node) apply(owner mesh.ClusterName, s *session, rd replica.Ready) {
	if rd.Edit != nil {
		n.m.oracle.replicaEdit(n, owner, rd.Edit)
		n.bring(owner, rd.Edit)
		n.publish(owner, n.cluster, n.importers[owner].Stated())
	}
	if rd.Save != nil {
		n.save(owner, rd.Save)
	}
	for _, a := range rd.Alarms {
		n.m.count("alarm-" + string(a.Kind))
	}
	if s == nil || s.closed {
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
		s.refused = rd.Redial != "silent" && rd.Redial != "stale-holder" && rd.Redial != replica.Redial(replica.AlarmBehind)
		s.close()
	}
}

// save writes to the cache, late, and to a full disk not at all.
func (n *node) save(owner mesh.ClusterName, v *replica.Saved) {
	n.saves[owner] = v
	if n.saving {
		return
	}
	n.saving = true
	wait := saveEvery
	if n.m.clock.Now.Before(n.slowUntil) {
		wait *= 5
	}
	n.later(wait, func() {
		n.saving = false
		if !n.m.clock.Now.Before(n.fullUntil) {
			maps.Copy(n.disk.saved, n.saves)
		}
		clear(n.saves)
	})
}

// knowledge is how much the node knows, by owner.
func (n *node) knowledge() knowledge {
	k := knowledge{n.cluster: {Position: n.own.part.Position}}
	for owner, im := range n.importers {
		k[owner] = im.Knowledge()
	}
	return k
}

// covers reports whether the node may serve a proxy that shows the knowledge.
func (n *node) covers(shown knowledge) bool {
	if n.m.cfg.Without == defence.NoPositions {
		return true
	}
	for owner, k := range shown {
		if im := n.importers[owner]; im != nil && !im.Covers(k) || !n.pub.covers(owner, k) {
			return false
		}
	}
	return true
}

// inForce is everything in force at the node.
func (n *node) inForce() []*replica.Partition {
	w := make([]*replica.Partition, len(n.m.names))
	for i, owner := range n.m.names {
		if im := n.importers[owner]; im != nil {
			w[i] = im.InForce()
		} else {
			w[i] = n.m.oracle.inForce(n.own.part)
		}
	}
	return w
}
