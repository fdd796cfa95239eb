package balance

import (
	"math"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// leaving goes from all to nothing over ten seconds, from second 100 on.
var leaving = mesh.Ramps{{SinceMillis: 100_000, Over: 10 * time.Second, From: mesh.AllParts}}

func second(s float64) int64 { return int64(s * float64(time.Second)) }

// TestADrainedClusterGetsLessAndThenNothing, in a straight line, with a split and without, and what it does not get goes where
// it would have gone without it.
func TestADrainedClusterGetsLessAndThenNothing(t *testing.T) {
	v := spreadView(func(_ *ir.Endpoints, known map[mesh.ClusterName]*ir.Cluster) { known["eu"].Drains = leaving })
	for _, split := range []bool{false, true} {
		if split {
			v.SetSplit([]Share{{"eu", 1}}, second(100))
		}
		for at, want := range map[float64]float64{99: 1, 100: 1, 102.5: 0.75, 105: 0.5, 109: 0.1, 110: 0, 120: 0} {
			if got := tally(v, Ask{Now: second(at)}, 20_000)["eu"]; math.Abs(got-want) > 0.015 || want == 0 && got != 0 {
				t.Errorf("split %t, second %g: it got %g, want %g", split, at, got, want)
			}
		}
	}
}

// TestADrainedClusterServesWhatNobodyElseMay: better there than nowhere.
func TestADrainedClusterServesWhatNobodyElseMay(t *testing.T) {
	v := spreadView(func(e *ir.Endpoints, known map[mesh.ClusterName]*ir.Cluster) {
		known["eu"].Drains = leaving
		for i := range e.Groups {
			if e.Groups[i].Cluster != "eu" {
				e.Groups[i].Forbidden = "ResidencyPolicy"
			}
		}
	})
	if got := tally(v, Ask{Now: second(200)}, 1000); got["eu"] < 0.999 {
		t.Errorf("got %v: the law leaves nobody else", got)
	}
	if got := tally(spreadView(func(_ *ir.Endpoints, known map[mesh.ClusterName]*ir.Cluster) { known["eu"].Drains = leaving }),
		Ask{Now: second(200), Scope: mesh.ScopeCluster}, 1000); got["eu"] < 0.999 {
		t.Errorf("got %v: the name asks for this cluster only", got)
	}
}

// byTag counts picks by endpoint.
func byTag(v *View, a Ask, n int) map[string]float64 {
	out := map[string]float64{}
	for range n {
		a.Rand = mix(a.Rand + 1)
		if a.Hashed {
			a.Hash = mix(a.Rand)
		}
		p, reason := v.Pick(&a)
		if reason != mesh.ReasonNone {
			return nil
		}
		out[string(p.Endpoint.Cluster)+"/"+p.Endpoint.Label()] += 1 / float64(n)
		p.Done(Abandoned, a.Now)
	}
	return out
}

// TestADrainedEndpointGetsLessAndThenNothing, by every algorithm, and its neighbours take what it had before another
// cluster does. Where all of a cluster are drained, the cluster gets what the least drained of them does.
func TestADrainedEndpointGetsLessAndThenNothing(t *testing.T) {
	for _, algorithm := range []mesh.Algorithm{mesh.AlgorithmPeakEWMA, mesh.AlgorithmRoundRobin, mesh.AlgorithmRandom, mesh.AlgorithmLeastRequest, mesh.AlgorithmConsistentHash} {
		view := func(drained ...int) *View {
			e := groups(4, 2, 2)
			for _, i := range drained {
				e.Groups[0].Endpoints[i].Drains = leaving
			}
			return NewView(Config{Endpoints: e, Clusters: clusters(nil), Cluster: "eu", Proxy: "p", Balancing: mesh.Balancing{Algorithm: algorithm}})
		}
		ask := Ask{Hashed: algorithm == mesh.AlgorithmConsistentHash}
		one := view(0)
		label := "eu/" + one.group("eu").all.endpoints[0].Label()
		before := byTag(view(), ask, 20_000)[label]
		ask.Now = second(105)
		half := byTag(one, ask, 20_000)
		if got := half[label]; got > before*0.75 || got < before*0.25 {
			t.Errorf("%s: it got %g of %g at the middle", algorithm, got, before)
		}
		ask.Now = second(111)
		after := byTag(one, ask, 20_000)
		if after[label] != 0 || len(after) != 3 {
			t.Errorf("%s: at the end its three neighbours serve, and nobody else: %v", algorithm, after)
		}
		if ask.Now = second(105); algorithm == mesh.AlgorithmPeakEWMA {
			if got := tally(view(0, 1, 2, 3), ask, 20_000)["eu"]; math.Abs(got-0.5) > 0.02 {
				t.Errorf("%s: all of a cluster drained to a half: it got %g", algorithm, got)
			}
		}
		ask.Now = second(111)
		if got := tally(view(0, 1, 2, 3), ask, 1000)["eu"]; got != 0 {
			t.Errorf("%s: all of a cluster drained: it got %g", algorithm, got)
		}
	}
}

// TestADrainedSlotIsThatOfTheSlot: a peer says which of its slots are drained.
func TestADrainedSlotIsThatOfTheSlot(t *testing.T) {
	e := &ir.Endpoints{Groups: []ir.Group{{Cluster: "us", Exported: true, Slots: []uint64{1, 1, 1}, Draining: []mesh.SlotRamps{{Slot: 1, Ramps: leaving}}}}}
	v := NewView(Config{Endpoints: e, Clusters: clusters(nil), Cluster: "eu", Proxy: "p"})
	for range 1000 {
		p, reason := v.Pick(&Ask{Now: second(111), Rand: mix(uint64(second(1)))})
		if reason != mesh.ReasonNone || p.Endpoint.Slot == 1 {
			t.Fatalf("slot %d, %q", p.Endpoint.Slot, reason)
		}
	}
	// The next configuration takes it back; the endpoint is the same.
	e.Groups[0].Draining = nil
	next := NewView(Config{Prev: v, Endpoints: e, Clusters: clusters(nil), Cluster: "eu", Proxy: "p"})
	if got := byTag(next, Ask{Now: second(111)}, 3000); len(got) != 3 {
		t.Errorf("after its drain was deleted: %v", got)
	}
}

// TestASessionLeavesWhatIsDrained for good, when its endpoint gets nothing any more.
func TestASessionLeavesWhatIsDrained(t *testing.T) {
	v := spreadView(func(e *ir.Endpoints, _ map[mesh.ClusterName]*ir.Cluster) { e.Groups[0].Endpoints[0].Drains = leaving })
	at := v.group("eu").all.endpoints[0]
	stays := func(now int64) (n int) {
		for i := range 1000 {
			p, _ := v.Pick(&Ask{Now: now, Session: at, Rand: mix(uint64(i))})
			if p.Endpoint == at {
				n++
			}
			p.Done(Abandoned, now)
		}
		return n
	}
	if before, after := stays(second(99)), stays(second(110)); before != 1000 || after != 0 {
		t.Errorf("of 1000 requests of a session %d stayed before, %d after", before, after)
	}
}

// TestAnExplanationSaysWhatIsDrained and to what part.
func TestAnExplanationSaysWhatIsDrained(t *testing.T) {
	v := spreadView(func(_ *ir.Endpoints, known map[mesh.ClusterName]*ir.Cluster) { known["eu"].Drains = leaving })
	half, none := v.Explain(&Ask{Now: second(105)})[0], v.Explain(&Ask{Now: second(110)})[0]
	if half.Dropped != Kept || half.Detail != "own cluster, drained to 50% of its share" {
		t.Errorf("at the middle: %+v", half)
	}
	if none.Dropped != DropDraining || none.Detail != "own cluster, drained to 0% of its share" {
		t.Errorf("at the end: %+v", none)
	}
}
