package load

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/capacity"
	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestWhatIsLearntIsSpread: applications that declare nothing and are asked for more than they bear are spread, step by step and
// never at once, by what their proxies learnt; what is idle stays as it was.
func TestWhatIsLearntIsSpread(t *testing.T) {
	w := newPair(t)
	w.learns = map[mesh.ClusterName]*learning{"eu": {}, "us": {}}
	w.know()
	w.demand["eu"], w.demand["us"] = 100, 100 // of 400 each, which nobody knows
	w.run(40)
	w.want("at a quarter of the load", "eu", "eu", -1, -1)
	w.demand["eu"] = 560
	most, was := 0, 0
	w.told = func(n mesh.ClusterName, c Change) {
		if n == "eu" {
			now := max(0, w.part("eu", "us"))
			most, was = max(most, now-was), now
		}
		if c.Outcome.Cause == split.CauseOverload || c.Outcome.Cause == split.CauseStart {
			t.Errorf("%s: what was learnt is an emergency: %q", n, c.Outcome.Cause)
		}
	}
	w.run(30)
	w.want("at 1.4 times what it bears", "eu", "us", 25, 55)
	w.want("of who has room", "us", "us", 100, 100)
	if most > 16 {
		t.Errorf("%d %% moved at once, want 15 at most", most)
	}
	if got := w.last["eu"].Capacities; len(got) != 2 || got[0].Source != mesh.CapacityLearnt || math.Abs(got[0].Rate-400) > 60 || got[1].Source != mesh.CapacityAssumed {
		t.Errorf("told capacities %+v, want eu to bear 400 as learnt, and us as assumed", got)
	}
	moves := w.moves
	w.run(240)
	if w.moves > moves+6 {
		t.Errorf("%d moves in two minutes in which nothing changed", w.moves-moves)
	}
	w.want("two minutes later", "eu", "us", 25, 55)
	w.demand["eu"] = 100
	w.run(60)
	w.want("when the load is gone", "eu", "eu", 95, 100)

	off := newPair(t)
	off.learns = map[mesh.ClusterName]*learning{"eu": {}, "us": {}}
	off.know()
	for _, b := range off.clusters {
		b.unlearning = true
	}
	off.demand["eu"], off.demand["us"] = 560, 100
	off.run(60)
	off.want("control: nobody believes what is learnt", "eu", "us", -1, -1)
}

// learning is a cluster's endpoints that declare no lanes: a queue of 8 lanes together, as requests a second.
type learning struct {
	by     []capacity.Learner
	queued float64
}

// sample is what one of n endpoints that together are asked for rate says of half a second in which each bears bears.
func (l *learning) samples(n int, rate, bears, usual float64) (out []split.Sample) {
	if len(l.by) != n {
		l.by = make([]capacity.Learner, n)
	}
	asked := rate/float64(n)*Every.Seconds() + l.queued
	answered := min(asked, bears*Every.Seconds())
	l.queued = min(asked-answered, 0.3*bears) // more is refused
	rho := answered / (bears * Every.Seconds())
	took := usual * (1 + math.Pow(rho, 3)/(4*(1-min(rho, 0.9)))) // 1.6 times at 0.9
	took += l.queued / bears
	for i := range l.by {
		e := l.by[i].Look(capacity.Window{Over: Every, Answered: answered, Took: time.Duration(took * answered * 1e9), There: l.queued + answered*usual, Refused: l.queued == 0.3*bears})
		out = append(out, split.Sample{Service: catalog, Served: answered / Every.Seconds(), Bears: e.Rate, Sure: e.Sure, Source: mesh.CapacityLearnt, Time: e.Time, Wait: e.Wait})
	}
	return out
}

// TestEndpointsAddUp: those that declare, report and learnt, and those that say nothing.
func TestEndpointsAddUp(t *testing.T) {
	sample := func(lanes uint32, bears, sure float64, by mesh.CapacitySource) split.Sample {
		return split.Sample{Service: catalog, Lanes: lanes, Bears: bears, Sure: sure, Source: by, Time: 20 * time.Millisecond}
	}
	declared, reported := sample(4, 0, 0, mesh.CapacityUnknown), sample(0, 100, 1, mesh.CapacityReported)
	learnt, silent, old := sample(0, 150, 0.8, mesh.CapacityLearnt), sample(0, 60, 0, mesh.CapacityLearnt), sample(0, 0, 0, mesh.CapacityUnknown)
	for _, c := range []struct {
		what    string
		samples []split.Sample
		ready   float64
		was     mesh.CapacitySource
		rate    float64
		source  mesh.CapacitySource
	}{
		{"nobody says anything", []split.Sample{old, old}, 2, 0, 0, mesh.CapacityUnknown},
		{"all are idle", []split.Sample{silent, silent}, 2, 0, 0, mesh.CapacityUnknown},
		{"all met their limit", []split.Sample{learnt, learnt}, 2, 0, 300, mesh.CapacityLearnt},
		{"one of them is away", []split.Sample{learnt, learnt}, 1, 0, 150, mesh.CapacityLearnt},
		{"one has not said anything yet", []split.Sample{learnt, learnt}, 3, 0, 450, mesh.CapacityLearnt},
		{"one of three met it", []split.Sample{learnt, silent, silent}, 3, 0, 0, mesh.CapacityUnknown},
		{"two of three met it", []split.Sample{learnt, learnt, silent}, 3, 0, 450, mesh.CapacityLearnt},
		{"one of three still meets it", []split.Sample{learnt, silent, silent}, 3, mesh.CapacityLearnt, 450, mesh.CapacityLearnt},
		{"what is idle bears more than those that met it", []split.Sample{learnt, sample(0, 400, 0, mesh.CapacityLearnt)}, 2, 0, 550, mesh.CapacityLearnt},
		{"one declares, one learnt", []split.Sample{declared, learnt}, 2, 0, 350, mesh.CapacityLearnt},
		{"one declares, one reports", []split.Sample{declared, reported}, 2, 0, 300, mesh.CapacityReported},
		{"one declares, one reports, one learnt, two are silent", []split.Sample{declared, reported, learnt, silent, old}, 5, 0, 750, mesh.CapacityLearnt},
		{"a word of a later version", []split.Sample{sample(0, 100, 1, mesh.CapacityAssumed)}, 1, 0, 0, mesh.CapacityUnknown},
	} {
		b := New("eu")
		for i, s := range c.samples {
			b.Sampled(fmt.Sprint("shop/", i), "shop", []split.Sample{s}, time.Unix(1, 0))
		}
		rate, lanes, source := b.measure(time.Unix(1, 0))[catalog].of.Bears(c.ready, c.was)
		if math.Abs(rate-c.rate) > 1e-6 || source != c.source {
			t.Errorf("%s: %g requests a second, %s; want %g, %s", c.what, rate, source, c.rate, c.source)
		}
		if c.rate > 0 && math.Abs(lanes-0.02*c.rate) > 1e-6 {
			t.Errorf("%s: %g lanes, want %g", c.what, lanes, 0.02*c.rate)
		}
	}
}

// TestOlderPeersSeeNoLanes: what was learnt travels in fields of its own, so that a peer of an older version takes the cluster for one of which
// nothing is known, as it did before; and of such a peer's nothing is assumed, as it does not say how many endpoints it has.
func TestOlderPeersSeeNoLanes(t *testing.T) {
	w := newPair(t)
	w.learns = map[mesh.ClusterName]*learning{"eu": {}, "us": {}}
	w.know()
	w.demand["eu"], w.demand["us"] = 560, 100
	w.run(20)
	r := w.clusters["eu"].Report(nil, w.may)
	if len(r.Services) != 1 || r.Services[0].Lanes != 0 || r.Services[0].Bears < 300 || r.Services[0].Source != mesh.CapacityLearnt || r.Services[0].Endpoints != 2 {
		t.Fatalf("eu reports %+v", r.Services)
	}
	if got := w.clusters["us"].Report(nil, w.may).Services[0]; got.Lanes != 0 || got.Bears != 0 || got.Source != mesh.CapacityUnknown || got.Endpoints != 2 {
		t.Errorf("us, that met no limit, reports %+v", got)
	}
	old := w.clusters["us"].Report(nil, w.may)
	old.Services[0].Endpoints = 0
	for range 60 {
		w.now = w.now.Add(Every)
		w.clusters["eu"].Heard("us", old, w.now)
		w.clusters["eu"].Tick([]split.Path{{Cluster: "us", RTT: 30 * time.Millisecond}}, w.now)
	}
	for _, c := range w.clusters["eu"].Capacities() {
		for _, of := range c.Capacities {
			if of.Cluster == "us" {
				t.Errorf("of a peer that says nothing %+v is assumed", of)
			}
		}
	}
}
