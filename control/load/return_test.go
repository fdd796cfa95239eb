package load

import (
	"testing"

	"github.com/isthmus-mesh/isthmus/core/failback"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// lostAndBack is a pair whose eu lost all endpoints for five seconds and has them again, of whose requests a part fails then.
func lostAndBack(t *testing.T, fails float64, off bool) *pair {
	w := newPair(t)
	w.demand["eu"], w.demand["us"] = 200, 50
	w.run(10)
	for _, b := range w.clusters {
		b.services[catalog].gates.Off = off
	}
	w.ready["eu"] = 0
	w.know()
	w.run(10)
	w.want("lost", "eu", "us", 100, 100)
	w.ready["eu"], w.fails = 2, map[mesh.ClusterName]float64{"eu": fails}
	w.know()
	return w
}

// TestAClusterThatComesBackIsProved: one that serves gets a little, then more, and has all within the half minute that it takes to warm up.
func TestAClusterThatComesBackIsProved(t *testing.T) {
	w := lostAndBack(t, 0, false)
	w.run(2)
	w.want("just back", "eu", "eu", 1, 10)
	if r := w.last["eu"].Returning; len(r) != 1 || r[0].Cluster != "eu" || r[0].Parts != 100 {
		t.Errorf("the split says of ways back: %+v", r)
	}
	if got := w.clusters["eu"].Returning(); len(got) != 1 || got[0].Service != catalog {
		t.Errorf("on their way back: %+v", got)
	}
	w.run(70)
	w.want("back for 35 s", "eu", "eu", 97, 100) // two points are no news
	if r := w.last["eu"].Returning; len(r) != 0 {
		t.Errorf("the split still says of ways back: %+v", r)
	}
}

// TestASickClusterThatComesBack of which every fifth request fails keeps a tenth at most; without gates it gets all.
func TestASickClusterThatComesBack(t *testing.T) {
	w := lostAndBack(t, 0.2, false)
	for range 140 {
		w.run(1)
		w.want("sick", "eu", "eu", 0, 10)
	}
	control := lostAndBack(t, 0.2, true)
	control.run(70)
	control.want("the control, without gates", "eu", "eu", 98, 100)
}

// TestWaysBackAreTold: each step once, with what it was judged by.
func TestWaysBackAreTold(t *testing.T) {
	w := lostAndBack(t, 0, false)
	var got []failback.Event
	w.told = func(n mesh.ClusterName, c Change) {
		for _, m := range c.Returns {
			if n == "eu" {
				got = append(got, m.Event)
			}
		}
	}
	w.run(70)
	if len(got) != 6 || got[0] != failback.Began || got[5] != failback.Ended {
		t.Errorf("told %v, want the beginning, four steps and the end", got)
	}
}
