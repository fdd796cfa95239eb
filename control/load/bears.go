package load

import (
	"maps"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// offers folds in what the cluster's endpoints can serve.
func (s *service) offers(m *sum, now time.Time) {
	// Endpoints that are ready and have not reported are taken to be as the others are; those that reported
	// and are not ready any more do not count.
	ready, declared := s.ready(now)
	s.places = ready
	was := s.source
	s.source, s.lanes = mesh.CapacityDeclared, declared
	if rate, lanes, source := m.of.Bears(ready, was); declared == 0 && source > mesh.CapacityDeclared && rate > 0 {
		if s.source = source; was != source {
			s.own.Capacity = 0
		}
		if source.Doubtful() {
			s.own.Learns(rate, lanes)
		} else {
			s.own.Offers(rate, lanes, ready)
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
		s.own.Offers(s.lanes*m.capacity/m.busy, s.lanes, ready)
	default: // no proxy knows its time now: it is taken for as quick as the others
		s.own.Capacity, s.own.Service = 0, 0
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
