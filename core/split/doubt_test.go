package split

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestDoubtIsNoEmergency: over random problems in which every capacity is learnt or assumed, and changes at random, a split sets out from the
// nearest, moves no more than MoveMax of a source's traffic a tick, and for no emergency. The control is the same with declared ones.
func TestDoubtIsNoEmergency(t *testing.T) {
	jumps := 0
	for _, source := range []mesh.CapacitySource{mesh.CapacityLearnt, mesh.CapacityAssumed, mesh.CapacityDeclared} {
		for seed := range uint64(200) {
			r := rand.New(rand.NewPCG(seed, 11))
			n := 2 + r.IntN(4)
			in := &Input{Since: 500e6, RTT: make([]float64, n*n), Strategy: mesh.StrategyAuto}
			for i := range n {
				in.Reports = append(in.Reports, Report{Cluster: mesh.ClusterName(fmt.Sprint("c", i)), Wait: -1, Source: source, Service: 0.02})
				for j := range i {
					in.RTT[i*n+j] = 0.005 + 0.1*r.Float64()
					in.RTT[j*n+i] = in.RTT[i*n+j]
				}
			}
			var state State
			before := make([]float64, n*n)
			for i := range n {
				before[i*n+i] = 1
			}
			for range 20 {
				for i := range n {
					in.Reports[i].Demand, in.Reports[i].Capacity = 1000*r.Float64(), 100+1000*r.Float64()
				}
				var o Outcome
				state, o = Step(state, in)
				emergency := o.Cause == CauseStart || o.Cause == CauseOverload
				for i := range n {
					moved := 0.0
					for j, x := range state.Row(i) {
						moved += math.Abs(x-before[i*n+j]) / 2
					}
					if emergency = emergency || moved > MoveMax+smallest*float64(n); emergency && source.Doubtful() {
						t.Fatalf("%s, seed %d: cluster %d moves %.3f: %s", source, seed, i, moved, o.Cause)
					}
				}
				if emergency {
					jumps++
				}
				copy(before, state.X)
			}
		}
	}
	if jumps == 0 {
		t.Error("control: what is declared never jumps, and the test proves nothing")
	}
}

// TestWhatIsIdleIsAssumed: clusters of which nothing is known, next to one of which something is.
func TestWhatIsIdleIsAssumed(t *testing.T) {
	in := &Input{Reports: []Report{{Cluster: "a", Capacity: 400, Service: 0.02, Source: mesh.CapacityLearnt}, {Cluster: "b"}, {Cluster: "c", Rate: 1000, Service: 0.03}, {Cluster: "d", Age: -1}, {Cluster: "e"}}}
	Assume(in, []float64{2, 3, 1, 5, 0})
	for i, want := range []Report{{Capacity: 400, Service: 0.02, Source: mesh.CapacityLearnt}, {Capacity: 600, Service: 0.02, Source: mesh.CapacityAssumed},
		{Capacity: 1200, Service: 0.03, Source: mesh.CapacityAssumed}, {}, {}} {
		if got := in.Reports[i]; math.Abs(got.Capacity-want.Capacity) > 1e-9 || math.Abs(got.Service-want.Service) > 1e-9 || got.Source != want.Source {
			t.Errorf("%s is taken for %g requests a second of %gs (%s), want %+v", got.Cluster, got.Capacity, got.Service, got.Source, want)
		}
	}
	none := &Input{Reports: []Report{{Cluster: "a"}, {Cluster: "b"}}}
	if Assume(none, []float64{1, 1}); none.Reports[0].Capacity != 0 || none.Reports[1].Capacity != 0 {
		t.Error("out of nothing something is assumed")
	}
}
