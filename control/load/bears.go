package load

import (
	"maps"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// A limit that endpoints learnt is their cluster's once mostMet of those that say anything met it, until fewer than fewMet do:
// one endpoint that is slow is no matter of its cluster, as its clients leave it alone. room is by how much a cluster bears more
// than it serves, if nothing says that it does not.
const (
	mostMet = 0.5
	fewMet  = 0.25
	room    = 1.2
)

// bearing is what endpoints bear that declare no lanes.
type bearing struct{ endpoints, rate, lanes float64 }

func (b *bearing) add(endpoints, rate, lanes float64) {
	b.endpoints, b.rate, b.lanes = b.endpoints+endpoints, b.rate+rate, b.lanes+lanes
}

// bear counts what an endpoint says that declares no lanes.
func (m *sum) bear(v *split.Sample) {
	switch {
	case v.Source == mesh.CapacityUnknown || v.Source > mesh.CapacityLearnt:
	case v.Sure > 0 && v.Bears > 0 && v.Time > 0:
		of := &m.learnt
		if v.Source == mesh.CapacityReported {
			of = &m.reported
		}
		of.add(1, v.Bears, v.Bears*v.Time.Seconds())
	default:
		m.silent++
		m.floor += v.Bears
	}
}

// bears is what so many ready endpoints bear of which not all declare lanes, and the least sure of who says so; none is nobody. was
// is who said so before. Those that say nothing are as the others are, and bear no less than they do.
func (m *sum) bears(ready float64, was mesh.CapacitySource) (all bearing, source mesh.CapacitySource) {
	if m.busy > 0 {
		all.add(float64(m.endpoints), m.capacity, m.busy)
		source = mesh.CapacityDeclared
	}
	if m.reported.endpoints > 0 {
		all.add(m.reported.endpoints, m.reported.rate, m.reported.lanes)
		source = mesh.CapacityReported
	}
	need := mostMet
	if was == mesh.CapacityLearnt {
		need = fewMet
	}
	if met := m.learnt.endpoints; met > 0 && (source != mesh.CapacityUnknown || met >= need*(met+m.silent)) {
		all.add(met, m.learnt.rate, m.learnt.lanes)
		source = mesh.CapacityLearnt
	}
	if source == mesh.CapacityUnknown || all.rate <= 0 {
		return bearing{}, mesh.CapacityUnknown
	}
	each, time := all.rate/all.endpoints, all.lanes/all.rate
	if others := ready - all.endpoints; others > 0 {
		rate := max(others*each, m.floor)
		all.add(others, rate, rate*time)
	} else {
		all = bearing{ready, ready * each, ready * each * time}
	}
	return all, source
}

// offers folds in what the cluster's endpoints can serve.
func (s *service) offers(m *sum, now time.Time) {
	// Endpoints that are ready and have not reported are taken to be as the others are; those that reported
	// and are not ready any more do not count.
	ready, declared := s.ready(now)
	s.places = ready
	was := s.source
	s.source, s.lanes = mesh.CapacityDeclared, declared
	if all, source := m.bears(ready, was); declared == 0 && source > mesh.CapacityDeclared {
		if s.source, s.lanes = source, all.lanes; was != source {
			s.own.Capacity = 0
		}
		if source.Doubtful() {
			s.own.Learns(all.rate, all.lanes)
		} else {
			s.own.Offers(all.rate, all.lanes)
		}
		s.lanes = s.own.Capacity * s.own.Service
		return
	}
	if declared == 0 && m.endpoints > 0 {
		s.lanes = m.lanes / float64(m.endpoints) * ready
	}
	switch {
	case s.lanes == 0:
		s.own.Capacity, s.source = 0, mesh.CapacityUnknown
	case m.busy > 0:
		s.own.Offers(s.lanes*m.capacity/m.busy, s.lanes)
	default: // no proxy knows its time now: it is taken for as quick as the others
		s.own.Capacity, s.own.Service = 0, 0
	}
}

// assume takes clusters of which nobody says what they bear for as good as the others are, endpoint for endpoint, where
// something is known of any: what is idle has met no limit, and is where requests should go. places are their endpoints, and what is served
// there without harm shows that there is room for more.
func assume(in *split.Input, places []float64) {
	rate, lanes, of := 0.0, 0.0, 0.0
	for i := range in.Reports {
		if r := &in.Reports[i]; r.Capacity > 0 && places[i] > 0 {
			rate, lanes, of = rate+r.Capacity, lanes+r.Capacity*r.Service, of+places[i]
		}
	}
	if rate == 0 {
		return
	}
	for i := range in.Reports {
		r := &in.Reports[i]
		if r.Capacity > 0 || r.Age < 0 || places[i] <= 0 {
			continue
		}
		if r.Service <= 0 {
			r.Service = lanes / rate
		}
		r.Capacity, r.Source = max(rate/of*places[i], room*r.Rate), mesh.CapacityAssumed
	}
}

// capacities are what clusters are thought to bear, as a split tells it.
func capacities(in *split.Input) (out []mesh.Capacity) {
	for i := range in.Reports {
		if r := &in.Reports[i]; r.Capacity > 0 {
			out = append(out, mesh.Capacity{Cluster: r.Cluster, Rate: r.Capacity, Lanes: r.Capacity * r.Service, Source: r.Source})
		}
	}
	return out
}

// Capacities are what clusters are thought to bear of each service that is spread, and this one of each other of which anybody
// says it.
func (b *Balancer) Capacities() (out []*mesh.Split) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, n := range slices.SortedFunc(maps.Keys(b.services), mesh.ServiceName.Compare) {
		s := b.services[n]
		bear := s.bear
		if len(bear) == 0 && s.own.Capacity > 0 {
			bear = []mesh.Capacity{{Cluster: b.self, Rate: s.own.Capacity, Lanes: s.lanes, Source: s.source}}
		}
		if len(bear) > 0 {
			out = append(out, &mesh.Split{Service: n, Capacities: bear})
		}
	}
	return out
}
