package load

import (
	"cmp"
	"slices"

	"github.com/isthmus-mesh/isthmus/core/outage"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
)

// outages is what a Reporter last told of places that its proxy leaves out.
type outages struct {
	told     map[outage.Place]told
	relieved reliefs
}

// told is what was said of a place, and after how many outages of it.
type told struct {
	outage.Outage
	times uint32
}

// look is what stands to be told now, and what is told once it was taken. It holds outage.Most places: first whole clusters, of which
// control planes make more than an event, then those that were told before, so that a report does not waver between more than it
// holds. news says that something differs from what was told.
func (o *outages) look(s *proxy.State, now int64) (r outage.Report, next map[outage.Place]told, news bool) {
	next = map[outage.Place]told{}
	var all []told
	visit := func(v outage.Outage, times uint32) {
		if was := o.told[v.Place]; v.State != outage.Over || was.times != times || was.State != outage.Over {
			all = append(all, told{v, times})
			return
		}
		next[v.Place] = told{v, times}
	}
	if o.relieved == nil {
		o.relieved = reliefs{}
	}
	for n, svc := range s.Services {
		if v, times, ok := o.relieved.look(n, svc.Fallback.Answered(), now); ok {
			visit(v, times)
		}
		if svc.View != nil {
			svc.View.Outages(now, visit)
		}
	}
	known := func(t told) int {
		if was, ok := o.told[t.Place]; ok && was.State != outage.Over {
			return 0
		}
		return 1
	}
	whole := func(t told) int { return min(len(t.Endpoint), 1) }
	slices.SortFunc(all, func(a, b told) int {
		return cmp.Or(whole(a)-whole(b), known(a)-known(b), a.Service.Compare(b.Service), cmp.Compare(a.Cluster, b.Cluster), cmp.Compare(a.Endpoint, b.Endpoint))
	})
	for i, t := range all {
		if i >= outage.Most {
			r.More++
			if was, ok := o.told[t.Place]; ok { // told when there is room
				next[t.Place] = was
			}
			continue
		}
		next[t.Place] = t
		r.Outages = append(r.Outages, t.Outage)
		was, ok := o.told[t.Place]
		news = news || !ok || was.State != t.State || was.times != t.times
	}
	for p, was := range o.told { // gone from the configuration
		if _, still := next[p]; !still && was.State != outage.Over {
			news = true
		}
	}
	return r, next, news
}

// busy reports whether something was told to be left out.
func (o *outages) busy() bool {
	for _, t := range o.told {
		if t.State != outage.Over {
			return true
		}
	}
	return false
}
