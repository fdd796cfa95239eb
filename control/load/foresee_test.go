package load

import (
	"math"
	"slices"
	"testing"

	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/mesh"
)

func nowhere(mesh.ClusterName) mesh.Region { return "" }

// TestPlansAreForeseenAsProxiesFollowThem: a region keeps its weight when it loses a cluster, what no weight names serves when
// nothing else does, and a ladder goes on in the own region before it goes where it is told.
func TestPlansAreForeseenAsProxiesFollowThem(t *testing.T) {
	names := []mesh.ClusterName{"eu1", "eu2", "us", "ap"}
	regions := map[mesh.ClusterName]mesh.Region{"eu1": "eu", "eu2": "eu", "us": "us", "ap": "ap"}
	ask := func(s mesh.Strategy, d mesh.Distribution, lost ...string) []float64 {
		k := len(names)
		in := &split.Input{Since: Every, Strategy: s, RTT: make([]float64, k*k)}
		q := split.Question{Stay: true, Lost: make([]bool, k), Serves: make([]bool, k)}
		for i, n := range names {
			in.Reports = append(in.Reports, split.Report{Cluster: n, Wait: -1, Capacity: 1000, Service: 0.02})
			q.Lost[i], q.Serves[i] = slices.Contains(lost, string(n)), true
			for j := range names {
				if i != j { // all as far from each other, but ap is nearest to everybody
					in.RTT[i*k+j] = 0.05
					if j == 3 {
						in.RTT[i*k+j] = 0.01
					}
				}
			}
		}
		in.Reports[0].Demand = 100
		return split.Foresee(split.State{}, arrange(in, &d, &q, func(n mesh.ClusterName) mesh.Region { return regions[n] }), q).Flow[:k]
	}
	weights := mesh.Distribution{Weights: []mesh.PlaceWeight{{Place: mesh.Place{Region: "eu"}, Weight: 9}, {Place: mesh.Place{Cluster: "us"}, Weight: 1}}}
	ladder := mesh.Distribution{Order: []mesh.Place{{Cluster: "us"}}}
	for _, c := range []struct {
		what string
		got  []float64
		want []float64
	}{
		{"weights", ask(mesh.StrategyWeighted, weights), []float64{45, 45, 10, 0}},
		{"weights, one of the region lost", ask(mesh.StrategyWeighted, weights, "eu2"), []float64{90, 0, 10, 0}},
		{"weights, all that are named but the caller's own lost", ask(mesh.StrategyWeighted, mesh.Distribution{Weights: weights.Weights[1:]}, "us"), []float64{100, 0, 0, 0}},
		{"ladder", ask(mesh.StrategyNearest, ladder), []float64{100, 0, 0, 0}},
	} {
		if !slices.EqualFunc(c.got, c.want, func(a, b float64) bool { return math.Abs(a-b) < 1e-6 }) {
			t.Errorf("%s: %v, want %v", c.what, c.got, c.want)
		}
	}
	for _, c := range []struct {
		to   mesh.ClusterName
		want int
	}{{"eu2", 1}, {"us", 2}, {"ap", 4}} {
		if got := rank(ladder.Order, mesh.Locality{Cluster: "eu1", Region: "eu"}, mesh.Locality{Cluster: c.to, Region: regions[c.to]}); got != c.want {
			t.Errorf("%s has the rank %d, want %d", c.to, got, c.want)
		}
	}
}

// TestALossIsForeseenFromWhatIsReported by either cluster: what us would be asked for if eu were lost, and that it has
// not so much; nothing moves for having asked.
func TestALossIsForeseenFromWhatIsReported(t *testing.T) {
	w := newPair(t)
	w.demand["eu"], w.demand["us"] = 300, 200
	w.run(40)
	paths := []split.Path{{Cluster: "us", RTT: 30e6}}
	before := w.last["eu"]
	for _, stay := range []bool{false, true} {
		got := w.clusters["eu"].Foresee(map[mesh.ClusterName]bool{"eu": true}, stay, nowhere, paths, w.now)
		if len(got) != 1 || got[0].Service != catalog {
			t.Fatalf("foreseen: %+v", got)
		}
		f := got[0]
		eu, us := 0, 1
		want := 500.0
		if stay {
			want = 200
		}
		if math.Abs(f.After.Load[us]-want) > 5 || f.After.Load[eu] != 0 {
			t.Errorf("stay %v: loads %v, want %.0f at us", stay, f.After.Load, want)
		}
		if shed := f.After.Shed[us]; !stay && math.Abs(shed-100) > 5 || stay && shed != 0 {
			t.Errorf("stay %v: %.0f are shed by a cluster of 400", stay, shed)
		}
		if math.Abs(f.Before.Load[eu]+f.Before.Load[us]-500) > 5 || f.Before.Shed[eu]+f.Before.Shed[us] > 0 {
			t.Errorf("as it is: loads %v, shed %v", f.Before.Load, f.Before.Shed)
		}
	}
	w.run(1)
	if !near(before.Shares, w.last["eu"].Shares, news) {
		t.Errorf("the split went from %v to %v", before.Shares, w.last["eu"].Shares)
	}
}
