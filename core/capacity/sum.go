package capacity

import "github.com/isthmus-mesh/isthmus/mesh"

// A limit that endpoints learnt is their cluster's once mostMet of those that say anything met it, until fewer than fewMet do:
// one endpoint that is slow is no matter of its cluster, as its clients leave it alone.
const (
	mostMet = 0.5
	fewMet  = 0.25
)

// Sum is what the endpoints of one cluster say that they bear. The zero Sum has none.
type Sum struct {
	declared, reported, learnt part
	// silent are endpoints that have met no limit, and floor is what they serve without harm.
	silent, floor float64
}

// part is what some endpoints bear, in requests a second, with so many lanes.
type part struct{ endpoints, rate, lanes float64 }

func (p *part) add(endpoints, rate, lanes float64) {
	p.endpoints, p.rate, p.lanes = p.endpoints+endpoints, p.rate+rate, p.lanes+lanes
}

// Declares adds an endpoint that declares lanes, in which a request is for so many seconds; 0 is not known, and says nothing.
func (s *Sum) Declares(lanes, time float64) {
	if lanes > 0 && time > 0 {
		s.declared.add(1, lanes/time, lanes)
	}
}

// Says adds an endpoint of which another source says how many requests a second it bears, and how sure that is, with requests that
// take so many seconds. A source that is none, or that no endpoint can be, is one that says nothing at all.
func (s *Sum) Says(source mesh.CapacitySource, rate, sure, time float64) {
	switch {
	case source != mesh.CapacityReported && source != mesh.CapacityLearnt:
	case sure > 0 && rate > 0 && time > 0:
		to := &s.learnt
		if source == mesh.CapacityReported {
			to = &s.reported
		}
		to.add(1, rate, rate*time)
	default:
		s.silent++
		s.floor += rate
	}
}

// Bears is how many requests a second so many ready endpoints bear, with how many lanes, and the least sure of who says so; unknown is
// nobody. was is who said so before. Those that say nothing are as the others are, and bear no less than they serve without harm.
func (s *Sum) Bears(ready float64, was mesh.CapacitySource) (rate, lanes float64, source mesh.CapacitySource) {
	var all part
	take := func(p part, by mesh.CapacitySource) {
		if p.endpoints > 0 {
			all.add(p.endpoints, p.rate, p.lanes)
			source = by
		}
	}
	take(s.declared, mesh.CapacityDeclared)
	take(s.reported, mesh.CapacityReported)
	need := mostMet
	if was == mesh.CapacityLearnt {
		need = fewMet
	}
	if met := s.learnt.endpoints; source != mesh.CapacityUnknown || met >= need*(met+s.silent) {
		take(s.learnt, mesh.CapacityLearnt)
	}
	if all.endpoints == 0 {
		return 0, 0, mesh.CapacityUnknown
	}
	each, time := all.rate/all.endpoints, all.lanes/all.rate
	rate = ready * each // those that said it and are not ready any more do not count
	if others := ready - all.endpoints; others > 0 {
		rate = all.rate + max(others*each, s.floor)
	}
	return rate, rate * time, source
}
