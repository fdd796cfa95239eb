package load

import (
	"fmt"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/balance"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/outage"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestOutagesAreTold: what is out as long as it is, what came back once it was taken, and no more than a report holds, of which none
// makes room for a new one.
func TestOutagesAreTold(t *testing.T) {
	n := mesh.ServiceName{Namespace: "shop", Name: "catalog"}
	group := ir.Group{Cluster: "eu", Exported: true}
	for i := range 20 {
		group.Endpoints = append(group.Endpoints, ir.Endpoint{Tag: fmt.Sprintf("e%02d", i), Weight: 1})
	}
	v := balance.NewView(balance.Config{Cluster: "eu", Endpoints: &ir.Endpoints{Service: n, Groups: []ir.Group{group}},
		Clusters: func(c mesh.ClusterName) *ir.Cluster { return &ir.Cluster{Name: c} }})
	state := &proxy.State{Services: map[mesh.ServiceName]*proxy.Service{n: {View: v}}}
	now := int64(time.Hour)
	// end ends requests until one of each endpoint wanted did so.
	end := func(o balance.Outcome, want func(tag string) bool) {
		t.Helper()
		for rand, done := uint64(1), map[string]int{}; len(done) < 20; rand = rand*6364136223846793005 + 1442695040888963407 {
			if rand == 0 {
				t.Fatal("no more draws")
			}
			var tried []*balance.Endpoint
			for range 20 {
				p, _ := v.Pick(&balance.Ask{Now: now, Rand: rand, Tried: tried})
				if p.Endpoint == nil {
					break
				}
				tried = append(tried, p.Endpoint)
				how := balance.Abandoned
				if want(p.Endpoint.Tag) {
					how = o
				}
				p.Done(how, now)
				done[p.Endpoint.Tag]++
			}
		}
	}
	var o outages
	// says looks, and has it taken.
	says := func(outs, more int, news bool) []outage.Outage {
		t.Helper()
		r, next, is := o.look(state, now)
		if len(r.Outages) != outs || r.More != more || is != news {
			t.Errorf("%d outages and %d more, news %v; want %d, %d, %v: %v", len(r.Outages), r.More, is, outs, more, news, r.Outages)
		}
		o.told = next
		return r.Outages
	}
	says(0, 0, false)
	for range 3 {
		end(balance.NeverExecuted, func(tag string) bool { return tag == "e19" })
	}
	if got := says(1, 0, true); len(got) == 1 && got[0] != (outage.Outage{Place: outage.Place{Service: n, Cluster: "eu", Endpoint: "e19"}, Why: outage.NeverExecuted}) {
		t.Errorf("told %+v", got[0])
	}
	says(1, 0, false)
	if !o.busy() {
		t.Error("nothing is said to be out")
	}
	now += int64(time.Minute)
	says(1, 0, true) // a trial
	end(balance.Served, func(string) bool { return true })
	if r, _, news := o.look(state, now); len(r.Outages) != 1 || !news { // a report that was not taken
		t.Errorf("%+v", r)
	}
	if got := says(1, 0, true); len(got) == 1 && got[0].State != outage.Over {
		t.Errorf("told %+v", got[0])
	}
	says(0, 0, false)
	if o.busy() {
		t.Error("something is said to be out")
	}
	fails := func(from string) {
		for range 3 {
			end(balance.NeverExecuted, func(tag string) bool { return tag >= from })
		}
	}
	fails("e06")
	first := says(15, 0, true) // with the cluster, which is tripped
	fails("e00")
	second := says(outage.Most, 5, true)
	for i, f := range first {
		if second[i].Endpoint != f.Endpoint {
			t.Errorf("what was told made room: %v, then %v", f, second[i])
		}
	}
	z := mesh.ServiceName{Namespace: "shop", Name: "z"}
	of := balance.NewView(balance.Config{Cluster: "eu", Endpoints: &ir.Endpoints{Service: z, Groups: []ir.Group{group}}, Clusters: func(c mesh.ClusterName) *ir.Cluster { return &ir.Cluster{Name: c} }})
	of.Trip("eu", now)
	state = &proxy.State{Services: map[mesh.ServiceName]*proxy.Service{n: {View: v}, z: {View: of}}}
	if third := says(outage.Most, 6, true); third[1].Service != z || third[1].Endpoint != "" {
		t.Errorf("a cluster has no room among endpoints: %v", third)
	}
	state = &proxy.State{}
	says(0, 0, true) // gone from the configuration
	says(0, 0, false)
}
