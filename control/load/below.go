package load

import (
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// call adds what a proxy's application calls to the services that it serves: who answers requests and makes others makes them
// for those. All services of one application are said to answer all of its requests, so each makes all of its calls.
func (n *node) call(of map[mesh.ServiceName]*sum) {
	for i := range n.samples {
		v := &n.samples[i]
		if v.Served <= 0 {
			continue
		}
		m := of[v.Service]
		for k := range n.samples {
			if c := &n.samples[k]; c.Asked > 0 && k != i {
				if m.calls == nil {
					m.calls = map[mesh.ServiceName]split.Call{}
				}
				was := m.calls[c.Service]
				m.calls[c.Service] = split.Call{Asked: was.Asked + c.Asked, Busy: was.Busy + c.Calling}
			}
		}
	}
}

// reckon states what the calls of one request cost in this cluster, from the prices of the tick before.
func (b *Balancer) reckon(s *service, now time.Time) {
	if s.own.Below, s.own.Within = (split.Price{}), 0; s.endpoints == nil || s.lanes == 0 {
		return
	}
	s.own.Below, s.own.Within = s.tree.Cost(s.own.Service, func(n mesh.ServiceName) (split.Price, bool) {
		to := b.services[n]
		if to == nil || to.endpoints == nil {
			return split.Price{}, false
		}
		to.called = now
		b.stir(n, to) // what calls cost here is to be known though nobody here calls now
		return to.price(b.self)
	})
}

// price is what a request to the service costs from a cluster; false where no capacity of it is known anywhere.
func (s *service) price(from mesh.ClusterName) (split.Price, bool) {
	i := slices.Index(s.state.Clusters, from)
	if i < 0 || !slices.ContainsFunc(s.state.X, func(x float64) bool { return x > 0 }) {
		return split.Price{}, false
	}
	return s.state.Price[i], true
}

// priced reports whether something here calls the service, so that what it costs is to be known though nobody spreads it.
func (s *service) priced(now time.Time) bool {
	return s.endpoints != nil && !s.called.IsZero() && now.Sub(s.called) <= idleAfter && serving(s.endpoints) > 0
}
