package load

import (
	"fmt"
	"testing"

	"github.com/isthmus-mesh/isthmus/core/outage"
	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// tripping is a pair whose gateways always answer. Of eu's three callers so many leave eu's endpoints out while ill.
type tripping struct {
	*pair
	trips int
	ill   bool
	state outage.State
}

func newTripping(t *testing.T, trips int, off bool) *tripping {
	w := &tripping{pair: newPair(t), trips: trips}
	w.demand["eu"], w.demand["us"] = 200, 50
	w.says = func(n mesh.ClusterName, b *Balancer) {
		if n != "eu" {
			return
		}
		b.services[catalog].gates.Off = off
		for i := range 3 {
			s := split.Sample{Service: catalog, Asked: 1, Wait: -1}
			var left outage.Report
			if w.ill && i < w.trips {
				left.Outages = []outage.Outage{{Place: outage.Place{Service: catalog, Cluster: "eu"}, Why: outage.NeverExecuted, State: w.state}}
			} else {
				s.Results = []split.Result{{Cluster: "eu", Ended: 10}}
			}
			id := fmt.Sprintf("shop/c%d", i)
			b.Sampled(id, "shop", []split.Sample{s}, w.now)
			b.LeftOut(id, left)
		}
	}
	w.quiet = true // the pair's own caller would say that eu is well
	w.run(10)
	return w
}

// TestWhatProxiesTripIsProved: a cluster whose gateway answers while its endpoints refuse is lost once most proxies left it out, and comes
// back step by step and over the ramp. Without gates, the control, nothing is ever held back.
func TestWhatProxiesTripIsProved(t *testing.T) {
	for _, off := range []bool{false, true} {
		w := newTripping(t, 3, off)
		w.want("well", "eu", "eu", 95, 100)
		w.ill = true
		w.run(4)
		if off {
			w.want("tripped, without gates", "eu", "eu", 95, 100)
			continue
		}
		w.want("tripped", "eu", "eu", 0, 2)
		w.state = outage.Trial
		w.run(2)
		w.want("just back", "eu", "eu", 1, 10)
		if r := w.clusters["eu"].Returning(); len(r) != 1 || len(r[0].Returning) != 1 || r[0].Returning[0].Cluster != "eu" {
			t.Errorf("on their way back: %+v", r)
		}
		w.ill = false
		w.run(70)
		w.want("back for 35 s", "eu", "eu", 95, 100)
	}
}

// TestOneProxysOwnFaultLosesNobody: one of three that leaves a cluster out moves nothing of the others; a control of two does.
func TestOneProxysOwnFaultLosesNobody(t *testing.T) {
	for trips, most := range map[int]int{1: 100, 2: 2} {
		w := newTripping(t, trips, false)
		w.ill = true
		w.run(10)
		w.want(fmt.Sprint(trips, " of three tripped"), "eu", "eu", most-5, most)
	}
}

// TestAProxyThatIsGoneTripsNothing: what it said is forgotten with it, and what it says of endpoints is not of the cluster.
func TestAProxyThatIsGoneTripsNothing(t *testing.T) {
	b := New("eu")
	now := newPair(t).now
	out := []outage.Outage{{Place: outage.Place{Service: catalog, Cluster: "us"}}, {Place: outage.Place{Service: catalog, Cluster: "ap", Endpoint: "slot 1"}}, {Place: outage.Place{Service: catalog}, Why: outage.Relieved}}
	b.LeftOut("shop/x", outage.Report{Outages: out}) // never sampled
	if got := b.tripped(now); got != nil {
		t.Errorf("%v", got)
	}
	b.Sampled("shop/x", "shop", nil, now)
	b.LeftOut("shop/x", outage.Report{Outages: out})
	if got := b.tripped(now); len(got) != 1 || len(got[catalog]) != 1 || !got[catalog]["us"] {
		t.Errorf("%v, want us alone", got)
	}
	b.Sampled("shop/x", "shop", nil, now) // the next report comes in two calls: in between the word before counts
	if got := b.tripped(now); !got[catalog]["us"] {
		t.Errorf("%v between two calls", got)
	}
	b.expire(now.Add(sampleLasts + 1))
	if got := b.tripped(now); got != nil {
		t.Errorf("%v of a proxy that is gone", got)
	}
}

// TestVoicesAreBounded whatever a proxy says that it uses.
func TestVoicesAreBounded(t *testing.T) {
	b, now := New("eu"), newPair(t).now
	for round := range 4 {
		samples := make([]split.Sample, samplesMax)
		for i := range samples {
			samples[i].Service = mesh.ServiceName{Namespace: "shop", Name: fmt.Sprint("s", round*samplesMax+i)}
			b.service(samples[i].Service)
			samples[i].Results = []split.Result{{Cluster: "eu", Ended: 1}}
		}
		b.Sampled("shop/x", "shop", samples, now)
		if n := len(b.nodes["shop/x"].voices); n > voicesMax {
			t.Fatalf("%d voices", n)
		}
	}
	now = now.Add(2 * sampleLasts)
	b.Sampled("shop/x", "shop", []split.Sample{{Service: catalog}, {Service: mesh.ServiceName{Namespace: "shop", Name: "s1"}, Results: []split.Result{{Cluster: "us", Ended: 1}}}}, now)
	if n := len(b.nodes["shop/x"].voices); n != 1 {
		t.Errorf("%d voices, want that of the last report alone: the others are old", n)
	}
}
