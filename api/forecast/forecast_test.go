package forecast

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/control/load"
	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/mesh"
)

var places = []Place{{"eu-west", "eu"}, {"eu-north", "eu"}, {"us-east", "us"}}

// TestWordsMeanClustersOrRegions, and a word that means neither is answered with those that do.
func TestWordsMeanClustersOrRegions(t *testing.T) {
	for _, c := range []struct {
		words, want string
		problem     string
	}{
		{words: "us-east", want: "us-east"},
		{words: "eu", want: "eu-north eu-west"},
		{words: "eu eu-west", want: "eu-north eu-west"},
		{words: "mars", problem: `no cluster and no region "mars"; there are eu, eu-north, eu-west, us, us-east`},
		{words: "eu us", problem: "no cluster of the mesh would be left"},
	} {
		got, err := Resolve(places, strings.Fields(c.words))
		if c.problem != "" {
			if err == nil || !strings.Contains(err.Error(), c.problem) {
				t.Errorf("%s: %v, want %q", c.words, err, c.problem)
			}
			continue
		}
		var names []string
		for _, n := range got {
			names = append(names, string(n))
		}
		if err != nil || strings.Join(names, " ") != c.want {
			t.Errorf("%s: %v, %v, want %s", c.words, names, err, c.want)
		}
	}
}

// foresees is a loop of load that foresees this.
type foresees []load.Foreseen

func (f foresees) Foresee(map[mesh.ClusterName]bool, bool) []load.Foreseen { return f }

// TestFindingsSayWhatIsLostAndWhy: what is shed, what the law refuses, and what nobody can serve; and no finding where
// nothing is lost.
func TestFindingsSayWhatIsLostAndWhy(t *testing.T) {
	at := func(loads, capacities, refused []float64, law []bool) split.Forecast {
		f := split.Forecast{Clusters: []mesh.ClusterName{"eu", "us"}, Demand: []float64{10, 20}, Refused: refused, Law: law, Mean: []float64{0.02, math.NaN()}, Load: loads, Capacity: capacities,
			Shed: []float64{0, 0}}
		for i := range loads {
			if capacities[i] < loads[i] {
				f.Shed[i] = loads[i] - capacities[i]
			}
		}
		return f
	}
	none, no := []float64{0, 0}, []bool{false, false}
	calm := at([]float64{10, 20}, []float64{100, math.NaN()}, none, no)
	shop := func(n string, after split.Forecast) load.Foreseen {
		return load.Foreseen{Service: mesh.ServiceName{Namespace: "shop", Name: n}, Strategy: mesh.StrategyAuto, Before: calm, After: after}
	}
	a := Ask("eu", foresees{shop("calm", calm), shop("shed", at([]float64{0, 30}, []float64{0, 20}, none, no)),
		shop("law", at([]float64{10, 0}, []float64{100, 100}, []float64{0, 20}, []bool{false, true})), shop("none", at([]float64{10, 0}, []float64{100, 0}, []float64{0, 20}, no))},
		[]mesh.ClusterName{"us"}, UsersGone)
	want := []string{"shop/shed: cluster us would be asked for 30 requests a second and has 20: 10 would be shed; give it more instances or lanes",
		"shop/law: 20 requests a second of cluster us would be refused by a ResidencyPolicy: no lawful cluster would be left",
		"shop/none: 20 requests a second of cluster us would be refused: no cluster that it reaches would serve them"}
	if !slices.Equal(a.Findings, want) {
		t.Errorf("findings:\n%s\nwant:\n%s", strings.Join(a.Findings, "\n"), strings.Join(want, "\n"))
	}
	if c := a.Services[0].Clusters[1].After; c.Capacity != nil || c.Utilisation != nil || c.MeanMillis != nil {
		t.Errorf("of what is not known is said: %+v", c)
	}
	if c := a.Services[0].Clusters[0].After; c.Utilisation == nil || *c.Utilisation != 0.1 || *c.MeanMillis != 20 {
		t.Errorf("eu: %+v", c)
	}
}
