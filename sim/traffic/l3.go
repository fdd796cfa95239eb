package traffic

import (
	"math"

	"github.com/isthmus-mesh/isthmus/core/balance"
)

// l3 is the L3 balancer as published: every 5 s a weight for each backend cluster from exponentially weighted
// averages of its p99, in-flight requests, rate and success rate, then a rate control that spreads more evenly
// while the rate grows. Its averages are a region's, not a proxy's.
type l3 struct {
	costly
	stats [][]l3Stats // by source and region
	rates []l3Rate
	share [][]float64
	next  int64
}

type l3Stats struct {
	latencies               histogram
	ok, failed              int
	p99, inflight, rps, sr  float64
	seen                    bool
	inflightSum, inflightOf float64
	current                 int
}

type l3Rate struct{ ewma float64 }

const (
	l3Every = 5 * int64(1e9)
	// l3Penalty is the cost of a failure against a p99, in seconds: 0.6 s.
	l3Penalty = 0.6
	// l3Idle is what a backend without samples drifts to, in seconds, by l3Drift a round.
	l3Idle, l3Drift = 5.0, 0.1
	l3Fast, l3Slow  = 5.0, 10.0 // time constants in seconds
)

func (p *l3) start(w *world) {
	p.costly.start(w)
	n := len(w.regions)
	p.stats, p.rates, p.share = make([][]l3Stats, n), make([]l3Rate, n), make([][]float64, n)
	for i := range p.stats {
		p.stats[i] = make([]l3Stats, n)
		p.share[i] = make([]float64, n)
		for j := range p.share[i] {
			if w.mayGo(int32(i), int32(j)) && len(w.regions[j].endpoints) > 0 {
				p.share[i][j] = 1
			}
			p.stats[i][j].sr = 1
		}
	}
	p.next = l3Every
}

func (p *l3) pick(r *request, _ *try, _ int32) (int32, bool) {
	j, ok := drawRegion(p.w, p.share[r.region])
	if !ok {
		return 0, false
	}
	p.stats[r.region][j].current++
	return p.begin(r, p.cheaper(r, p.w.regions[j].endpoints)), true
}

func (p *l3) ended(r *request, t *try) {
	p.costly.ended(r, t)
	s := &p.stats[r.region][p.w.endpoints[t.endpoint].region]
	s.current--
	s.latencies.add(p.w.now - t.sent)
	if t.outcome == balance.Served {
		s.ok++
	} else {
		s.failed++
	}
}

func (p *l3) tick() {
	for i := range p.stats {
		for j := range p.stats[i] {
			s := &p.stats[i][j]
			s.inflightSum += float64(s.current)
			s.inflightOf++
		}
	}
	if p.w.now < p.next {
		return
	}
	p.next += l3Every
	for i := range p.stats {
		p.weigh(i)
	}
}

func follow(old, sample, tau float64, seen bool) float64 {
	if !seen {
		return sample
	}
	return old + (sample-old)*(1-math.Exp(-float64(l3Every)/1e9/tau))
}

func (p *l3) weigh(i int) {
	total, sum, n := 0.0, 0.0, 0.0
	weights := make([]float64, len(p.stats[i]))
	for j := range p.stats[i] {
		s := &p.stats[i][j]
		if p.share[i][j] == 0 {
			continue
		}
		count := float64(s.ok + s.failed)
		if count == 0 {
			s.p99 += (l3Idle - s.p99) * l3Drift
		} else {
			s.p99 = follow(s.p99, s.latencies.quantile(0.99), l3Fast, s.seen)
			s.sr = follow(s.sr, float64(s.ok)/count, l3Slow, s.seen)
		}
		s.inflight = follow(s.inflight, s.inflightSum/max(s.inflightOf, 1), l3Fast, s.seen)
		s.rps = follow(s.rps, count/5, l3Slow, s.seen)
		s.seen = s.seen || count > 0
		s.latencies, s.ok, s.failed, s.inflightSum, s.inflightOf = histogram{}, 0, 0, 0, 0
		per := s.inflight / max(s.rps, 1e-9)
		weights[j] = max(1, 100/((per+1)*(per+1)*(s.p99+l3Penalty*(1/max(s.sr, 1e-3)-1))))
		total += count / 5
		sum += weights[j]
		n++
	}
	mean := sum / n
	r := &p.rates[i]
	c := 0.0
	if r.ewma > 0 {
		c = (total - r.ewma) / r.ewma
	}
	r.ewma = follow(r.ewma, total, l3Slow, r.ewma > 0)
	for j, w := range weights {
		if w == 0 {
			continue
		}
		switch {
		case c > 0:
			w = mean + (w-mean)/(1+c*c)
		case w < mean:
			w /= 1 + 4*c*c
		default:
			w = 2*w - mean - (w-mean)/(1+9*c*c)
		}
		p.share[i][j] = max(w, 1)
	}
}
