package load

import (
	"maps"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Foreseen is what would become of one service.
type Foreseen struct {
	Service  mesh.ServiceName
	Strategy mesh.Strategy
	// Before is as things are, After as they would be; both have the same clusters.
	Before, After split.Forecast
}

// Foresee answers what the loss of clusters would do to each service for which somebody asks, from the reports that
// splits are made of; stay is split.Question's. It changes nothing.
func (b *Balancer) Foresee(lost map[mesh.ClusterName]bool, stay bool, paths []split.Path, now time.Time) []Foreseen {
	b.mu.Lock()
	defer b.mu.Unlock()
	own := newPeer(paths, now)
	var out []Foreseen
	for _, n := range slices.SortedFunc(maps.Keys(b.services), mesh.ServiceName.Compare) {
		s := b.services[n]
		if s.endpoints == nil {
			continue
		}
		in, _ := b.pose(n, s, own, Every, now)
		q := split.Question{Stay: stay, Lost: make([]bool, len(in.Reports)), Serves: make([]bool, len(in.Reports))}
		asked := 0.0
		for i := range in.Reports {
			c := in.Reports[i].Cluster
			q.Lost[i], q.Serves[i] = lost[c], serves(s, c)
			asked += in.Reports[i].Demand
		}
		if asked < leastAsked {
			continue
		}
		as := split.Question{Serves: q.Serves}
		out = append(out, Foreseen{n, in.Strategy, split.Foresee(s.state, in, as), split.Foresee(s.state, in, q)})
	}
	return out
}

// leastAsked is the rate below which a service is not asked for: averages fade and are never nothing.
const leastAsked = 0.01

// serves reports whether a cluster has a place to send to.
func serves(s *service, c mesh.ClusterName) bool {
	for _, g := range s.endpoints.Groups {
		if g.Cluster == c {
			return len(g.Endpoints)+len(g.Slots) > 0
		}
	}
	return false
}

// Foresee is the Balancer's, along the ways there are now.
func (l *Driver) Foresee(lost map[mesh.ClusterName]bool, stay bool) []Foreseen {
	l.know()
	return l.balancer.Foresee(lost, stay, l.cfg.Paths(), l.cfg.Clock.Now())
}
