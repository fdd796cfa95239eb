package load

import (
	"math"
	"testing"

	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestALossIsForeseenFromWhatIsReported by either cluster: what us would be asked for if eu were lost, and that it has
// not so much; nothing moves for having asked.
func TestALossIsForeseenFromWhatIsReported(t *testing.T) {
	w := newPair(t)
	w.demand["eu"], w.demand["us"] = 300, 200
	w.run(40)
	paths := []split.Path{{Cluster: "us", RTT: 30e6}}
	before := w.last["eu"]
	for _, stay := range []bool{false, true} {
		got := w.clusters["eu"].Foresee(map[mesh.ClusterName]bool{"eu": true}, stay, paths, w.now)
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
	if !near(before.Shares, w.last["eu"].Shares) {
		t.Errorf("the split went from %v to %v", before.Shares, w.last["eu"].Shares)
	}
}
