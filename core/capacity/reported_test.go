package capacity

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// TestWhatIsReportedIsBelieved: an application that says how busy it is bears what it serves over that, at any load at which it is busy at
// all, whatever rate it is asked for; once it stops to say so, nothing of it is left.
func TestWhatIsReportedIsBelieved(t *testing.T) {
	half := 500 * time.Millisecond
	for _, load := range []float64{0.1, 0.3, 0.9, 1.5} {
		for seed := range uint64(20) {
			var r Reported
			draw := rand.New(rand.NewPCG(seed, 9))
			got := 0.0
			for range 40 { // it bears 400 a second, and measures that with an error of a tenth
				served := load * 400
				got = r.Look(Window{Over: half, Answered: served / 2 * (1 + 0.1*draw.NormFloat64())}, Load{Reports: 5, Utilisation: load * (1 + 0.1*draw.NormFloat64())})
			}
			if math.Abs(got-400) > 80 {
				t.Errorf("at %g of its load it bears %g, want 400", load, got)
			}
			if r.Look(Window{Over: half}, Load{}) != got {
				t.Error("a rest changes what it bears")
			}
			for range 21 {
				got = r.Look(Window{Over: half, Answered: 100}, Load{})
			}
			if got != 0 {
				t.Errorf("10s without a report it bears %g still", got)
			}
		}
	}
	for what, c := range map[string]struct {
		l    Load
		want float64
	}{
		"its own count of requests stands before ours":      {Load{Reports: 1, Utilisation: 0.5, RPS: 300}, 600},
		"what fails is no work":                             {Load{Reports: 1, Utilisation: 0.5, EPS: 50}, 100},
		"all of it fails":                                   {Load{Reports: 1, Utilisation: 0.5, EPS: 500}, 0},
		"who is idle cannot know the most":                  {Load{Reports: 1, Utilisation: 0.01}, 0},
		"who says that it has more to do than it can is so": {Load{Reports: 1, Utilisation: 2}, 50},
	} {
		var r Reported
		got := 0.0
		for i := range 10 {
			if i < firm-1 && got != 0 {
				t.Errorf("%s: believed after %d windows", what, i)
			}
			got = r.Look(Window{Over: half, Answered: 50}, c.l)
		}
		if math.Abs(got-c.want) > 1e-9 {
			t.Errorf("%s: it bears %g, want %g", what, got, c.want)
		}
	}
}
