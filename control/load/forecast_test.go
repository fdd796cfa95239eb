package load

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestTheForecastSaysWhoTakesOver: of a cluster the others, of an endpoint its neighbours first.
func TestTheForecastSaysWhoTakesOver(t *testing.T) {
	w := newPair(t)
	w.demand["eu"], w.demand["us"] = 100, 60
	w.run(60)
	paths := []split.Path{{Cluster: "us", RTT: 30 * time.Millisecond}}
	of := func(l Loss) map[mesh.ClusterName]ClusterForecast {
		t.Helper()
		out := map[mesh.ClusterName]ClusterForecast{}
		all := w.clusters["eu"].Forecast(l, nil, paths, w.now)
		if len(all) != 1 || all[0].Service != catalog || !all[0].Left {
			t.Fatalf("forecast %+v", all)
		}
		for _, c := range all[0].Clusters {
			out[c.Cluster] = c
		}
		return out
	}
	near := func(what string, got, want float64) {
		t.Helper()
		if math.Abs(got-want) > 0.02*max(want, 1) {
			t.Errorf("%s is %g, want %g", what, got, want)
		}
	}
	// Two endpoints of four lanes of 20 ms are 400 requests a second.
	whole := of(Loss{Cluster: "eu"})
	near("what us has now", whole["us"].RhoNow, 60.0/400)
	near("what us would have", whole["us"].RhoThen, 160.0/400)
	near("what eu would serve", whole["eu"].Then, 0)
	one := of(Loss{Cluster: "eu", Endpoint: func(_ mesh.ServiceName, e *ir.Endpoint) bool { return e.Tag == "eu0" }})
	near("what the neighbour would have", one["eu"].RhoThen, 100.0/200)
	near("what us would have of one endpoint", one["us"].RhoThen, 60.0/400)
	if none := w.clusters["eu"].Forecast(Loss{Cluster: "eu", Endpoint: func(mesh.ServiceName, *ir.Endpoint) bool { return false }}, nil, paths, w.now); len(none) != 0 {
		t.Errorf("of nothing: %+v", none)
	}
	if dead := w.clusters["eu"].Forecast(Loss{Cluster: "eu"}, nil, []split.Path{{Cluster: "us", Dead: true}}, w.now); len(dead) != 1 || dead[0].Left {
		t.Errorf("nobody is left behind a path that is dead: %+v", dead)
	}
	eu := w.clusters["eu"]
	eu.jurisdiction = func(mesh.ClusterName) mesh.Jurisdiction { return "" }
	eu.services[catalog].endpoints.Transit = []mesh.Jurisdiction{ir.Anywhere}
	by := []split.Path{{Cluster: "us", Dead: true, Via: "in", RTT: 60 * time.Millisecond}, {Cluster: "in"}}
	if round := eu.Forecast(Loss{Cluster: "eu"}, nil, by, w.now); len(round) != 1 || !round[0].Left {
		t.Errorf("a way round leads to who is left: %+v", round)
	}
	if own := newPeer(without(by, Loss{Cluster: "in"}), w.now); own.paths["us"].Via != "" || by[0].Via != "in" {
		t.Errorf("by a cluster that is lost nothing is passed on: %+v, %+v", own.paths, by)
	}
}

// TestTheForecastKnowsOfServicesThatNobodyAskedFor: a control plane that has just been started is asked before its proxies are back.
func TestTheForecastKnowsOfServicesThatNobodyAskedFor(t *testing.T) {
	w := newPair(t)
	w.demand["eu"], w.demand["us"] = 100, 60
	w.run(5)
	serves := func(c mesh.ClusterName) ir.Group {
		return ir.Group{Cluster: c, Exported: true, Endpoints: []ir.Endpoint{{Tag: "a"}}}
	}
	everywhere, here := mesh.ServiceName{Namespace: "shop", Name: "everywhere"}, mesh.ServiceName{Namespace: "shop", Name: "here"}
	all := []*ir.Endpoints{
		{Service: catalog, Groups: []ir.Group{serves("eu")}}, // which the loop knows better
		{Service: everywhere, Groups: []ir.Group{serves("eu"), serves("us")}},
		{Service: here, Groups: []ir.Group{serves("eu")}},
		{Service: mesh.ServiceName{Namespace: "shop", Name: "elsewhere"}, Groups: []ir.Group{serves("us")}},
	}
	left := func(b *Balancer) string {
		out := ""
		for _, f := range b.Forecast(Loss{Cluster: "eu"}, all, []split.Path{{Cluster: "us"}}, w.now) {
			out += fmt.Sprint(f.Service, " ", f.Left, "; ")
		}
		return out
	}
	if got, want := left(w.clusters["eu"]), "shop/catalog true; shop/everywhere true; shop/here false; "; got != want {
		t.Errorf("left are %s, want %s", got, want)
	}
	fresh := New("eu")
	fresh.Drain(map[mesh.ClusterName]float64{"us": 0})
	if got, want := left(fresh), "shop/catalog false; shop/everywhere false; shop/here false; "; got != want {
		t.Errorf("where us is drained left are %s, want %s", got, want)
	}
}

// TestADrainedClusterIsSentNothing by the split, and its own callers go elsewhere.
func TestADrainedClusterIsSentNothing(t *testing.T) {
	w := newPair(t)
	w.demand["eu"], w.demand["us"] = 100, 60
	w.run(20)
	if w.part("eu", "eu") < 90 {
		t.Fatalf("before, eu keeps %d%%", w.part("eu", "eu"))
	}
	for _, b := range w.clusters {
		b.Drain(map[mesh.ClusterName]float64{"eu": 0})
	}
	w.run(2)
	if w.part("eu", "us") != 100 || w.part("us", "us") != 100 {
		t.Errorf("drained, of eu's %d%% and of us' %d%% go to us", w.part("eu", "us"), w.part("us", "us"))
	}
	for _, b := range w.clusters {
		b.Drain(nil)
	}
	w.run(40)
	if w.part("eu", "eu") < 90 {
		t.Errorf("taken back, eu keeps %d%%", w.part("eu", "eu"))
	}
}

// TestADrainedEndpointIsNoCapacity: what is told of a cluster is what is left of it.
func TestADrainedEndpointIsNoCapacity(t *testing.T) {
	now := time.Unix(1000, 0)
	half := mesh.Ramps{{SinceMillis: now.UnixMilli() - 5000, Over: 10 * time.Second, From: mesh.AllParts}}
	for name, c := range map[string]struct {
		endpoints []ir.Endpoint
		n, lanes  float64
	}{
		"one at half":  {[]ir.Endpoint{{Lanes: 4, Drains: half}, {Lanes: 4}}, 1.5, 6},
		"undeclared":   {[]ir.Endpoint{{Drains: half}, {Lanes: 4}}, 1.5, 0},
		"all are gone": {[]ir.Endpoint{{Lanes: 4, Drains: mesh.Ramps{{}}}}, 0, 0},
	} {
		s := &service{own: split.Report{Cluster: "eu"}, endpoints: &ir.Endpoints{Groups: []ir.Group{{Cluster: "us"}, {Cluster: "eu", Endpoints: c.endpoints}}}}
		if n, lanes := s.ready(now); n != c.n || lanes != c.lanes {
			t.Errorf("%s: %g endpoints, %g lanes", name, n, lanes)
		}
	}
}
