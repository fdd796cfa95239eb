package load

import (
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/balance"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestResultsAreTold: how tries ended at each cluster since the report before, without those that were shed or abandoned; a view
// that began anew is counted from nothing.
func TestResultsAreTold(t *testing.T) {
	n := mesh.ServiceName{Namespace: "shop", Name: "catalog"}
	newView := func() *balance.View {
		return balance.NewView(balance.Config{Cluster: "eu", Endpoints: &ir.Endpoints{Service: n, Groups: []ir.Group{{Cluster: "eu", Exported: true, Endpoints: []ir.Endpoint{{Tag: "a", Weight: 1}}}}},
			Clusters: func(c mesh.ClusterName) *ir.Cluster { return &ir.Cluster{Name: c} }})
	}
	v, m, now := newView(), &sampler{ended: map[place]split.Result{}}, int64(time.Hour)
	end := func(outcomes ...balance.Outcome) {
		for _, o := range outcomes {
			p, reason := v.Pick(&balance.Ask{Now: now, Rand: 1})
			if reason != mesh.ReasonNone {
				t.Fatal(reason)
			}
			p.Done(o, now)
		}
	}
	want := func(ended, failed uint64) {
		t.Helper()
		got := m.results(n, v)
		if ended == 0 && len(got) == 0 {
			return
		}
		if len(got) != 1 || got[0] != (split.Result{Cluster: "eu", Ended: ended, Failed: failed}) {
			t.Errorf("told %+v, want %d and %d", got, ended, failed)
		}
	}
	want(0, 0)
	end(balance.Served, balance.Shed, balance.Abandoned, balance.Failed, balance.TimedOut, balance.Served, balance.NeverExecuted)
	want(5, 3)
	want(0, 0)
	end(balance.Served)
	want(1, 0)
	v = newView()
	end(balance.Failed, balance.Served)
	want(2, 1)
	if got := m.results(n, nil); got != nil {
		t.Errorf("of no view: %v", got)
	}
}

// TestABurstDoesNotWait for the time of the next report, where it is one by the rate until the last; an idle proxy does not look for
// any between reports, nor one whose control plane wants to hear less.
func TestABurstDoesNotWait(t *testing.T) {
	c := count{asked: 1000, rate: 200}
	if c.jumped(1030, 100*time.Millisecond) || !c.jumped(1070, 100*time.Millisecond) {
		t.Error("30 requests in a tenth of a second are a burst at 200 a second, or 70 are none")
	}
	for _, v := range []struct {
		busy         bool
		period, want time.Duration
	}{{true, loadPeriod, split.NewsAfter}, {false, loadPeriod, loadPeriod}, {true, 4 * loadPeriod, 4 * loadPeriod}} {
		if got := (&sampler{busy: v.busy}).look(v.period); got != v.want {
			t.Errorf("%+v: it looks again after %v", v, got)
		}
	}
}
