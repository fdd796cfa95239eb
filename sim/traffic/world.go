package traffic

import (
	"github.com/isthmus-mesh/isthmus/core/meter"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/codec/manifest"
	"github.com/isthmus-mesh/isthmus/core/balance"
)

const (
	// hop is the way between a proxy and an endpoint of its own region.
	hop = int64(500 * time.Microsecond)
	// jitter is the mean of the exponential part of a one-way delay.
	jitter = 0.02
	// resend is what a lost message costs: TCP's least retransmission timer, as Linux has it.
	resend = int64(200 * time.Millisecond)
	// tickEvery is how often control planes and policies look.
	tickEvery = 500 * time.Millisecond
)

// state is how an endpoint answers.
type state uint8

const (
	works state = iota
	refuses
	isBlackHole
	fails   // answers every request with a failure, at once
	rejects // is refused by its own machine, while its cluster says that it is well and its gateway answers
)

// endpoint is one server: a queue, first come first served, in front of lanes.
type endpoint struct {
	region  int32
	state   state
	slow    float64
	lanes   int
	busy    int
	waiting []int32 // tries, a ring
	head    int
	// meter is what its server proxy measures, as a real one does.
	meter meter.Meter
	gauge meter.Gauge
	// watched is what it learns.
	watched watched
	// queueing is how long those that began lately had waited, an average of nanoseconds.
	queueing float64
	started  int
	served   int
	lost     uint32 // how often it died: what was in it then is lost
	// lastDeath is when, for who notices late.
	lastDeath, lastBirth int64
	// free are when lanes are free, as a clairvoyant policy plans them.
	free []int64
}

func (e *endpoint) queued() int { return len(e.waiting) - e.head }

func (e *endpoint) enqueue(t int32) {
	if e.head > 64 && e.head*2 > len(e.waiting) {
		e.waiting = append(e.waiting[:0], e.waiting[e.head:]...)
		e.head = 0
	}
	e.waiting = append(e.waiting, t)
}

func (e *endpoint) dequeue() int32 {
	t := e.waiting[e.head]
	e.head++
	return t
}

// region is a cluster.
type region struct {
	name      string
	endpoints []int32
	proxies   []int32
	service   float64 // nanoseconds
	cv        float64
	rateMax   float64
	budgets   []balance.Budget // by proxy of the region
	across    []balance.Budget
	arrived   int // since the last tick
	arrivals  *rand.Rand
	// deadCount is endpoints that do not work, as the region itself knows: late.
	answered int // since the last tick, by its endpoints
	// asked is how often applications of the tier above called from here since it last looked, and waited how long they waited for
	// what has ended, in nanoseconds.
	asked  int
	waited int64
}

// request is what a caller waits for.
type request struct {
	born     int64
	work     [2]float64 // of the first try and of further ones, 1 on average
	region   int32
	proxy    int32
	tries    int32
	free     int32 // tries that cost nothing
	paid     int32 // retries so far
	critical bool
	done     bool
	caller   int32 // the try of the tier above that waits for it, plus one; 0 is a user
	open     int32 // tries that still exist
	leave    int32 // the region that the next try leaves; -1 is none
	tried    [4]*balance.Endpoint
	at       [4]int32 // endpoints tried
}

// try is one attempt, as long as anybody holds it.
type try struct {
	request, endpoint int32
	sent              int64
	came              int64  // when it reached the endpoint
	began             int64  // in its lane
	step              int32  // calls that it made of those below
	epoch             uint32 // of the place: timeouts of an earlier one are void
	life              uint32 // of the endpoint, when it was given a lane
	outcome           balance.Outcome
	waits             bool // the proxy still waits for it
	held              bool // an event will free it
	pick              balance.Pick
	report            [24]byte
	reported          uint8
}

// link is the way from one region to another.
type link struct {
	rtt   int64
	price float64
	loss  float64
	extra int64
	cut   bool
}

// world is one run of one service: those that it calls are tiers, worlds of the same regions on the same time.
type world struct {
	now       int64
	events    agenda
	tiers     []*world // all, the one that users call first
	above     *world   // who calls it
	below     []*world // what one request calls, one after another
	name      string   // "" is the one that users call
	timeouts  []event  // of tries, all the same time ahead: a ring
	timeHead  int
	regions   []region
	endpoints []endpoint
	proxies   []int32 // the region of each
	links     []link  // n×n
	forbidden []bool  // n×n
	requests  []request
	tries     []try
	freeReq   []int32
	freeTry   []int32
	scenario  *manifest.Simulation
	policy    policy
	chance    *rand.Rand // of the network and of policies
	out       *Measured
	from, to  int64
	end       int64
	retryRate balance.BudgetRate
	changes   []func()
}

// policy is whose choices are simulated.
type policy interface {
	// start prepares for a world.
	start(w *world)
	// pick chooses the endpoint of a try: ok is false where there is none.
	pick(r *request, t *try, self int32) (endpoint int32, ok bool)
	// ended tells how a try ended, for whoever measures.
	ended(r *request, t *try)
	// tick is called every tickEvery.
	tick()
}

// newWorld makes the world of a scenario and a seed.
func newWorld(m *manifest.Simulation, policy string, seed uint64) *world {
	var events queue
	root := newTier(m, newPolicy(policy), seed, agenda{&events, 0})
	tiers := []*world{root}
	for k := range m.Calls {
		c := &m.Calls[k]
		w := newTier(tierOf(m, c), newPolicy(policy), seed+uint64(k+1)<<32, agenda{&events, uint8(k + 1)})
		w.name, w.above, w.out = c.Name, tiers[c.By+1], root.out
		for range c.Times {
			w.above.below = append(w.above.below, w)
		}
		tiers = append(tiers, w)
	}
	for _, w := range tiers {
		w.tiers = tiers
	}
	for k := len(tiers) - 1; k >= 0; k-- { // whoever calls knows what that costs
		w := tiers[k]
		w.events.push(event{at: int64(tickEvery), kind: tick})
		w.policy.start(w)
	}
	return root
}

// tierOf is a scenario as a service sees it that users do not call.
func tierOf(m *manifest.Simulation, c *manifest.SimCall) *manifest.Simulation {
	t := *m
	t.Regions, t.Demand, t.Calls, t.Faults = c.Regions, nil, nil, nil
	for _, f := range m.Faults {
		if f.Service == "" || f.Service == c.Name {
			t.Faults = append(t.Faults, f)
		}
	}
	return &t
}

// newTier makes the world of one service.
func newTier(m *manifest.Simulation, p policy, seed uint64, events agenda) *world {
	w := &world{scenario: m, policy: p, out: &Measured{}, events: events, from: int64(m.From), to: int64(m.To), end: int64(m.Duration),
		chance: rand.New(rand.NewPCG(seed, 99)), retryRate: balance.BudgetRate{Percent: m.Requests.Budget, Burst: m.Requests.Burst}}
	n := len(m.Regions)
	w.links, w.forbidden = make([]link, n*n), make([]bool, n*n)
	index := map[string]int{}
	for i, r := range m.Regions {
		index[r.Name] = i
		reg := region{name: r.Name, service: float64(r.Service), cv: r.Variation, arrivals: rand.New(rand.NewPCG(seed, uint64(i)))}
		for range r.Endpoints {
			reg.endpoints = append(reg.endpoints, int32(len(w.endpoints)))
			w.endpoints = append(w.endpoints, endpoint{region: int32(i), slow: 1, lanes: r.Lanes, free: make([]int64, r.Lanes)})
		}
		for range r.Proxies {
			reg.proxies = append(reg.proxies, int32(len(w.proxies)))
			w.proxies = append(w.proxies, int32(i))
		}
		reg.budgets, reg.across = make([]balance.Budget, r.Proxies), make([]balance.Budget, r.Proxies)
		w.regions = append(w.regions, reg)
	}
	for _, l := range m.Links {
		i, j := index[l.Between[0]], index[l.Between[1]]
		w.links[i*n+j] = link{rtt: int64(l.RTT), price: l.Price, loss: l.Loss}
		w.links[j*n+i] = w.links[i*n+j]
	}
	for i, r := range m.Regions {
		if only, ok := m.Residency[r.Name]; ok {
			for j, to := range m.Regions {
				w.forbidden[i*n+j] = !slices.Contains(only, to.Name)
			}
		}
	}
	w.schedule(index)
	for i := range w.regions {
		r := &w.regions[i]
		r.rateMax = w.rateMax(i)
		w.nextArrival(int32(i))
	}
	return w
}

// link is the way from region i to region j.
func (w *world) link(i, j int32) *link { return &w.links[int(i)*len(w.regions)+int(j)] }

func (w *world) mayGo(i, j int32) bool { return !w.forbidden[int(i)*len(w.regions)+int(j)] }

// rate is what a region is asked for at a time, in requests a second.
func (w *world) rate(i int, at int64) float64 {
	rate := w.scenario.Regions[i].Rate
	for _, d := range w.scenario.Demand {
		if d.Region != "*" && d.Region != w.regions[i].name || at < int64(d.From) || at >= int64(d.To) {
			continue
		}
		if d.Rate > 0 {
			rate = d.Rate
		} else {
			rate *= d.Factor
		}
		if d.Wave > 0 {
			phase := float64(at)/float64(d.Wave) + float64(i)/float64(len(w.regions))
			rate *= 1 + d.Swing*math.Sin(2*math.Pi*phase)
		}
	}
	return rate
}

// rateMax bounds rate over the run.
func (w *world) rateMax(i int) float64 {
	most := w.scenario.Regions[i].Rate
	for _, d := range w.scenario.Demand {
		if d.Region == "*" || d.Region == w.regions[i].name {
			most = max(most, d.Rate) * max(d.Factor, 1) * (1 + d.Swing)
		}
	}
	return most
}

// nextArrival draws the next request of a region: a Poisson process, thinned where the rate is below its
// most, so that the same arrivals come whatever the policy.
func (w *world) nextArrival(i int32) {
	r := &w.regions[i]
	if r.rateMax <= 0 {
		return
	}
	at := w.now
	for {
		at += int64(r.arrivals.ExpFloat64() / r.rateMax * 1e9)
		if at > w.end {
			return
		}
		if r.arrivals.Float64()*r.rateMax < w.rate(int(i), at) {
			break
		}
	}
	w.events.push(event{at: at, kind: arrival, a: i})
}

// work draws the work of a try: log-normal with mean 1.
func (r *region) work() float64 {
	if r.cv == 0 {
		return 1
	}
	s2 := math.Log(1 + r.cv*r.cv)
	return math.Exp(math.Sqrt(s2)*r.arrivals.NormFloat64() - s2/2)
}

// delay draws a one-way delay; ok is false where nothing passes.
func (w *world) delay(from, to int32) (d int64, ok bool) {
	if from == to {
		return hop, true
	}
	l := w.link(from, to)
	if l.cut {
		return 0, false
	}
	d = int64(float64(l.rtt+l.extra) / 2 * (1 + jitter*w.chance.ExpFloat64()))
	for l.loss > 0 && w.chance.Float64() < l.loss && d < 4*resend {
		d += max(resend, l.rtt)
	}
	return d, true
}

// passes reports whether anything gets from region i to region j and back.
func (w *world) passes(i, j int32) bool {
	return i == j || !w.link(i, j).cut && !w.link(j, i).cut
}

// run runs to the end, and lets what is under way end.
func (w *world) run() *Measured {
	last := w.end + int64(2*w.scenario.Requests.Deadline)
	for {
		next := int64(math.MaxInt64)
		if q := *w.events.queue; len(q) > 0 {
			next = q[0].at
		}
		var late *world
		for _, t := range w.tiers {
			if t.timeHead < len(t.timeouts) && t.timeouts[t.timeHead].at <= next {
				next, late = t.timeouts[t.timeHead].at, t
			}
		}
		if next > last {
			break
		}
		for _, t := range w.tiers {
			t.now = next
		}
		if late != nil {
			late.overdue()
		} else {
			e := w.events.pop()
			w.tiers[e.tier].handle(e)
		}
	}
	for i := range w.out.Seconds {
		w.out.Seconds[i].P99Millis = w.out.Seconds[i].slowest.quantile(0.99) * 1e3
	}
	seconds := float64(w.to-w.from) / 1e9
	w.out.Goodput = float64(w.out.Requests-w.out.Errors) / seconds
	return w.out
}

// overdue ends the oldest wait for a try.
func (w *world) overdue() {
	e := w.timeouts[w.timeHead]
	if w.timeHead++; w.timeHead > 4096 && w.timeHead*2 > len(w.timeouts) {
		w.timeouts = append(w.timeouts[:0], w.timeouts[w.timeHead:]...)
		w.timeHead = 0
	}
	w.timeOut(e.a, e.b)
}

func (w *world) handle(e event) {
	switch e.kind {
	case arrival:
		w.arrive(e.a)
	case reach:
		w.reach(e.a)
	case finish:
		w.finish(e.a)
	case answer:
		w.answer(e.a)
	case tick:
		w.policy.tick()
		if w.now < w.end {
			w.events.push(event{at: w.now + int64(tickEvery), kind: tick})
		}
	case change:
		w.changes[e.a]()
	default:
		if p, ok := w.policy.(handler); ok {
			p.handle(e)
		}
	}
}

// handler is a policy with events of its own.
type handler interface{ handle(e event) }
