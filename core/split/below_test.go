package split

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

func named(n string) mesh.ServiceName { return mesh.ServiceName{Namespace: "shop", Name: n} }

func close(a, b float64) bool { return math.Abs(a-b) <= 1e-3*max(math.Abs(a), math.Abs(b), 1e-6) }

// TestATreeIsLearnt: how often a request calls, what that costs now and what it took, whatever the rate, and while nothing runs.
func TestATreeIsLearnt(t *testing.T) {
	var tree Tree
	price := func(n mesh.ServiceName) (Price, bool) {
		return Price{Deep: [Hops]float64{0.1, 0.2, 0.3, 0.4}, Grows: [Hops]float64{1, 1, 1, 1}}, n == named("db")
	}
	for _, served := range []float64{50, 100, 400, 0, 0} {
		tree.Measured(served, map[mesh.ServiceName]Call{named("db"): {Asked: 3 * served, Busy: 0.06 * served}, named("unknown"): {Asked: served, Busy: served}})
	}
	below, within := tree.Cost(0.1, price)
	if !close(below.Deep[0], 0.3) || !close(below.Deep[Hops-1], 1.2) || !close(below.Grows[0], 9) || !close(within, 0.06) {
		t.Errorf("calls cost %v and took %g s: want 0.3 to 1.2 and 0.06", below, within)
	}
	if below, within = tree.Cost(0.04, price); !close(within, 0.038) || !close(below.Deep[0], 0.19) {
		t.Errorf("calls made at once cost %v and took %g s: want 0.19 and 0.038", below, within)
	}
	for range 400 { // it stops to call, and goes on serving
		tree.Measured(400, nil)
	}
	if below, within = tree.Cost(0.1, price); below != (Price{}) || within != 0 {
		t.Errorf("what is not called any more costs %v and took %g s", below, within)
	}
	for i := range 3 * callsMax {
		tree.Measured(1, map[mesh.ServiceName]Call{named(fmt.Sprint(i)): {Asked: 1}})
	}
	if len(tree.calls) > callsMax {
		t.Errorf("%d services are called", len(tree.calls))
	}
}

// TestWhatIsCalledBelowDecides where a request runs: the calls of the nearest cost more than the way to another. What they
// took while the time in a lane was measured is in that time, and does not count twice.
func TestWhatIsCalledBelowDecides(t *testing.T) {
	dear := Price{Deep: [Hops]float64{0.1, 0.1, 0.1, 0.1}}
	for _, c := range []struct {
		name   string
		change func(*Report)
		home   bool
	}{
		{"control run: nothing is called", func(*Report) {}, true},
		{"calls cross", func(r *Report) { r.Below = dear }, false},
		{"calls crossed, and do not any more", func(r *Report) { r.Service, r.Capacity, r.Within, r.Below = 0.12, 2000, 0.1, Price{} }, true},
		{"control run: as slow by itself", func(r *Report) { r.Service, r.Capacity = 0.12, 2000 }, false},
		{"the report is old", func(r *Report) { r.Below, r.Age = dear, 10*time.Minute }, true},
	} {
		in := three(400, 400, 400)
		c.change(&in.Reports[0])
		s, _ := settle(State{}, in, 60)
		if home := s.Row(0)[0] > 0.9; home != c.home {
			t.Errorf("%s: %.2f stay at home", c.name, s.Row(0)[0])
		}
	}
}

// TestPricesAreMarginal: from a cluster whose sink is nearly full a request costs more than it waits, and 1 s where nobody serves.
func TestPricesAreMarginal(t *testing.T) {
	in := three(1800, 100, 100)
	in.Strategy = mesh.StrategyLocal
	s, _ := settle(State{}, in, 60)
	if a, b := s.Price[0].Deep[0], s.Price[1].Deep[0]; a < 0.02*(1+2*wait(0.9)) || b > 0.021 {
		t.Errorf("a request costs %g s where 0.9 is used, %g where next to nothing is", a, b)
	}
	in.Reports[0].Capacity = 0
	if s, _ = settle(s, in, 60); !close(s.Price[0].Deep[0], unserved) {
		t.Errorf("what nobody serves costs %g s", s.Price[0].Deep[0])
	}
}

// TestCirclesEnd: two services that call each other cost what so many hops do, and not more by the tick.
func TestCirclesEnd(t *testing.T) {
	states, reports := [2]State{}, [2]Report{}
	grew := 0.0
	for n := range 1000 {
		if n == 500 {
			grew = reports[0].Below.Grows[Hops-1]
		}
		for k := range states {
			in := three(100, 100, 100)
			for j := range in.Reports {
				in.Reports[j].Below = reports[k].Below
			}
			states[k], _ = Step(states[k], in)
			other := Tree{served: 1, lately: 1, calls: []called{{named("other"), Call{Asked: 2}}}}
			reports[1-k].Below, _ = other.Cost(0, func(mesh.ServiceName) (Price, bool) { return states[k].Price[0], true })
		}
	}
	own := states[0].Price[0].Deep[0]
	if got, want := reports[0].Below.Deep[Hops-1], own*(2+4+8+16); !close(got, want) {
		t.Errorf("the calls of a circle cost %g s, want %g", got, want)
	}
	if got := reports[0].Below.Grows[Hops-1]; grew <= 0 || !close(got, grew) {
		t.Errorf("what they cost more grows without end: by %g and then by %g", grew, got)
	}
}

// TestAJobCostsNoMoreThanThereIs: who answers a request a second and asks for a million has a cost all the same.
func TestAJobCostsNoMoreThanThereIs(t *testing.T) {
	job := Tree{served: 1, lately: 1, calls: []called{{named("store"), Call{Asked: 1e6}}}}
	b, _ := job.Cost(0, func(mesh.ServiceName) (Price, bool) {
		return Price{Deep: [Hops]float64{0.1}, Grows: [Hops]float64{1e-3}}, true
	})
	if b.Deep != [Hops]float64{PriceMost} || b.Grows != [Hops]float64{PriceMost} {
		t.Errorf("%+v", b)
	}
}

// TestLossesWeigh: what has to cross goes by a longer way where the short one loses messages, and what little is lost by chance
// moves nothing. Control run: nothing is lost.
func TestLossesWeigh(t *testing.T) {
	by := func(loss float64) []float64 {
		in := three(2400, 1000, 800)
		in.Loss = make([]float64, 9)
		in.Loss[1], in.Loss[3] = loss, loss
		s, _ := settle(State{}, in, 60)
		return s.Row(0)
	}
	none, noise, lossy := by(0), by(lossNoise), by(0.06)
	if none[1] < 2*none[2] || !close(none[1], noise[1]) {
		t.Errorf("control run: without losses %v, with next to none %v", none, noise)
	}
	if lossy[1] > 0.7*none[1] || lossy[2] < none[2] {
		t.Errorf("with losses to b %v, without %v", lossy, none)
	}
}
