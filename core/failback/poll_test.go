package failback

import (
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/mesh"
	"pgregory.net/rapid"
)

// said is a proxy that says so much of its requests.
type said struct {
	ill           bool
	ended, failed uint64
	ago           time.Duration
	asked         float64
}

func (s said) voice(now time.Time) (v Voice) {
	v.Saw(split.Result{Ended: s.ended, Failed: s.failed}, now.Add(-s.ago))
	v.Tripped(s.ill)
	return v
}

// TestWhoHasASay: a cluster is out when most that have something to say tripped it, by their number and by what they ask for.
func TestWhoHasASay(t *testing.T) {
	ill, well := said{ill: true, asked: 10}, said{ended: 10, asked: 10}
	for name, c := range map[string]struct {
		says []said
		lost bool
	}{
		"nobody":                              {nil, false},
		"all":                                 {[]said{ill, ill, ill}, true},
		"the only one":                        {[]said{ill}, true},
		"one of three: its own fault":         {[]said{ill, well, well}, false},
		"one of two":                          {[]said{ill, well}, false},
		"two of three":                        {[]said{ill, ill, well}, true},
		"many that ask for little":            {[]said{ill, ill, {ended: 1000, asked: 1000}}, false},
		"one that asks for much":              {[]said{{ill: true, asked: 1000}, well, well}, false},
		"others for whom everything failed":   {[]said{ill, {ended: 9, failed: 9, asked: 1}, {ended: 9, failed: 9, asked: 1}}, true},
		"others that asked nothing":           {[]said{ill, {}, {}}, true},
		"others that succeeded long ago":      {[]said{ill, {ended: 5, ago: time.Minute, asked: 10}, {ended: 5, ago: time.Minute, asked: 10}}, true},
		"some fail and some succeed: is well": {[]said{ill, {ended: 9, failed: 8, asked: 10}, well}, false},
		"nobody asks any more":                {[]said{{ill: true}}, true},
	} {
		var p Poll
		for _, s := range c.says {
			p.Count(s.voice(noon), s.asked, noon)
		}
		if p.Lost() != c.lost {
			t.Errorf("%s: lost is %v", name, p.Lost())
		}
	}
}

// TestAWordIsForgotten: a trip ends what succeeded before it, and what failed does.
func TestAWordIsForgotten(t *testing.T) {
	v := said{ended: 1}.voice(noon)
	v.Tripped(true)
	v.Tripped(false)
	if !v.Silent(noon) {
		t.Errorf("after a trip what was before counts: %+v", v)
	}
	v = said{ended: 1}.voice(noon)
	if v.Saw(split.Result{}, noon.Add(time.Second)); v.Silent(noon.Add(voiceLasts)) || !v.Silent(noon.Add(voiceLasts+1)) {
		t.Errorf("a success counts for %v: %+v", voiceLasts, v)
	}
	if v.Saw(split.Result{Ended: 3, Failed: 3}, noon); !v.Silent(noon) {
		t.Errorf("what succeeded before everything failed counts: %+v", v)
	}
}

// TestAMinorityLosesNobody, whatever the others say: so no proxy alone takes a cluster from two that it serves.
func TestAMinorityLosesNobody(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var p Poll
		ill, well := rapid.IntRange(0, 20).Draw(t, "ill"), rapid.IntRange(0, 20).Draw(t, "well")
		for range ill {
			p.Count(said{ill: true}.voice(noon), rapid.Float64Range(0, 100).Draw(t, "asked"), noon)
		}
		for range well {
			p.Count(said{ended: 2, failed: 1}.voice(noon), rapid.Float64Range(0, 100).Draw(t, "asked"), noon)
		}
		if lost := p.Lost(); lost && ill <= well || !lost && well == 0 && ill > 0 {
			t.Fatalf("%d ill, %d well: lost is %v", ill, well, lost)
		}
	})
}

// TestATrippedClusterIsProved: it is lost for as long as proxies leave it out, gets a hundredth meanwhile, and then step by step; one that
// is lost again waits twice as long. What a dead way holds back in the model is this source's alone, what is refused everybody's.
func TestATrippedClusterIsProved(t *testing.T) {
	var g Gates
	now := noon
	in := func(dead bool) *split.Input {
		r := split.Report{Capacity: 100, Service: 0.02}
		out := &split.Input{Reports: []split.Report{r, r, r}, Dead: make([]bool, 9)}
		for i, n := range []mesh.ClusterName{"eu", "us", "ap"} {
			out.Reports[i].Cluster = n
		}
		out.Dead[1] = dead
		return out
	}
	look := func(dead, tripped bool) (*split.Input, []Move) {
		now = now.Add(500 * time.Millisecond)
		x := in(dead)
		return x, g.Look(x, 0, map[mesh.ClusterName]bool{"us": tripped}, now)
	}
	look(false, false)
	x, moves := look(false, true)
	if len(moves) != 1 || moves[0].Event != Gone || !moves[0].Gate.Tripped || x.Open[1] != 0.01 || !x.Firm[1] || !x.Tripped[1] || x.Open[7] != 0.01 || x.Open[0] != 1 {
		t.Fatalf("tripped: %+v, open %v, tripped %v", moves, x.Open, x.Tripped)
	}
	x, moves = look(false, false)
	if len(moves) != 1 || moves[0].Event != Began || !moves[0].Gate.Tripped || x.Open[1] != 0.01 || x.Tripped[1] {
		t.Fatalf("back: %+v, open %v, tripped %v", moves, x.Open, x.Tripped)
	}
	g.Saw(split.Result{Cluster: "us", Ended: 3, Failed: 2})
	if _, moves = look(false, true); len(moves) != 1 || moves[0].Gate.Hold != 2*holdMin {
		t.Errorf("tripped again: %+v, want twice the hold", moves)
	}
	if _, moves = look(true, true); len(moves) != 0 || g.of["us"].Tripped {
		t.Errorf("its way is dead as well: %+v", g.of["us"].Gate)
	}
	if x, _ = look(false, false); x.Open[1] != 0.01 || x.Open[7] != 1 {
		t.Errorf("a way that was dead is back: open %v, want only the own row held", x.Open)
	}
}
