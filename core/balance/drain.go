package balance

import (
	"fmt"
	"slices"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// drain takes over what the configuration says of drains.
func (g *group) drain() {
	g.salt = hashString(drainSalt, string(g.source.Cluster))
	all := len(g.all.endpoints) > 0
	for i, e := range g.all.endpoints {
		r := g.drainsOf(i)
		if len(r) == 0 {
			e.drains.Store(nil)
			all = false
			continue
		}
		e.drains.Store(&r)
		if all && !slices.ContainsFunc(g.leaving, func(o mesh.Ramps) bool { return slices.Equal(o, r) }) {
			g.leaving = append(g.leaving, r)
		}
	}
	if !all {
		g.leaving = nil
	}
}

// drainsOf are the drains of the i-th endpoint: of those that are reached directly first, then of slots.
func (g *group) drainsOf(i int) mesh.Ramps {
	if n := len(g.source.Endpoints); i >= n {
		at := slices.IndexFunc(g.source.Draining, func(s mesh.SlotRamps) bool { return int(s.Slot) == i-n })
		if at < 0 {
			return nil
		}
		return g.source.Draining[at].Ramps
	}
	return g.source.Endpoints[i].Drains
}

// drainSalt keeps the draws of drains apart from others.
const drainSalt = 0xbf58476d1ce4e5b9

// share is the part of its requests that a cluster gets while it is drained, or comes back: from 0 to 1. Where all of its
// endpoints are drained, by zones or one by one, they get together what the least drained does.
func (g *group) share(now int64) float64 { return g.cluster.Drains.At(now) * g.kept(now) }

// kept is the part of the least drained endpoint.
func (g *group) kept(now int64) float64 {
	if g.leaving == nil {
		return 1
	}
	most := 0.0
	for _, r := range g.leaving {
		most = max(most, r.At(now))
	}
	return most
}

// thins reports whether this request is one of those that are kept away from a cluster that is drained. The same
// request always hears the same.
func (g *group) thins(a *Ask) bool {
	if len(g.cluster.Drains) == 0 && g.leaving == nil {
		return false
	}
	share := g.share(a.Now)
	return share < 1 && unit(mix(a.Rand^g.salt)) >= share
}

func unit(bits uint64) float64 { return float64(bits>>11) / (1 << 53) }

// drained reports whether an endpoint gets nothing any more.
func (e *Endpoint) drained(now int64) bool {
	r := e.drains.Load()
	return r != nil && r.At(now) <= 0
}

// spares reports whether this request is one of those that are kept away from an endpoint, beside those that are kept
// away from its whole cluster. A key of consistent hashing moves once, and stays away.
func (g *group) spares(a *Ask, e *Endpoint) bool {
	r := e.drains.Load()
	if r == nil {
		return false
	}
	share := r.At(a.Now)
	if most := g.kept(a.Now); most > 0 {
		share /= most
	}
	draw := a.Rand
	if a.Hashed {
		draw = a.Hash
	}
	return share < 1 && unit(mix(draw^e.place^drainSalt)) >= share
}

// draining says in words what is drained; "" is nothing.
func draining(share float64) string {
	if share >= 1 {
		return ""
	}
	return fmt.Sprintf(", drained to %.0f%% of its share", 100*share)
}
