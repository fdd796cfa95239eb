package replica

import (
	"cmp"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// Candidate is one origin's object of a (kind, namespace, name) that several origins
// may have written.
type Candidate struct {
	Origin mesh.ClusterName
	Stamp  mesh.Stamp
	Digest [16]byte
}

// Effective chooses among candidates of one name: the index of the winner, and of
// those that lost to it with unequal content. Equal digests are one object, whichever
// origins state it, and it bears the latest of their stamps; the latest stamp wins, so
// every cluster that knows the same candidates chooses alike, in whatever order they
// came. No candidates give -1.
func Effective(cs []Candidate) (winner int, losers []int) {
	winner = -1
	for i, c := range cs {
		if winner < 0 || later(c, cs[winner]) {
			winner = i
		}
	}
	for i, c := range cs {
		if c.Digest != cs[winner].Digest {
			losers = append(losers, i)
		}
	}
	slices.SortFunc(losers, func(a, b int) int {
		if later(cs[a], cs[b]) {
			return -1
		}
		return 1
	})
	return winner, losers
}

// later is a total order over candidates of distinct origins: the stamp, then the
// origin for stamps that came without one.
func later(a, b Candidate) bool {
	return cmp.Or(a.Stamp.Compare(b.Stamp), cmp.Compare(a.Origin, b.Origin)) > 0
}

// HLC is a hybrid logical clock (Kulkarni et al. 2014, figure 5): stamps that follow
// wall time and never contradict what was seen. The zero HLC is ready once Origin is
// set. It is not safe for concurrent use.
type HLC struct {
	Origin mesh.ClusterName
	last   mesh.Stamp
}

// Tick stamps a local event; each stamp is later than all before it and than all
// observed.
func (c *HLC) Tick(now time.Time) mesh.Stamp {
	wall := now.UnixMilli()
	switch {
	case wall > c.last.WallMillis:
		c.last = mesh.Stamp{WallMillis: wall}
	case c.last.Counter == ^uint32(0):
		c.last = mesh.Stamp{WallMillis: c.last.WallMillis + 1}
	default:
		c.last.Counter++
	}
	c.last.Origin = c.Origin
	return c.last
}

// Observe makes later stamps follow a remote one. It refuses one that runs more than
// mesh.MaxStampAhead ahead of our clock, for it would drag every clock with it.
func (c *HLC) Observe(now time.Time, remote mesh.Stamp) bool {
	if time.UnixMilli(remote.WallMillis).Sub(now) > mesh.MaxStampAhead {
		return false
	}
	if cmp.Or(cmp.Compare(remote.WallMillis, c.last.WallMillis), cmp.Compare(remote.Counter, c.last.Counter)) > 0 {
		c.last = remote
	}
	return true
}

// Accepts reports whether a list lets objects of an origin, kind and namespace loosen
// what this cluster allows. An empty list accepts nobody; "*" is anything.
func Accepts(list []mesh.Accept, origin mesh.ClusterName, kind mesh.Kind, namespace string) bool {
	return slices.ContainsFunc(list, func(a mesh.Accept) bool {
		return (a.Origin == "*" || a.Origin == origin) && (a.Kind == "*" || a.Kind == string(kind)) &&
			(a.Namespace == "*" || a.Namespace == namespace)
	})
}

// Authority says what an object of a foreign origin may do here.
type Authority uint8

// The degrees of authority.
const (
	// MayNothing: the object is shown and has no effect.
	MayNothing Authority = iota
	// MayTighten: it may forbid, never allow.
	MayTighten
	// MayAll: it counts as our own.
	MayAll
)

// AuthorityOf is the authority at home over an object: ours counts, a listed origin's
// counts, and a foreign security or residency policy may always tighten.
func AuthorityOf(home mesh.ClusterName, list []mesh.Accept, k mesh.Key) Authority {
	switch {
	case k.Origin == home || Accepts(list, k.Origin, k.Kind, k.Namespace):
		return MayAll
	case Tightens(k.Kind):
		return MayTighten
	}
	return MayNothing
}
