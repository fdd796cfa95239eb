package traffic

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/isthmus-mesh/isthmus/core/balance"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/liveness"
	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// product is Isthmus itself: a balance.View a proxy, the failure classes and budgets of dataplane/proxy, the
// silence of connections as dataplane/tunnel notices it, a liveness.State a path, and split.Step a control
// plane. What is here is the wiring, and stands for the processes between them.
type product struct {
	w       *world
	proxies []proxy
	planes  []plane
	rand    *rand.Rand
	// blind to what is called below: for control runs.
	blind bool
	// ungated lets what comes back have all of its part at once: a control run.
	ungated bool
	// undeclared says that endpoints declare no lanes.
	undeclared bool
	// deaf does not hear what proxies trip by themselves: a control run.
	deaf bool
}

// proxy is one proxy's part.
type proxy struct {
	view *balance.View
	// heard is when anything last came from a region, and out how many tries are there.
	heard, since []int64
	out          []int32
	watched      []bool
}

const (
	// silentFloor is that of dataplane/tunnel: what no living peer keeps while it owes an answer.
	silentFloor = int64(300 * time.Millisecond)
	// healthAfter is when a region's own health checks know that an endpoint died, or came back.
	healthAfter = int64(time.Second)
	// fewPeers is up to how many other regions gateways are asked every liveness.ProbeEvery; with more,
	// every manyProbe.
	fewPeers  = 10
	manyProbe = time.Second
)

func (p *product) start(w *world) {
	p.w, p.rand = w, rand.New(rand.NewPCG(w.chance.Uint64(), 7))
	n := len(w.regions)
	for at := range w.endpoints {
		w.endpoints[at].meter.SetLanes(p.lanes(at))
	}
	p.planes = make([]plane, n)
	for i := range p.planes {
		p.planes[i].start(p, i)
	}
	p.proxies = make([]proxy, len(w.proxies))
	for k := range p.proxies {
		p.proxies[k] = proxy{heard: make([]int64, n), since: make([]int64, n), out: make([]int32, n), watched: make([]bool, n)}
		p.rebuild(int32(k))
	}
	for i := range n {
		p.w.events.push(event{at: int64(split.NewsAfter) * 3 / 2, kind: early, a: int32(i)}) // what proxies say is gathered for half of it
		p.planes[i].control()                                                                // there is a split before the first request, from what is declared
		for j := range n {
			if i != j && w.mayGo(int32(i), int32(j)) {
				w.events.push(event{at: int64(p.rand.Float64() * float64(p.probeEvery())), kind: probe, a: int32(i), b: int32(j)})
			}
		}
	}
}

// lanes are those that an endpoint declares.
func (p *product) lanes(at int) int {
	if p.undeclared {
		return 0
	}
	return p.w.endpoints[at].lanes
}

func (p *product) probeEvery() time.Duration {
	if len(p.w.regions) > fewPeers {
		return manyProbe
	}
	return liveness.ProbeEvery
}

// rebuild makes a proxy's view of what its control plane says of clusters now.
func (p *product) rebuild(k int32) {
	w, home := p.w, p.w.proxies[k]
	plane := &p.planes[home]
	clusters := make(map[mesh.ClusterName]*ir.Cluster, len(w.regions))
	eps := &ir.Endpoints{Service: mesh.ServiceName{Namespace: "sim", Name: "service"}}
	for j := range w.regions {
		reg := &w.regions[j]
		c := &ir.Cluster{Name: mesh.ClusterName(reg.name), Reach: mesh.Alive}
		if j != int(home) {
			c.RTT, c.Reach = time.Duration(w.link(home, int32(j)).rtt), plane.paths[j].Reach()
		}
		clusters[c.Name] = c
		g := ir.Group{Cluster: c.Name, Exported: true}
		if !w.mayGo(home, int32(j)) {
			g.Forbidden = "the scenario's residency"
		}
		for _, at := range reg.endpoints {
			g.Endpoints = append(g.Endpoints, ir.Endpoint{Tag: fmt.Sprint(at), Proxy: addressOf(at), Weight: 1, Lanes: uint32(p.lanes(int(at)))})
		}
		eps.Groups = append(eps.Groups, g)
	}
	p.proxies[k].view = balance.NewView(balance.Config{Prev: p.proxies[k].view, Endpoints: eps, Clusters: func(n mesh.ClusterName) *ir.Cluster { return clusters[n] },
		Cluster: mesh.ClusterName(w.regions[home].name), Proxy: fmt.Sprint(k), Now: w.now + 1, Strategy: w.scenario.Strategy, Distribution: p.distribution()})
}

// distribution is what the scenario's strategy is told.
func (p *product) distribution() (d mesh.Distribution) {
	for i, weight := range p.w.scenario.Weights {
		if i < len(p.w.regions) {
			d.Weights = append(d.Weights, mesh.PlaceWeight{Place: mesh.Place{Cluster: mesh.ClusterName(p.w.regions[i].name)}, Weight: uint32(math.Round(weight * 1000))})
		}
	}
	return d
}

// addressOf is an endpoint's index as an address, so that a choice is found again.
func addressOf(at int32) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(at >> 16), byte(at >> 8), byte(at)}), 15008)
}

func indexOf(a netip.AddrPort) int32 {
	b := a.Addr().As4()
	return int32(b[1])<<16 | int32(b[2])<<8 | int32(b[3])
}

func (p *product) pick(r *request, t *try, _ int32) (int32, bool) {
	x := &p.proxies[r.proxy]
	a := balance.Ask{Strategy: p.w.scenario.Strategy, Rand: p.rand.Uint64(), Now: p.w.now + 1, Tried: r.tried[:min(int(r.tries), len(r.tried))]}
	if r.leave >= 0 {
		a.Spent = mesh.ClusterName(p.w.regions[r.leave].name)
	}
	pick, reason := x.view.Pick(&a)
	if reason != mesh.ReasonNone {
		return 0, false
	}
	t.pick = pick
	at := indexOf(pick.Endpoint.Proxy)
	p.watch(r.proxy, p.w.endpoints[at].region)
	return at, true
}

// watch begins to listen for silence when something is sent where nothing was under way.
func (p *product) watch(k, j int32) {
	x := &p.proxies[k]
	if x.out[j]++; x.out[j] == 1 {
		x.since[j] = p.w.now
	}
	if !x.watched[j] {
		x.watched[j] = true
		p.w.events.push(event{at: p.w.now + p.silentAfter(k, j), kind: silence, a: k, b: j})
	}
}

// silentAfter is estimate.silence of dataplane/tunnel for a path that does not vary.
func (p *product) silentAfter(k, j int32) int64 {
	rtt := p.w.distance(p.w.proxies[k], j)
	return rtt + max(silentFloor, 2*rtt)
}

// gatewayAnswers reports whether a PING from i to j is answered: by the peer's proxy, not its application.
func (p *product) gatewayAnswers(i, j int32) (answers, refused bool) {
	if !p.w.passes(i, j) {
		return false, false
	}
	dead := 0
	for _, w := range p.w.tiers {
		for _, at := range w.regions[j].endpoints {
			switch w.endpoints[at].state {
			case works, fails, rejects:
				return true, false
			case refuses:
				dead++
			}
		}
	}
	return false, dead > 0
}

func (p *product) handle(e event) {
	switch e.kind {
	case silence:
		p.listen(e.a, e.b)
	case probe:
		p.planes[e.a].probed(e)
	case early:
		if c := &p.planes[e.a]; c.jumped() {
			c.observe()
			c.control()
		}
		if p.w.now < p.w.end {
			p.w.events.push(event{at: p.w.now + int64(split.NewsAfter), kind: early, a: e.a})
		}
	}
}

// listen judges the silence of a path from a proxy, as Dialer.judge does for each connection.
func (p *product) listen(k, j int32) {
	x, now := &p.proxies[k], p.w.now
	x.watched[j] = false
	if x.out[j] == 0 {
		return
	}
	quiet := now - max(x.heard[j], x.since[j])
	if left := p.silentAfter(k, j) - quiet; left > 0 {
		x.watched[j] = true
		p.w.events.push(event{at: now + left, kind: silence, a: k, b: j})
		return
	}
	home := p.w.proxies[k]
	if answers, refused := p.gatewayAnswers(home, j); answers || refused {
		x.heard[j] = now // the PING that was sent when it fell quiet was answered
		x.watched[j] = true
		p.w.events.push(event{at: now + p.silentAfter(k, j), kind: silence, a: k, b: j})
		return
	}
	x.view.Trip(mesh.ClusterName(p.w.regions[j].name), now+1)
	p.planes[home].silent(int(j))
	p.w.note(home, fmt.Sprintf("the path to %s is silent: its requests go elsewhere", p.w.regions[j].name))
	for at := range p.w.tries { // what is under way there is tried elsewhere, free
		if t := &p.w.tries[at]; t.waits && p.w.requests[t.request].proxy == k && p.w.endpoints[t.endpoint].region == j {
			t.outcome = balance.NeverExecuted
			p.w.settle(int32(at))
			p.w.release(int32(at))
		}
	}
}

func (p *product) ended(r *request, t *try) {
	x, now := &p.proxies[r.proxy], p.w.now+1
	j := p.w.endpoints[t.endpoint].region
	x.out[j]--
	if t.outcome != balance.TimedOut && t.outcome != balance.NeverExecuted || t.held {
		x.heard[j] = p.w.now
	}
	if t.reported > 0 && (t.outcome == balance.Served || t.outcome == balance.Shed) {
		t.pick.Endpoint.Report(t.report[:t.reported], now)
	}
	t.pick.Done(t.outcome, now)
}

// again is dataplane/proxy's another: what was never executed is tried elsewhere free, the rest out of the
// budget, and a shed request only where another cluster says that it has room.
func (p *product) again(r *request, t *try) bool {
	j := p.w.endpoints[t.endpoint].region
	r.leave = -1
	switch t.outcome {
	case balance.NeverExecuted:
		if r.free > 0 {
			if r.free--; r.free == 0 {
				r.leave = j
			}
			return true
		}
	case balance.Shed:
		if p.room(r, j) {
			r.leave = j
		} else if rho, ok := p.proxies[r.proxy].view.Busy(mesh.ClusterName(p.w.regions[j].name), p.w.now+1); ok && rho > 0.9 {
			return false
		}
	}
	if !p.w.payFor(r) {
		return false
	}
	if r.leave >= 0 && r.leave == r.region {
		reg := &p.w.regions[r.region]
		return reg.across[r.proxy-reg.proxies[0]].Spend(p.w.retryRate.Across())
	}
	return true
}

// room reports whether another lawful cluster says that it has room.
func (p *product) room(r *request, but int32) bool {
	for j := range p.w.regions {
		if int32(j) == but || !p.w.mayGo(r.region, int32(j)) {
			continue
		}
		if rho, ok := p.proxies[r.proxy].view.Busy(mesh.ClusterName(p.w.regions[j].name), p.w.now+1); !ok || rho < 0.9 {
			return true
		}
	}
	return false
}

func (p *product) tick() {
	for i := range p.planes {
		p.planes[i].observe()
	}
	for i := range p.planes {
		p.planes[i].control()
	}
}

func (w *world) note(i int32, what string) {
	if w.name != "" {
		what = w.name + ": " + what
	}
	w.out.Events = append(w.out.Events, Event{At: time.Duration(w.now), Region: w.regions[i].name, Action: what})
}
