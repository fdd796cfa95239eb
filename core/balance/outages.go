package balance

import (
	"github.com/isthmus-mesh/isthmus/core/outage"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Results visits how tries at each cluster ended, since it was known.
func (v *View) Results(visit func(c mesh.ClusterName, ended, failed uint64)) {
	for _, g := range v.groups {
		if ended, failed := g.state.ended.Read(); v.group(g.cluster.Name) == g { // others are zones of the same
			visit(g.cluster.Name, ended, failed)
		}
	}
}

// Outages visits what requests were ever kept away from, as it stands at now in Unix nanoseconds: each endpoint that was
// ejected and each cluster that was tripped, with how many times. What has come back is visited as Over. It looks at no
// endpoint of a cluster of which none was ever ejected.
func (v *View) Outages(now int64, visit func(o outage.Outage, times uint32)) {
	for _, g := range v.groups {
		s := g.state
		if n := s.tripTimes.Load(); n > 0 && v.group(g.cluster.Name) == g {
			o := outage.Outage{Place: outage.Place{Service: v.Service, Cluster: g.cluster.Name}, Why: outage.NeverExecuted}
			o.State = stateOf(s.trips.Load() > 0, s.tripped(now))
			visit(o, n)
		}
		if s.changes.Load() == 1 {
			continue
		}
		for _, e := range g.all.endpoints {
			n := e.health.times.Load()
			if n == 0 {
				continue
			}
			o := outage.Outage{Place: outage.Place{Service: v.Service, Cluster: e.Cluster, Endpoint: e.Label()}, Why: outage.NeverExecuted}
			if e.health.last.Load() == outRate {
				o.Why = outage.SuccessRate
			}
			o.State = stateOf(e.health.out.Load() != isIn, e.held(now))
			visit(o, n)
		}
	}
}

func stateOf(out, held bool) outage.State {
	switch {
	case held:
		return outage.Out
	case out:
		return outage.Trial
	}
	return outage.Over
}
