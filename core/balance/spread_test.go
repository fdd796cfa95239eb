package balance

import (
	"fmt"
	"github.com/isthmus-mesh/isthmus/core/meter"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// tally picks n times, and ends each at once, and counts by cluster.
func tally(v *View, a Ask, n int) map[mesh.ClusterName]float64 {
	out := map[mesh.ClusterName]float64{}
	for range n {
		a.Rand = mix(a.Rand + 1)
		p, reason := v.Pick(&a)
		if reason != mesh.ReasonNone {
			return nil
		}
		out[p.Endpoint.Cluster] += 1 / float64(n)
		p.Done(Abandoned, a.Now)
	}
	return out
}

func spreadView(change func(*ir.Endpoints, map[mesh.ClusterName]*ir.Cluster)) *View {
	eps, known := groups(2, 2, 2), map[mesh.ClusterName]*ir.Cluster{}
	of := clusters(nil)
	for _, g := range eps.Groups {
		c := *of(g.Cluster)
		known[g.Cluster] = &c
	}
	if change != nil {
		change(eps, known)
	}
	return NewView(Config{Endpoints: eps, Clusters: func(n mesh.ClusterName) *ir.Cluster { return known[n] }, Cluster: "eu", Proxy: "p"})
}

// TestSharesAreFollowed, and those of clusters that are not there are spread over the others.
func TestSharesAreFollowed(t *testing.T) {
	v := spreadView(nil)
	names := []mesh.ClusterName{v.groups[0].cluster.Name, v.groups[1].cluster.Name, v.groups[2].cluster.Name}
	v.SetSplit([]Share{{names[0], 0.5}, {names[1], 0.3}, {names[2], 0.2}}, 1)
	got := tally(v, Ask{Now: 1}, 20_000)
	for i, want := range []float64{0.5, 0.3, 0.2} {
		if math.Abs(got[names[i]]-want) > 0.015 {
			t.Errorf("%s got %g, want %g", names[i], got[names[i]], want)
		}
	}
	v.SetSplit([]Share{{"gone", 0.6}, {names[0], 0.1}, {names[1], 0.3}}, 1)
	if got := tally(v, Ask{Now: 1}, 20_000); math.Abs(got[names[1]]-0.75) > 0.015 || got[names[2]] != 0 {
		t.Errorf("without a cluster of the split: %v", got)
	}
	// A view of new endpoints follows on.
	next := NewView(Config{Prev: v, Endpoints: groups(3, 2, 2), Clusters: clusters(nil), Cluster: "eu", Proxy: "p"})
	if got := tally(next, Ask{Now: 1}, 20_000); math.Abs(got[names[1]]-0.75) > 0.015 {
		t.Errorf("after a change of endpoints: %v", got)
	}
	// A trip is skipped, a split that nobody renews fades.
	v.Trip(names[1], 1)
	if got := tally(v, Ask{Now: 2}, 1000); got[names[1]] != 0 || !v.Tripped(names[1], 2) {
		t.Errorf("a tripped cluster got %v", got)
	}
	late := int64(splitHolds + splitFades/2)
	if got := tally(v, Ask{Now: late}, 20_000); math.Abs(got[names[0]]-(0.5+0.5*0.25)) > 0.02 {
		t.Errorf("a minute and a half later: %v", got)
	}
	if got := tally(v, Ask{Now: int64(splitHolds + splitFades + time.Second)}, 1000); got[names[0]] < 0.999 {
		t.Errorf("two minutes later: %v", got)
	}
	for what, a := range map[string]Ask{"Local": {Now: 1, Strategy: mesh.StrategyLocal}, "Nearest": {Now: 1, Strategy: mesh.StrategyNearest}, "scope": {Now: 1, Scope: mesh.ScopeCluster}} {
		if got := tally(v, a, 1000); got[names[0]] < 0.999 {
			t.Errorf("%s: %v", what, got)
		}
	}
}

// TestSplitsBendToTheLaw: whatever a split says, nothing forbidden, unexported or out of scope is chosen, and
// what may be chosen is.
func TestSplitsBendToTheLaw(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		allowed := map[mesh.ClusterName]bool{}
		v := spreadView(func(eps *ir.Endpoints, known map[mesh.ClusterName]*ir.Cluster) {
			for i := range eps.Groups {
				g := &eps.Groups[i]
				if rapid.Bool().Draw(t, "forbidden") {
					g.Forbidden = "ResidencyPolicy x"
				}
				if rapid.Bool().Draw(t, "unreachable") && g.Cluster != "eu" {
					known[g.Cluster].Reach = mesh.Unreachable
				}
				for k := range g.Endpoints {
					g.Endpoints[k].Lanes = 1
				}
				allowed[g.Cluster] = g.Forbidden == ""
			}
		})
		var shares []Share
		for _, g := range v.groups {
			shares = append(shares, Share{g.cluster.Name, rapid.SampledFrom([]float64{0, 0.5, 1}).Draw(t, "part")})
		}
		v.SetSplit(shares, 1)
		a := Ask{Now: 1}
		var held []Pick
		for k := range 60 { // held: they queue, and overflow
			a.Rand = mix(uint64(k))
			p, reason := v.Pick(&a)
			if reason != mesh.ReasonNone {
				for c, ok := range allowed {
					if ok {
						t.Fatalf("refused with %s, though %s may be used", reason, c)
					}
				}
				return
			}
			if !allowed[p.Endpoint.Cluster] {
				t.Fatalf("chose %s against the law", p.Endpoint.Cluster)
			}
			held = append(held, p)
		}
		for i := range held {
			held[i].Done(Served, 2)
		}
	})
}

// TestRequestsOverflow: one that would wait goes where it does not, if that is known to have room, and is near
// enough.
func TestRequestsOverflow(t *testing.T) {
	lanes := func(rtt time.Duration) *View {
		return spreadView(func(eps *ir.Endpoints, known map[mesh.ClusterName]*ir.Cluster) {
			for i := range eps.Groups {
				for k := range eps.Groups[i].Endpoints {
					eps.Groups[i].Endpoints[k].Lanes = 4
				}
				if c := known[eps.Groups[i].Cluster]; c.Name != "eu" {
					c.RTT = rtt
				}
			}
		})
	}
	busy := func(v *View, strategy mesh.Strategy) map[mesh.ClusterName]int {
		got := map[mesh.ClusterName]int{}
		for _, g := range v.groups {
			for _, e := range g.all.endpoints {
				e.Report([]byte("0 20000 4"), 1)
			}
		}
		for k := range 60 {
			p, _ := v.Pick(&Ask{Now: 2, Rand: mix(uint64(k)), Strategy: strategy})
			got[p.Endpoint.Cluster]++
		}
		return got
	}
	near := lanes(20 * time.Millisecond)
	if got := busy(near, mesh.StrategyAuto); got["eu"] == 60 || got["eu"] < 16 {
		t.Errorf("of 60 at once in 8 lanes at home: %v", got)
	}
	if got := busy(near, mesh.StrategyNearest); got["eu"] != 60 {
		t.Errorf("Nearest overflows: %v", got)
	}
	if got := busy(lanes(2*time.Second), mesh.StrategyAuto); got["eu"] != 60 {
		t.Errorf("overflows to what is farther than the wait: %v", got)
	}
	full := lanes(20 * time.Millisecond)
	for _, g := range full.groups[1:] {
		for range 200 {
			g.all.endpoints[0].Report([]byte("7 20000 4"), 1)
		}
	}
	if rho, ok := full.Busy(full.groups[1].cluster.Name, 2); !ok || rho < 1.5 {
		t.Fatalf("utilisation %g, %v", rho, ok)
	}
	now := int64(2)
	var got int
	for k := range 60 {
		p, _ := full.Pick(&Ask{Now: now, Rand: mix(uint64(k))})
		if p.Endpoint.Cluster != "eu" {
			got++
		}
	}
	if got > 0 {
		t.Errorf("%d of 60 overflow to clusters that have no room", got)
	}
}

// TestSlowEndpointsAreDrawnLess in proportion to what they say.
func TestSlowEndpointsAreDrawnLess(t *testing.T) {
	v := of(mesh.Balancing{}, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1)
	for range 100 {
		for i, e := range v.groups[0].all.endpoints {
			text := "0 20000 4"
			if i < 3 {
				text = "0 120000 4"
			}
			e.Report([]byte(text), 1)
		}
	}
	slow := 0
	for k := range 20_000 {
		p, _ := v.Pick(&Ask{Now: 2, Rand: mix(uint64(k))})
		for i := range 3 {
			if p.Endpoint == v.groups[0].all.endpoints[i] {
				slow++
			}
		}
		p.Done(Abandoned, 2)
	}
	if part := float64(slow) / 20_000; part > 0.03 || part == 0 {
		t.Errorf("three of ten that take six times as long get %g", part)
	}
}

func TestReportsWithLanes(t *testing.T) {
	var m meter.Meter
	m.Begin()
	m.Begin()
	m.Asked(1)
	m.Served(3*time.Millisecond, 1+3e6)
	m.SetLanes(8)
	if got := string(m.AppendReport(nil)); got != "1 3000 8" {
		t.Errorf("%q", got)
	}
	v := of(mesh.Balancing{}, 1)
	e := v.groups[0].all.endpoints[0]
	for _, c := range []struct {
		text  string
		lanes float64
	}{{"1 3000", 0}, {"1 3000 x", 0}, {"1 3000 8", 8}, {"1 3000", 8}, {"1 3000 6 what follows", 6}} {
		if e.Report([]byte(c.text), 1); e.lanesOf() != c.lanes {
			t.Errorf("after %q: %g lanes, want %g", c.text, e.lanesOf(), c.lanes)
		}
	}
}

// TestHeavyProxiesGoBeyondTheirSubset: one that carries a service's whole load uses all endpoints; one that
// carries little keeps to its own.
func TestHeavyProxiesGoBeyondTheirSubset(t *testing.T) {
	const n, lanes = 300, 4
	used := func(requests int, least bool) (endpoints, most int) {
		weights := make([]uint32, n)
		for i := range weights {
			weights[i] = 1
		}
		b := mesh.Balancing{}
		if least {
			b.Algorithm = mesh.AlgorithmLeastRequest
		}
		v := of(b, weights...)
		held := map[*Endpoint]int{}
		for k := range requests {
			p, _ := v.Pick(&Ask{Now: 1, Rand: mix(uint64(k))})
			p.Endpoint.reported.lanes.Store(lanes)
			held[p.Endpoint]++
			most = max(most, held[p.Endpoint])
		}
		return len(held), most
	}
	for _, least := range []bool{false, true} {
		if endpoints, _ := used(40, least); endpoints > subsetAbove {
			t.Errorf("40 requests use %d endpoints", endpoints)
		}
		if endpoints, most := used(n*lanes*3/4, least); endpoints < n*9/10 || most > lanes+2 {
			t.Errorf("least %v: %d requests use %d of %d endpoints, one has %d", least, n*lanes*3/4, endpoints, n, most)
		}
	}
}

// TestOneSlowAnswerIsForgotten: an endpoint whose first answer took long, as first answers do, gets its part
// again within seconds, though its server proxy goes on to say what that one answer has made its mean: it is asked
// seldom, so the mean hardly moves.
func TestOneSlowAnswerIsForgotten(t *testing.T) {
	v := of(mesh.Balancing{}, 1, 1)
	meters := map[*Endpoint]*meter.Meter{}
	for _, e := range v.groups[0].all.endpoints {
		meters[e] = new(meter.Meter)
	}
	first := v.groups[0].all.endpoints[0]
	now, part := int64(time.Hour), 0
	const second = 100 // requests
	for k := range 10 * second {
		now += int64(time.Second) / second
		p, reason := v.Pick(&Ask{Now: now, Rand: mix(uint64(k))})
		if reason != mesh.ReasonNone {
			t.Fatal(reason)
		}
		took := 800 * time.Microsecond
		if p.Endpoint == first && meters[first].Service() == 0 {
			took = 60 * time.Millisecond
		}
		m := meters[p.Endpoint]
		m.Begin()
		m.Asked(now)
		m.Served(took, now+int64(took))
		p.Endpoint.Report(m.AppendReport(nil), now)
		m.End()
		p.Done(Served, now+int64(took))
		if k >= 9*second && p.Endpoint == first {
			part++
		}
	}
	if part < second/5 {
		t.Errorf("%d of %d requests in the tenth second, want a fifth at least", part, second)
	}
}

// TestTheSlowAreAskedLessAndLess: an endpoint that was found slow is asked again after a while, and each time that it is as slow as before
// after twice as long, up to eight times; once it was quick, it is asked as others are.
func TestTheSlowAreAskedLessAndLess(t *testing.T) {
	const second = int64(time.Second)
	var m ewma
	m.peak(100*second/1000, second)
	now := second
	wait := func() int64 { // until it counts as less than a tenth of what it was
		from := now
		for m.faded(now) > 10e6 {
			now += second / 100
		}
		return now - from
	}
	last := wait()
	for range ewmaDoubts {
		m.peak(100*second/1000, now)
		next := wait()
		if next < last*19/10 || next > last*21/10 {
			t.Errorf("asked again after %v, and then after %v", time.Duration(last), time.Duration(next))
		}
		last = next
	}
	m.peak(100*second/1000, now)
	if next := wait(); next != last {
		t.Errorf("after %v and then %v: without an end", time.Duration(last), time.Duration(next))
	}
	m.peak(second/1000, now)
	m.peak(100*second/1000, now+1)
	now++
	if next := wait(); next > 3*second {
		t.Errorf("it was quick, and is asked again after %v only", time.Duration(next))
	}
}

// TestOneThatIsNew: an endpoint that was never measured is asked soon, though another becomes quicker all the time.
func TestOneThatIsNew(t *testing.T) {
	v := of(mesh.Balancing{}, 1, 1)
	picked := map[*Endpoint]bool{}
	now := int64(time.Second)
	for k := range 20 {
		a := Ask{Now: now, Rand: mix(uint64(k))}
		p, _ := v.Pick(&a)
		picked[p.Endpoint] = true
		now += int64(200-9*k) * int64(time.Millisecond)
		p.Endpoint.Report([]byte(fmt.Sprint("0 ", (200-9*k)*1000)), now)
		p.Done(Served, now)
	}
	if len(picked) != 2 {
		t.Errorf("20 requests one after another went to %d of 2 endpoints", len(picked))
	}
}

// TestQuickOnesAreFilledFirst: an idle endpoint that takes six times as long is not asked while a quick one has one request more than
// lanes, though it has none: it would answer later.
func TestQuickOnesAreFilledFirst(t *testing.T) {
	v := of(mesh.Balancing{}, 1, 1)
	now := int64(time.Second)
	es := v.groups[0].all.endpoints
	es[0].Report([]byte("5 20000 4"), now)
	es[1].Report([]byte("0 120000 4"), now)
	for _, e := range es {
		e.service.peak(int64(e.reported.service.Load()), now)
	}
	for k := range 64 {
		a := Ask{Now: now, Rand: mix(uint64(k))}
		p, _ := v.Pick(&a)
		if p.Endpoint == es[1] {
			t.Fatal("the idle one, of six times the time, was asked")
		}
		p.Done(Abandoned, now)
	}
}
