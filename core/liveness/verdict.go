package liveness

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// The verdict is what the mesh says of a cluster, for people and policy: each cluster tells the others its row of the
// matrix (Row), and each judges by the same function (Judge), damped (Verdict). It moves no request: Reachability does.

// Lease is what an observer says of a cluster's control stream.
type Lease uint8

// An observer of an earlier version says nothing of leases.
const (
	LeaseUnknown Lease = iota
	LeaseFresh
	LeaseLost
)

// LeaseOf is that of a state.
func (s State) LeaseOf() Lease {
	if s.LeaseLost {
		return LeaseLost
	}
	return LeaseFresh
}

// Sight is what one observer says of one cluster.
type Sight struct {
	// Path says that a gateway of it answers.
	Path  bool
	Lease Lease
	// Since is when it began to say so, by the clock of who judges: at the latest when it was first heard.
	Since time.Time
}

// Row is what one observer says of the others.
type Row struct {
	Sees map[mesh.ClusterName]Sight
	// Heard is when it said so last, by the clock of who judges.
	Heard time.Time
}

// RowLasts is how long a row counts. Observers repeat theirs with each heartbeat, which is every second; one that does
// not is itself not heard.
const RowLasts = 4 * time.Second

// Witness is an observer's sight, where it has a say.
type Witness struct {
	Observer mesh.ClusterName
	Sight
	Heard time.Time
}

// Evidence is what those who have a say see of a cluster.
type Evidence struct {
	// State is the verdict that follows, before damping.
	State mesh.Reachability
	// Clusters is how many the mesh has. Witnesses are by name; without one nothing is known.
	Clusters  int
	Witnesses []Witness
	// Paths and Leases are how many of them have a path to it and hear its control plane; Heard is how many say anything of that.
	Paths, Leases, Heard int
}

// Judge is what is to be thought of target, among the clusters of the mesh, of which self judges and is one. Those have a
// say that self hears and that can reach each other: a cluster that is cut off from the others decides nothing for
// them, and they nothing for it.
//
// Path and lease count where no more than half of those with a say lack it; neither of any, by a majority of
// the whole mesh and two at least, is Dead: one observer alone declares nobody dead, and in a mesh of two nobody does.
func Judge(self, target mesh.ClusterName, clusters []mesh.ClusterName, rows map[mesh.ClusterName]Row, now time.Time) Evidence {
	e := Evidence{Clusters: len(clusters)}
	lost := true
	for _, o := range company(self, target, clusters, rows, now) {
		s, ok := rows[o].Sees[target]
		if !ok {
			continue
		}
		e.Witnesses = append(e.Witnesses, Witness{o, s, rows[o].Heard})
		lost = lost && !s.Path && s.Lease == LeaseLost
		if s.Path {
			e.Paths++
		}
		switch s.Lease {
		case LeaseFresh:
			e.Leases, e.Heard = e.Leases+1, e.Heard+1
		case LeaseLost:
			e.Heard++
		}
	}
	n := len(e.Witnesses)
	if n == 0 {
		return e
	}
	path, lease := 2*e.Paths >= n, 2*e.Leases >= e.Heard
	switch {
	case lost && n >= 2 && 2*n > e.Clusters:
		e.State = mesh.Dead
	case !path:
		e.State = mesh.Unreachable
	case !lease:
		e.State = mesh.StaleServing
	}
	return e
}

// company are the observers of target that can reach each other and self, by name. Which set is the largest is not asked
// (that is hard to say of many clusters): those that reach most come first, so a cluster that is half cut off does not
// keep out those that are not.
func company(self, target mesh.ClusterName, clusters []mesh.ClusterName, rows map[mesh.ClusterName]Row, now time.Time) []mesh.ClusterName {
	reach := map[mesh.ClusterName]int{}
	for _, n := range clusters {
		if r, ok := rows[n]; ok && n != target && (n == self || now.Sub(r.Heard) <= RowLasts) {
			reach[n] = 0
		}
	}
	mutual := func(a, b mesh.ClusterName) bool { return rows[a].Sees[b].Path && rows[b].Sees[a].Path }
	var out, rest []mesh.ClusterName
	for n := range reach {
		if n == self {
			out = append(out, n)
			continue
		}
		if self != target && !mutual(self, n) {
			continue
		}
		for m := range reach {
			if m != n && mutual(n, m) {
				reach[n]++
			}
		}
		rest = append(rest, n)
	}
	slices.SortFunc(rest, func(a, b mesh.ClusterName) int { return cmp.Or(reach[b]-reach[a], cmp.Compare(a, b)) })
	for _, n := range rest {
		if !slices.ContainsFunc(out, func(m mesh.ClusterName) bool { return !mutual(n, m) }) {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

// Cause is the evidence in words: how many have a path, how many hear its control plane, and who does not.
func (e Evidence) Cause() string {
	n := len(e.Witnesses)
	if n == 0 {
		return "no cluster that can be heard says anything of it"
	}
	text := fmt.Sprintf("%d of %d %s its gateways", e.Paths, n, observers(n, "reaches", "reach")) + e.without(func(s Sight) bool { return !s.Path }, e.Paths, n)
	text += fmt.Sprintf(", %d of %d hear its control plane", e.Leases, e.Heard) + e.without(func(s Sight) bool { return s.Lease == LeaseLost }, e.Leases, e.Heard)
	if e.State == mesh.Unreachable && e.Paths == 0 && e.Leases == 0 && 2*n <= e.Clusters {
		text += fmt.Sprintf("; no majority of %d clusters", e.Clusters)
	}
	return text
}

func observers(n int, one, many string) string {
	if n == 1 {
		return "observer " + one
	}
	return "observers " + many
}

// without names those that lack something, where some have it.
func (e Evidence) without(lacks func(Sight) bool, have, of int) string {
	if have == of || have == 0 {
		return ""
	}
	var names []string
	for _, w := range e.Witnesses {
		if lacks(w.Sight) {
			names = append(names, string(w.Observer))
		}
	}
	return " (not " + strings.Join(names, ", ") + ")"
}

// The constants of damping. What is worse is said once it was so for confirmAfter, Dead for deadAfter; what is better once it was so for a
// hold, which is mendMin and doubles, up to mendMax, each time that the verdict worsens within mendCalm of having mended. A link that
// flaps for as long as it likes makes some news a minute.
const (
	confirmAfter = 2 * time.Second
	deadAfter    = 10 * time.Second
	mendMin      = 3 * time.Second
	mendMax      = time.Minute
	mendCalm     = time.Minute
	// watchMax is between two steps at most: time in which nobody looked confirms nothing and mends nothing, for it may be the
	// judge who was stopped.
	watchMax = 2 * time.Second
)

// levels are the states that are worse than Alive, in the order of mesh.Reachability.
const levels = int(mesh.Dead)

// Verdict is what is said of a cluster. The zero Verdict says Alive, as a start does.
type Verdict struct {
	State mesh.Reachability
	// Since is when State became what it is, zero while nothing was seen; Evidence is the last with a witness, At when it was taken.
	Since    time.Time
	Evidence Evidence
	At       time.Time

	// bad is, by level, whether the evidence is at least so bad, and turned since when that is as it is.
	bad    [levels + 1]bool
	turned [levels + 1]time.Time
	mended time.Time
	hold   time.Duration
	// seen says that all was well once: until then it may be that nobody has got there yet, which is confirmed as slowly as a death.
	seen bool
}

// Step is the verdict after evidence was taken. Evidence without a witness changes nothing: what is not seen is not known to
// have changed.
func (v Verdict) Step(e Evidence, now time.Time) Verdict {
	if len(e.Witnesses) == 0 {
		return v
	}
	if v.Since.IsZero() {
		v.Since, v.hold = now, mendMin
	}
	v.seen = v.seen || e.State == mesh.Alive
	anew := now.Sub(v.At) > watchMax
	v.Evidence, v.At = e, now
	for l := 1; l <= levels; l++ {
		if bad := int(e.State) >= l; bad != v.bad[l] || anew {
			v.bad[l], v.turned[l] = bad, now
		}
	}
	for l := levels; l > int(v.State); l-- {
		if v.bad[l] && now.Sub(v.turned[l]) >= v.confirmation(l) {
			return v.worsen(mesh.Reachability(l), now)
		}
	}
	to := v.State
	for to > mesh.Alive && !v.bad[to] && now.Sub(v.turned[to]) >= v.hold {
		to--
	}
	if to != v.State {
		v.State, v.Since, v.mended = to, now, now
	}
	return v
}

func (v *Verdict) confirmation(level int) time.Duration {
	if mesh.Reachability(level) == mesh.Dead || !v.seen {
		return deadAfter
	}
	return confirmAfter
}

func (v Verdict) worsen(to mesh.Reachability, now time.Time) Verdict {
	if v.mended.IsZero() || now.Sub(v.mended) >= mendCalm {
		v.hold = mendMin
	} else {
		v.hold = min(2*v.hold, mendMax)
	}
	v.State, v.Since = to, now
	return v
}
