package split

import (
	"math"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// target is where the strategy would have the flow, and the rounds it took to find it.
func (t *tick) target() (Flow, int) {
	switch t.Strategy {
	case mesh.StrategyNearest:
		return t.proportional(t.nearest), 1
	case mesh.StrategyWeighted:
		return t.proportional(func(_, j int) float64 {
			if j < len(t.Weights) {
				return t.Weights[j]
			}
			return 0
		}), 1
	case mesh.StrategySpread:
		return t.proportional(func(_, j int) float64 { return t.problem.Sinks[j].capacity() }), 1
	}
	f, rounds := Solve(t.problem, t.flow(t.next.X))
	t.fence(f)
	return f, rounds
}

// planned reports whether the target is a policy's word, which is followed whether it gains or not.
func (t *tick) planned() bool { return t.Free || planned(t.Strategy) }

func planned(s mesh.Strategy) bool {
	switch s {
	case mesh.StrategyNearest, mesh.StrategyWeighted, mesh.StrategySpread, mesh.StrategyLocal:
		return true
	}
	return false
}

// proportional spreads each source over what it may use by a weight. Where all weights of what is left are
// nothing, what is left serves in equal parts, and the nearest of it in place of what Weighted names.
func (t *tick) proportional(weight func(i, j int) float64) Flow {
	f := make(Flow, t.n*t.n)
	for i := range t.n {
		sum, ways := 0.0, 0.0
		for j := range t.n {
			if t.usable(i, j) {
				sum += weight(i, j)
				ways++
			}
		}
		for j := range t.n {
			switch {
			case !t.usable(i, j):
			case sum > 0:
				f[i*t.n+j] = t.demand(i) * weight(i, j) / sum
			case t.Strategy == mesh.StrategyWeighted: // nothing that was named is left
				f[i*t.n+j] = t.demand(i) * t.nearest(i, j)
			default:
				f[i*t.n+j] = t.demand(i) / ways
			}
		}
	}
	return f
}

// demand is what a source asks for, never nothing: a planned split holds for the first request too.
func (t *tick) demand(i int) float64 { return max(t.problem.Demand[i], 1e-6) }

// nearest is 1 for the first that i may use by Rank, and the nearest of those, its own before all; and 0 for all others.
func (t *tick) nearest(i, j int) float64 {
	for k := range t.n {
		if k == j || !t.usable(i, k) {
			continue
		}
		if k == i || j != i && t.before(i, k, j) {
			return 0
		}
	}
	return 1
}

// before reports whether i tries k before j, neither of which it is.
func (t *tick) before(i, k, j int) bool {
	k, j = i*t.n+k, i*t.n+j
	if t.Rank != nil && t.Rank[k] != t.Rank[j] {
		return t.Rank[k] < t.Rank[j]
	}
	a, b := t.problem.Cost[k], t.problem.Cost[j]
	return a < b || a == b && k < j
}

// fence takes back what would only be shed farther away: a sink gives to others what it has up to Full
// beyond its own callers' part, and what does not fit stays where it was asked for, to be shed there, by
// criticality, without having crossed anything. Who may not serve at home is left alone: for it
// there is no other way.
func (t *tick) fence(f Flow) {
	for j := range t.n {
		c := t.problem.Sinks[j].capacity()
		if c <= 0 {
			continue
		}
		own, must, others := f[j*t.n+j], 0.0, 0.0
		for i := range t.n {
			switch v := f[i*t.n+j]; {
			case i == j:
			case t.usable(i, i):
				others += v
			default:
				must += v
			}
		}
		room := max(0, Full*c-own-must)
		if own+must+others <= math.Nextafter(Full*c, math.Inf(1)) || others <= 0 || room >= others {
			continue
		}
		for i := range t.n {
			if i != j && t.usable(i, i) {
				back := f[i*t.n+j] * (1 - room/others)
				f[i*t.n+j] -= back
				f[i*t.n+i] += back
			}
		}
	}
}
