package traffic

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/core/balance"
	"github.com/isthmus-mesh/isthmus/core/failback"
	"github.com/isthmus-mesh/isthmus/core/liveness"
	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// plane is a region's control plane: what it measures of itself, what it has heard of others, the paths it
// probes, and the split that it makes of that.
type plane struct {
	p     *product
	i     int
	paths []liveness.State
	tally []liveness.Tally // of the questions on each
	// quietUntil is how long what proxies saw of a path outweighs what gateways answer.
	quietUntil []int64
	own        split.Report
	// observed is when that was last measured, and since how long that had not been.
	observed int64
	since    time.Duration
	tree     split.Tree
	timed    bool // a time in a lane was measured lately
	// places are the ready endpoints, and waited what they say that requests waited in seconds, where they declare nothing.
	places, waited float64
	// heard is the last report of each region, and at when it was made.
	heard []split.Report
	at    []int64
	state split.State
	in    split.Input
	gates failback.Gates
	// said is what the region's proxies said of others when the gates last looked.
	said map[said]voice
}

func (c *plane) start(p *product, i int) {
	n := len(p.w.regions)
	*c = plane{p: p, i: i, paths: make([]liveness.State, n), quietUntil: make([]int64, n), heard: make([]split.Report, n), at: make([]int64, n),
		gates: failback.Gates{Off: p.ungated}, said: map[said]voice{}}
	for j := range n {
		c.heard[j].Cluster, c.heard[j].Age = mesh.ClusterName(p.w.regions[j].name), -1
	}
	c.own = split.Report{Cluster: mesh.ClusterName(p.w.regions[i].name), Demand: p.w.rate(i, 0), Wait: -1}
	c.since = tickEvery
	c.measureCapacity()
	c.tally = make([]liveness.Tally, n)
	c.in = split.Input{Strategy: p.w.scenario.Strategy, Beta: p.w.scenario.Beta, Weights: p.w.scenario.Weights, Since: tickEvery,
		RTT: make([]float64, n*n), Loss: make([]float64, n*n), Price: make([]float64, n*n), Dead: make([]bool, n*n), Forbidden: p.w.forbidden, Reports: make([]split.Report, n)}
	for a := range n {
		for b := range n {
			c.in.RTT[a*n+b] = float64(p.w.distance(int32(a), int32(b))) / 1e9
			c.in.Price[a*n+b] = p.w.links[a*n+b].price
		}
	}
}

// observe measures the region over the last tick: what its proxies ask for, what its endpoints do.
func (c *plane) observe() {
	w := c.p.w
	reg := &w.regions[c.i]
	c.own.Row = slices.Clone(c.row())
	over := time.Duration(w.now - c.observed)
	c.observed, c.since = w.now, over
	c.own.Demanded(float64(reg.arrived)/over.Seconds(), over)
	c.own.Answered(float64(reg.answered) / over.Seconds())
	served := float64(reg.answered) / over.Seconds()
	reg.arrived, reg.answered = 0, 0
	c.measureCapacity()
	c.measureCalls(served)
	waited, began := 0.0, 0
	for _, at := range reg.endpoints {
		e := &w.endpoints[at]
		waited, began = waited+e.queueing, began+e.started
		e.queueing, e.started = 0, 0
	}
	if c.own.Wait = -1; began > 0 {
		c.own.Wait = waited / float64(began) / 1e9
	}
	if c.p.undeclared {
		c.own.Wait = c.waited
	}
}

// jumped reports whether the region's proxies ask for so much more than before that they do not wait for the time to say so, as
// dataplane/load has it for each of them.
func (c *plane) jumped() bool {
	reg := &c.p.w.regions[c.i]
	over := time.Duration(c.p.w.now - c.observed)
	each, of := float64(reg.arrived)/float64(len(reg.proxies)), c.own.Demand/float64(len(reg.proxies))
	return over >= split.NewsAfter && split.Jumped(of, each, over)
}

// measureCalls is what the region's endpoints call, and what that costs.
func (c *plane) measureCalls(served float64) {
	calls := map[mesh.ServiceName]split.Call{}
	for _, w := range c.p.w.below {
		reg := &w.regions[c.i]
		if reg.asked > 0 || reg.waited > 0 {
			calls[nameOf(w)] = split.Call{Asked: float64(reg.asked) / c.since.Seconds(), Busy: float64(reg.waited) / float64(c.since)}
			reg.asked, reg.waited = 0, 0
		}
	}
	c.tree.Measured(served, calls)
	if c.p.blind {
		return
	}
	inLane := 0.0
	if c.timed {
		inLane = c.own.Service
	}
	c.own.Below, c.own.Within = c.tree.Cost(inLane, func(n mesh.ServiceName) (split.Price, bool) {
		for _, w := range c.p.w.below {
			if p, ok := w.policy.(*product); ok && nameOf(w) == n && len(p.planes[c.i].state.Price) > c.i {
				return p.planes[c.i].state.Price[c.i], true
			}
		}
		return split.Price{}, false
	})
}

func nameOf(w *world) mesh.ServiceName { return mesh.ServiceName{Namespace: "sim", Name: w.name} }

// measureCapacity sums lanes over service times of endpoints that the region's health checks let in.
func (c *plane) measureCapacity() {
	if c.p.undeclared {
		c.learnCapacity()
		return
	}
	w := c.p.w
	reg := &w.regions[c.i]
	capacity, lanes, endpoints := 0.0, 0.0, 0.0
	c.timed = false
	for _, at := range reg.endpoints {
		e := &w.endpoints[at]
		if c.gone(e) {
			continue
		}
		s := e.gauge.Measure(&e.meter, e.lanes, c.since, w.now).Time.Seconds()
		if s == 0 {
			s = reg.service/1e9 + c.own.Below.Deep[split.Hops-1] // as declared, and what calls would cost
		} else {
			c.timed = true
		}
		capacity += float64(e.lanes) / s
		lanes += float64(e.lanes)
		endpoints++
	}
	c.own.Offers(capacity, lanes, endpoints)
}

// gone reports whether the region's health checks leave an endpoint out.
func (c *plane) gone(e *endpoint) bool {
	well := e.state == works || e.state == fails || e.state == rejects // which says that it is
	return !well && c.p.w.now-e.lastDeath >= healthAfter || well && e.lastBirth > 0 && c.p.w.now-e.lastBirth < healthAfter
}

// control is one tick: reports that have come, a step, and the row of this region to its proxies.
func (c *plane) control() {
	w := c.p.w
	n := len(w.regions)
	for j := range n {
		switch {
		case j == c.i:
			c.heard[j], c.at[j] = c.own, w.now
		case w.passes(int32(j), int32(c.i)) && c.alive(j): // as it was a tick ago: order of planes would matter else
			c.heard[j], c.at[j] = c.p.planes[j].own, w.now
		}
		if c.in.Reports[j] = c.heard[j]; j == c.i {
			c.in.Reports[j].Row = nil
		}
		if c.heard[j].Age >= 0 {
			c.in.Reports[j].Age = time.Duration(w.now - c.at[j])
		}
		for k := range n { // a row of RTTs comes with each report
			if rtt := c.p.planes[j].paths[k].RTT; j != k && rtt > 0 && c.heard[j].Age >= 0 {
				c.in.RTT[j*n+k] = rtt.Seconds()
				c.in.Loss[j*n+k], _ = c.p.planes[j].tally[k].Loss(time.Unix(0, w.now))
			}
		}
		c.in.Dead[c.i*n+j] = j != c.i && c.paths[j].Reach() == mesh.Unreachable || w.now < c.quietUntil[j]
	}
	if !c.knows() {
		return
	}
	c.in.Since = c.since
	before := c.row()
	for _, m := range c.returns() {
		w.note(int32(c.i), fmt.Sprintf("%s may have %.0f %% of its part: %d of %d requests failed", m.Cluster, 100*m.Gate.Part(), m.Gate.Judged.Failed, m.Gate.Judged.Ended))
	}
	var o split.Outcome
	c.state, o = split.Step(c.state, &c.in)
	row := c.state.Row(c.i)
	if o.Moved > 0.02 && w.now > 0 {
		w.note(int32(c.i), fmt.Sprintf("split %s: %s", sharesOf(w, row), o.Cause))
	}
	if before != nil && w.now >= w.from && w.now <= w.to {
		sum := 0.0
		for j := range row {
			sum += math.Abs(row[j] - before[j])
		}
		w.out.Turned += sum / float64(n) / (float64(w.to-w.from) / 60e9)
	}
	shares := make([]balance.Share, 0, n)
	for j, x := range row {
		if x > 0 {
			shares = append(shares, balance.Share{Cluster: mesh.ClusterName(w.regions[j].name), Part: x})
		}
	}
	for _, k := range w.regions[c.i].proxies {
		if v := c.p.proxies[k].view; v != nil {
			v.SetSplit(shares, w.now+1)
		}
	}
}

// returns lets the gates look, with what proxies have counted since they last did.
func (c *plane) returns() []failback.Move {
	w := c.p.w
	now, polls := time.Unix(0, w.now), map[mesh.ClusterName]*failback.Poll{}
	for _, k := range w.regions[c.i].proxies {
		v := c.p.proxies[k].view
		if v == nil {
			continue
		}
		v.Results(func(n mesh.ClusterName, ended, failed uint64) {
			at := said{k, n}
			was := c.said[at]
			r := split.Result{Cluster: n, Ended: ended - was.Ended, Failed: failed - was.Failed}
			c.gates.Saw(r)
			was.Ended, was.Failed = ended, failed
			was.Saw(r, now)
			was.Tripped(v.Tripped(n, w.now+1))
			if c.said[at] = was; polls[n] == nil {
				polls[n] = &failback.Poll{}
			}
			polls[n].Count(was.Voice, 1, now) // arrivals are spread evenly
		})
	}
	tripped := map[mesh.ClusterName]bool{}
	for n, p := range polls {
		tripped[n] = !c.p.deaf && p.Lost()
	}
	return c.gates.Look(&c.in, c.i, tripped, now)
}

// said is a proxy's word on a region.
type said struct {
	proxy int32
	of    mesh.ClusterName
}

// voice is that, and what it had counted by then.
type voice struct {
	failback.Voice
	split.Result
}

func (c *plane) row() []float64 {
	if len(c.state.Clusters) == 0 {
		return nil
	}
	return c.state.Row(c.i)
}

func sharesOf(w *world, row []float64) string {
	text := ""
	for j, x := range row {
		if x > 0.005 {
			text += fmt.Sprintf("%s %.0f %% ", w.regions[j].name, 100*x)
		}
	}
	return text
}

// alive reports whether region j's control plane speaks: it dies with its region.
func (c *plane) alive(j int) bool {
	answers, _ := c.p.gatewayAnswers(int32(j), int32(j))
	return answers
}

// silent is what a proxy tells of a path: until gateways have had the time to find out themselves, it counts.
func (c *plane) silent(j int) {
	c.quietUntil[j] = c.p.w.now + int64(2*time.Second)
	c.control()
}

// probed is the next question to a gateway, or what became of one: b ≥ n is an answer, b ≥ 2n one that was sent again, b < 0 none.
func (c *plane) probed(e event) {
	w, n := c.p.w, int32(len(c.p.w.regions))
	now := time.Unix(0, w.now)
	before := func(j int32) mesh.Reachability { return c.paths[j].Reach() }
	switch {
	case e.b >= n:
		j := e.b % n
		was, rtt, late := before(j), w.link(int32(c.i), j).rtt+w.link(int32(c.i), j).extra, 0
		if e.b >= 2*n {
			rtt += resend + rtt // the timer that a kernel has is a round trip longer
		}
		if c.paths[j].Late(time.Duration(rtt)) {
			late = 1
		}
		c.tally[j].Count(1, late, now)
		c.paths[j] = c.paths[j].Answered(time.Duration(rtt), now)
		c.changed(j, was)
	case e.b < 0:
		j := -e.b - 1
		was := before(j)
		c.paths[j] = c.paths[j].Failed(now)
		c.changed(j, was)
	default:
		j := e.b
		if w.now < w.end {
			w.events.push(event{at: w.now + int64(c.p.probeEvery()), kind: probe, a: e.a, b: j})
		}
		answers, refused := c.p.gatewayAnswers(int32(c.i), j)
		rtt := w.link(int32(c.i), j).rtt + w.link(int32(c.i), j).extra
		switch {
		case answers:
			answer := event{at: w.now + rtt, kind: probe, a: e.a, b: n + j}
			if c.loses(j) {
				answer.at, answer.b = answer.at+resend+rtt, 2*n+j
			}
			w.events.push(answer)
		case refused:
			w.events.push(event{at: w.now + rtt, kind: probe, a: e.a, b: -j - 1})
		default:
			w.events.push(event{at: w.now + int64(c.paths[j].ProbeTimeout()), kind: probe, a: e.a, b: -j - 1})
		}
	}
}

// loses draws whether a round trip to region j loses something. No other drawing depends on it where nothing is lost.
func (c *plane) loses(j int32) bool {
	there, back := c.p.w.link(int32(c.i), j).loss, c.p.w.link(j, int32(c.i)).loss
	return there+back > 0 && c.p.rand.Float64() < 1-(1-there)*(1-back)
}

func (c *plane) changed(j int32, was mesh.Reachability) {
	w := c.p.w
	is := c.paths[j].Reach()
	if is == was {
		return
	}
	w.note(int32(c.i), fmt.Sprintf("%s is %s", w.regions[j].name, is))
	for _, k := range w.regions[c.i].proxies {
		c.p.rebuild(k)
	}
	c.control()
}
