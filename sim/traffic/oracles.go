package traffic

import (
	"math"
	"time"

	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// fluid is the oracle of the split: every tick the optimum for the true
// rates, service times and lanes; inside a region the better of two by what is truly there.
type fluid struct {
	views
	state split.State
	rtt   []float64
	tree  []float64 // the split of a service that is one of several, which the first of them finds
}

func (p *fluid) start(w *world) {
	p.views.start(w)
	n := len(w.regions)
	p.rtt = make([]float64, n*n)
	p.solve()
}

func (p *fluid) tick() { p.solve() }

func (p *fluid) solve() {
	w := p.w
	if len(w.tiers) > 1 {
		if w.above == nil {
			for t, x := range solveTree(w.tiers) {
				w.tiers[t].policy.(*fluid).tree = x
			}
		}
		return
	}
	n := len(w.regions)
	in := &split.Input{Since: time.Hour, RTT: p.rtt, Forbidden: w.forbidden, Dead: make([]bool, n*n), Strategy: mesh.StrategyAuto, Free: true,
		Price: make([]float64, n*n), Beta: w.scenario.Beta}
	for i := range n {
		for j := range n {
			p.rtt[i*n+j] = float64(w.distance(int32(i), int32(j))+w.links[i*n+j].extra) / 1e9
			in.Dead[i*n+j] = !w.passes(int32(i), int32(j))
			in.Price[i*n+j] = w.links[i*n+j].price
		}
		reg := &w.regions[i]
		capacity, service := w.offers(i)
		in.Reports = append(in.Reports, split.Report{Cluster: mesh.ClusterName(reg.name), Demand: w.rate(i, w.now), Rate: w.rate(i, w.now), Capacity: capacity, Service: service, Wait: -1})
	}
	p.state, _ = split.Step(p.state, in)
}

func (p *fluid) pick(r *request, _ *try, _ int32) (int32, bool) {
	var row []float64
	if n := len(p.w.regions); p.tree != nil {
		row = p.tree[int(r.region)*n : (int(r.region)+1)*n]
	} else {
		row = p.state.Row(int(r.region))
	}
	j, ok := drawRegion(p.w, row)
	if !ok {
		return 0, false
	}
	among := p.w.regions[j].endpoints
	best, cost := int32(-1), math.Inf(1)
	for range 8 { // it knows who is dead
		x, y := p.two(among)
		for _, at := range []int32{x, y} {
			if e := &p.w.endpoints[at]; e.state == works {
				if c := e.slow * float64(e.busy+e.queued()+1); c < cost {
					best, cost = at, c
				}
			}
		}
		if best >= 0 {
			break
		}
	}
	if best < 0 {
		return 0, false
	}
	return p.begin(r, best), true
}

// clairvoyant is the oracle of the queue: every request goes where it is answered first, with the work of all
// requests known, and of those on their way.
type clairvoyant struct {
	views
	order [][]int32
}

func (p *clairvoyant) start(w *world) {
	p.views.start(w)
	p.order = nearestFirst(w)
}

func (p *clairvoyant) pick(r *request, _ *try, _ int32) (int32, bool) {
	w := p.w
	best, at, lane := int64(math.MaxInt64), int32(-1), 0
	var bestEnd int64
	work := r.work[0]
	if r.tries > 0 {
		work = r.work[1]
	}
	for _, j := range p.order[r.region] {
		rtt := w.distance(r.region, j) + w.link(r.region, j).extra
		reg := &w.regions[j]
		if w.now+rtt+int64(reg.service) >= best || !w.passes(r.region, j) {
			continue
		}
		for _, k := range reg.endpoints {
			e := &w.endpoints[k]
			if e.state != works {
				continue
			}
			l := 0
			for i, f := range e.free {
				if f < e.free[l] {
					l = i
				}
			}
			begin := max(w.now+rtt/2, e.free[l])
			if cost := begin + rtt/2 + int64(reg.service*e.slow); cost < best {
				best, at, lane, bestEnd = cost, k, l, begin+int64(work*reg.service*e.slow)
			}
		}
	}
	if at < 0 {
		return 0, false
	}
	w.endpoints[at].free[lane] = bestEnd
	return p.begin(r, at), true
}
