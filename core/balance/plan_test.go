package balance

import (
	"fmt"
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/mesh"
	"pgregory.net/rapid"
)

// atlas is five clusters in three regions, seen from eu-1, with two endpoints in zone a and one in zone b of each
// cluster of the own region; the others are slots.
func atlas() (*ir.Endpoints, map[mesh.ClusterName]*ir.Cluster) {
	known := map[mesh.ClusterName]*ir.Cluster{
		"eu-1": {Name: "eu-1", Region: "eu"}, "eu-2": {Name: "eu-2", Region: "eu", RTT: 3 * time.Millisecond}, "eu-3": {Name: "eu-3", Region: "eu", RTT: 2 * time.Millisecond},
		"us-1": {Name: "us-1", Region: "us", RTT: 80 * time.Millisecond}, "ap-1": {Name: "ap-1", Region: "ap", RTT: 120 * time.Millisecond},
	}
	eps := &ir.Endpoints{Service: mesh.ServiceName{Namespace: "shop", Name: "catalog"}}
	for i, n := range []mesh.ClusterName{"ap-1", "eu-1", "eu-2", "eu-3", "us-1"} {
		g := ir.Group{Cluster: n, Exported: true}
		if strings.HasPrefix(string(n), "eu") {
			for k, zone := range []mesh.Zone{"a", "b", "a"} {
				g.Endpoints = append(g.Endpoints, ir.Endpoint{Tag: fmt.Sprint(k), Zone: zone, Weight: 1,
					Proxy: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, byte(i), byte(k), 1}), 15008)})
			}
		} else {
			g.Slots = make([]uint64, 3)
		}
		eps.Groups = append(eps.Groups, g)
	}
	return eps, known
}

// planned is the atlas as a strategy sees it from zone a of eu-1.
func planned(s mesh.Strategy, d mesh.Distribution, change func(*ir.Endpoints, map[mesh.ClusterName]*ir.Cluster)) *View {
	eps, known := atlas()
	if change != nil {
		change(eps, known)
	}
	return NewView(Config{Endpoints: eps, Clusters: func(n mesh.ClusterName) *ir.Cluster { return known[n] }, Cluster: "eu-1", Zone: "a", Proxy: "p", Strategy: s, Distribution: d})
}

// where tells the zone of an endpoint beside its cluster, where it is known.
func where(e *Endpoint) string {
	if e.Zone == "" {
		return string(e.Cluster)
	}
	return string(e.Cluster) + "/" + string(e.Zone)
}

// kill takes out what a request was given, and everything with it in the same part.
func kill(t *testing.T, v *View, at string, now int64) {
	t.Helper()
	for _, g := range v.groups {
		for _, e := range g.all.endpoints {
			if where(e) == at {
				for range mesh.DefaultEjectAfter {
					e.inFlight.Add(1)
					(&Pick{Endpoint: e, start: now}).Done(NeverExecuted, now)
				}
			}
		}
	}
}

// TestNearestGoesDownTheLadder: each rung serves when all before it are out, and none does before.
func TestNearestGoesDownTheLadder(t *testing.T) {
	all := mesh.Outlier{MaxEjectedPercent: 100}
	for name, tt := range map[string]struct {
		order []mesh.Place
		want  string
	}{
		"by distance":                {nil, "eu-1/a eu-1/b eu-3/a eu-2/a eu-3/b eu-2/b us-1 ap-1"},
		"by an order of regions":     {[]mesh.Place{{Region: "ap"}, {Region: "us"}}, "eu-1/a eu-1/b eu-3/a eu-2/a eu-3/b eu-2/b ap-1 us-1"},
		"by an order in the region":  {[]mesh.Place{{Cluster: "eu-2"}, {Cluster: "ap-1"}}, "eu-1/a eu-1/b eu-2/a eu-2/b eu-3/a eu-3/b ap-1 us-1"},
		"by an order of zones":       {[]mesh.Place{{Cluster: "eu-2", Zone: "b"}}, "eu-1/a eu-1/b eu-2/b eu-3/a eu-2/a eu-3/b us-1 ap-1"},
		"the own zone before orders": {[]mesh.Place{{Cluster: "eu-1", Zone: "b"}}, "eu-1/a eu-1/b eu-3/a eu-2/a eu-3/b eu-2/b us-1 ap-1"},
	} {
		t.Run(name, func(t *testing.T) {
			eps, known := atlas()
			v := NewView(Config{Endpoints: eps, Clusters: func(n mesh.ClusterName) *ir.Cluster { return known[n] }, Cluster: "eu-1", Zone: "a", Outlier: all,
				Strategy: mesh.StrategyNearest, Distribution: mesh.Distribution{Order: tt.order}})
			var got []string
			now := int64(time.Hour)
			for range strings.Fields(tt.want) {
				seen := map[string]bool{}
				for k := range 40 {
					p := pick(t, v, Ask{Strategy: mesh.StrategyNearest, Rand: mix(uint64(k)), Now: now})
					seen[where(p.Endpoint)] = true
					p.Done(Abandoned, now)
				}
				if len(seen) != 1 {
					t.Fatalf("after %v requests go to %v", got, seen)
				}
				for at := range seen {
					got = append(got, at)
					kill(t, v, at, now)
				}
			}
			if have := strings.Join(got, " "); have != tt.want {
				t.Errorf("the ladder is\n%s, want\n%s", have, tt.want)
			}
		})
	}
}

// TestNearestDoesNotOverflow, however busy the own zone is; with Auto the same load does.
func TestNearestDoesNotOverflow(t *testing.T) {
	for _, s := range []mesh.Strategy{mesh.StrategyNearest, mesh.StrategyAuto} {
		v := planned(s, mesh.Distribution{}, func(eps *ir.Endpoints, _ map[mesh.ClusterName]*ir.Cluster) {
			for i := range eps.Groups {
				for k := range eps.Groups[i].Endpoints {
					eps.Groups[i].Endpoints[k].Lanes = 1
				}
			}
		})
		now := int64(time.Hour)
		for k := range 50 { // they take a while, everywhere
			e := v.groups[k%len(v.groups)].all.endpoints[0]
			e.inFlight.Add(1)
			(&Pick{Endpoint: e, start: now - int64(20*time.Millisecond)}).Done(Served, now)
		}
		elsewhere := 0
		for k := range 60 {
			if p := pick(t, v, Ask{Strategy: s, Rand: mix(uint64(k)), Now: now}); where(p.Endpoint) != "eu-1/a" {
				elsewhere++
			}
		}
		if (elsewhere == 0) != (s == mesh.StrategyNearest) {
			t.Errorf("%s: %d of 60 that wait went elsewhere", s, elsewhere)
		}
	}
}

// shares counts where picks go.
func shares(t *testing.T, v *View, a Ask, n int) map[string]float64 {
	t.Helper()
	out := map[string]float64{}
	for k := range n {
		a.Rand = mix(uint64(k) + 77)
		p := pick(t, v, a)
		out[where(p.Endpoint)] += 1 / float64(n)
		p.Done(Abandoned, a.Now)
	}
	return out
}

// merged adds up the zones of clusters.
func merged(in map[string]float64) map[string]float64 {
	out := map[string]float64{}
	for at, part := range in {
		cluster, _, _ := strings.Cut(at, "/")
		out[cluster] += part
	}
	return out
}

func expect(t *testing.T, what string, got, want map[string]float64) {
	t.Helper()
	for at := range got {
		if _, ok := want[at]; !ok {
			t.Errorf("%s: %s got %.3f, want nothing", what, at, got[at])
		}
	}
	for at, part := range want {
		if math.Abs(got[at]-part) > 0.02 {
			t.Errorf("%s: %s got %.3f, want %.3f: %v", what, at, got[at], part, got)
		}
	}
}

// TestWeightsAndFailoverTogether: weights hold among what serves, also inside a region; what is not named
// serves last.
func TestWeightsAndFailoverTogether(t *testing.T) {
	ask := Ask{Strategy: mesh.StrategyWeighted, Now: int64(time.Hour)}
	weights := func(w ...mesh.PlaceWeight) mesh.Distribution { return mesh.Distribution{Weights: w} }
	eu, us, ap := mesh.PlaceWeight{Place: mesh.Place{Region: "eu"}, Weight: 60}, mesh.PlaceWeight{Place: mesh.Place{Region: "us"}, Weight: 30},
		mesh.PlaceWeight{Place: mesh.Place{Cluster: "ap-1"}, Weight: 10}
	reach := func(gone ...mesh.ClusterName) func(*ir.Endpoints, map[mesh.ClusterName]*ir.Cluster) {
		return func(_ *ir.Endpoints, known map[mesh.ClusterName]*ir.Cluster) {
			for _, n := range gone {
				known[n].Reach = mesh.Unreachable
			}
		}
	}
	v := planned(ask.Strategy, weights(eu, us, ap), nil)
	expect(t, "all serve", merged(shares(t, v, ask, 20_000)), map[string]float64{"eu-1": .2, "eu-2": .2, "eu-3": .2, "us-1": .3, "ap-1": .1})
	v = planned(ask.Strategy, weights(eu, us, ap), reach("eu-2"))
	expect(t, "a region loses one of its clusters", merged(shares(t, v, ask, 20_000)), map[string]float64{"eu-1": .3, "eu-3": .3, "us-1": .3, "ap-1": .1})
	v = planned(ask.Strategy, weights(eu, us, ap), reach("us-1"))
	expect(t, "a place is lost", merged(shares(t, v, ask, 20_000)), map[string]float64{"eu-1": .6 / .7 / 3, "eu-2": .6 / .7 / 3, "eu-3": .6 / .7 / 3, "ap-1": .1 / .7})
	v = planned(ask.Strategy, weights(us, ap), reach("us-1", "ap-1"))
	expect(t, "no place is left", merged(shares(t, v, ask, 2_000)), map[string]float64{"eu-1": 1})
	own := mesh.PlaceWeight{Place: mesh.Place{Cluster: "eu-1"}, Weight: 0}
	v = planned(ask.Strategy, weights(own, us, ap), nil)
	expect(t, "a weight of nothing", merged(shares(t, v, ask, 20_000)), map[string]float64{"us-1": .75, "ap-1": .25})
	heavy := mesh.PlaceWeight{Place: mesh.Place{Cluster: "us-1"}, Weight: 1_000_000}
	v = planned(ask.Strategy, weights(heavy, ap), reach("us-1"))
	expect(t, "nearly all of the weight is lost", merged(shares(t, v, ask, 2_000)), map[string]float64{"ap-1": 1})
	zones := weights(mesh.PlaceWeight{Place: mesh.Place{Cluster: "eu-1", Zone: "a"}, Weight: 1}, mesh.PlaceWeight{Place: mesh.Place{Cluster: "eu-1", Zone: "b"}, Weight: 3},
		mesh.PlaceWeight{Place: mesh.Place{Region: "eu"}, Weight: 4})
	v = planned(ask.Strategy, zones, nil)
	expect(t, "zones of a cluster", shares(t, v, ask, 20_000), map[string]float64{"eu-1/a": .125, "eu-1/b": .375, "eu-2/a": .5 / 3, "eu-2/b": .25 / 3, "eu-3/a": .5 / 3, "eu-3/b": .25 / 3})
	if got := v.Shares(); len(got) != 3 || got[0].Cluster != "eu-1" || math.Abs(got[0].Part-.5) > 1e-9 {
		t.Errorf("Shares = %v", got)
	}
	// A split that a control plane made for another strategy has no say, nor has the load.
	v = planned(ask.Strategy, weights(us, ap), nil)
	v.SetSplit([]Share{{"eu-1", 1}}, ask.Now)
	expect(t, "with a split", merged(shares(t, v, ask, 20_000)), map[string]float64{"us-1": .75, "ap-1": .25})
	a := ask
	a.Scope = mesh.ScopeCluster
	expect(t, "the own cluster asked for", merged(shares(t, v, a, 100)), map[string]float64{"eu-1": 1})
}

// TestSpreadIsEven over what clusters have, without anybody's report.
func TestSpreadIsEven(t *testing.T) {
	ask := Ask{Strategy: mesh.StrategySpread, Now: int64(time.Hour)}
	more := func(eps *ir.Endpoints, _ map[mesh.ClusterName]*ir.Cluster) { eps.Groups[0].Slots = make([]uint64, 8) }
	v := planned(ask.Strategy, mesh.Distribution{}, more)
	expect(t, "by endpoints", merged(shares(t, v, ask, 20_000)), map[string]float64{"eu-1": .15, "eu-2": .15, "eu-3": .15, "us-1": .15, "ap-1": .4})
	v = planned(ask.Strategy, mesh.Distribution{}, func(eps *ir.Endpoints, known map[mesh.ClusterName]*ir.Cluster) {
		more(eps, known)
		for i := range eps.Groups {
			eps.Groups[i].Lanes = 12
			for k := range eps.Groups[i].Endpoints {
				eps.Groups[i].Endpoints[k].Lanes = 4
			}
		}
	})
	expect(t, "by lanes", merged(shares(t, v, ask, 20_000)), map[string]float64{"eu-1": .2, "eu-2": .2, "eu-3": .2, "us-1": .2, "ap-1": .2})
	v.SetSplit([]Share{{"eu-1", .5}, {"us-1", .5}}, ask.Now)
	expect(t, "by what was measured, where it is", merged(shares(t, v, ask, 20_000)), map[string]float64{"eu-1": .5, "us-1": .5})
}

// TestKeysStayInTheirCluster: with consistent hashing equal keys go to one endpoint, whatever the weights.
func TestKeysStayInTheirCluster(t *testing.T) {
	eps, known := atlas()
	v := NewView(Config{Endpoints: eps, Clusters: func(n mesh.ClusterName) *ir.Cluster { return known[n] }, Cluster: "eu-1", Strategy: mesh.StrategyWeighted,
		Balancing:    mesh.Balancing{Algorithm: mesh.AlgorithmConsistentHash, Keys: []mesh.HashKey{{Source: true}}},
		Distribution: mesh.Distribution{Weights: []mesh.PlaceWeight{{Place: mesh.Place{Region: "eu"}, Weight: 1}, {Place: mesh.Place{Region: "us"}, Weight: 1}}}})
	us := 0.0
	for key := range 400 {
		a := Ask{Strategy: mesh.StrategyWeighted, Hashed: true, Hash: mix(uint64(key))}
		got := shares(t, v, a, 5)
		if len(got) != 1 {
			t.Fatalf("key %d is served by %v", key, got)
		}
		us += got["us-1"] / 400
	}
	if math.Abs(us-0.5) > 0.1 {
		t.Errorf("%g of the keys are in a cluster with half the weight", us)
	}
}

// TestPlansBendToTheLaw, and what is measured survives another strategy.
func TestPlansBendToTheLaw(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		forbidden := map[mesh.ClusterName]bool{}
		s := rapid.SampledFrom([]mesh.Strategy{mesh.StrategyNearest, mesh.StrategyWeighted, mesh.StrategySpread, mesh.StrategyLocal}).Draw(t, "strategy")
		var d mesh.Distribution
		for _, p := range []mesh.Place{{Cluster: "eu-1", Zone: "b"}, {Region: "us"}, {Cluster: "eu-2"}, {Region: "ap"}} {
			if rapid.Bool().Draw(t, "named") {
				d.Order = append(d.Order, p)
				d.Weights = append(d.Weights, mesh.PlaceWeight{Place: p, Weight: rapid.Uint32Range(0, 3).Draw(t, "weight")})
			}
		}
		v := planned(s, d, func(eps *ir.Endpoints, known map[mesh.ClusterName]*ir.Cluster) {
			for i := range eps.Groups {
				g := &eps.Groups[i]
				if rapid.Bool().Draw(t, "forbidden") {
					g.Forbidden, forbidden[g.Cluster] = "ResidencyPolicy x", true
				}
				if rapid.Bool().Draw(t, "unreachable") && g.Cluster != "eu-1" {
					known[g.Cluster].Reach = mesh.Unreachable
				}
			}
		})
		kept := map[string]bool{}
		for _, c := range v.Explain(&Ask{Strategy: s, Now: 1}) {
			if c.Endpoint != "" && c.Dropped == Kept {
				kept[string(c.Cluster)+" "+c.Endpoint] = true
			}
		}
		for k := range 50 {
			p, reason := v.Pick(&Ask{Strategy: s, Now: 1, Rand: mix(uint64(k))})
			if reason != mesh.ReasonNone {
				if len(forbidden) < 5 && s != mesh.StrategyLocal {
					t.Fatalf("%s: %s with %d of 5 forbidden", s, reason, len(forbidden))
				}
				continue
			}
			e := p.Endpoint
			if forbidden[e.Cluster] || s == mesh.StrategyLocal && e.Cluster != "eu-1" {
				t.Fatalf("%s chose %s", s, where(e))
			}
			if len(kept) > 0 && !kept[string(e.Cluster)+" "+e.Label()] {
				t.Fatalf("%s chose %s, which Explain does not keep: %v", s, where(e), kept)
			}
		}
	})
}

// TestZonesKeepWhatWasMeasured: a view that tells zones apart, and one that does not any more, know endpoints that
// are out, and count them of the whole cluster.
func TestZonesKeepWhatWasMeasured(t *testing.T) {
	eps, known := atlas()
	config := func(prev *View, s mesh.Strategy) Config {
		return Config{Prev: prev, Endpoints: eps, Clusters: func(n mesh.ClusterName) *ir.Cluster { return known[n] }, Cluster: "eu-1", Zone: "a", Strategy: s}
	}
	v := NewView(config(nil, mesh.StrategyAuto))
	kill(t, v, "eu-1/b", 1)
	v = NewView(config(v, mesh.StrategyNearest))
	if len(v.groups) != 8 || len(v.group("eu-1").state.frame.Load().endpoints) != 3 {
		t.Fatalf("%d groups, of whose endpoints success rates compare %d", len(v.groups), len(v.group("eu-1").state.frame.Load().endpoints))
	}
	for range 2 {
		out := 0
		for _, c := range v.Explain(&Ask{Now: 2}) {
			if c.Endpoint != "" && c.Dropped == DropEjected {
				out++
			}
		}
		if out != 1 {
			t.Errorf("%d endpoints are out, want that of zone b", out)
		}
		v = NewView(config(v, mesh.StrategyAuto))
	}
}

func TestPlansAllocateNothing(t *testing.T) {
	for _, s := range []mesh.Strategy{mesh.StrategyNearest, mesh.StrategyWeighted, mesh.StrategySpread} {
		v := planned(s, mesh.Distribution{Weights: []mesh.PlaceWeight{{Place: mesh.Place{Region: "eu"}, Weight: 1}, {Place: mesh.Place{Region: "us"}, Weight: 1}}}, nil)
		a := Ask{Strategy: s, Now: 1}
		if n := testing.AllocsPerRun(200, func() {
			a.Rand++
			p, _ := v.Pick(&a)
			p.Done(Abandoned, 1)
		}); n != 0 {
			t.Errorf("%s: %g allocations a pick", s, n)
		}
	}
}
