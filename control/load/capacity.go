package load

import "github.com/isthmus-mesh/isthmus/mesh"

// usual is a service's own time where some cluster knows it, without that of its calls, in seconds: what one that has not served
// yet is taken for, with what calls cost there.
func (b *Balancer) usual(n mesh.ServiceName, s *service) float64 {
	sum, k := 0.0, 0.0
	if s.own.Service > 0 {
		sum, k = s.own.Service-s.own.Within, 1
	}
	for _, p := range b.peers {
		if v := p.services[n]; v != nil && v.Time > 0 {
			sum, k = sum+max(0, v.Time-v.Within), k+1
		}
	}
	if k == 0 {
		return 0
	}
	return sum / k
}

// known is the capacity that lanes make.
func known(lanes, time, usual float64) (capacity, service float64) {
	if time <= 0 {
		time = usual
	}
	if time <= 0 || lanes <= 0 {
		return 0, 0
	}
	return lanes / time, time
}
