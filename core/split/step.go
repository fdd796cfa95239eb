package split

import (
	"math"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// Of the control loop's other clocks. They are ages and intervals, never wall time.
const (
	// StaleAfter is the age at which a report freezes what is known of its cluster.
	StaleAfter = 2 * time.Second
	// FailbackTime is how long a cluster that was lost takes to get back what it can serve, from
	// failbackLeast of it on.
	FailbackTime  = 30 * time.Second
	failbackLeast = 0.1
	// priceMost is the most that a price weighs, in seconds a request: money keeps a cluster busy and never makes it shed.
	priceMost = 1.0
	// A budget's β begins at betaLeast, grows while more is spent, by betaUp a tick at most, and falls by betaDown while
	// less than budgetSlack of it is, down to what holds without a budget; betaMost is where every price weighs all it may.
	betaLeast, betaMost = 100, 1e12
	betaUp, betaDown    = 0.25, 0.01
	budgetSlack         = 0.9
	// resend is TCP's least retransmission timer, in seconds (as Linux has it), lossWeighs how much a loss counts, and lossNoise
	// the part that is not told from answers that are late by themselves.
	resend, lossWeighs, lossNoise = 0.2, 4.0, 0.005
	// long is a time that is over.
	long = time.Hour
)

// Report is what a cluster says of itself, for one service and class.
type Report struct {
	Cluster mesh.ClusterName
	// Age of the report; negative: none ever came.
	Age time.Duration
	// Demand is what its own callers ask for and Rate what it serves, whoever asks, in requests a second;
	// Capacity what it could serve at utilisation 1: the sum of lanes over service time of its endpoints.
	Demand, Rate, Capacity float64
	// Service is the time of a request in a lane and Wait what it waits before, in seconds; a negative
	// Wait is unknown.
	Service, Wait float64
	// Source is who says Capacity. Where that is nobody's word, requests follow it step by step, and it is never an emergency
	// that it is exceeded.
	Source mesh.CapacitySource
	// Draining is the part of it that is being taken out of use, 0 to 1.
	Draining float64
	// Row is the cluster's own split as it put it in force, by the order of Input.Reports; nil is not known. What others do is what
	// they say, not what would follow from what is known of them here: two who each believed the other to take the load of a third
	// off it would both send theirs there, for ever.
	Row []float64
	// Below is what the calls of one request cost there now, and Within what they took while Service was measured, which
	// holds them, in seconds (Tree). What is known of neither is 0.
	Below  Price
	Within float64
}

// Input is one tick.
type Input struct {
	// Since is how long ago the last tick was.
	Since   time.Duration
	Reports []Report
	// RTT from cluster i to cluster j is RTT[i·n+j], in seconds. A row that begins with NaN is unknown: that
	// cluster is taken to serve its own.
	RTT []float64
	// Loss is the part of round trips from i to j that lose something; it may be nil.
	Loss []float64
	// Price of a request from i to j, in any currency, may be nil; Beta is what a unit of it is worth in
	// seconds of waiting.
	Price []float64
	Beta  float64
	// Budget is what may be spent a second, in the unit of Price: what Beta does not keep within it, a greater one does; 0
	// is none.
	Budget float64
	// Forbidden says where the law does not let requests of i go; Dead where nothing passes from i to j, as
	// far as is known. Both may be nil.
	Forbidden, Dead []bool
	Strategy        mesh.Strategy
	// Weights of the strategy Weighted, by cluster.
	Weights []float64
	// Rank is how early cluster i tries cluster j by the strategy Nearest, at [i·n+j]: the lower before the higher, and
	// equal ones nearest first. It may be nil.
	Rank []int
	// Open is the part of what would go from i to j that is let through, at [i·n+j], while j proves that it is back
	// (core/failback); nil is all. Where others have no room it gives way, unless Firm.
	Open []float64
	Firm []bool
	// Tripped says where proxies of i leave j out by themselves: the way there is as one that was just opened. It may be nil.
	Tripped []bool
	// Free lifts damping and limits: for oracles, and for one who asks what would be best.
	Free bool
}

// Cause says why a split moved, or did not.
type Cause string

// The causes, the strongest first.
const (
	CauseStart     Cause = "there was no split yet"
	CauseLost      Cause = "a cluster may not or cannot be used any more"
	CauseReturn    Cause = "a cluster is on its way back, step by step"
	CauseOverload  Cause = "a cluster is asked for more than it has"
	CauseGain      Cause = "it is better"
	CauseNoGain    Cause = "the gain is too small"
	CauseUnservice Cause = "nobody serves"
)

// State is what one tick leaves to the next. The zero State has no split yet.
type State struct {
	Clusters []mesh.ClusterName
	// X is the split in force: the part of cluster i's requests that goes to cluster j, at [i·n+j]. A row
	// sums to 1, or is 0 where nothing lawful serves.
	X []float64
	// Kappa corrects the queue model of each cluster.
	Kappa []float64
	// Back is how long each cluster has had capacity again, and Path how long its way from cluster i has been
	// open again, at [i·n+j].
	Back, Path []time.Duration
	// Price is what a request more costs all from each cluster, damped: what callers of this service add below theirs.
	Price []Price
	// Beta is what a budget made of Input.Beta; 0 where there is none.
	Beta float64
}

// Row is the split of cluster i.
func (s *State) Row(i int) []float64 {
	n := len(s.Clusters)
	return s.X[i*n : (i+1)*n]
}

// Outcome is what a tick decided, for people.
type Outcome struct {
	Cause Cause
	// Gain is the part of all waiting that the best split would save over the one in force.
	Gain float64
	// Moved is the most that a source moved, as a part of its traffic.
	Moved float64
	// Rounds of the solver.
	Rounds int
	// Spend is what all sources pay a second with the split in force, in the unit of Input.Price, and Beta what a unit of it
	// was worth.
	Spend, Beta float64
}

// Step is one tick. It changes nothing that it was given.
func Step(prev State, in *Input) (State, Outcome) {
	t := newTick(prev, in)
	t.begin()
	best, rounds := t.held()
	out := Outcome{Rounds: rounds, Cause: CauseGain}
	now, old := t.flow(t.next.X), t.problem.Objective(t.flow(t.next.X))
	reach, gain := caution(old-t.problem.Objective(best), t.bend(now, best))
	if old > 0 {
		out.Gain = gain / old
	}
	switch {
	case t.fresh:
		out.Cause = CauseStart
	case t.lost(t.next.X), t.tripped(t.next.X, best):
		out.Cause = CauseLost
	case !t.planned() && out.Gain > GainMin && t.strained(now):
		out.Cause = CauseOverload
	case t.let != nil:
		out.Cause = CauseReturn
	case !t.planned() && out.Gain <= GainMin:
		out.Cause = CauseNoGain
	}
	out.Moved = t.apply(best, out.Cause, reach)
	out.Beta = t.beta()
	out.Spend = t.budget()
	t.measure()
	return t.next, out
}

// tick is one step's working state.
type tick struct {
	*Input
	n       int
	fresh   bool
	next    State
	problem *Problem
	// bare is Problem.Cost without what is called below.
	bare []float64
	// give is how far the slow return of clusters gives way, from 0 to 1.
	give float64
	// full says which clusters are asked for more than they should be.
	full []bool
	// let is the part that is let through where a gate is closed, and negative elsewhere; nil is no gate.
	let []float64
}

func newTick(prev State, in *Input) *tick {
	n := len(in.Reports)
	t := &tick{Input: in, n: n, next: State{Clusters: make([]mesh.ClusterName, n), X: make([]float64, n*n), Kappa: make([]float64, n),
		Back: make([]time.Duration, n), Path: make([]time.Duration, n*n), Price: make([]Price, n)}}
	old := make(map[mesh.ClusterName]int, len(prev.Clusters))
	for i, c := range prev.Clusters {
		old[c] = i
	}
	t.fresh, t.next.Beta = len(prev.Clusters) == 0, prev.Beta
	for i := range in.Reports {
		t.next.Clusters[i], t.next.Kappa[i], t.next.Back[i] = in.Reports[i].Cluster, 1, long
		for j := range in.Reports {
			t.next.Path[i*n+j] = long
		}
		at, known := old[in.Reports[i].Cluster]
		if !known {
			continue
		}
		t.next.Kappa[i], t.next.Price[i] = prev.Kappa[at], prev.Price[at]
		t.next.Back[i] = min(prev.Back[at]+in.Since, long)
		for j := range in.Reports {
			if to, known := old[in.Reports[j].Cluster]; known {
				from := at*len(prev.Clusters) + to
				t.next.X[i*n+j], t.next.Path[i*n+j] = prev.X[from], min(prev.Path[from]+in.Since, long)
			}
		}
	}
	for i := range in.Reports {
		if r := &in.Reports[i]; len(r.Row) == n && r.Age >= 0 && r.Age <= StaleAfter {
			copy(t.next.Row(i), r.Row)
		}
	}
	t.pose()
	return t
}

// pose states the problem of this instant.
func (t *tick) pose() {
	t.problem = &Problem{Demand: make([]float64, t.n), Sinks: make([]Sink, t.n), Cost: make([]float64, t.n*t.n)}
	t.bare = make([]float64, t.n*t.n)
	for j := range t.Reports {
		r := &t.Reports[j]
		t.problem.Demand[j] = r.Demand
		if r.Age >= 0 && r.Capacity <= 0 {
			t.next.Back[j] = 0
		}
		if r.Age < 0 || r.Service <= 0 {
			continue // nobody knows it
		}
		t.problem.Sinks[j] = Sink{Service: r.Service, Lanes: r.Capacity * r.Service * t.part(j), Kappa: t.next.Kappa[j]}
	}
	for i := range t.Reports {
		unknown := math.IsNaN(t.RTT[i*t.n])
		for j := range t.Reports {
			at := i*t.n + j
			c := t.RTT[at]
			switch {
			case t.Dead != nil && t.Dead[at]:
				c, t.next.Path[at] = math.Inf(1), 0
			case t.Forbidden != nil && t.Forbidden[at], t.Strategy == mesh.StrategyLocal && i != j:
				c = math.Inf(1)
			case unknown && i == j:
				c = 0
			case unknown || math.IsNaN(c):
				c = math.Inf(1)
			default:
				if t.Loss != nil {
					c += resent(t.Loss[at], c)
				}
				if t.Price != nil && t.Strategy != mesh.StrategyLatency {
					c += min(t.beta()*t.Price[at], priceMost)
				}
			}
			if t.Tripped != nil && t.Tripped[at] {
				t.next.Path[at] = 0
			}
			if t.bare[at] = c; !planned(t.Strategy) {
				c += t.below(j, Hops)
			}
			t.problem.Cost[at] = c
		}
	}
}

// resent is what losses add to a round trip, in seconds: a retransmission timer each, weighed by more than its average, since
// what one request in a hundred waits is what callers feel.
func resent(part, rtt float64) float64 { return lossWeighs * max(0, part-lossNoise) * max(resend, rtt) }

// beta is what a unit of price is worth in this tick.
func (t *tick) beta() float64 { return max(t.Beta, t.next.Beta) }

// budget is what the split in force costs, and lets the next tick weigh prices more, or less again. Who spends too much
// and could not spend less has more asked for at home than there is room: then β stands at its most, and waits.
func (t *tick) budget() (spend float64) {
	if t.Price == nil {
		return 0
	}
	for at, f := range t.flow(t.next.X) {
		spend += f * t.Price[at]
	}
	switch {
	case t.Budget <= 0:
		t.next.Beta = 0
	case spend > t.Budget:
		t.next.Beta = min(max(t.beta(), betaLeast)*(1+betaUp*min(spend/t.Budget-1, 1)), betaMost)
	case spend < budgetSlack*t.Budget && t.next.Beta > t.Beta:
		if t.next.Beta *= 1 - betaDown; t.next.Beta < betaLeast {
			t.next.Beta = 0
		}
	}
	return spend
}

// usable reports whether i may and can send to j.
func (t *tick) usable(i, j int) bool {
	return t.problem.Sinks[j].capacity() > 0 && !math.IsInf(t.problem.Cost[i*t.n+j], 1)
}

// flow is a split as requests a second.
func (t *tick) flow(x []float64) Flow {
	f := make(Flow, len(x))
	for at := range x {
		if i := at / t.n; t.usable(i, at%t.n) {
			f[at] = x[at] * t.problem.Demand[i]
		}
	}
	return f
}

// lost reports whether a split sends something where it cannot go now.
func (t *tick) lost(x []float64) bool {
	for at, v := range x {
		if v > 0 && !t.usable(at/t.n, at%t.n) {
			return true
		}
	}
	return false
}

// tripped reports whether a split sends more than a gate lets through where proxies found that nothing serves.
func (t *tick) tripped(x []float64, best Flow) bool {
	for at := range t.Tripped {
		if i := at / t.n; t.Tripped[at] && t.let != nil && t.let[at] >= 0 && x[at]*t.problem.Demand[i] > overBy*best[at]+overLeft*t.problem.Demand[i] {
			return true
		}
	}
	return false
}

// strained reports whether a sink is asked for more than it should be, so that damping costs errors.
func (t *tick) strained(f Flow) bool {
	for j := range t.n {
		if t.asksTooMuch(f, j) {
			return true
		}
	}
	return false
}

// begin sets out from what proxies do without a split, the nearest first, where there was none and a capacity is doubtful.
func (t *tick) begin() {
	if !t.fresh || t.Free || !slices.ContainsFunc(t.Reports, func(r Report) bool { return r.Source.Doubtful() }) {
		return
	}
	t.fresh = false
	for i := range t.n {
		for j := range t.n {
			if t.usable(i, j) {
				t.next.X[i*t.n+j] = t.nearest(i, j)
			}
		}
	}
}

// apply moves the split towards the flow best, as far as the cause allows, and returns how far.
func (t *tick) apply(best Flow, cause Cause, reach float64) float64 {
	most := 0.0
	t.fill()
	for i := range t.n {
		row := t.next.Row(i)
		want := t.shares(i, best)
		sum, distance := 0.0, 0.0
		for j := range row {
			distance += math.Abs(want[j]-row[j]) / 2
			if t.usable(i, j) {
				sum += row[j]
			}
		}
		step := 1.0
		switch {
		case t.Free || cause == CauseStart || cause == CauseOverload || sum < 1-1e-9 || t.over(i, row, want):
		case cause == CauseNoGain:
			step = 0
		default:
			if step = Damping; step*distance > MoveMax {
				step = MoveMax / distance
			}
			if reach < 1 {
				step = min(step, pace*reach)
			}
		}
		if step == 0 {
			continue
		}
		t.move(i, row, want, step)
		most = max(most, step*distance)
	}
	return most
}

// move sets a row to what lies step of the way to want. What goes to clusters that are stale stays as it is.
func (t *tick) move(i int, row, want []float64, step float64) {
	frozen, sum := 0.0, 0.0
	for j := range row {
		next := row[j] + step*(want[j]-row[j])
		if !t.usable(i, j) || next < smallest && want[j] < smallest && !t.gated(i, j) {
			next = 0
		}
		if j != i && t.Reports[j].Age > StaleAfter && !t.fresh {
			if next = min(next, row[j]); t.freezes(i, j) {
				next = row[j]
				frozen += next
			}
		}
		row[j] = next
		sum += next
	}
	switch rest := sum - frozen; {
	case sum <= 0: // only stale clusters are left, and nothing went there: better than nothing
		copy(row, want)
		return
	case sum < 1 && t.usable(i, i): // what stale clusters should have had more
		row[i] += 1 - sum
		return
	case frozen < 1 && rest > 0:
		for j := range row {
			if !t.freezes(i, j) {
				row[j] *= (1 - frozen) / rest
			}
		}
		return
	}
	for j := range row {
		row[j] /= sum
	}
}

// shares is a flow's row as parts of one.
func (t *tick) shares(i int, f Flow) []float64 {
	row := make([]float64, t.n)
	sum := 0.0
	for j := range row {
		if row[j] = f[i*t.n+j]; !t.gated(i, j) { // a gate has seen to it
			row[j] *= ramp(t.next.Path[i*t.n+j])
		}
		sum += row[j]
	}
	if sum > 0 {
		for j := range row {
			row[j] /= sum
		}
		return row
	}
	// No demand: where the first request should go.
	best := math.Inf(1)
	at := -1
	for j := range row {
		if c := t.problem.Cost[i*t.n+j] + t.problem.Sinks[j].Service; t.usable(i, j) && !t.gated(i, j) && c < best {
			best, at = c, j
		}
	}
	if at >= 0 {
		row[at] = 1
	}
	return row
}

// measure follows what the reports say of the model, and what a request costs from everywhere.
func (t *tick) measure() {
	load := make([]float64, t.n)
	for at, v := range t.flow(t.next.X) {
		load[at%t.n] += v
	}
	for j := range t.Reports {
		r, k := &t.Reports[j], &t.next.Kappa[j]
		if r.Age < 0 || r.Age > StaleAfter || r.Wait < 0 || r.Capacity <= 0 || r.Service <= 0 || r.Source == mesh.CapacityAssumed {
			continue
		}
		least := KappaMin
		if r.Source.Doubtful() {
			least = 1 // who guesses what is borne guesses what is waited: too little, if anything
		}
		if rho := r.Rate / r.Capacity; rho > kappaBusy {
			*k += KappaRate * (min(max(r.Wait/(r.Service*wait(rho)), least), KappaMax) - *k)
		}
	}
	t.prices(load)
}
