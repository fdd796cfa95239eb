package split

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/isthmus-mesh/isthmus/mesh"
)

const tickTime = 500 * time.Millisecond

// three is the three clusters of the scenarios T3, 2,000 requests a second each, with these demands.
func three(demand ...float64) *Input {
	in := &Input{Since: tickTime, Strategy: mesh.StrategyAuto, RTT: []float64{0, .02, .06, .02, 0, .04, .06, .04, 0}}
	for i, d := range demand {
		in.Reports = append(in.Reports, Report{Cluster: mesh.ClusterName(rune('a' + i)), Demand: d, Rate: min(d, 2000), Capacity: 2000, Service: 0.02, Wait: -1})
	}
	return in
}

// settle repeats a tick.
func settle(s State, in *Input, ticks int) (State, Outcome) {
	var o Outcome
	for range ticks {
		s, o = Step(s, in)
	}
	return s, o
}

func drawInput(t *rapid.T) *Input {
	n := rapid.IntRange(1, 5).Draw(t, "clusters")
	in := &Input{Since: tickTime, RTT: make([]float64, n*n), Forbidden: make([]bool, n*n), Dead: make([]bool, n*n),
		Strategy: rapid.SampledFrom([]mesh.Strategy{mesh.StrategyAuto, mesh.StrategyCost, mesh.StrategyLatency, mesh.StrategyNearest, mesh.StrategyLocal,
			mesh.StrategyWeighted, mesh.StrategySpread}).Draw(t, "strategy"), Weights: []float64{1, 0, 3, 0, 1}, Price: make([]float64, n*n), Beta: 1}
	for i := range n {
		in.Reports = append(in.Reports, Report{Cluster: mesh.ClusterName(fmt.Sprint(rapid.IntRange(i*2, i*2+1).Draw(t, "name"))),
			Age:    rapid.SampledFrom([]time.Duration{-1, 0, 0, 0, time.Second, time.Minute}).Draw(t, "age"),
			Demand: rapid.SampledFrom([]float64{0, 10, 800, 2400, 9000}).Draw(t, "demand"), Capacity: rapid.SampledFrom([]float64{0, 2000, 2000, 900}).Draw(t, "capacity"),
			Rate: 1500, Service: 0.02, Wait: rapid.SampledFrom([]float64{-1, 0, 0.01, 5}).Draw(t, "wait"),
			Draining: rapid.SampledFrom([]float64{0, 0, 0, 0.5, 1}).Draw(t, "draining")})
		for j := range n {
			if i != j {
				in.RTT[i*n+j] = rapid.SampledFrom([]float64{0.02, 0.06, 0.2, math.NaN()}).Draw(t, "rtt")
			}
			in.Forbidden[i*n+j] = rapid.IntRange(0, 4).Draw(t, "law") == 0
			in.Dead[i*n+j] = i != j && rapid.IntRange(0, 5).Draw(t, "path") == 0
			in.Price[i*n+j] = 0.01
		}
	}
	return in
}

// TestStepIsLawful over any history: a row is a whole, or empty where nothing lawful serves, and nothing
// ever goes where the law forbids it, nothing passes, or nobody serves.
func TestStepIsLawful(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s State
		for range rapid.IntRange(1, 4).Draw(t, "histories") {
			in := drawInput(t)
			n := len(in.Reports)
			for range rapid.IntRange(1, 3).Draw(t, "ticks") {
				s, _ = Step(s, in)
				for i := range n {
					sum, ways := 0.0, 0
					for j, x := range s.Row(i) {
						r := in.Reports[j]
						may := !in.Forbidden[i*n+j] && !in.Dead[i*n+j] && r.Age >= 0 && r.Capacity > 0 && r.Draining < 1 && (in.Strategy != mesh.StrategyLocal || i == j)
						if x < 0 || math.IsNaN(x) || x > 0 && !may {
							t.Fatalf("%s: %d sends %g to %d, allowed %v", in.Strategy, i, x, j, may)
						}
						rowKnown := !math.IsNaN(in.RTT[i*n+j]) && !math.IsNaN(in.RTT[i*n]) || i == j
						if may && rowKnown {
							ways++
						}
						sum += x
					}
					if math.Abs(sum-float64(min(ways, 1))) > 1e-6 {
						t.Fatalf("%s: row %d sums to %g with %d ways: %v", in.Strategy, i, sum, ways, s.Row(i))
					}
				}
			}
		}
	})
}

// TestDampingIsMonotone: with nothing urgent each tick comes nearer to the optimum in cost, and moves no
// more than it may.
func TestDampingIsMonotone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func() *Input {
			return three(rapid.Float64Range(100, 1800).Draw(t, "a"), rapid.Float64Range(100, 1800).Draw(t, "b"), rapid.Float64Range(100, 1800).Draw(t, "c"))
		}
		s, _ := settle(State{}, draw(), 1)
		in := draw()
		cost := math.Inf(1)
		for range 40 {
			next, o := Step(s, in)
			if o.Cause != CauseOverload && o.Moved > MoveMax+1e-9 {
				t.Fatalf("%s: moved %g in a tick", o.Cause, o.Moved)
			}
			tick := newTick(next, in)
			got := tick.problem.Objective(tick.flow(next.X))
			if got > cost*(1+1e-6) {
				t.Fatalf("%s: costs %g after %g", o.Cause, got, cost)
			}
			cost, s = got, next
		}
		_, o := Step(s, in)
		if o.Gain > GainMin+1e-3 {
			t.Fatalf("20 s later %g could still be gained", o.Gain)
		}
	})
}

// TestHistoryIsForgotten: from any split in force the same reports lead to a split that costs as much as one
// that began with them, but for what is not worth a move.
func TestHistoryIsForgotten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := three(rapid.SampledFrom([]float64{10, 800, 1500, 2400}).Draw(t, "a"), rapid.SampledFrom([]float64{10, 800, 1900}).Draw(t, "b"), 400)
		before := three(rapid.SampledFrom([]float64{10, 2400}).Draw(t, "a before"), 900, rapid.SampledFrom([]float64{10, 2400}).Draw(t, "c before"))
		old, _ := settle(State{}, before, 5)
		old, _ = settle(old, in, 60)
		fresh, _ := settle(State{}, in, 1)
		tick := newTick(fresh, in)
		a, b := tick.problem.Objective(tick.flow(old.X)), tick.problem.Objective(tick.flow(fresh.X))
		if a > b*(1+GainMin+2e-3) {
			t.Fatalf("costs %g with a history, %g without: %v and %v", a, b, old.X, fresh.X)
		}
	})
}

// TestNoiseMovesNothing: Σ|Δx| ≤ 0.05 a minute and source, with demands that are counted, not known.
func TestNoiseMovesNothing(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	s, _ := settle(State{}, three(2400, 1000, 800), 40)
	smooth := []float64{2400, 1000, 800}
	for minute := range 3 {
		moved := make([]float64, 3)
		for range 120 {
			for i, d := range []float64{2400, 1000, 800} {
				counted := d + math.Sqrt(2*d)*r.NormFloat64() // Poisson's noise over half a second
				smooth[i] += 0.4 * (counted - smooth[i])
			}
			next, _ := Step(s, three(smooth...))
			for at := range next.X {
				moved[at/3] += math.Abs(next.X[at] - s.X[at])
			}
			s = next
		}
		for i, m := range moved {
			if m > 0.05 {
				t.Errorf("minute %d: the split of cluster %d moved by %g", minute, i, m)
			}
		}
	}
}

func TestEmergenciesAreNotDamped(t *testing.T) {
	s, _ := settle(State{}, three(1850, 400, 800), 5)
	in := three(1850, 400, 800)
	in.Dead = []bool{false, true, false, true, false, true, false, true, false}
	s, o := Step(s, in)
	if s.X[1] != 0 || s.X[7] != 0 || s.X[4] != 1 || o.Cause != CauseLost {
		t.Errorf("a dead cluster: %v, %s", s.X, o.Cause)
	}
	in.Dead = nil // it comes back: slowly
	full := three(1850, 400, 800)
	best, _ := settle(State{}, full, 1)
	for k := range 120 {
		s, o = Step(s, in)
		most := 0.1 + 0.9*float64(k+1)/60
		if o.Moved > MoveMax+1e-9 || s.X[1] > best.X[1]*min(1, most)+0.02 {
			t.Errorf("after %d ticks %g of %g go there again, %g moved", k+1, s.X[1], best.X[1], o.Moved)
		}
	}
	if s.X[1] < 0.7*best.X[1] {
		t.Errorf("a minute later %g of %g go there again", s.X[1], best.X[1])
	}
	in = three(1500, 1000, 800)
	in.Reports[1].Draining = 1
	if s, _ = Step(s, in); s.X[1] != 0 || s.X[4] != 0 {
		t.Errorf("a drained cluster is sent %v", s.X)
	}
	burst := three(2800, 800, 800)
	s, _ = settle(State{}, three(800, 800, 800), 5)
	if s, o = Step(s, burst); o.Cause != CauseOverload || s.X[0]*2800 > 2000 {
		t.Errorf("a burst: %s, %v", o.Cause, s.X)
	}
}

// TestOverloadStaysAtHome: what nobody can serve crosses nothing.
func TestOverloadStaysAtHome(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	s, _ := settle(State{}, three(1000, 1000, 1000), 3)
	for range 60 {
		noisy := func() float64 { return 2600 * (1 + 0.03*r.NormFloat64()) }
		s, _ = Step(s, three(noisy(), noisy(), noisy()))
		if cross := 3 - s.X[0] - s.X[4] - s.X[8]; cross > 0.03 {
			t.Fatalf("%g of the traffic crosses: %v", cross/3, s.X)
		}
	}
	// One with room gives what it has, and no more.
	s, _ = settle(State{}, three(4000, 1000, 2600), 20)
	if got := s.X[1] * 4000; got > 901 || got < 800 || s.X[2] > 0.01 {
		t.Errorf("of 4,000, %g cross to a cluster that has 900: %v", got, s.X)
	}
}

// TestStaleClustersAreFrozen: nobody raises what a cluster gets that has not been heard of, and none is taken
// away for that.
func TestStaleClustersAreFrozen(t *testing.T) {
	s, _ := settle(State{}, three(2200, 1000, 800), 20)
	before := s.X[1]
	in := three(2600, 1000, 800)
	in.Reports[1].Age = StaleAfter + 1
	s, _ = settle(s, in, 20)
	if s.X[1] > before+1e-9 {
		t.Errorf("a stale cluster got %g and gets %g", before, s.X[1])
	}
	if s.X[1] < before/2 {
		t.Errorf("a stale cluster got %g and gets %g", before, s.X[1])
	}
	// What comes to be better elsewhere moves nothing away, which could not come back: neither for good nor by and by.
	s, _ = settle(State{}, three(2200, 1000, 800), 20)
	for k := range 20 {
		in = three(2200, 1000, 800)
		in.Reports[1].Age = StaleAfter + 1
		in.RTT[2], in.RTT[6] = 0.001*float64(1+k%20), 0.001*float64(1+k%20)
		s, _ = Step(s, in)
	}
	if math.Abs(s.X[1]-before) > 1e-9 {
		t.Errorf("a stale cluster got %g and gets %g, since another is nearer now", before, s.X[1])
	}
	in.Dead = make([]bool, 9)
	in.Dead[1] = true
	if s, _ = Step(s, in); s.X[1] != 0 {
		t.Errorf("a cluster behind a dead path gets %g", s.X[1])
	}
}

// TestKappaFollowsWhatIsMeasured within its bounds.
func TestKappaFollowsWhatIsMeasured(t *testing.T) {
	for factor, want := range map[float64]float64{0.01: KappaMin, 0.5: 0.5, 2: 2, 50: KappaMax} {
		in := three(1400, 1400, 1400)
		for j := range in.Reports {
			in.Reports[j].Wait = factor * 0.02 * wait(0.7)
		}
		if s, _ := settle(State{}, in, 80); math.Abs(s.Kappa[0]-want) > 0.02*want {
			t.Errorf("waits of %g times the model's: κ %g, want %g", factor, s.Kappa[0], want)
		}
	}
}

func TestStrategies(t *testing.T) {
	priced := func(s mesh.Strategy, beta float64) *Input {
		in := three(1900, 400, 400)
		in.Strategy, in.Beta, in.Weights = s, beta, []float64{1, 0, 3}
		in.Price = []float64{0, 1, 1, 1, 0, 1, 1, 1, 0}
		return in
	}
	row := func(in *Input) []float64 { s, _ := settle(State{}, in, 1); return s.Row(0) }
	auto, dear, latency := row(priced(mesh.StrategyAuto, 0)), row(priced(mesh.StrategyCost, 0.03)), row(priced(mesh.StrategyLatency, 0.03))
	if auto[0] >= dear[0] || auto[1] <= 0.02 {
		t.Errorf("of its own %g without a price, %g with one", auto[0], dear[0])
	}
	if math.Abs(latency[0]-auto[0]) > 1e-3 {
		t.Errorf("Latency looks at the price: %v, %v", latency, auto)
	}
	if got := row(priced(mesh.StrategyWeighted, 0)); math.Abs(got[0]-.25) > 1e-9 || math.Abs(got[2]-.75) > 1e-9 {
		t.Errorf("weights 1:0:3 give %v", got)
	}
	in := priced(mesh.StrategyWeighted, 0)
	in.Dead = []bool{false, false, true, false, false, false, false, false, false}
	if got := row(in); got[0] != 1 {
		t.Errorf("weights 1:0:3 without the third give %v", got)
	}
	in.Strategy, in.Forbidden = mesh.StrategyNearest, []bool{true, false, false, false, false, false, false, false, false}
	if got := row(in); got[1] != 1 {
		t.Errorf("the nearest that is lawful: %v", got)
	}
	if got := row(priced(mesh.StrategySpread, 0)); math.Abs(got[1]-1./3) > 1e-9 {
		t.Errorf("spread: %v", got)
	}
	if got := row(priced(mesh.StrategyLocal, 0)); got[0] != 1 {
		t.Errorf("local: %v", got)
	}
}

// TestABudgetIsKept, and is no reason to shed: what has no room at home crosses whatever it costs.
func TestABudgetIsKept(t *testing.T) {
	const price = 1e-6
	run := func(budget float64, demand ...float64) (State, Outcome) {
		in := three(demand...)
		in.Strategy, in.Budget, in.Price = mesh.StrategyCost, budget, []float64{0, price, price, price, 0, price, price, price, 0}
		return settle(State{}, in, 240)
	}
	_, free := run(0, 1900, 400, 400)
	if free.Spend < 1e-5 || free.Beta != 0 {
		t.Fatalf("without a budget %g a second are spent, at β %g", free.Spend, free.Beta)
	}
	budget := free.Spend / 3
	s, kept := run(budget, 1900, 400, 400)
	if kept.Spend > 1.1*budget || kept.Spend < 0.3*budget {
		t.Errorf("a budget of %g: %g are spent", budget, kept.Spend)
	}
	in := three(1000, 400, 400) // it calms down: money matters less again
	in.Strategy, in.Budget, in.Price = mesh.StrategyCost, budget, make([]float64, 9)
	if s, _ := settle(s, in, 1000); s.Beta != 0 {
		t.Errorf("β is still %g", s.Beta)
	}
	s, o := run(budget/100, 3000, 400, 400)
	if at := s.X[0] * 3000; at > 2000 {
		t.Errorf("to save money %g requests a second stay with a cluster that serves 2,000; β %g", at, o.Beta)
	}
}

// TestStepForgetsNobody: clusters that come and go keep their rows by name.
func TestStepForgetsNobody(t *testing.T) {
	s, _ := settle(State{}, three(2400, 1000, 800), 10)
	in := three(2400, 1000, 800)
	in.Reports = append(in.Reports[1:], in.Reports[0]) // another order
	in.RTT = []float64{0, .04, .02, .04, 0, .06, .02, .06, 0}
	next, o := Step(s, in)
	if o.Cause != CauseNoGain || math.Abs(next.X[2*3+2]-s.X[0]) > 1e-9 {
		t.Errorf("%s: %v became %v", o.Cause, s.X, next.X)
	}
}

func BenchmarkStep(b *testing.B) {
	p := continents(50, 1)
	in := &Input{Since: tickTime, Strategy: mesh.StrategyAuto, RTT: p.Cost}
	for i, d := range p.Demand {
		in.Reports = append(in.Reports, Report{Cluster: mesh.ClusterName(fmt.Sprint(i)), Demand: d, Rate: d, Capacity: 40_000, Service: 0.02, Wait: -1})
	}
	s, _ := settle(State{}, in, 10)
	b.ReportAllocs()
	for b.Loop() {
		s, _ = Step(s, in)
	}
}

// TestWhatOthersDoIsWhatTheySay: where a cluster sends more than would follow from what is known of it here, a third that gets too much is
// seen to have it, and all is not taken for well. A word that is too old, or of other clusters, is none.
func TestWhatOthersDoIsWhatTheySay(t *testing.T) {
	in := three(1700, 1700, 1700)
	before, _ := settle(State{}, in, 40)
	told := []float64{0, 0.6, 0.4} // with which c is asked for 2,380 of 2,000
	for name, c := range map[string]struct {
		change func(*Report)
		want   Cause
	}{
		"nothing is told":   {func(*Report) {}, CauseNoGain},
		"it is told":        {func(r *Report) { r.Row = told }, CauseOverload},
		"too old":           {func(r *Report) { r.Row, r.Age = told, StaleAfter+1 }, CauseNoGain},
		"of other clusters": {func(r *Report) { r.Row = told[1:] }, CauseNoGain},
	} {
		now := *in
		now.Reports = append([]Report(nil), in.Reports...)
		c.change(&now.Reports[1])
		if _, o := Step(before, &now); o.Cause != c.want {
			t.Errorf("%s: %s (gain %.3f), want %s", name, o.Cause, o.Gain, c.want)
		}
	}
}

// TestAJumpIsNoChance: what chance does to a count is no news, what a burst does is.
func TestAJumpIsNoChance(t *testing.T) {
	for _, c := range []struct {
		rate, asked float64
		over        time.Duration
		want        bool
	}{
		{200, 70, NewsAfter, true},     // three and a half times as much
		{200, 35, NewsAfter, false},    // 3.4 standard deviations
		{200, 0, NewsAfter, false},     // less
		{0, 20, NewsAfter, true},       // out of nothing
		{0, 15, NewsAfter, false},      // a few
		{1e4, 1150, NewsAfter, false},  // 15 % more
		{1e4, 1400, NewsAfter, true},   // 40 % more
		{200, 100, time.Second, false}, // a half, over a longer time
	} {
		if got := Jumped(c.rate, c.asked, c.over); got != c.want {
			t.Errorf("%g in %v, at %g a second: %v", c.asked, c.over, c.rate, got)
		}
	}
}

// TestAReturnGivesWayToOverload: a cluster that has just come back takes its part slowly while others have room, and what they would
// shed at once.
func TestAReturnGivesWayToOverload(t *testing.T) {
	for _, c := range []struct {
		a    float64 // what a is asked for by its own
		want func(home float64) bool
	}{
		{600, func(home float64) bool { return home < 0.3 }},
		{1900, func(home float64) bool { return home > 0.8 }},
	} {
		in := three(c.a, 1200, 100)
		in.Forbidden = make([]bool, 9)
		in.Forbidden[2], in.Forbidden[3+2] = true, true // a's and b's stay there
		in.Reports[1].Capacity = 0
		lost, _ := settle(State{}, in, 10)
		in.Reports[1].Capacity = 2000
		back, _ := settle(lost, in, 4)
		if home := back.Row(1)[1]; !c.want(home) {
			t.Errorf("with %g a second of a's own, %.2f of b's are at home two seconds after it came back", c.a, home)
		}
	}
}
