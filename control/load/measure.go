package load

import (
	"time"

	"github.com/isthmus-mesh/isthmus/core/capacity"
	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// sum is what this cluster's proxies measured of one service.
type sum struct {
	asked, served  float64
	lanes          float64
	endpoints      int
	sent, received float64 // bytes a second
	busy, capacity float64 // lanes of those with a known time, and what they serve
	wait, waiting  float64 // weighted by what they served
	// of is what its endpoints say that they bear.
	of capacity.Sum
	// calls are those of its endpoints.
	calls map[mesh.ServiceName]split.Call
}

func (b *Balancer) measure(now time.Time) map[mesh.ServiceName]*sum {
	out := map[mesh.ServiceName]*sum{}
	for _, n := range b.nodes {
		fresh := now.Sub(n.at) <= rateLasts
		for i := range n.samples {
			v := &n.samples[i]
			m := out[v.Service]
			if m == nil {
				m = &sum{}
				out[v.Service] = m
			}
			if fresh {
				m.asked += v.Asked
				m.served += v.Served
				m.sent += v.Sent
				m.received += v.Received
				if v.Wait >= 0 && v.Served > 0 {
					m.wait += v.Wait.Seconds() * v.Served
					m.waiting += v.Served
				}
			}
			if v.Lanes == 0 && !(b.unlearning && v.Source == mesh.CapacityLearnt) {
				m.of.Says(v.Source, v.Bears, v.Sure, v.Time.Seconds())
			}
			if v.Lanes > 0 {
				m.endpoints++
				m.lanes += float64(v.Lanes)
				m.of.Declares(float64(v.Lanes), v.Time.Seconds())
				if v.Time > 0 {
					m.busy += float64(v.Lanes)
					m.capacity += float64(v.Lanes) / v.Time.Seconds()
				}
			}
		}
		if fresh {
			n.call(out)
		}
	}
	return out
}

// follow folds the last tick's measurements into what the cluster says of itself.
func (s *service) follow(m *sum, since time.Duration, now time.Time) {
	if m == nil {
		m = &sum{}
	}
	if m.asked > 0 {
		s.asked = now
	}
	s.carried(m)
	s.tree.Measured(m.served, m.calls)
	s.own.Demanded(m.asked, since)
	s.own.Answered(m.served)
	if s.own.Wait = -1; m.waiting > 0 {
		s.own.Wait = m.wait / m.waiting
	}
	s.offers(m, now)
}
