package load

import (
	"net/netip"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/mesh"
)

var (
	app = mesh.ServiceName{Namespace: "shop", Name: "app"}
	db  = mesh.ServiceName{Namespace: "shop", Name: "db"}
)

// tree is two clusters with an application each, 30 ms apart, of which each request calls a database three times that only
// us has. Users are in eu. hidden says that proxies do not tell who calls.
type tree struct {
	clusters map[mesh.ClusterName]*Balancer
	now      time.Time
	hidden   bool
	// near says that eu has a database of its own, as us has.
	near bool
	// away says that nothing runs in eu, whatever the split says: nobody calls the database from there.
	away bool
	// home is the part of eu's requests that eu serves; crossed is how much crossed, a request, and swung how far home moved.
	home, crossed, swung float64
}

func newTree(hidden bool) *tree {
	w := &tree{clusters: map[mesh.ClusterName]*Balancer{"eu": New("eu"), "us": New("us")}, now: time.Unix(1000, 0), hidden: hidden, home: 1}
	for n, b := range w.clusters {
		for _, s := range []mesh.ServiceName{app, db} {
			e := &ir.Endpoints{Service: s}
			for _, of := range []mesh.ClusterName{"eu", "us"} {
				g := ir.Group{Cluster: of, Exported: true}
				switch {
				case s == db && of == "eu":
				case of == n:
					g.Endpoints = []ir.Endpoint{{Tag: "1", Proxy: netip.MustParseAddrPort("127.0.0.1:1"), Lanes: 1000}}
				default:
					g.Slots = []uint64{1}
				}
				e.Groups = append(e.Groups, g)
			}
			b.Know(e)
		}
	}
	return w
}

// run lets the loop turn so often: at a hundred requests a second of 20 ms, with calls of 10 ms.
func (w *tree) run(ticks int) {
	const rate = 100.0
	for range ticks {
		w.now = w.now.Add(Every)
		at := map[mesh.ClusterName]float64{"eu": rate * w.home, "us": rate * (1 - w.home)}
		if w.away {
			at["eu"], at["us"] = 0, rate
		}
		w.crossed += (1 - w.home) + 3*w.home
		for n, b := range w.clusters {
			call := map[mesh.ClusterName]time.Duration{"eu": 40 * time.Millisecond, "us": 10 * time.Millisecond}[n]
			if n == "eu" && w.near {
				call = 10 * time.Millisecond
				b.Sampled("shop/db", "shop", []split.Sample{{Service: db, Served: 1, Lanes: 1000, Time: 10 * time.Millisecond}}, w.now)
			}
			if n == "eu" {
				b.Sampled("shop/users", "shop", []split.Sample{{Service: app, Asked: rate, Wait: -1}}, w.now)
			} else {
				b.Sampled("shop/db", "shop", []split.Sample{{Service: db, Served: 3 * rate, Lanes: 1000, Time: 10 * time.Millisecond}}, w.now)
			}
			serves := split.Sample{Service: app, Served: at[n], Lanes: 1000}
			if at[n] > 0 {
				serves.Time = 20*time.Millisecond + 3*call
			}
			calls := split.Sample{Service: db, Asked: 3 * at[n], Wait: -1, Calling: 3 * at[n] * call.Seconds()}
			if at[n] == 0 { // who asks for nothing reports nothing
				b.Sampled("shop/app", "shop", []split.Sample{serves}, w.now)
				b.Sampled("shop/somebody", "shop", nil, w.now)
			} else if w.hidden {
				b.Sampled("shop/somebody", "shop", []split.Sample{calls}, w.now)
				b.Sampled("shop/app", "shop", []split.Sample{serves}, w.now)
			} else {
				b.Sampled("shop/app", "shop", []split.Sample{serves, calls}, w.now)
			}
		}
		for n, b := range w.clusters {
			other := map[mesh.ClusterName]mesh.ClusterName{"eu": "us", "us": "eu"}[n]
			paths := []split.Path{{Cluster: other, RTT: 30 * time.Millisecond}}
			for _, c := range b.Tick(paths, w.now) {
				if n == "eu" && c.Service == app && c.Split != nil {
					home := 0.0
					for _, s := range c.Split.Shares {
						if s.Cluster == "eu" {
							home = float64(s.Parts) / mesh.AllParts
						}
					}
					w.swung += max(home-w.home, w.home-home)
					w.home = home
				}
			}
			w.clusters[other].Heard(n, b.Report(paths, func(mesh.ServiceName) bool { return true }), w.now)
		}
	}
}

// TestRequestsRunWhereTheirCallsAreNear: a request crosses once, to where the database is, in place of three times from home; and
// it stays there when no time of home's application is known any more. Where nobody tells who calls what, the same loop sends
// requests home each time that is forgotten: the control run.
func TestRequestsRunWhereTheirCallsAreNear(t *testing.T) {
	w := newTree(false)
	w.run(40)
	w.swung, w.crossed = 0, 0
	w.run(200)
	if w.home > 0.05 || w.swung > 0.1 || w.crossed/200 > 1.2 {
		t.Errorf("%.2f of the requests run at home; the split swung by %.2f, and %.2f crossed a request", w.home, w.swung, w.crossed/200)
	}
	blind := newTree(true)
	blind.run(40)
	blind.swung, blind.crossed = 0, 0
	blind.run(200)
	if blind.crossed < 1.2*w.crossed {
		t.Errorf("control run: %.2f crossed a request, and the split swung by %.2f", blind.crossed/200, blind.swung)
	}
}

// TestCallsAreOfWhoServes: what a proxy that serves nothing asks for is no call of a service, and only what is asked for counts.
func TestCallsAreOfWhoServes(t *testing.T) {
	b := New("eu")
	now := time.Unix(1000, 0)
	b.Sampled("shop/users", "shop", []split.Sample{{Service: app, Asked: 100, Calling: 5, Wait: -1}, {Service: db, Asked: 7, Wait: -1}}, now)
	b.Sampled("shop/app", "shop", []split.Sample{{Service: app, Served: 100, Asked: 3, Lanes: 4}, {Service: db, Asked: 200, Calling: 6, Wait: -1}}, now)
	of := b.measure(now)
	if len(of[db].calls) != 0 || len(of[app].calls) != 1 || of[app].calls[db] != (split.Call{Asked: 200, Busy: 6}) {
		t.Errorf("the application calls %v, the database %v: want 200 of the database a second, 6 under way", of[app].calls, of[db].calls)
	}
	b.Sampled("bank/liar", "bank", []split.Sample{{Service: app, Served: 1}, {Service: catalog, Asked: 1e6, Calling: 1e6}}, now)
	if of := b.measure(now); of[app].calls[catalog] != (split.Call{}) {
		t.Errorf("a proxy of another namespace says that the application calls %v", of[app].calls[catalog])
	}
}

// TestRequestsComeBackToTheirCalls: they left, as the database was far; when it comes near, they come back.
func TestRequestsComeBackToTheirCalls(t *testing.T) {
	w := newTree(false)
	w.run(400)
	if w.home > 0.05 {
		t.Fatalf("%.2f of the requests run at home", w.home)
	}
	eu := w.clusters["eu"]
	eu.Know(&ir.Endpoints{Service: db, Groups: []ir.Group{{Cluster: "eu", Exported: true, Endpoints: []ir.Endpoint{{Tag: "1", Proxy: netip.MustParseAddrPort("127.0.0.1:2"), Lanes: 1000}}},
		{Cluster: "us", Exported: true, Slots: []uint64{1}}}})
	w.near = true
	w.run(120)
	if w.home < 0.95 {
		t.Errorf("%.2f of the requests run at home, where the database is", w.home)
	}
}

// TestWhatCallsWouldCostIsKnownWhereNobodyCalls: a price is followed also where nothing has run for so long that nothing of the callee is
// measured any more.
func TestWhatCallsWouldCostIsKnownWhereNobodyCalls(t *testing.T) {
	w := newTree(false)
	w.run(40)
	w.away = true
	w.run(4000)
	if w.clusters["eu"].stirred[db] == nil {
		t.Error("nobody looks at what the database costs from where nobody calls it now")
	}
}
