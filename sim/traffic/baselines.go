package traffic

import (
	"math"
	"slices"

	"github.com/isthmus-mesh/isthmus/core/balance"
)

// views is what every baseline needs: what each proxy has under way at each endpoint.
type views struct {
	w *world
	// own is by proxy and endpoint.
	own [][]int32
}

func (v *views) start(w *world) {
	v.w = w
	v.own = make([][]int32, len(w.proxies))
	for i := range v.own {
		v.own[i] = make([]int32, len(w.endpoints))
	}
}

func (v *views) begin(r *request, e int32) int32 {
	v.own[r.proxy][e]++
	return e
}

func (v *views) ended(r *request, t *try) { v.own[r.proxy][t.endpoint]-- }
func (v *views) tick()                    {}

// tried reports whether a request was at an endpoint.
func (r *request) triedAt(e int32) bool {
	return r.tries > 0 && slices.Contains(r.at[:min(int(r.tries), len(r.at))], e)
}

// two draws two different endpoints, or the only one twice.
func (v *views) two(among []int32) (a, b int32) {
	i, n := v.w.chance.IntN(len(among)), len(among)
	if n == 1 {
		return among[0], among[0]
	}
	return among[i], among[(i+1+v.w.chance.IntN(n-1))%n]
}

// twoOf draws two endpoints and takes the one with fewer of the proxy's own requests, as Envoy's least
// request balancer does.
func (v *views) twoOf(r *request, among []int32) int32 {
	a, b := v.two(among)
	if v.own[r.proxy][b] < v.own[r.proxy][a] || r.triedAt(a) && !r.triedAt(b) {
		return b
	}
	return a
}

// costly are views that also measure, and choose by a peak-EWMA of round trips times own requests.
type costly struct {
	views
	costs [][]peak
}

func (p *costly) start(w *world) {
	p.views.start(w)
	p.costs = make([][]peak, len(w.proxies))
	for i := range p.costs {
		p.costs[i] = make([]peak, len(w.endpoints))
	}
}

func (p *costly) cheaper(r *request, among []int32) int32 {
	a, b := p.two(among)
	if p.cost(r, b) < p.cost(r, a) || r.triedAt(a) && !r.triedAt(b) {
		a = b
	}
	return a
}

func (p *costly) cost(r *request, e int32) float64 {
	c := p.costs[r.proxy][e].value
	if c == 0 { // never measured: Finagle penalises those that have requests already
		c = 1
		if p.own[r.proxy][e] > 0 {
			c = 1e12
		}
	}
	return c * float64(p.own[r.proxy][e]+1)
}

func (p *costly) ended(r *request, t *try) {
	p.views.ended(r, t)
	p.costs[r.proxy][t.endpoint].add(float64(p.w.now-t.sent), p.w.now)
}

// roundRobin goes over the lawful endpoints of all regions in turn, each proxy from a place of its own.
type roundRobin struct {
	views
	turn []int
	all  [][]int32 // by region
}

func (p *roundRobin) start(w *world) {
	p.views.start(w)
	p.turn = make([]int, len(w.proxies))
	p.all = lawful(w)
	for i := range p.turn {
		p.turn[i] = w.chance.IntN(1 << 20)
	}
}

// lawful lists for each region the endpoints that its requests may go to.
func lawful(w *world) [][]int32 {
	out := make([][]int32, len(w.regions))
	for i := range w.regions {
		for j := range w.regions {
			if w.mayGo(int32(i), int32(j)) {
				out[i] = append(out[i], w.regions[j].endpoints...)
			}
		}
	}
	return out
}

func (p *roundRobin) pick(r *request, _ *try, _ int32) (int32, bool) {
	all := p.all[r.region]
	if len(all) == 0 {
		return 0, false
	}
	p.turn[r.proxy]++
	return p.begin(r, all[p.turn[r.proxy]%len(all)]), true
}

// local is P2C over the own region.
type local struct{ views }

func (p *local) pick(r *request, _ *try, _ int32) (int32, bool) {
	mine := p.w.regions[r.region].endpoints
	if len(mine) == 0 || !p.w.mayGo(r.region, r.region) {
		return 0, false
	}
	return p.begin(r, p.twoOf(r, mine)), true
}

// ejected is Envoy's outlier detection for one endpoint, as one proxy sees it.
type ejected struct {
	failures, times int32
	until           int64
}

// istio is locality failover: localities by RTT are priorities, a priority's health is 140 times its
// healthy share, at most 100, and what is missing spills to the next (Envoy: priority levels, overprovisioning
// factor 1.4). Inside, least request of two. Five errors in a row eject for 30 s, times how often, up to 300 s;
// all may be ejected.
type istio struct {
	views
	order [][]int32 // regions by RTT, from each region
	out   [][]ejected
	// healthy is by proxy and region, refreshed when something was ejected or came back.
	healthy [][][]int32
	stale   []int64 // when to look again, by proxy
}

const (
	istioErrors = 5
	istioBase   = int64(30e9)
	istioMost   = int64(300e9)
	istioSweep  = int64(1e9) // Envoy looks at who may return every interval; Istio's examples have 1 s
)

func (p *istio) start(w *world) {
	p.views.start(w)
	p.order = nearestFirst(w)
	p.out = make([][]ejected, len(w.proxies))
	p.healthy = make([][][]int32, len(w.proxies))
	p.stale = make([]int64, len(w.proxies))
	for i := range p.out {
		p.out[i] = make([]ejected, len(w.endpoints))
		p.healthy[i] = make([][]int32, len(w.regions))
	}
}

// nearestFirst lists the lawful regions with endpoints from each, by RTT.
func nearestFirst(w *world) [][]int32 {
	out := make([][]int32, len(w.regions))
	for i := range out {
		for j := range w.regions {
			if w.mayGo(int32(i), int32(j)) && len(w.regions[j].endpoints) > 0 {
				out[i] = append(out[i], int32(j))
			}
		}
		slices.SortStableFunc(out[i], func(a, b int32) int {
			return int(w.distance(int32(i), a) - w.distance(int32(i), b))
		})
	}
	return out
}

// distance is the RTT, a little for the own region.
func (w *world) distance(i, j int32) int64 {
	if i == j {
		return 2 * hop
	}
	return w.link(i, j).rtt
}

// refresh lists who is healthy.
func (p *istio) refresh(proxy int32) {
	p.stale[proxy] = p.w.now + istioSweep
	for j := range p.w.regions {
		in := p.healthy[proxy][j][:0]
		for _, e := range p.w.regions[j].endpoints {
			if p.out[proxy][e].until <= p.w.now {
				in = append(in, e)
			}
		}
		p.healthy[proxy][j] = in
	}
}

func (p *istio) pick(r *request, _ *try, _ int32) (int32, bool) {
	if p.stale[r.proxy] <= p.w.now {
		p.refresh(r.proxy)
	}
	healthy := p.healthy[r.proxy]
	sum := 0.0
	for _, j := range p.order[r.region] {
		sum += p.share(healthy, j)
	}
	if sum == 0 { // nobody is healthy: Envoy panics, and takes all of the first priority
		first := p.w.regions[p.order[r.region][0]].endpoints
		return p.begin(r, p.twoOf(r, first)), true
	}
	// Loads are filled up to 100 in order; where all together have less they are scaled up.
	left := p.w.chance.Float64() * min(sum, 100)
	for _, j := range p.order[r.region] {
		s := p.share(healthy, j)
		if left < s {
			return p.begin(r, p.twoOf(r, healthy[j])), true
		}
		left -= s
	}
	j := p.order[r.region][0]
	return p.begin(r, p.twoOf(r, p.w.regions[j].endpoints)), true
}

func (p *istio) share(healthy [][]int32, j int32) float64 {
	n := len(p.w.regions[j].endpoints)
	if n == 0 {
		return 0
	}
	return min(100, 140*float64(len(healthy[j]))/float64(n))
}

func (p *istio) ended(r *request, t *try) {
	p.views.ended(r, t)
	o := &p.out[r.proxy][t.endpoint]
	if t.outcome == balance.Served {
		o.failures = 0
		return
	}
	if o.failures++; o.failures < istioErrors {
		return
	}
	o.failures = 0
	o.times++
	o.until = p.w.now + min(istioBase*int64(o.times), istioMost)
	p.refresh(r.proxy)
}

// peak is a peak-EWMA of round trips (Finagle), τ 10 s.
type peak struct {
	value float64
	at    int64
}

const peakTau = 10e9

func (m *peak) add(took float64, now int64) {
	if took >= m.value {
		m.value = took
	} else {
		w := math.Exp(-float64(now-m.at) / peakTau)
		m.value = m.value*w + took*(1-w)
	}
	m.at = now
}

// p2c is Finagle's: of two endpoints drawn from all regions, the one with less peak-EWMA × (own in flight + 1).
type p2c struct {
	costly
	all [][]int32
}

func (p *p2c) start(w *world) {
	p.costly.start(w)
	p.all = lawful(w)
}

func (p *p2c) pick(r *request, _ *try, _ int32) (int32, bool) {
	if len(p.all[r.region]) == 0 {
		return 0, false
	}
	return p.begin(r, p.cheaper(r, p.all[r.region])), true
}

// waterfall fills the nearest up to a part of nominal capacity, then the next (SLATE's baseline; Google's
// and Meta's practice). Each second's demand of a region is known, and regions fill in turn, own first.
type waterfall struct {
	costly
	upTo   float64
	order  [][]int32
	shares [][]float64
	rates  []float64
}

func (p *waterfall) start(w *world) {
	p.costly.start(w)
	p.order = nearestFirst(w)
	p.rates = make([]float64, len(w.regions))
	for i := range w.regions {
		p.rates[i] = w.rate(i, 0)
		p.shares = append(p.shares, make([]float64, len(w.regions)))
	}
	p.fill()
}

func (p *waterfall) fill() {
	w := p.w
	room := make([]float64, len(w.regions))
	for j := range room {
		reg := &w.regions[j]
		if len(reg.endpoints) > 0 {
			room[j] = p.upTo * float64(len(reg.endpoints)*w.endpoints[reg.endpoints[0]].lanes) / reg.service * 1e9
		}
	}
	left := slices.Clone(p.rates)
	for i := range p.shares {
		clear(p.shares[i])
	}
	for rank := range w.regions { // the nearest of all first, so that nobody's own is taken by another
		for i := range left {
			if rank >= len(p.order[i]) || left[i] <= 0 {
				continue
			}
			j := p.order[i][rank]
			take := min(left[i], room[j])
			p.shares[i][j] += take
			left[i] -= take
			room[j] -= take
		}
	}
	for i := range left {
		if left[i] > 0 && len(p.order[i]) > 0 { // nobody has room: at home
			p.shares[i][p.order[i][0]] += left[i]
		}
	}
}

func (p *waterfall) tick() {
	for i := range p.w.regions {
		reg := &p.w.regions[i]
		rate := float64(reg.arrived) / tickEvery.Seconds()
		p.rates[i] += 0.4 * (rate - p.rates[i])
		reg.arrived = 0
	}
	p.fill()
}

func (p *waterfall) pick(r *request, _ *try, _ int32) (int32, bool) {
	j, ok := drawRegion(p.w, p.shares[r.region])
	if !ok {
		return 0, false
	}
	return p.begin(r, p.cheaper(r, p.w.regions[j].endpoints)), true
}

// drawRegion draws by shares of any sum.
func drawRegion(w *world, shares []float64) (int32, bool) {
	sum := 0.0
	for _, s := range shares {
		sum += s
	}
	if sum <= 0 {
		return 0, false
	}
	left := w.chance.Float64() * sum
	last := 0
	for j, s := range shares {
		if s > 0 {
			last = j
		}
		if left < s {
			return int32(j), true
		}
		left -= s
	}
	return int32(last), true
}
