package balance

import (
	"cmp"
	"slices"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// plan is how a strategy spreads requests by itself, without a word of the control plane: by the weights of
// places, or by how much each group has. It is immutable.
type plan struct {
	places []place
}

// place is groups among which its part of requests is divided by size.
type place struct {
	upTo   float64 // the sum of parts up to this one's, of 1
	groups []*group
	within []float64 // the sums of sizes, up to 1
}

// parts are a cluster's endpoints as the strategy tells them apart: by the zones that it names, the proxy's own for
// Nearest among them. Slots, whose zones are not known, and all other endpoints are one part, of no zone.
func (c *Config) parts(src ir.Group, of *ir.Cluster) []*group {
	whole := []*group{{cluster: of, source: src, local: src.Cluster == c.Cluster, state: new(groupState)}}
	zones := c.zones(src.Cluster, of.Region)
	if len(zones) == 0 || len(src.Endpoints) == 0 {
		return whole
	}
	apart := map[mesh.Zone][]ir.Endpoint{}
	for _, e := range src.Endpoints {
		z := e.Zone
		if !slices.Contains(zones, z) {
			z = ""
		}
		apart[z] = append(apart[z], e)
	}
	var out []*group
	for _, z := range append(zones, "") {
		part := src
		if part.Endpoints = apart[z]; z != "" {
			part.Slots = nil
		}
		if len(part.Endpoints)+len(part.Slots) > 0 {
			out = append(out, &group{cluster: of, source: part, local: src.Cluster == c.Cluster, zone: z, state: whole[0].state})
		}
	}
	return out
}

// zones are those of a cluster that the strategy names.
func (c *Config) zones(n mesh.ClusterName, region mesh.Region) []mesh.Zone {
	var out []mesh.Zone
	at := mesh.Locality{Cluster: n, Region: region}
	name := func(p mesh.Place) {
		if at.Zone = p.Zone; p.Zone != "" && p.Holds(at) && !slices.Contains(out, p.Zone) {
			out = append(out, p.Zone)
		}
	}
	switch c.Strategy {
	case mesh.StrategyNearest:
		if home := c.Clusters(c.Cluster); n == c.Cluster || home != nil && home.Region != "" && home.Region == region {
			name(mesh.Place{Cluster: n, Zone: c.Zone})
		}
		for _, p := range c.Distribution.Order {
			name(p)
		}
	case mesh.StrategyWeighted:
		for _, w := range c.Distribution.Weights {
			name(w.Place)
		}
	}
	return out
}

// locality is where a group is.
func (g *group) locality() mesh.Locality {
	return mesh.Locality{Cluster: g.cluster.Name, Region: g.cluster.Region, Zone: g.zone}
}

// The rungs of the ladder that requests go down, of Nearest.
const (
	rungCluster = iota // the own one
	rungRegion
	rungOrder // what the order names, one after another
	rungRest
)

// rank says how early a group is tried: by rung, and inside it by what the order says, and whether it is in the own
// zone. Groups of one rank are tried nearest first.
func (c *Config) rank(g *group) (rung, order, zone int) {
	if c.Strategy != mesh.StrategyNearest {
		if g.local {
			return rungCluster, 0, 0
		}
		return rungRest, 0, 0
	}
	order = slices.IndexFunc(c.Distribution.Order, func(p mesh.Place) bool { return p.Holds(g.locality()) })
	named := order >= 0
	if !named {
		order = len(c.Distribution.Order)
	}
	if g.zone == "" || g.zone != c.Zone {
		zone = 1
	}
	home := c.Clusters(c.Cluster)
	switch {
	case g.local:
		return rungCluster, zone, order // the own zone stands before any order
	case home != nil && home.Region != "" && g.cluster.Region == home.Region:
		return rungRegion, order, zone
	case named:
		return rungOrder, order, zone
	}
	return rungRest, order, zone
}

// arrangeGroups puts groups in the order in which they are tried.
func (v *View) arrangeGroups(c *Config) {
	slices.SortStableFunc(v.groups, func(a, b *group) int {
		ar, ao, az := c.rank(a)
		br, bo, bz := c.rank(b)
		return cmp.Or(-cmp.Compare(min(v.part(a), 1e-9), min(v.part(b), 1e-9)), // those without weight come last
			cmp.Compare(ar, br), cmp.Compare(ao, bo), cmp.Compare(az, bz),
			cmp.Compare(distance(a.cluster), distance(b.cluster)), cmp.Compare(a.cluster.Name, b.cluster.Name))
	})
}

// newPlan is the plan of a strategy that has one; nil for others, and where nothing that it names is there.
func newPlan(c *Config, groups []*group) *plan {
	p := &plan{}
	switch c.Strategy {
	case mesh.StrategyWeighted:
		of := map[mesh.Place][]*group{}
		for _, g := range groups {
			if at := mostPrecise(c.Distribution.Weights, g); at >= 0 {
				k := c.Distribution.Weights[at].Place
				of[k] = append(of[k], g)
			}
		}
		for _, w := range c.Distribution.Weights {
			p.add(float64(w.Weight), of[w.Place])
		}
	case mesh.StrategySpread:
		for _, g := range groups {
			p.add(g.size(groups), []*group{g})
		}
	}
	if len(p.places) == 0 {
		return nil
	}
	sum := p.places[len(p.places)-1].upTo
	for i := range p.places {
		p.places[i].upTo /= sum
	}
	return p
}

// mostPrecise is the weight that counts for a group: the one that names its zone before one that names its cluster,
// and that before its region's; -1 is none.
func mostPrecise(weights []mesh.PlaceWeight, g *group) int {
	best, at := 0, -1
	for i, w := range weights {
		precise := 1
		if w.Place.Cluster != "" {
			precise += 1
		}
		if w.Place.Zone != "" {
			precise += 2
		}
		if w.Place.Holds(g.locality()) && precise > best {
			best, at = precise, i
		}
	}
	return at
}

func (p *plan) add(weight float64, groups []*group) {
	if weight <= 0 || len(groups) == 0 {
		return
	}
	x := place{groups: groups, within: make([]float64, len(groups)), upTo: weight}
	if n := len(p.places); n > 0 {
		x.upTo += p.places[n-1].upTo
	}
	sum := 0.0
	for i, g := range groups {
		sum += g.size(groups)
		x.within[i] = sum
	}
	if sum <= 0 {
		return // nothing is ready there
	}
	for i := range x.within {
		x.within[i] /= sum
	}
	p.places = append(p.places, x)
}

// size is how much a group has: its lanes where all of them say theirs, else its endpoints.
func (g *group) size(among []*group) float64 {
	if slices.ContainsFunc(among, func(o *group) bool { return o.lanes() == 0 && len(o.all.endpoints) > 0 }) {
		return float64(len(g.all.endpoints))
	}
	return float64(g.lanes())
}

// lanes is the group's concurrency; 0 is unknown.
func (g *group) lanes() (n uint32) {
	if g.zone == "" && len(g.source.Slots) > 0 {
		return g.source.Lanes
	}
	for _, e := range g.source.Endpoints {
		if e.Lanes == 0 {
			return 0
		}
		n += e.Lanes
	}
	return n
}

// part is a group's part of requests by the plan, while all is well; 0 without one.
func (v *View) part(g *group) float64 {
	if v.plan == nil {
		return 0
	}
	before := 0.0
	for i := range v.plan.places {
		x := &v.plan.places[i]
		if at := slices.Index(x.groups, g); at >= 0 {
			share := x.within[at]
			if at > 0 {
				share -= x.within[at-1]
			}
			return share * (x.upTo - before)
		}
		before = x.upTo
	}
	return 0
}

// planned chooses by the plan; nil is nobody: then groups are tried in their order. A request with a key of consistent
// hashing always draws the same, so that a cache is asked in one place while that serves.
func (v *View) planned(a *Ask) *Endpoint {
	if v.plan == nil || a.Strategy != mesh.StrategyWeighted && a.Strategy != mesh.StrategySpread || a.Scope == mesh.ScopeCluster {
		return nil
	}
	rand := random(a.Rand ^ splitSalt)
	if a.Hashed {
		rand = random(a.Hash ^ splitSalt)
	}
	for range redraws {
		x := &v.plan.places[reach(len(v.plan.places), rand.float(), func(i int) float64 { return v.plan.places[i].upTo })]
		if e := x.choose(a, &rand); e != nil {
			return e
		}
	}
	return nil
}

// choose chooses in a place, of whose clusters those that cannot serve leave their part to the others in it.
func (x *place) choose(a *Ask, rand *random) *Endpoint {
	draws := redraws
	if len(x.groups) == 1 {
		draws = 0
	}
	for k := range draws + len(x.groups) {
		g := x.groups[max(k-draws, 0)] // in the end each in turn
		if k < draws {
			g = x.groups[reach(len(x.groups), rand.float(), func(i int) float64 { return x.within[i] })]
		}
		if g.unlawful(a) != Kept || g.unwise(a) != Kept {
			continue
		}
		if e := g.choose(a, false); e != nil {
			return e
		}
	}
	return nil
}

// reach is the first of n whose sum is above u.
func reach(n int, u float64, sum func(int) float64) int {
	i := 0
	for i < n-1 && sum(i) <= u {
		i++
	}
	return i
}

// Shares are the parts of clusters by a plan, in the order in which they are tried; nil where there is none.
func (v *View) Shares() []Share {
	if v.plan == nil {
		return nil
	}
	var out []Share
	for _, g := range v.groups {
		part := v.part(g)
		at := slices.IndexFunc(out, func(s Share) bool { return s.Cluster == g.cluster.Name })
		switch {
		case part == 0:
		case at >= 0:
			out[at].Part += part
		default:
			out = append(out, Share{g.cluster.Name, part})
		}
	}
	return out
}
