package load

import (
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Most services of a mesh are quiet most of the time. A Tick looks at those that something stirred: what was published or measured of them, or
// what it left to do itself. So a tick of a thousand quiet services costs nothing.

// faded is below what an average counts as none, in requests or bytes a second.
const faded = 1e-9

// stir has the next Tick look at a service.
func (b *Balancer) stir(n mesh.ServiceName, s *service) { b.stirred[n] = s }

// rests reports whether another tick of which nothing is measured would leave the service as this one did, whose measurements are m.
func (s *service) rests(m *sum, now time.Time) bool {
	if m != nil || len(s.shares) > 0 || s.spreads(now) || s.priced(now) || s.ramps() {
		return false
	}
	for _, v := range []*float64{&s.own.Demand, &s.own.Rate, &s.sent, &s.received, &s.calls} {
		if *v > faded {
			return false
		}
		*v = 0
	}
	return true
}

// ramps reports whether an endpoint of this cluster is taken out of use, or comes back, which goes by the time.
func (s *service) ramps() bool {
	return slices.ContainsFunc(s.endpoints.Groups, func(g ir.Group) bool {
		return g.Cluster == s.own.Cluster && slices.ContainsFunc(g.Endpoints, func(e ir.Endpoint) bool { return len(e.Drains) > 0 })
	})
}
