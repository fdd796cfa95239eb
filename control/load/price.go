package load

import (
	"cmp"

	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// fade is the part of what was carried that a tick leaves: half of it is of the last 17 seconds.
const fade = 0.98

const gib = 1 << 30

// carried folds in what calls from here carried. Bytes are told when a request ends and requests when they begin: over
// some tens of ticks that is the same.
func (s *service) carried(m *sum) {
	s.sent, s.received, s.calls = fade*s.sent+m.sent, fade*s.received+m.received, fade*s.calls+m.asked
}

// perCall is a sum of bytes by calls; 0 while there are too few to say.
func (s *service) perCall(sum float64) float64 {
	if s.calls < 1 {
		return 0
	}
	return sum / s.calls
}

// price states what calls cost, and what that is worth. Clusters whose calls nobody has measured are taken to carry what
// those of this one do.
func (b *Balancer) price(n mesh.ServiceName, s *service, own *peer, clusters []mesh.ClusterName, in *split.Input) {
	if b.costs == nil {
		return
	}
	k := len(clusters)
	in.Price = make([]float64, k*k)
	for i, from := range clusters {
		sent, received := s.perCall(s.sent), s.perCall(s.received)
		if p := b.peers[from]; from != b.self && p != nil && p.services[n] != nil {
			sent, received = cmp.Or(p.services[n].Sent, sent), cmp.Or(p.services[n].Received, received)
		}
		for j, to := range clusters {
			if i != j {
				by := b.by(s, own, from, to)
				in.Price[i*k+j] = (sent*b.cost(from, by, to) + received*b.cost(to, by, from)) / gib
			}
		}
	}
	switch in.Strategy {
	case mesh.StrategyAuto:
		in.Beta = mesh.DefaultSecondsPerDollar
	case mesh.StrategyCost:
		in.Beta, in.Budget = mesh.CostSecondsPerDollar, s.wants.DollarsPerHour/3600
		if in.Budget > 0 { // within it a dollar is worth what it is to everybody
			in.Beta = mesh.DefaultSecondsPerDollar
		}
		in.Beta = cmp.Or(s.wants.SecondsPerDollar, in.Beta)
	}
}
