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
// splits are made of; stay is split.Question's, and region says where a cluster is. It changes nothing.
func (b *Balancer) Foresee(lost map[mesh.ClusterName]bool, stay bool, region func(mesh.ClusterName) mesh.Region, paths []split.Path, now time.Time) []Foreseen {
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
		out = append(out, Foreseen{n, in.Strategy, split.Foresee(s.state, arrange(in, &s.wants, &as, region), as), split.Foresee(s.state, arrange(in, &s.wants, &q, region), q)})
	}
	return out
}

// leastAsked is the rate below which a service is not asked for: averages fade and are never nothing.
const leastAsked = 0.1

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
	region := l.cfg.Region
	if region == nil {
		region = func(mesh.ClusterName) mesh.Region { return "" }
	}
	return l.balancer.Foresee(lost, stay, region, l.cfg.Paths(), l.cfg.Clock.Now())
}

// arrange states what a strategy that says where wants of the clusters that are left, as proxies follow it (core/balance):
// zones count for their whole clusters here.
func arrange(in *split.Input, wants *mesh.Distribution, q *split.Question, region func(mesh.ClusterName) mesh.Region) *split.Input {
	out := *in
	in = &out
	k := len(in.Reports)
	at := make([]mesh.Locality, k)
	for i := range at {
		at[i] = mesh.Locality{Cluster: in.Reports[i].Cluster, Region: region(in.Reports[i].Cluster)}
	}
	switch in.Strategy {
	case mesh.StrategyNearest:
		in.Rank = make([]int, k*k)
		for i := range k {
			for j := range k {
				in.Rank[i*k+j] = rank(wants.Order, at[i], at[j])
			}
		}
	case mesh.StrategyWeighted:
		in.Weights = make([]float64, k)
		for w := range wants.Weights {
			weigh(in, at, wants.Weights, w, q)
		}
	}
	return in
}

// rank is how early a cluster is tried from another by the ladder of Nearest: inside the own region by the order, then by the
// order, then what it does not name.
func rank(order []mesh.Place, from, to mesh.Locality) int {
	n := slices.IndexFunc(order, func(p mesh.Place) bool { return holds(p, to) })
	named := n >= 0
	if !named {
		n = len(order)
	}
	switch {
	case from.Region != "" && from.Region == to.Region:
		return n
	case named:
		return len(order) + 1 + n
	}
	return 2*len(order) + 2
}

// weigh gives the w-th weight to the clusters that it names more precisely than any other does, by what they can serve.
func weigh(in *split.Input, at []mesh.Locality, weights []mesh.PlaceWeight, w int, q *split.Question) {
	var named []int
	sum := 0.0
	for j := range at {
		precise := func(o mesh.PlaceWeight) bool { return o.Place.Cluster != "" && holds(o.Place, at[j]) }
		p := weights[w].Place
		if !q.Serves[j] || q.Lost != nil && q.Lost[j] || !holds(p, at[j]) || p.Cluster == "" && slices.ContainsFunc(weights, precise) {
			continue
		}
		named = append(named, j)
		sum += in.Reports[j].Capacity
	}
	for _, j := range named {
		part := 1 / float64(len(named))
		if sum > 0 {
			part = in.Reports[j].Capacity / sum
		}
		in.Weights[j] += float64(weights[w].Weight) * part
	}
}

// holds reports whether a cluster is in a place, or has a zone that is.
func holds(p mesh.Place, l mesh.Locality) bool {
	p.Zone = ""
	return p.Holds(l)
}
