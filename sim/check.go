package sim

import (
	"fmt"
	"slices"

	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// oracle remembers what every origin really stated, and complains.
type oracle struct {
	m *simMesh
	// history holds the states of each origin at each position. There is more than one
	// where a history was rewound and written anew before anybody noticed.
	history map[mesh.ClusterName]map[mesh.Position][]*replica.Partition
	// live holds each of them without its statements of deletion: what ought to be in force.
	live map[*replica.Partition]*replica.Partition
	// deletes holds the latest stamp at which the origin deleted a name, ever.
	deletes map[mesh.ClusterName]map[replica.Name]mesh.Stamp
	// life is what a replica had in force since it started.
	life     map[lifeKey]*replica.Partition
	faults   []Complaint
	forgiven map[mesh.ClusterName]bool
	checked  map[string]int
}

type lifeKey struct {
	n     *node
	owner mesh.ClusterName
}

// Complaint is a promise broken: which, when, and how.
type Complaint struct {
	Checker, Detail string
}

func newOracle(m *simMesh) *oracle {
	return &oracle{m: m, history: map[mesh.ClusterName]map[mesh.Position][]*replica.Partition{},
		live: map[*replica.Partition]*replica.Partition{}, deletes: map[mesh.ClusterName]map[replica.Name]mesh.Stamp{}, life: map[lifeKey]*replica.Partition{},
		forgiven: map[mesh.ClusterName]bool{}, checked: map[string]int{}}
}

// maxComplaints is enough to understand a failure.
const maxComplaints = 20

func (o *oracle) fail(checker, format string, args ...any) {
	if len(o.faults) < maxComplaints {
		at := o.m.clock.now.Sub(start).String()
		o.faults = append(o.faults, Complaint{checker, at + ": " + fmt.Sprintf(format, args...)})
	}
}

// record notes a state that an origin stated. Within one history a deleted object
// comes back only by being made again.
func (o *oracle) record(s *store) {
	if o.history[s.owner] == nil {
		o.history[s.owner] = map[mesh.Position][]*replica.Partition{}
		o.deletes[s.owner] = map[replica.Name]mesh.Stamp{}
	}
	h := o.history[s.owner]
	h[s.part.Position] = append(h[s.part.Position], s.part)
	o.live[s.part] = s.part.Live()
	for r := range s.part.All() {
		if s.truth[r.Name].Compare(r.Stamp) > 0 {
			o.fail("resurrected", "%s states %s again, deleted later than it was made", s.owner, r.Name)
		}
	}
}

// inForce is what ought to be in force of a stated partition, the same value for the
// same one.
func (o *oracle) inForce(p *replica.Partition) *replica.Partition {
	if l := o.live[p]; l != nil {
		return l
	}
	return p.Live()
}

func (o *oracle) deleted(owner mesh.ClusterName, n replica.Name, at mesh.Stamp) {
	if o.deletes[owner][n].Compare(at) < 0 {
		o.deletes[owner][n] = at
	}
}

// started forgets what a replica had in force: its new life begins from its disk,
// which may be an old one.
func (o *oracle) started(n *node, owner mesh.ClusterName) {
	o.life[lifeKey{n, owner}] = n.importers[owner].InForce()
}

// replicaEdit checks what comes into force at a replica.
func (o *oracle) replicaEdit(n *node, owner mesh.ClusterName, e *replica.Edit) {
	k := lifeKey{n, owner}
	o.transition(fmt.Sprintf("%s/%d", n.cluster, n.id), owner, o.life[k], e.InForce)
	o.life[k] = e.InForce
}

// proxyUpdate checks what comes into force at a proxy.
func (o *oracle) proxyUpdate(p *proxy, from, to *config) {
	if from == nil {
		return
	}
	who := fmt.Sprintf("proxy %s/%d", p.cluster, p.id)
	for _, owner := range clusterNames {
		was, is := from.parts[owner], to.parts[owner]
		if was == is || was == nil {
			continue
		}
		if is == nil {
			o.fail("lost", "%s: all facts of %s vanished", who, owner)
			continue
		}
		o.transition(who, owner, was, is)
	}
}

// transition holds every promise about one owner's facts against a change of what is
// in force.
func (o *oracle) transition(who string, owner mesh.ClusterName, was, is *replica.Partition) {
	o.checked["transitions"]++
	if is.Position.Compare(was.Position) < 0 {
		o.fail("regressed", "%s: %s went from %v back to %v", who, owner, was.Position, is.Position)
	}
	if was.Len() > 0 && is.Position == (mesh.Position{}) {
		o.fail("lost", "%s: all facts of %s vanished", who, owner)
	}
	o.whole(who, owner, was, is)
	set, removed := replica.Diff(was, is)
	for _, n := range removed {
		o.loosened(who, owner, was.Get(n))
	}
	for _, r := range set {
		if old := was.Get(r.Name); old != nil && old.Stamp.Compare(r.Stamp) > 0 {
			o.loosened(who, owner, old)
		}
	}
}

// loosened complains of a policy that went out of force, or back to an earlier
// version, although its origin never took it away.
func (o *oracle) loosened(who string, owner mesh.ClusterName, r *replica.Resource) {
	if !replica.Tightens(r.Kind) {
		return
	}
	o.checked["policies-left"]++
	if o.deletes[owner][r.Name].Compare(r.Stamp) > 0 || o.forgiven[owner] {
		return
	}
	o.fail("loosened", "%s: %s of %s, stamped %d, left force and was never deleted", who, r.Name, owner, r.Stamp.WallMillis-start.UnixMilli())
}

// whole complains unless what is in force is exactly a state that the owner had at
// that position, but for policies held over from a history that ended.
func (o *oracle) whole(who string, owner mesh.ClusterName, was, is *replica.Partition) {
	if is.Position == (mesh.Position{}) {
		return
	}
	states := o.history[owner][is.Position]
	for _, state := range states {
		set, removed := replica.Diff(o.live[state], is)
		overs := make([]replica.Name, 0, len(set))
		for _, r := range set {
			overs = append(overs, r.Name)
		}
		held := func(n replica.Name) bool {
			return replica.Tightens(n.Kind) && len(o.history[owner]) > 0
		}
		if len(removed) > 0 || !all(overs, held) {
			continue
		}
		for _, n := range overs {
			o.checked["held-over"]++
			// What is held over must not be what the origin says, at this very position or at
			// one that this observer has seen of the same history, that it deleted.
			r := is.Get(n)
			seen := deletedSince(state, r)
			for _, before := range o.history[owner][was.Position] {
				seen = seen || was.Position.Epoch == is.Position.Epoch && was.Get(n) == nil && deletedSince(before, r)
			}
			if seen {
				o.fail("resurrected", "%s: %s of %s is in force, deleted since", who, n, owner)
			}
		}
		return
	}
	o.fail("torn", "%s: %s at %v is none of the %d states it had there", who, owner, is.Position, len(states))
}

// deletedSince reports whether a state says that the object was deleted after r was made.
func deletedSince(state *replica.Partition, r *replica.Resource) bool {
	g := state.Get(r.Name)
	return g != nil && g.Gone && g.Stamp.Compare(r.Stamp) > 0
}

func all(ns []replica.Name, f func(replica.Name) bool) bool {
	return !slices.ContainsFunc(ns, func(n replica.Name) bool { return !f(n) })
}

// checkHandOver counts what the first batch of a subscription carries against what
// truly differed.
func (s *session) checkHandOver(d replica.Down) {
	r, ok := d.(*replica.Response)
	if !ok || !s.first || r.Sync != s.haveSync {
		return
	}
	s.names += len(r.Set) + len(r.Removed)
	if !r.Last {
		return
	}
	s.first = false
	o := s.m.oracle
	for _, state := range o.history[s.owner][r.Position] {
		if state.Root() != r.Root {
			continue
		}
		// By hand, not by the code under test.
		differ := 0
		for x := range state.All() {
			if have := s.have.Get(x.Name); have == nil || have.Version != x.Version {
				differ++
			}
		}
		for x := range s.have.All() {
			if state.Get(x.Name) == nil {
				differ++
			}
		}
		o.checked["hand-overs"]++
		if s.names > differ {
			o.fail("hand-over", "%s from %s/%d: %d resources sent, %d differed", s.owner, s.server.cluster, s.server.id, s.names, differ)
		}
		return
	}
}

// quiet checks the end: everybody holds exactly what the origins state.
func (o *oracle) quiet() {
	for _, owner := range clusterNames {
		want := o.m.stores[owner].part.Live()
		for _, n := range o.m.nodes {
			got := n.own.Live()
			if im := n.importers[owner]; im != nil {
				got = im.InForce()
			}
			o.same(fmt.Sprintf("%s/%d", n.cluster, n.id), want, got)
		}
		for _, p := range o.m.proxies {
			if !p.serving() {
				o.fail("boot", "proxy %s/%d does not serve at the end", p.cluster, p.id)
				continue
			}
			o.same(fmt.Sprintf("proxy %s/%d", p.cluster, p.id), want, p.config.parts[owner])
		}
	}
}

func (o *oracle) same(who string, want, got *replica.Partition) {
	o.checked["quiet"]++
	if got == nil || got.Position != want.Position || !got.Equal(want) {
		var pos mesh.Position
		n := -1
		if got != nil {
			pos, n = got.Position, got.Len()
		}
		o.fail("quiet", "%s holds %s at %v (%d resources): want %v (%d)", who, want.Owner, pos, n, want.Position, want.Len())
	}
}

// booted checks that a proxy that had a configuration serves at once from its
// snapshot, whoever else is dead.
func (o *oracle) booted(p *proxy) {
	if p.snapshot == nil || !o.m.clock.now.Before(p.snapshot.expires) {
		return
	}
	o.checked["snapshot-boots"]++
	if o.m.caDown[p.cluster] {
		o.checked["snapshot-boots-without-CA"]++
	}
	if !p.serving() {
		o.fail("boot", "proxy %s/%d has a snapshot and does not serve", p.cluster, p.id)
	}
}
