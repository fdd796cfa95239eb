package sim

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/sim/catalog"
	"github.com/isthmus-mesh/isthmus/sim/facts"
)

// oracle remembers what every origin really stated, and complains.
type oracle struct {
	m *simMesh
	// history holds the states that each origin told each cluster at each position (itself: what its store held). There
	// is more than one where a history was rewound and written anew before anybody noticed, and where what is exported
	// follows from what others stated.
	history map[tale]map[mesh.Position][]*replica.Partition
	// live holds states without their statements of deletion: what ought to be in force.
	live map[*replica.Partition]*replica.Partition
	// deletes holds the latest stamp at which the origin deleted a name, ever.
	deletes map[mesh.ClusterName]map[replica.Name]mesh.Stamp
	// life is what a replica had in force since it started.
	life   map[lifeKey]*replica.Partition
	faults []Complaint
	// complained counts complaints by checker.
	complained map[string]int
	forgiven   map[mesh.ClusterName]bool
	checked    map[string]int
}

// tale is who tells whom.
type tale struct{ owner, to mesh.ClusterName }

type lifeKey struct {
	n     *node
	owner mesh.ClusterName
}

// Complaint is a promise broken: which, when, and how.
type Complaint struct {
	Checker, Detail string
}

// Checkers are their names, each with what it promises.
func Checkers() map[string]string {
	return map[string]string{
		"regressed":         "a position never goes back, at a replica's life or a proxy",
		"torn":              "what is in force is exactly a state that its owner told at that position, plus policies held over",
		"lost":              "the loss of a link takes nothing away",
		"resurrected":       "what was deleted is stated again only when it was made again",
		"loosened":          "a policy leaves force only if its origin deleted it",
		"hand-over":         "a hand-over sends no more than differs",
		"boot":              "a proxy with a snapshot serves at once",
		"acknowledged":      "what was acknowledged to its owner is what is held",
		"bounded":           "one response is unanswered, queues are short, nothing is remembered of what is gone",
		"absent-backend":    "no route names a backend that the proxy was not told of",
		"local-endpoint":    "a cluster's own ready endpoints are told, whatever its peers do",
		"deleted-while-cut": "an endpoint deleted while its cluster was cut off is gone everywhere two seconds after healing",
		"corrupted":         "a corrupted partition is repaired within ten seconds",
		"quiet":             "after quiet everybody holds what the origins state",
		"compiled":          "after quiet every proxy has what a compile from nothing gives",
	}
}

func newOracle(m *simMesh) *oracle {
	return &oracle{m: m, history: map[tale]map[mesh.Position][]*replica.Partition{},
		live: map[*replica.Partition]*replica.Partition{}, deletes: map[mesh.ClusterName]map[replica.Name]mesh.Stamp{}, life: map[lifeKey]*replica.Partition{},
		forgiven: map[mesh.ClusterName]bool{}, checked: map[string]int{}, complained: map[string]int{}}
}

// maxComplaints of one checker are enough to understand a failure.
const maxComplaints = 5

func (o *oracle) fail(checker, format string, args ...any) {
	if o.complained[checker]++; o.complained[checker] <= maxComplaints {
		at := o.m.clock.Now.Sub(start).String()
		o.faults = append(o.faults, Complaint{checker, at + ": " + fmt.Sprintf(format, args...)})
	}
}

// record notes a state of an origin's store. Within one history a deleted object
// comes back only by being made again.
func (o *oracle) record(s *store) {
	if o.deletes[s.owner] == nil {
		o.deletes[s.owner] = map[replica.Name]mesh.Stamp{}
	}
	o.remember(tale{s.owner, s.owner}, s.part)
	o.checked["resurrected"]++
	for r := range s.part.All() {
		if s.truth[r.Name].Compare(r.Stamp) > 0 {
			o.fail("resurrected", "%s states %s again, deleted later than it was made", s.owner, r.Name)
		}
	}
}

// remember notes what an origin tells a cluster.
func (o *oracle) remember(t tale, p *replica.Partition) {
	if o.history[t] == nil {
		o.history[t] = map[mesh.Position][]*replica.Partition{}
	}
	o.history[t][p.Position] = append(o.history[t][p.Position], p)
}

// older is another version of a resource that its owner once told; nil if there is none.
func (o *oracle) older(owner, to mesh.ClusterName, r *replica.Resource) *replica.Resource {
	var found *replica.Resource
	for _, states := range o.history[tale{owner, to}] { // in no order: the same one is found all the same
		for _, p := range states {
			have := p.Get(r.Name)
			if have != nil && have.Version != r.Version && have.Stamp.Compare(r.Stamp) <= 0 && (found == nil || bytes.Compare(have.Version[:], found.Version[:]) < 0) {
				found = have
			}
		}
	}
	return found
}

// inForce is what ought to be in force of a stated partition, the same value for the
// same one.
func (o *oracle) inForce(p *replica.Partition) *replica.Partition {
	l := o.live[p]
	if l == nil {
		l = p.Live()
		o.live[p] = l
	}
	return l
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
	o.transition(fmt.Sprintf("%s/%d", n.cluster, n.id), tale{owner, n.cluster}, o.life[k], e.InForce)
	o.life[k] = e.InForce
}

// proxyUpdate checks what comes into force at a proxy.
func (o *oracle) proxyUpdate(p *proxy, from, to *config) {
	if from == nil {
		return
	}
	who := p.name()
	for i, owner := range o.m.names {
		was, is := from.parts[i], to.parts[i]
		switch {
		case was == is || was == nil:
		case is == nil:
			o.fail("lost", "%s: all facts of %s vanished", who, owner)
		case p.whole:
			o.transition(who, tale{owner, p.cluster}, was, is)
		case is.Position.Compare(was.Position) < 0:
			o.fail("regressed", "%s: %s went from %v back to %v", who, owner, was.Position, is.Position)
		}
	}
}

// transition holds every promise about one owner's facts against a change of what is
// in force.
func (o *oracle) transition(who string, t tale, was, is *replica.Partition) {
	o.checked["regressed"]++
	o.checked["lost"]++
	if is.Position.Compare(was.Position) < 0 {
		o.fail("regressed", "%s: %s went from %v back to %v", who, t.owner, was.Position, is.Position)
	}
	if was.Len() > 0 && is.Position == (mesh.Position{}) {
		o.fail("lost", "%s: all facts of %s vanished", who, t.owner)
	}
	o.whole(who, t, was, is)
	set, removed := replica.Diff(was, is)
	for _, n := range removed {
		o.loosened(who, t.owner, was.Get(n))
	}
	for _, r := range set {
		if old := was.Get(r.Name); old != nil && old.Stamp.Compare(r.Stamp) > 0 {
			o.loosened(who, t.owner, old)
		}
	}
}

// loosened complains of a policy that went out of force, or back to an earlier
// version, although its origin never took it away.
func (o *oracle) loosened(who string, owner mesh.ClusterName, r *replica.Resource) {
	if !replica.Tightens(r.Kind) {
		return
	}
	o.checked["loosened"]++
	if o.deletes[owner][r.Name].Compare(r.Stamp) > 0 || o.forgiven[owner] {
		return
	}
	o.fail("loosened", "%s: %s of %s, stamped %d, left force and was never deleted", who, r.Name, owner, r.Stamp.WallMillis-start.UnixMilli())
}

// whole complains unless what is in force is exactly a state that the owner told at
// that position, but for policies held over from a history that ended.
func (o *oracle) whole(who string, t tale, was, is *replica.Partition) {
	if is.Position == (mesh.Position{}) {
		return
	}
	o.checked["torn"]++
	states := o.history[t][is.Position]
	for _, state := range slices.Backward(states) {
		set, removed := replica.Diff(o.inForce(state), is)
		if len(removed) > 0 || slices.ContainsFunc(set, func(r *replica.Resource) bool { return !replica.Tightens(r.Kind) }) {
			continue
		}
		for _, r := range set {
			o.checked["resurrected"]++
			// What is held over must not be what the origin says, at this very position or at
			// one that this observer has seen of the same history, that it deleted.
			seen := deletedSince(state, r)
			for _, before := range o.history[t][was.Position] {
				seen = seen || was.Position.Epoch == is.Position.Epoch && was.Get(r.Name) == nil && deletedSince(before, r)
			}
			if seen {
				o.fail("resurrected", "%s: %s of %s is in force, deleted since", who, r.Name, t.owner)
			}
		}
		return
	}
	o.fail("torn", "%s: %s at %v is none of the %d states it had there", who, t.owner, is.Position, len(states))
}

// deletedSince reports whether a state says that the object was deleted after r was made.
func deletedSince(state *replica.Partition, r *replica.Resource) bool {
	g := state.Get(r.Name)
	return g != nil && g.Gone && g.Stamp.Compare(r.Stamp) > 0
}

// checkHandOver counts what the first batch of a subscription carries against what
// truly differed.
func (s *session) checkHandOver(d replica.Down) {
	r, ok := d.(*replica.Response)
	if !ok || !s.first || r.Sync != s.haveSync || r.Seq <= s.counted {
		return
	}
	s.counted = r.Seq
	s.names += len(r.Set) + len(r.Removed)
	if !r.Last {
		return
	}
	s.first = false
	o := s.m.oracle
	for _, state := range o.history[tale{s.owner, s.client.cluster}][r.Position] {
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
		o.checked["hand-over"]++
		if s.names > differ {
			o.fail("hand-over", "%s from %s/%d: %d resources sent, %d differed", s.owner, s.server.cluster, s.server.id, s.names, differ)
		}
		return
	}
}

// Bounds of what a stream may have on its way.
const (
	inFlightMax = 1
	queueMax    = 64
)

// inFlight complains of a response that is sent before the one before it was answered.
func (o *oracle) inFlight(s *session, r *replica.Response) {
	if r.Sync != s.answers {
		s.answers, s.unanswered = r.Sync, 0
	}
	s.nonce = r.Nonce
	s.unanswered++
	o.checked["bounded"]++
	if s.unanswered > inFlightMax {
		o.fail("bounded", "%s/%d of %s to %s/%d: %d responses are unanswered", s.server.cluster, s.server.id, s.owner, s.client.cluster, s.client.id, s.unanswered)
	}
}

// bounded complains of a queue that grows.
func (o *oracle) bounded(s *session, waiting int) {
	o.checked["bounded"]++
	if waiting > queueMax {
		o.fail("bounded", "%s/%d and %s/%d: %d messages of %s wait", s.client.cluster, s.client.id, s.server.cluster, s.server.id, waiting, s.owner)
	}
}

// acknowledged holds what a stream believes that its client has against what it has.
func (o *oracle) acknowledged(s *session) {
	if !s.ex.Settled() || s.tainted || s.closed {
		return
	}
	o.checked["acknowledged"]++
	if im := s.client.importers[s.owner]; im.Stated().Root() != s.newest.Root() {
		o.fail("acknowledged", "%s/%d has acknowledged %s at %v and holds %v", s.client.cluster, s.client.id, s.owner, s.newest.Position, im.Stated().Position)
	}
}

// references complains of a route that names what the proxy was not told of.
func (o *oracle) references(p *proxy, entries []catalog.Entry) {
	cat := o.m.catalogs[p.cluster]
	for s, i := range cat.Services {
		for _, b := range o.m.backends(entries[i].Value) {
			o.checked["absent-backend"]++
			if entries[cat.Endpoints[b]].Value == nil {
				o.fail("absent-backend", "proxy %s/%d: a route of %s names %s, of which there are no endpoints", p.cluster, p.id, s, b)
			}
		}
	}
}

// local complains when a cluster's own endpoints are not those that its own facts give.
func (o *oracle) local(n *node, v any) {
	eps, ok := v.(*ir.Endpoints)
	if !ok {
		return
	}
	want := facts.Serves(eps.Service, maps.Values(n.own.local))
	o.checked["local-endpoint"]++
	for _, g := range eps.Groups {
		if g.Cluster != n.cluster {
			continue
		}
		for _, e := range g.Endpoints {
			if i := slices.Index(want, e.Proxy); i >= 0 {
				want = slices.Delete(want, i, i+1)
			} else {
				o.fail("local-endpoint", "%s/%d: %s of %s is none of its own", n.cluster, n.id, e.Proxy, eps.Service)
			}
		}
	}
	if len(want) > 0 {
		o.fail("local-endpoint", "%s/%d: %v of %s are ready and not told", n.cluster, n.id, want, eps.Service)
	}
}

// booted checks that a proxy that had a configuration serves at once from its
// snapshot, whoever else is dead.
func (o *oracle) booted(p *proxy) {
	if p.snapshot == nil || p.whole && !o.m.clock.Now.Before(p.snapshot.expires) {
		return
	}
	o.checked["boot"]++
	if o.m.caDown[p.cluster] {
		o.checked["boot without a CA"]++
	}
	if !p.serving() {
		o.fail("boot", "proxy %s/%d has a snapshot and does not serve", p.cluster, p.id)
	}
}
