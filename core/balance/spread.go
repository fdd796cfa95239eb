package balance

import "github.com/isthmus-mesh/isthmus/mesh"

// Share is the part of a service's requests that goes to a cluster.
type Share struct {
	Cluster mesh.ClusterName
	Part    float64
}

// SharesOf is a split as SetSplit takes it.
func SharesOf(s []mesh.Share) []Share {
	out := make([]Share, len(s))
	for i, share := range s {
		out[i] = Share{share.Cluster, float64(share.Parts) / mesh.AllParts}
	}
	return out
}

// spread is a split as a view draws from it. It is immutable.
type spread struct {
	shares []Share
	at     int64
	// upTo are the sums of the groups' parts, up to 1: those of clusters that the view does not know
	// are spread over the others.
	upTo []float64
}

// SetSplit says how requests are to be spread over clusters from now on, which is Unix nanoseconds; none is
// the nearest first. What is lawful, what is alive and what overflows is judged at each pick all the same.
// It may be called while others pick. A view takes over the split of the one before.
func (v *View) SetSplit(shares []Share, now int64) {
	s := &spread{shares: shares, at: now, upTo: make([]float64, len(v.groups))}
	sum := 0.0
	for i, g := range v.groups {
		for _, one := range shares {
			if one.Cluster == g.cluster.Name && one.Part > 0 {
				sum += one.Part
			}
		}
		s.upTo[i] = sum
	}
	if sum <= 0 {
		v.split.Store(nil)
		return
	}
	for i := range s.upTo {
		s.upTo[i] /= sum
	}
	v.split.Store(s)
}

// spread chooses by the split; nil is nobody: then the nearest is tried first.
func (v *View) spread(a *Ask) *Endpoint {
	s := v.split.Load()
	if s == nil || a.Scope == mesh.ScopeCluster || a.Strategy == mesh.StrategyLocal || a.Strategy == mesh.StrategyNearest || v.plan != nil && a.Strategy == mesh.StrategyWeighted {
		return nil
	}
	rand := random(a.Rand ^ splitSalt)
	if age := a.Now - s.at; age > int64(splitHolds) && rand.float()*float64(splitFades) < float64(age-int64(splitHolds)) {
		return nil // its control plane is gone
	}
	for range redraws {
		u := rand.float()
		i := 0
		for i < len(s.upTo)-1 && s.upTo[i] <= u {
			i++
		}
		g := v.groups[i]
		if g.unlawful(a) != Kept || g.unwise(a) != Kept {
			continue
		}
		if e := g.choose(a, false); e != nil {
			if other := v.overflow(a, g, e); other != nil {
				return other
			}
			return e
		}
	}
	return nil
}

// splitSalt keeps the draw of a cluster apart from those of endpoints.
const splitSalt = 0x5851f42d4c957f2d

// predict is when an answer is expected from an endpoint, in nanoseconds from now; 0 where its concurrency is
// not known.
func (g *group) predict(a *Ask, e *Endpoint, usual float64) float64 {
	lanes := e.lanesOf()
	if lanes <= 0 {
		return 0
	}
	s := e.serviceTime(a.Now, usual)
	return float64(g.cluster.RTT) + s*(1+max(0, e.load(a.Now)+1-lanes)/lanes)*e.penaltyAt(a.Now)
}

// overflow finds a better place for one request that would wait at e; nil if there is none. Only
// PeakEWMA overflows: other algorithms are asked for because they predict nothing.
func (v *View) overflow(a *Ask, g *group, e *Endpoint) *Endpoint {
	if len(v.groups) == 1 || a.Strategy.Planned() || v.Algorithm != mesh.AlgorithmPeakEWMA {
		return nil
	}
	usual := g.state.usual(a.Now)
	expected := g.predict(a, e, usual)
	at := overflowAt
	if g.state.busy.at.Load() != 0 && float64(g.state.busy.read()) < overflowBusy*busyUnit {
		at = overflowCalm
	}
	if expected <= float64(g.cluster.RTT)+at*usual {
		return nil
	}
	var best *Endpoint
	least, looks := expected*overflowGain, 0
	for _, other := range v.groups {
		if other == g || other.unlawful(a) != Kept || other.unwise(a) != Kept {
			continue
		}
		if looks++; looks > overflowLooks || float64(other.cluster.RTT) >= least {
			break
		}
		if !other.hasRoom(a) {
			continue
		}
		if c := other.choose(a, false); c != nil {
			if t := other.predict(a, c, other.state.usual(a.Now)); t > 0 && t < least {
				best, least = c, t
			}
		}
	}
	return best
}

// hasRoom reports whether a cluster that says how busy it is has lanes to spare. Of one that was not heard of for
// long nothing is known, and a few requests find out: where all are overloaded, the many would only cross.
func (g *group) hasRoom(a *Ask) bool {
	if a.Now-g.state.busy.at.Load() > int64(reportFresh) {
		return mix(a.Rand^roomSalt)%overflowScouts == 0
	}
	return float64(g.state.busy.read()) < overflowBusy*busyUnit
}

const roomSalt = 0xda942042e4dd58b5

// Busy is the utilisation that a cluster's server proxies report, as far as this proxy hears of them; ok is
// false where it does not.
func (v *View) Busy(c mesh.ClusterName, now int64) (rho float64, ok bool) {
	g := v.group(c)
	if g == nil || g.state.busy.at.Load() == 0 || now-g.state.busy.at.Load() > int64(reportFresh) {
		return 0, false
	}
	return float64(g.state.busy.read()) / busyUnit, true
}

// Tripped reports whether a cluster is out for failures in a row.
func (v *View) Tripped(c mesh.ClusterName, now int64) bool {
	g := v.group(c)
	return g != nil && g.state.tripped(now)
}

// Trip takes a cluster out at once: its path is silent.
func (v *View) Trip(c mesh.ClusterName, now int64) {
	if g := v.group(c); g != nil && g.state.trippedUntil.Load() <= now {
		g.state.trip(now)
	}
}
