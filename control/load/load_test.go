package load

import (
	"fmt"
	"math"
	"net/netip"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/codec/wire"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/mesh"
)

var catalog = mesh.ServiceName{Namespace: "shop", Name: "catalog"}

// pair is two clusters, each with two endpoints of four lanes of 20 ms, 30 ms apart; its clock is the test's.
type pair struct {
	t        *testing.T
	now      time.Time
	clusters map[mesh.ClusterName]*Balancer
	// demand is requests a second; ready are endpoints.
	demand map[mesh.ClusterName]float64
	ready  map[mesh.ClusterName]int
	// cut says that nothing passes, deaf that reports do not.
	cut, deaf bool
	// silent is when eu last heard us's control plane, zero while it does.
	silent time.Time
	slow   map[mesh.ClusterName]time.Duration
	// answer is the bytes of an answer.
	answer float64
	// fails is the part of requests to a cluster that fail.
	fails map[mesh.ClusterName]float64
	last  map[mesh.ClusterName]*mesh.Split
	moves int
	may   func(mesh.ServiceName) bool
	told  func(mesh.ClusterName, Change)
	// says is called after what is measured, and quiet is a caller that measures no results.
	says  func(mesh.ClusterName, *Balancer)
	quiet bool
	// learns are those whose endpoints declare nothing.
	learns map[mesh.ClusterName]*learning
}

func newPair(t *testing.T) *pair {
	w := &pair{t: t, now: time.Unix(1000, 0), clusters: map[mesh.ClusterName]*Balancer{"eu": New("eu"), "us": New("us")}, demand: map[mesh.ClusterName]float64{},
		slow: map[mesh.ClusterName]time.Duration{}, ready: map[mesh.ClusterName]int{"eu": 2, "us": 2}, last: map[mesh.ClusterName]*mesh.Split{}, may: func(mesh.ServiceName) bool { return true }}
	w.know()
	return w
}

// know tells all where the endpoints are.
func (w *pair) know() {
	for n, b := range w.clusters {
		e := &ir.Endpoints{Service: catalog}
		for _, of := range []mesh.ClusterName{"eu", "us"} {
			g := ir.Group{Cluster: of, Exported: true}
			for i := range w.ready[of] {
				if of == n {
					g.Endpoints = append(g.Endpoints, ir.Endpoint{Tag: fmt.Sprint(of, i), Proxy: netip.MustParseAddrPort("127.0.0.1:1"), Lanes: w.lanes()})
				} else {
					g.Slots = append(g.Slots, 1)
				}
			}
			e.Groups = append(e.Groups, g)
		}
		b.Know(e)
	}
}

// lanes are those that an endpoint declares.
func (w *pair) lanes() uint32 {
	if w.learns != nil {
		return 0
	}
	return 4
}

// run lets the loop turn so often.
func (w *pair) run(ticks int) {
	for range ticks {
		w.now = w.now.Add(Every)
		served, results := map[mesh.ClusterName]float64{}, map[mesh.ClusterName][]split.Result{}
		for n, d := range w.demand {
			at := map[mesh.ClusterName]float64{n: 1}
			if s := w.last[n]; s != nil {
				clear(at)
				for _, share := range s.Shares {
					at[share.Cluster] = float64(share.Parts) / mesh.AllParts
				}
			}
			for to, x := range at {
				served[to] += x * d
				ended := math.Round(x * d * Every.Seconds())
				results[n] = append(results[n], split.Result{Cluster: to, Ended: uint64(ended), Failed: uint64(ended * w.fails[to])})
			}
		}
		for n, b := range w.clusters {
			if w.quiet {
				results[n] = nil
			}
			b.Sampled("shop/caller", "shop", []split.Sample{{Service: catalog, Asked: w.demand[n], Wait: -1, Received: w.demand[n] * w.answer, Results: results[n]}}, w.now)
			if l := w.learns[n]; l != nil {
				for i, s := range l.samples(w.ready[n], served[n], 200, 0.02) {
					b.Sampled(fmt.Sprintf("shop/catalog-%d", i), "shop", []split.Sample{s}, w.now)
				}
				continue
			}
			for i := range w.ready[n] {
				b.Sampled(fmt.Sprintf("shop/catalog-%d", i), "shop", []split.Sample{{Service: catalog, Served: served[n] / float64(w.ready[n]), Lanes: 4, Time: w.time(n)}}, w.now)
			}
		}
		for n, b := range w.clusters {
			if w.says != nil {
				w.says(n, b)
			}
			other := map[mesh.ClusterName]mesh.ClusterName{"eu": "us", "us": "eu"}[n]
			paths := []split.Path{{Cluster: other, RTT: 30 * time.Millisecond, Dead: w.cut}}
			if n == "eu" && !w.silent.IsZero() {
				paths[0].StaleSinceMillis = w.silent.UnixMilli()
			}
			for _, c := range b.Tick(paths, w.now) {
				w.last[n] = c.Split
				if w.told != nil {
					w.told(n, c)
				}
				if c.Moved {
					w.moves++
				}
			}
			if !w.cut && !w.deaf {
				w.clusters[other].Heard(n, b.Report(paths, w.may), w.now)
			}
		}
	}
}

// time is that of a request in a lane: 20 ms, unless slow says more or that it is not known.
func (w *pair) time(n mesh.ClusterName) time.Duration {
	if d, ok := w.slow[n]; ok {
		return d
	}
	return 20 * time.Millisecond
}

// part is what of n's requests goes to a cluster, in percent; -1 without a split.
func (w *pair) part(n, to mesh.ClusterName) int {
	s := w.last[n]
	if s == nil {
		return -1
	}
	sum, of := uint32(0), uint32(0)
	for _, share := range s.Shares {
		sum += share.Parts
		if share.Cluster == to {
			of = share.Parts
		}
	}
	if sum != mesh.AllParts {
		w.t.Fatalf("the shares of %v sum up to %d", s.Shares, sum)
	}
	return int(math.Round(float64(of) / 100))
}

func (w *pair) want(what string, n, to mesh.ClusterName, least, most int) {
	w.t.Helper()
	if got := w.part(n, to); got < least || got > most {
		w.t.Errorf("%s: %d %% of %s's requests go to %s, want %d to %d", what, got, n, to, least, most)
	}
}

func TestLoadIsSpreadWhereItIsServed(t *testing.T) {
	w := newPair(t)
	w.demand["eu"], w.demand["us"] = 100, 100 // of 400 each
	w.run(4)
	w.want("at a quarter of the load", "eu", "eu", 100, 100)
	w.demand["eu"] = 560
	w.run(6)
	w.want("at 1.4 times its capacity", "eu", "us", 30, 55)
	w.want("of who has room", "us", "us", 100, 100)
	moves := w.moves
	w.run(240)
	if w.moves > moves+2 {
		t.Errorf("%d moves in two minutes in which nothing changed", w.moves-moves)
	}
	w.demand["eu"] = 100
	w.run(40)
	w.want("when the load is gone", "eu", "eu", 98, 100)
}

func TestACutAndSilence(t *testing.T) {
	w := newPair(t)
	w.demand["eu"], w.demand["us"] = 560, 100
	w.run(10)
	w.want("overloaded", "eu", "us", 30, 55)
	w.deaf = true
	w.run(20)
	w.want("the other one's reports are 10 s old, and its path lives", "eu", "us", 30, 55)
	w.demand["eu"] = 640
	before := w.part("eu", "us")
	w.run(10)
	w.want("nobody is sent more on old news", "eu", "us", 0, before+2)
	w.deaf, w.cut = false, true
	w.run(1)
	w.want("the link is cut", "eu", "us", 0, 0)
	w.cut = false
	w.run(1)
	w.want("just healed", "eu", "us", 0, 10)
	w.run(70)
	w.want("healed for long", "eu", "us", 30, 60)
}

// TestWhatIsTooOldIsNotSpreadTo: where a policy bounds the age of what is known of a cluster, the split sends nothing there from then on, and all again when it is
// heard, at once: nothing of it was lost. The control is a policy that bears any age.
func TestWhatIsTooOldIsNotSpreadTo(t *testing.T) {
	for _, when := range []mesh.WhenStale{mesh.WhenStaleKeep, mesh.WhenStaleExclude, mesh.WhenStaleLastResort} {
		w := newPair(t)
		w.demand["eu"], w.demand["us"] = 560, 100
		w.clusters["eu"].Route(catalog, mesh.StrategyAuto, mesh.Distribution{}, mesh.Staleness{Max: 5 * time.Second, When: when})
		w.run(10)
		w.want("heard", "eu", "us", 30, 55)
		w.deaf, w.silent = true, w.now
		w.run(9)
		w.want("not too old yet", "eu", "us", 30, 55)
		w.run(2)
		if when == mesh.WhenStaleKeep {
			w.want("any age is borne", "eu", "us", 30, 55)
			continue
		}
		w.want("too old", "eu", "us", 0, 0)
		w.want("whose word counts for nobody else", "us", "us", 95, 100)
		w.deaf, w.silent = false, time.Time{}
		w.told = func(_ mesh.ClusterName, c Change) {
			if len(c.Returns) > 0 {
				t.Errorf("it has to prove itself: %+v", c.Returns)
			}
		}
		w.run(8)
		w.want("heard again", "eu", "us", 30, 55)
	}
}

func TestDeathOfAllEndpointsMovesAllAtOnce(t *testing.T) {
	w := newPair(t)
	w.demand["eu"], w.demand["us"] = 100, 50
	w.run(4)
	w.ready["eu"] = 0
	w.know()
	w.run(1)
	if got := w.part("eu", "us"); got != 100 && got != -1 {
		t.Errorf("%d %% go where something lives", got)
	}
	w.ready["us"] = 0
	w.know()
	w.run(1)
	if got := w.part("eu", "us"); got != -1 {
		t.Errorf("a split without anybody who serves: %v", w.last["eu"])
	}
}

// TestWhatIsNotKnownIsNotSpread: without a declared capacity, without a request, and where only one cluster serves, the
// nearest come first.
func TestWhatIsNotKnownIsNotSpread(t *testing.T) {
	w := newPair(t)
	w.run(20)
	w.want("nobody asks", "eu", "us", -1, -1)
	w.demand["eu"] = 100
	w.run(2)
	w.want("somebody asks", "eu", "eu", 100, 100)
	beat := w.last["eu"].Beat
	w.run(int(beatEvery/Every) + 1)
	if w.last["eu"].Beat == beat {
		t.Error("a split that stays is not said again: proxies would forget it")
	}
	w.demand["eu"] = 0
	w.run(int(idleAfter/Every) + 2)
	w.want("nobody asks any more", "eu", "eu", -1, -1)

	b := New("eu")
	b.Know(&ir.Endpoints{Service: catalog, Groups: []ir.Group{{Cluster: "eu", Endpoints: []ir.Endpoint{{Tag: "a"}}}, {Cluster: "us", Slots: []uint64{1}}}})
	now := time.Unix(5, 0)
	for range 10 {
		now = now.Add(Every)
		b.Sampled("shop/x", "shop", []split.Sample{{Service: catalog, Asked: 900, Served: 900, Time: time.Millisecond, Wait: 0}}, now)
		if c := b.Tick(nil, now); len(c) > 0 {
			t.Fatalf("an application of unknown capacity is spread: %+v", c)
		}
	}
}

func TestLawAndStrategyBindTheSplit(t *testing.T) {
	w := newPair(t)
	w.demand["eu"], w.demand["us"] = 560, 100
	b := w.clusters["eu"]
	forbid := func(why string) {
		e := *b.services[catalog].endpoints
		e.Groups = append([]ir.Group(nil), e.Groups...)
		e.Groups[1].Forbidden = why
		b.Know(&e)
	}
	forbid("ResidencyPolicy shop/home@eu")
	w.run(10)
	w.want("the law keeps them", "eu", "us", 0, 0)
	forbid("")
	w.run(10)
	w.want("no law", "eu", "us", 30, 55)
	forbid("ResidencyPolicy shop/home@eu")
	w.run(1)
	w.want("a new law, at the next tick", "eu", "us", 0, 0)
	forbid("")
	b.Route(catalog, mesh.StrategyNearest, mesh.Distribution{}, mesh.Staleness{})
	w.run(1)
	w.want("the nearest first", "eu", "us", -1, -1)
}

// TestAPeerIsToldOfWhatItMayKnow, and a proxy speaks for its own namespace.
func TestAPeerIsToldOfWhatItMayKnow(t *testing.T) {
	w := newPair(t)
	w.demand["eu"] = 50
	w.run(3)
	b := w.clusters["eu"]
	if r := b.Report(nil, func(mesh.ServiceName) bool { return false }); len(r.Services) != 0 {
		t.Errorf("told of %v", r.Services)
	}
	if r := b.Report(nil, w.may); len(r.Services) != 1 || r.Services[0].Lanes != 8 || r.Services[0].Demand < 45 {
		t.Errorf("%+v, want one service with 8 lanes and a demand of 50", r.Services)
	}
	b.Sampled("bank/liar", "bank", []split.Sample{{Service: catalog, Served: 1e6, Lanes: 1e6, Time: time.Nanosecond}}, w.now)
	w.run(3)
	if r := b.Report(nil, w.may); r.Services[0].Rate > 100 || r.Services[0].Time < 0.01 {
		t.Errorf("a proxy of another namespace spoke for the service: %+v", r.Services[0])
	}
}

// TestAReportHasABound: of ten thousand services a peer hears of those that matter most.
func TestAReportHasABound(t *testing.T) {
	r := &split.ClusterReport{}
	for i := range 10_000 {
		r.Services = append(r.Services, split.ServiceReport{Service: mesh.ServiceName{Namespace: "shop", Name: fmt.Sprintf("s%d", i)}, Demand: float64(i), Lanes: 4, Time: 0.01})
	}
	b := encoded(r, replica.MaxReport)
	got, err := wire.DecodeReport(b)
	if err != nil || len(b) > replica.MaxReport || len(b) < replica.MaxReport/2 {
		t.Fatalf("%d bytes, %v; want half of %d to all", len(b), err, replica.MaxReport)
	}
	if first := got.Services[0].Demand; first != 9999 {
		t.Errorf("the first has a demand of %v, want the largest", first)
	}
}

// TestWhoIsNotAskedIsNotSlowForEver: a cluster that was slow, and lost all to another, gets its own back once nothing is known
// of its time any more.
func TestWhoIsNotAskedIsNotSlowForEver(t *testing.T) {
	w := newPair(t)
	w.demand["eu"], w.demand["us"] = 200, 20
	w.slow["eu"] = 2 * time.Second
	w.run(10)
	w.want("while it is slow", "eu", "us", 90, 100)
	w.slow["eu"] = 0 // its proxies have not answered for a while
	w.run(40)
	w.want("when nobody knows", "eu", "eu", 95, 100)
}

// TestPeersAreToldWhatIsInForce: a split goes to peers as it was told to proxies, and is taken in by whoever knows all of its clusters.
func TestPeersAreToldWhatIsInForce(t *testing.T) {
	w := newPair(t)
	w.demand["eu"], w.demand["us"] = 500, 100 // eu serves 400
	w.run(20)
	report := func() []mesh.Share {
		for _, s := range w.clusters["eu"].Report(nil, w.may).Services {
			if s.Service == catalog {
				return s.Row
			}
		}
		return nil
	}
	row := report()
	if len(row) != 2 || row[0].Cluster != "" || row[1].Cluster != "us" || row[0].Parts+row[1].Parts != mesh.AllParts || row[1].Parts < 500 {
		t.Fatalf("us is told of the row %v", row)
	}
	us := w.clusters["us"]
	us.mu.Lock()
	in, self := us.pose(catalog, us.services[catalog], newPeer(nil, w.now), Every, w.now)
	us.mu.Unlock()
	if got := in.Reports[1-self].Row; len(got) != 2 || got[self] != float64(row[1].Parts)/mesh.AllParts {
		t.Errorf("us takes it for %v", got)
	}
	for name, row := range map[string][]mesh.Share{"": nil, "of a cluster that is not known": {{Cluster: "ap", Parts: mesh.AllParts}}, "of nothing": {{Cluster: "us"}}} {
		if got := rowIn([]mesh.ClusterName{"eu", "us"}, "eu", row); got != nil {
			t.Errorf("%s: %v", name, got)
		}
	}
}
