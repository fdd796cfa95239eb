package traffic

import (
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/codec/manifest"
)

// tree is the scenario of three services, short.
func tree(t testing.TB) *manifest.Simulation {
	m := load(t, "t4-tree")
	m.Duration, m.From, m.To = 25*time.Second, 15*time.Second, 25*time.Second
	return m
}

// TestATreeIsCrossedWhereItCostsLeast: with what is called below in the split fewer calls cross than without it, the control
// run, and the mean is lower; and it is near the optimum of the whole tree.
func TestATreeIsCrossedWhereItCostsLeast(t *testing.T) {
	m := tree(t)
	own, without, best := newWorld(m, "isthmus", 1).run(), newWorld(m, blind, 1).run(), newWorld(m, "oracle-fluid", 1).run()
	crossed := func(m *Measured) float64 { return part(m.Crossed, m.Requests) }
	if own.ErrorRate() > 1e-4 || own.Mean() > 1.1*best.Mean() || crossed(own) > 1.3*crossed(best) {
		t.Errorf("mean %.1f ms, %.3f cross, errors %.5f; the optimum has %.1f ms and %.3f", own.Mean(), crossed(own), own.ErrorRate(), best.Mean(), crossed(best))
	}
	if without.Mean() < 1.02*own.Mean() || crossed(without) < 1.15*crossed(own) {
		t.Errorf("control run: mean %.1f ms, %.3f cross, with what is called below %.1f ms and %.3f", without.Mean(), crossed(without), own.Mean(), crossed(own))
	}
}

// TestTreesEnd: every request and call of a tree ends once, whatever dies meanwhile, and two runs of a seed are the same.
func TestTreesEnd(t *testing.T) {
	m := tree(t)
	m.Duration, m.From, m.To = 8*time.Second, time.Second, 8*time.Second
	m.Faults = []manifest.SimFault{
		{Kind: manifest.FaultRefuse, Region: "south", Service: "db", From: 2 * time.Second, To: 5 * time.Second},
		{Kind: manifest.FaultBlackHole, Region: "central", Endpoints: 7, From: 3 * time.Second, To: 6 * time.Second},
		{Kind: manifest.FaultCut, Between: [2]string{"east", "south"}, OneWay: true, From: 4 * time.Second, To: 7 * time.Second},
	}
	for _, name := range Policies() {
		w := newWorld(m, name, 3)
		out, again := w.run(), newWorld(m, name, 3).run()
		if out.Requests != again.Requests || out.Tries != again.Tries || out.Crossed != again.Crossed || out.latency.sum != again.latency.sum {
			t.Errorf("%s: two runs of one seed differ: %d and %d tries", name, out.Tries, again.Tries)
		}
		for _, w := range w.tiers {
			if open, left := len(w.requests)-len(w.freeReq), len(w.tries)-len(w.freeTry); open != 0 || left != 0 {
				t.Errorf("%s, service %q: %d requests are not over, %d tries held by nobody", name, w.name, open, left)
			}
			for at := range w.endpoints {
				if e := &w.endpoints[at]; e.busy != 0 || e.queued() != 0 || e.meter.InFlight() != 0 {
					t.Errorf("%s, service %q: endpoint %d has %d busy lanes, %d waiting, %d in its meter", name, w.name, at, e.busy, e.queued(), e.meter.InFlight())
				}
			}
		}
	}
}
