package load

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestWhoRestsMissesNothing has a balancer, and one that looks at every service at every tick, hear the same at random: both say the same. And the
// first looks at fewer.
func TestWhoRestsMissesNothing(t *testing.T) {
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 1))
		now := time.Unix(1000, 0)
		both := []*Balancer{New("eu"), New("eu")}
		var names []mesh.ServiceName
		for i := range 12 {
			names = append(names, mesh.ServiceName{Namespace: "shop", Name: fmt.Sprint("s", i)})
		}
		looks := [2]int{}
		busy := true
		for tick := range 600 {
			now = now.Add(Every)
			if tick%150 == 0 {
				busy = !busy
			}
			if busy || r.IntN(50) == 0 {
				act := story(r, names[r.IntN(len(names))], now)
				for _, b := range both {
					act(b)
				}
			}
			both[1].mu.Lock()
			for n, s := range both[1].services {
				both[1].stir(n, s)
			}
			both[1].mu.Unlock()
			var changes [2][]Change
			var told [2]*split.ClusterReport
			for i, b := range both {
				looks[i] += len(b.stirred)
				changes[i] = b.Tick([]split.Path{{Cluster: "us", RTT: 30 * time.Millisecond}}, now)
				told[i] = b.Report(nil, func(mesh.ServiceName) bool { return true })
			}
			if !reflect.DeepEqual(changes[0], changes[1]) || !reflect.DeepEqual(told[0], told[1]) {
				t.Fatalf("seed %d, tick %d: who rests says %+v and reports %+v; who does not %+v and %+v", seed, tick, changes[0], told[0], changes[1], told[1])
			}
		}
		if looks[0] == 0 || looks[0] >= looks[1] {
			t.Errorf("seed %d: %d looks, and %d by who never rests", seed, looks[0], looks[1])
		}
	}
}

// TestQuietServicesAreNotLookedAt: services of which nothing is measured are looked at once, for where they are, and again when that changes.
func TestQuietServicesAreNotLookedAt(t *testing.T) {
	b, now := New("eu"), time.Unix(1000, 0)
	name := func(i int) mesh.ServiceName { return mesh.ServiceName{Namespace: "shop", Name: fmt.Sprint("s", i)} }
	for i := range 100 {
		b.Know(&ir.Endpoints{Service: name(i), Groups: []ir.Group{{Cluster: "eu", Endpoints: []ir.Endpoint{{Tag: "a", Lanes: 4}}}}})
	}
	for _, want := range []int{100, 0, 0} {
		if got := len(b.stirred); got != want {
			t.Errorf("a tick looks at %d services, want %d", got, want)
		}
		b.Tick(nil, now)
	}
	b.Know(&ir.Endpoints{Service: name(7), Groups: []ir.Group{{Cluster: "eu", Endpoints: []ir.Endpoint{{Tag: "a", Lanes: 6}}}}})
	b.Tick(nil, now)
	told := b.Report(nil, func(mesh.ServiceName) bool { return true })
	lanes := 0.0
	for _, v := range told.Services {
		lanes += v.Lanes
	}
	if lanes != 99*4+6 {
		t.Errorf("%v lanes are reported, want those of all services", lanes)
	}
}

// story is something that may become known of a service.
func story(r *rand.Rand, n mesh.ServiceName, now time.Time) func(*Balancer) {
	x, y := r.Float64(), r.IntN(4)
	switch r.IntN(8) {
	case 0, 1:
		e := &ir.Endpoints{Service: n}
		for i, c := range []mesh.ClusterName{"eu", "us"} {
			g := ir.Group{Cluster: c, Exported: true}
			for k := range (y + i) % 3 {
				ep := ir.Endpoint{Tag: fmt.Sprint(c, k), Proxy: netip.MustParseAddrPort("127.0.0.1:1"), Lanes: uint32(4 * (y % 2))}
				if x < 0.2 {
					ep.Drains = mesh.Ramps{{SinceMillis: now.UnixMilli(), Over: 20 * time.Second, From: mesh.AllParts}}
				}
				g.Endpoints = append(g.Endpoints, ep)
			}
			e.Groups = append(e.Groups, g)
		}
		return func(b *Balancer) { b.Know(e) }
	case 2:
		return func(b *Balancer) {
			b.Route(n, []mesh.Strategy{mesh.StrategyAuto, mesh.StrategyLocal, mesh.StrategyNearest}[y%3], mesh.Distribution{}, mesh.Staleness{})
		}
	case 3:
		return func(b *Balancer) { b.Forget(n) }
	case 4:
		return func(b *Balancer) {
			b.Heard("us", &split.ClusterReport{Services: []split.ServiceReport{{Service: n, Demand: 10 * x, Lanes: 8, Time: 0.02}}}, now)
		}
	case 5:
		return func(b *Balancer) { b.Drain(map[mesh.ClusterName]float64{"us": x}) }
	}
	return func(b *Balancer) {
		b.Sampled(fmt.Sprint("shop/", y), "shop", []split.Sample{{Service: n, Asked: 1000 * x, Served: 100 * x, Lanes: 4, Time: 20 * time.Millisecond, Wait: -1, Received: 1e4 * x}}, now)
	}
}

// BenchmarkTick is a tick of a thousand services of which nothing is measured, as it is, and where each is looked at.
func BenchmarkTick(b *testing.B) {
	for _, all := range []bool{false, true} {
		b.Run(fmt.Sprint("all=", all), func(b *testing.B) {
			l, now := New("eu"), time.Unix(1000, 0)
			for i := range 1000 {
				l.Know(&ir.Endpoints{Service: mesh.ServiceName{Namespace: "shop", Name: fmt.Sprint("svc-", i)},
					Groups: []ir.Group{{Cluster: "eu", Endpoints: make([]ir.Endpoint, 5)}}})
			}
			l.Tick(nil, now)
			for b.Loop() {
				if all {
					for n, s := range l.services {
						l.stir(n, s)
					}
				}
				l.Tick(nil, now)
			}
		})
	}
}
