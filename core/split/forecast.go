package split

import (
	"math"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// Question is what a forecast is asked: how would this service's requests go, if that were so.
type Question struct {
	// If some clusters are lost: by index of the Input's reports; nil is none.
	Lost []bool
	// Stay says that what a lost cluster's own callers asked for is lost with it. Otherwise it is asked for in the
	// nearest cluster that is left: users come in elsewhere.
	Stay bool
	// Serves are the clusters with endpoints, whether their capacity is known or not; nil is those with a capacity.
	Serves []bool
}

// Forecast is where one service's requests go once the splits have settled, by index of the Input's reports. Rates are
// requests a second, times seconds; NaN is not known, or that there is nothing to say it of.
type Forecast struct {
	Clusters []mesh.ClusterName
	// Flow is what goes from cluster i to cluster j, at [i·n+j].
	Flow Flow
	// Demand is what each cluster's callers ask for; Refused the part of it that goes nowhere, and Law whether it
	// would but for the law.
	Demand, Refused []float64
	Law             []bool
	// Mean is what a request of each cluster's callers takes: the way there, the wait and the service.
	Mean []float64
	// Load is what each cluster is asked for, Capacity what it has, NaN where that is not known, and Shed what is beyond.
	Load, Capacity, Shed []float64
}

// endless stands for the lanes of a cluster that serves and of which no capacity is known, guessed for its time.
const (
	endless = 1e12
	guessed = 1e-3
)

// Foresee answers one question by the code that routes: the same problem, masks and strategies, without the damping that
// only delays the answer, and without what is to be kept in reserve while news is stale. Where no capacity is known the
// nearest that serves is taken, as proxies do. It changes nothing that it was given.
func Foresee(prev State, in *Input, w Question) Forecast {
	q := w.pose(in)
	t := newTick(prev, &q.Input)
	best, _ := t.target()
	t.fresh = true // stale news holds nothing back
	t.apply(best, CauseStart, 1)
	n := t.n
	f := Forecast{Clusters: t.next.Clusters, Flow: t.flow(t.next.X), Demand: make([]float64, n), Refused: make([]float64, n), Law: make([]bool, n), Mean: make([]float64, n),
		Load: make([]float64, n), Capacity: make([]float64, n), Shed: make([]float64, n)}
	for at, v := range f.Flow {
		f.Load[at%n] += v
	}
	for j := range n {
		switch f.Capacity[j] = t.problem.Sinks[j].capacity(); {
		case q.unknown[j]:
			f.Capacity[j] = math.NaN()
		default:
			f.Shed[j] = max(0, f.Load[j]-f.Capacity[j])
		}
	}
	for i := range n {
		f.Demand[i] = t.problem.Demand[i]
		f.Refused[i], f.Law[i] = f.Demand[i], t.lawful(i)
		f.Mean[i] = math.NaN()
		cost := 0.0
		for j, x := range t.next.Row(i) {
			if x > 0 {
				f.Refused[i] = 0
				cost += x * (t.way(i, j) + t.stay(j, f.Load[j], q.unknown[j]))
			}
		}
		if f.Demand[i] > 0 && f.Refused[i] == 0 {
			f.Mean[i] = cost
		}
	}
	return f
}

// lawful reports whether something that could be reached from i is closed to it by the law, and nothing else is there.
func (t *tick) lawful(i int) bool {
	closed := false
	for j := range t.n {
		at := i*t.n + j
		if t.usable(i, j) {
			return false
		}
		closed = closed || t.Forbidden != nil && t.Forbidden[at] && t.problem.Sinks[j].capacity() > 0 && (t.Dead == nil || !t.Dead[at])
	}
	return closed
}

// way is the round trip alone: a price is no time.
func (t *tick) way(i, j int) float64 {
	if v := t.RTT[i*t.n+j]; !math.IsNaN(v) {
		return v
	}
	return 0
}

// stay is what a request takes at a sink: NaN where that is not known.
func (t *tick) stay(j int, load float64, unknown bool) float64 {
	s := &t.problem.Sinks[j]
	if unknown {
		if s.Service == guessed {
			return math.NaN()
		}
		return s.Service
	}
	return s.Service * (1 + s.kappa()*wait(load/s.capacity()))
}

// posed is an input as it would be.
type posed struct {
	Input
	unknown []bool
}

func (w *Question) pose(in *Input) *posed {
	n := len(in.Reports)
	q := &posed{Input: *in, unknown: make([]bool, n)}
	q.Since, q.Free = long, true
	q.Reports = append([]Report(nil), in.Reports...)
	q.Dead = make([]bool, n*n)
	copy(q.Dead, in.Dead)
	w.lose(q)
	anyKnown := false
	for j := range q.Reports {
		anyKnown = anyKnown || w.serves(q, j) && q.Reports[j].Capacity > 0 && q.Reports[j].Service > 0
	}
	if !anyKnown && !planned(q.Strategy) {
		q.Strategy = mesh.StrategyNearest // as proxies do where there is no split
	}
	for j := range q.Reports {
		r := &q.Reports[j]
		if r.Capacity > 0 && r.Service > 0 || !w.serves(q, j) || anyKnown && !planned(q.Strategy) {
			continue
		}
		q.unknown[j] = true
		if r.Service <= 0 {
			r.Service = guessed
		}
		r.Age, r.Capacity = max(r.Age, 0), endless/r.Service
	}
	return q
}

// serves reports whether a cluster would serve.
func (w *Question) serves(q *posed, j int) bool {
	if w.Lost != nil && w.Lost[j] {
		return false
	}
	if w.Serves != nil {
		return w.Serves[j]
	}
	return q.Reports[j].Capacity > 0
}

// lose takes the lost clusters out, and their callers elsewhere.
func (w *Question) lose(q *posed) {
	n := len(q.Reports)
	for i := range w.Lost {
		if !w.Lost[i] {
			continue
		}
		demand := q.Reports[i].Demand
		q.Reports[i].Demand, q.Reports[i].Rate, q.Reports[i].Capacity = 0, 0, 0
		for j := range n {
			q.Dead[i*n+j], q.Dead[j*n+i] = true, true
		}
		to, near := -1, math.Inf(1)
		for j := range n {
			if rtt := q.RTT[i*n+j]; !w.Lost[j] && rtt < near {
				to, near = j, rtt
			}
		}
		if !w.Stay && to >= 0 {
			q.Reports[to].Demand += demand
		}
	}
}
