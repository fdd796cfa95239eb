package split

import (
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestForecastOfALostCluster: what it served goes to others, nearest first and no further than they have, and what its
// callers asked for comes in by the nearest, or not at all.
func TestForecastOfALostCluster(t *testing.T) {
	in := three(1200, 900, 500)
	before := Foresee(State{}, in, Question{})
	if before.Load[0] != 1200 || before.Load[1] != 900 || before.Load[2] != 500 {
		t.Fatalf("as it is: loads %v, want each at home", before.Load)
	}
	after := Foresee(State{}, in, Question{Lost: []bool{true, false, false}})
	if got := after.Demand; got[0] != 0 || got[1] != 2100 || got[2] != 500 {
		t.Errorf("demand %v: users of a come in by b, which is the nearest", got)
	}
	if after.Load[0] != 0 || math.Abs(after.Load[1]+after.Load[2]-2600) > 1 || after.Load[1] > Full*2000+1 || after.Shed[1]+after.Shed[2] != 0 {
		t.Errorf("loads %v, shed %v: want 2600 on the two that are left, neither beyond %.0f", after.Load, after.Shed, Full*2000)
	}
	if stay := Foresee(State{}, in, Question{Lost: []bool{true, false, false}, Stay: true}); stay.Demand[1] != 900 || stay.Load[1] != 900 {
		t.Errorf("demand %v, loads %v: want that of a lost with it", stay.Demand, stay.Load)
	}
	if in.Reports[0].Demand != 1200 || in.Dead != nil {
		t.Error("the question changed the input")
	}
}

// TestForecastNamesWhatIsLost: shed where nobody has room, refused by law where only the law stands in the way.
func TestForecastNamesWhatIsLost(t *testing.T) {
	in := three(1900, 1900, 1900)
	f := Foresee(State{}, in, Question{Lost: []bool{false, false, true}})
	if shed := f.Shed[0] + f.Shed[1]; math.Abs(shed-1700) > 1 {
		t.Errorf("%.0f of 5700 are shed by two clusters of 2000, want 1700", shed)
	}
	in = three(100, 100, 100)
	in.Forbidden = []bool{false, true, true, false, false, false, false, false, false}
	in.Reports[0].Capacity = 0
	f = Foresee(State{}, in, Question{})
	if !f.Law[0] || f.Refused[0] != 100 || !math.IsNaN(f.Mean[0]) || f.Refused[1] != 0 || f.Law[1] {
		t.Errorf("refused %v, by law %v, mean %v: want all of a, and nothing else", f.Refused, f.Law, f.Mean)
	}
}

// TestForecastWithoutCapacities: where no lanes are known the nearest serves, and nothing is said of how full it is.
func TestForecastWithoutCapacities(t *testing.T) {
	in := three(100, 50, 10)
	for j := range in.Reports {
		in.Reports[j].Capacity, in.Reports[j].Service = 0, 0
	}
	f := Foresee(State{}, in, Question{Lost: []bool{false, true, false}, Serves: []bool{false, true, true}})
	if f.Load[2] != 160 || !math.IsNaN(f.Capacity[2]) || f.Shed[2] != 0 || !math.IsNaN(f.Mean[0]) {
		t.Errorf("loads %v, capacities %v, mean %v: want all at c, of which nothing more is known", f.Load, f.Capacity, f.Mean)
	}
}

// TestForecastIsLawful for any input: what is asked for goes somewhere lawful, or is named as refused.
func TestForecastIsLawful(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		n := len(in.Reports)
		lost := make([]bool, n)
		for i := range lost {
			lost[i] = rapid.IntRange(0, 3).Draw(t, "lost") == 0
		}
		f := Foresee(State{}, in, Question{Lost: lost, Stay: rapid.Bool().Draw(t, "stay")})
		for i := range n {
			sum := 0.0
			for j := range n {
				v := f.Flow[i*n+j]
				sum += v
				if v > 0 && (lost[i] || lost[j] || in.Forbidden[i*n+j] || in.Dead[i*n+j] || in.Strategy == mesh.StrategyLocal && i != j) {
					t.Fatalf("%v goes from %d to %d", v, i, j)
				}
			}
			if math.Abs(sum+f.Refused[i]-f.Demand[i]) > 1e-6*(1+f.Demand[i]) {
				t.Fatalf("cluster %d asks for %v: %v are sent and %v refused", i, f.Demand[i], sum, f.Refused[i])
			}
		}
	})
}
