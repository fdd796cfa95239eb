package balance

import (
	"fmt"
	"github.com/isthmus-mesh/isthmus/core/meter"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/mesh"
	"pgregory.net/rapid"
)

var algorithms = []mesh.Balancing{
	{Algorithm: mesh.AlgorithmPeakEWMA}, {Algorithm: mesh.AlgorithmLeastRequest}, {Algorithm: mesh.AlgorithmRoundRobin},
	{Algorithm: mesh.AlgorithmRandom}, {Algorithm: mesh.AlgorithmConsistentHash, Table: mesh.HashMaglev},
	{Algorithm: mesh.AlgorithmConsistentHash, Table: mesh.HashRing},
}

// of is a view of one cluster with the weights given.
func of(b mesh.Balancing, weights ...uint32) *View {
	eps := &ir.Endpoints{Groups: []ir.Group{{Cluster: "eu", Exported: true, Endpoints: direct(len(weights))}}}
	for i, w := range weights {
		eps.Groups[0].Endpoints[i].Weight = w
	}
	return NewView(Config{Endpoints: eps, Clusters: clusters(nil), Cluster: "eu", Proxy: "shop/a", Balancing: b})
}

func label(b mesh.Balancing) string { return string(b.Algorithm) + string(b.Table) }

// TestSharesFollowWeights: each algorithm gives each endpoint its share, while none is busier than another.
func TestSharesFollowWeights(t *testing.T) {
	const picks = 20_000
	tolerance := map[string]float64{"RoundRobin": 0.001, "ConsistentHashMaglev": 0.04, "ConsistentHashRing": 0.35}
	for _, b := range algorithms {
		for _, weights := range [][]uint32{{1, 1, 1, 1}, {1, 2, 3, 4}, {100, 50, 10}, {7, 7, 7, 7, 7, 1, 1, 30}} {
			t.Run(fmt.Sprint(label(b), weights), func(t *testing.T) {
				v := of(b, weights...)
				r := rand.New(rand.NewPCG(5, 6))
				count := map[string]int{}
				for i := range picks {
					p := pick(t, v, Ask{Now: int64(i) * 1000, Rand: r.Uint64(), Hash: r.Uint64(), Hashed: true})
					count[p.Endpoint.Tag]++
					p.Done(Served, int64(i)*1000+100)
				}
				sum := uint32(0)
				for _, w := range weights {
					sum += w
				}
				tol := tolerance[label(b)]
				if tol == 0 {
					tol = 0.03
				}
				for i, w := range weights {
					want := picks * float64(w) / float64(sum)
					if got := float64(count[fmt.Sprint(i)]); math.Abs(got-want) > tol*want+picks*0.008 {
						t.Errorf("endpoint %d of weight %d got %.0f of %d, want %.0f within %.1f %%", i, w, got, picks, want, tol*100)
					}
				}
			})
		}
	}
}

// TestRoundRobinIsSmooth: a heavy endpoint's turns lie apart, and equal ones come one after another.
func TestRoundRobinIsSmooth(t *testing.T) {
	v := of(mesh.Balancing{Algorithm: mesh.AlgorithmRoundRobin}, 4, 1, 1, 1, 1)
	last, run := "", 0
	for range 800 {
		p := pick(t, v, Ask{})
		p.Done(Served, 1)
		if run++; p.Endpoint.Tag != last {
			last, run = p.Endpoint.Tag, 1
		}
		if run > 2 {
			t.Fatalf("endpoint %s has %d turns in a row", last, run)
		}
	}
	v = of(mesh.Balancing{Algorithm: mesh.AlgorithmRoundRobin}, 1, 1, 1)
	for range 50 {
		var round []string
		for range 3 {
			p := pick(t, v, Ask{})
			round = append(round, p.Endpoint.Tag)
		}
		if slices.Sort(round); !slices.Equal(round, []string{"0", "1", "2"}) {
			t.Fatalf("a round was %v", round)
		}
	}
}

// TestLeastRequestFollowsLoad: an endpoint that keeps its requests is given few more, whatever it is measured at.
func TestLeastRequestFollowsLoad(t *testing.T) {
	for _, weights := range [][]uint32{{1, 1, 1, 1}, {2, 2, 2, 1}} {
		v := of(mesh.Balancing{Algorithm: mesh.AlgorithmLeastRequest}, weights...)
		r := rand.New(rand.NewPCG(1, 9))
		stuck := 0
		for i := range 10_000 {
			p := pick(t, v, Ask{Now: int64(i), Rand: r.Uint64()})
			if p.Endpoint.Tag == "0" {
				stuck++
				continue // never ends
			}
			p.Done(Served, int64(i)+1)
		}
		if stuck > 20 {
			t.Errorf("weights %v: an endpoint that never answers was given %d of 10,000", weights, stuck)
		}
	}
}

// TestReportedLoadCounts: what a server proxy says it has from others is held against it, and
// forgotten soon.
func TestReportedLoadCounts(t *testing.T) {
	v := of(mesh.Balancing{Algorithm: mesh.AlgorithmLeastRequest}, 1, 1)
	now := int64(time.Hour)
	busy := v.groups[0].all.endpoints[0]
	busy.inFlight.Add(1)
	busy.Report([]byte("50 1200"), now)
	busy.inFlight.Add(-1)
	r := rand.New(rand.NewPCG(2, 2))
	share := func(now int64) (n int) {
		for range 1000 {
			p := pick(t, v, Ask{Now: now, Rand: r.Uint64()})
			if p.Endpoint == busy {
				n++
			}
			p.Done(Abandoned, now)
		}
		return n
	}
	if n := share(now); n != 0 {
		t.Errorf("an endpoint with 50 requests of others was chosen %d times of 1,000 over an idle one", n)
	}
	if n := share(now + int64(10*reportTau)); n < 400 {
		t.Errorf("a second later it was chosen %d times of 1,000: the report does not go stale", n)
	}
	for _, bad := range []string{"", "x", "5", "-1 2", "99999999999 1", "5 ", " 5 1", "5,1"} {
		busy.Report([]byte(bad), now)
		if o := busy.reported.others.Load(); o != 50 {
			t.Errorf("report %q was taken as %d", bad, o)
		}
	}
	var m meter.Meter
	m.Begin()
	m.Begin()
	m.Asked(now)
	m.Served(3*time.Millisecond, now+3e6)
	if got := string(m.AppendReport(nil)); got != "1 3000" {
		t.Errorf("the report is %q, want %q", got, "1 3000")
	}
}

// keysOf maps keys to the endpoints that have them.
func keysOf(t *testing.T, v *View, keys int) []string {
	t.Helper()
	out := make([]string, keys)
	for k := range out {
		p := pick(t, v, Ask{Now: int64(time.Hour), Hash: mix(uint64(k)), Hashed: true})
		out[k] = p.Endpoint.Label()
		p.Done(Abandoned, 0)
	}
	return out
}

// TestHashMovesFewKeys: an endpoint that goes takes its own keys with it and few others, one that
// comes takes its share; the order in which they are known plays no part; ejection moves the ejected
// one's keys only.
func TestHashMovesFewKeys(t *testing.T) {
	const n, keys = 20, 20_000
	for _, kind := range []mesh.HashTable{mesh.HashMaglev, mesh.HashRing} {
		t.Run(string(kind), func(t *testing.T) {
			b := mesh.Balancing{Algorithm: mesh.AlgorithmConsistentHash, Table: kind}
			eps := &ir.Endpoints{Groups: []ir.Group{{Cluster: "eu", Exported: true, Endpoints: direct(n)}}}
			make := func(eps *ir.Endpoints) *View {
				return NewView(Config{Endpoints: eps, Clusters: clusters(nil), Cluster: "eu", Balancing: b})
			}
			v := make(eps)
			before := keysOf(t, v, keys)
			shuffled := &ir.Endpoints{Groups: []ir.Group{{Cluster: "eu", Exported: true, Endpoints: slices.Clone(eps.Groups[0].Endpoints)}}}
			rand.New(rand.NewPCG(1, 1)).Shuffle(n, func(i, j int) {
				e := shuffled.Groups[0].Endpoints
				e[i], e[j] = e[j], e[i]
			})
			if !slices.Equal(keysOf(t, make(shuffled), keys), before) {
				t.Error("proxies that know the same endpoints in another order disagree")
			}
			fewer := &ir.Endpoints{Groups: []ir.Group{{Cluster: "eu", Exported: true, Endpoints: eps.Groups[0].Endpoints[:n-1]}}}
			gone, others := 0, 0
			for k, at := range keysOf(t, make(fewer), keys) {
				switch {
				case before[k] == fmt.Sprint(n-1):
					gone++
				case before[k] != at:
					others++
				}
			}
			// Maglev moves a few more than it must (§5.4 of the paper); a ring does not.
			if limit := map[mesh.HashTable]int{mesh.HashMaglev: keys / 50, mesh.HashRing: 0}[kind]; others > limit || gone == 0 {
				t.Errorf("with one of %d endpoints gone %d keys of others moved, want at most %d; %d were its own", n, others, limit, gone)
			}
			sick := v.groups[0].all.endpoints[3]
			sick.eject(int64(time.Hour), outRefused, &sick.health.ejections)
			for k, at := range keysOf(t, v, keys) {
				if before[k] != "3" && before[k] != at {
					t.Fatalf("key %d moved from %s to %s when endpoint 3 was ejected", k, before[k], at)
				}
				if at == "3" {
					t.Fatalf("key %d went to the ejected endpoint", k)
				}
			}
		})
	}
}

// TestHashWithoutKeyIsPeakEWMA, over all endpoints.
func TestHashWithoutKeyIsPeakEWMA(t *testing.T) {
	v := of(algorithms[4], 1, 1, 1)
	r := rand.New(rand.NewPCG(3, 3))
	count := map[string]int{}
	for range 3000 {
		p := pick(t, v, Ask{Rand: r.Uint64(), Hash: 77})
		count[p.Endpoint.Tag]++
		p.Done(Abandoned, 0)
	}
	for tag, n := range count {
		if n < 800 {
			t.Errorf("endpoint %s got %d of 3,000 requests without a key", tag, n)
		}
	}
	if len(count) != 3 {
		t.Errorf("requests without a key went to %v", count)
	}
}

// TestHashStaysInTheNearestCluster, and goes on to the next when that is gone.
func TestHashStaysInTheNearestCluster(t *testing.T) {
	eps := groups(3, 3, 3)
	c := Config{Endpoints: eps, Clusters: clusters(nil), Cluster: "eu", Balancing: algorithms[4]}
	home := NewView(c)
	for k := range 100 {
		if p := pick(t, home, Ask{Hash: mix(uint64(k)), Hashed: true}); p.Endpoint.Cluster != "eu" {
			t.Fatalf("key %d went to %s", k, p.Endpoint.Cluster)
		}
	}
	eps.Groups[0].Forbidden = "law"
	v, same := NewView(c), NewView(c)
	for k := range 100 {
		a := Ask{Hash: mix(uint64(k)), Hashed: true}
		p, q := pick(t, v, a), pick(t, same, a)
		if p.Endpoint.Cluster != "us" || p.Endpoint.Key != q.Endpoint.Key {
			t.Fatalf("key %d went to %v and %v, want one of us", k, p.Endpoint.Key, q.Endpoint.Key)
		}
	}
}

// TestSubsets: where there are many endpoints, each proxy draws from its own part, all parts
// together cover them, and small clusters stay whole.
func TestSubsets(t *testing.T) {
	eps := groups(1000, 10, 300)
	drawn := map[int]int{}
	for proxy := range 50 {
		v := NewView(Config{Endpoints: eps, Clusters: clusters(nil), Cluster: "eu", Proxy: fmt.Sprint("shop/", proxy)})
		sizes := map[mesh.ClusterName]int{}
		for _, g := range v.groups {
			sizes[g.cluster.Name] = len(g.pool.endpoints)
		}
		if sizes["eu"] != 77 || sizes["us"] != 10 || sizes["in"] != 23 {
			t.Fatalf("sizes are %v", sizes)
		}
		in := map[*Endpoint]bool{}
		for i, e := range v.groups[0].all.endpoints {
			if slices.Contains(v.groups[0].pool.endpoints, e) {
				in[e] = true
				drawn[i]++
			}
		}
		for i := range 500 {
			p := pick(t, v, Ask{Rand: mix(uint64(i))})
			if !in[p.Endpoint] {
				t.Fatalf("%v is not of the proxy's part", p.Endpoint.Key)
			}
			p.Done(Abandoned, 0)
		}
		for e := range in { // all dead: the others of the cluster rather than another cluster
			e.eject(0, outRefused, &e.health.ejections)
		}
		if p := pick(t, v, Ask{Rand: 1}); p.Endpoint.Cluster != "eu" || in[p.Endpoint] {
			t.Fatalf("with the part dead %v was picked", p.Endpoint.Key)
		}
	}
	if len(drawn) < 960 { // 1-(1-0.077)^50 is 98 %
		t.Errorf("50 proxies together draw from %d of 1,000", len(drawn))
	}
}

// TestExplainAgreesWithPick: what is kept is exactly what Pick draws from, for every algorithm,
// with and without key and session; and never is the law broken.
func TestExplainAgreesWithPick(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		count := func(what string) int {
			if rapid.IntRange(0, 19).Draw(t, what+" are many") == 0 {
				return 130
			}
			return rapid.IntRange(0, 4).Draw(t, what)
		}
		eps := groups(count("eu"), count("us"), count("in"))
		for i := range eps.Groups {
			if rapid.IntRange(0, 3).Draw(t, "forbid") == 0 {
				eps.Groups[i].Forbidden = "law"
			}
			eps.Groups[i].Exported = rapid.IntRange(0, 3).Draw(t, "exported") > 0
			for k := range eps.Groups[i].Endpoints {
				eps.Groups[i].Endpoints[k].Weight = rapid.Uint32Range(0, 3).Draw(t, "weight")
			}
		}
		b := rapid.SampledFrom(algorithms).Draw(t, "algorithm")
		v := NewView(Config{Endpoints: eps, Clusters: clusters(map[mesh.ClusterName]mesh.Reachability{"us": mesh.Reachability(rapid.IntRange(0, 3).Draw(t, "reach"))}),
			Cluster: "eu", Proxy: "shop/a", Balancing: b, Outlier: mesh.Outlier{ConsecutiveFailures: 1}, Sessions: true})
		now := int64(time.Hour)
		a := Ask{Now: now, Hashed: rapid.Bool().Draw(t, "hashed"), Hash: rapid.Uint64().Draw(t, "hash")}
		sick := rapid.IntRange(0, 3).Draw(t, "sick")
		for _, g := range v.groups {
			for _, e := range g.all.endpoints {
				switch n := rapid.IntRange(0, 3).Draw(t, "state"); {
				case n < sick:
					e.inFlight.Add(1)
					p := Pick{Endpoint: e}
					p.Done(NeverExecuted, now)
				case n == 3 && len(a.Tried) < 2 && rapid.Bool().Draw(t, "tried"):
					a.Tried = append(a.Tried, e)
				case a.Session == nil && rapid.IntRange(0, 5).Draw(t, "session") == 0:
					a.Session = v.Resolve(SessionOf(e, 1))
				}
			}
		}
		kept, got := map[string]bool{}, map[string]bool{}
		for _, c := range v.Explain(&a) {
			if c.Endpoint != "" && c.Dropped == Kept {
				kept[string(c.Cluster)+c.Endpoint] = true
			}
		}
		picks := 20
		if len(kept) > 0 && len(kept) < 5 {
			picks = 200 // enough to meet each: no algorithm passes one over for ever
		}
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "rand"), 1))
		for range picks {
			a.Rand = r.Uint64()
			p, reason := v.Pick(&a)
			switch {
			case reason == "" && len(kept) > 0 && !kept[string(p.Endpoint.Cluster)+p.Endpoint.Label()]:
				t.Fatalf("picked %v, which Explain drops; kept %v", p.Endpoint.Key, kept)
			case reason != "" && len(kept) > 0:
				t.Fatalf("refused with %s while Explain keeps %v", reason, kept)
			}
			if reason != "" {
				continue
			}
			if v.group(p.Endpoint.Cluster).source.Forbidden != "" {
				t.Fatalf("picked %v against the law", p.Endpoint.Key)
			}
			got[string(p.Endpoint.Cluster)+p.Endpoint.Label()] = true
			p.Done(Abandoned, now)
		}
		if picks == 200 && b.Algorithm == mesh.AlgorithmRandom && len(got) != len(kept) {
			t.Fatalf("Explain keeps %v, Pick draws from %v only", kept, got)
		}
	})
}

// TestSessionsNeverBreakTheLaw: whatever endpoint a session names, and however it is tried, no
// pick leaves what residency, scope and export allow.
func TestSessionsNeverBreakTheLaw(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		eps := groups(2, 3, 3)
		for i := range eps.Groups {
			if rapid.Bool().Draw(t, "forbid") {
				eps.Groups[i].Forbidden = "law"
			}
			eps.Groups[i].Exported = rapid.Bool().Draw(t, "exported")
		}
		v := NewView(Config{Endpoints: eps, Clusters: clusters(nil), Cluster: "eu", Sessions: true, Balancing: rapid.SampledFrom(algorithms).Draw(t, "algorithm")})
		var every []*Endpoint
		for _, g := range v.groups {
			every = append(every, g.all.endpoints...)
		}
		e := rapid.SampledFrom(every).Draw(t, "endpoint")
		text := AppendSession(nil, SessionOf(e, 5))
		s, ok := ParseSession(text)
		if !ok || v.Resolve(s) != e {
			t.Fatalf("the session of %v is not found again", e.Key)
		}
		a := Ask{Session: v.Resolve(s), Strategy: rapid.SampledFrom([]mesh.Strategy{mesh.StrategyAuto, mesh.StrategyLocal}).Draw(t, "strategy"),
			Scope: rapid.SampledFrom([]mesh.Scope{mesh.ScopeClusterset, mesh.ScopeCluster}).Draw(t, "scope"), Hashed: rapid.Bool().Draw(t, "hashed")}
		p, reason := v.Pick(&a)
		lawful := v.group(e.Cluster).unlawful(&a) == Kept
		switch {
		case reason == "" && v.group(p.Endpoint.Cluster).unlawful(&a) != Kept:
			t.Fatalf("a session for %v led to %v", e.Key, p.Endpoint.Key)
		case lawful && (reason != "" || p.Endpoint != e):
			t.Fatalf("a session for %v, which is lawful, led to %v %s", e.Key, p.Endpoint, reason)
		}
	})
}
