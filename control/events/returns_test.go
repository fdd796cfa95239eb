package events

import (
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/event"
	"github.com/isthmus-mesh/isthmus/core/failback"
	"github.com/isthmus-mesh/isthmus/core/liveness"
	"github.com/isthmus-mesh/isthmus/core/outage"
	"github.com/isthmus-mesh/isthmus/core/split"
)

// TestAWayBackIsTold step by step, each with what it was judged by, and following the path that came back.
func TestAWayBackIsTold(t *testing.T) {
	d := newDesk(t)
	d.Split(shares(split.CauseStart, 5000))
	d.Path("us-east", liveness.State{})
	d.Path("us-east", liveness.State{PathDown: true})
	d.wrote("split_begun path_lost")
	back := func(e failback.Event, from float64, step int, ended, failed uint64) event.Event {
		t.Helper()
		c := shares(split.CauseReturn, 10_000)
		g := failback.Gate{Phase: failback.Returning, Step: step, Hold: 2 * time.Second, Judged: split.Result{Ended: ended, Failed: failed}}
		if e == failback.Ended {
			g.Phase = failback.Open
		}
		c.Returns = []failback.Move{{Cluster: "us-east", Event: e, From: from, Gate: g}}
		d.Split(c)
		a := d.List(event.Filter{Kinds: []event.Kind{event.Failback}, Service: "catalog"})
		return a.Events[len(a.Events)-1]
	}
	c := shares(split.CauseLost, 10_000)
	c.Returns = []failback.Move{{Cluster: "us-east", Event: failback.Gone}}
	d.Split(c)
	d.wrote("cluster_lost<3") // the path says so
	d.Path("us-east", liveness.State{})
	d.wrote("path_back<3")
	d.says(back(failback.Began, 0.01, 0, 0, 0), "us-east was lost and can serve again", "gets 1% of its part")
	d.wrote("failback_begun<5")
	d.says(back(failback.Passed, 0.01, 1, 120, 1), "of 120 requests to us-east at 1% of its part 1 failed", "gets 5% of its part, after 1%")
	d.says(back(failback.Waited, 0.05, 2, 7, 0), "time: of 7 requests", "gets 25%")
	d.says(back(failback.Failed, 0.25, 1, 100, 9), "of 100 requests to us-east at 25% of its part 9 failed", "gets 5% of its part, after 25%, for 2s at least")
	d.says(back(failback.Ended, 1, 0, 100, 0), "of 100 requests", "all of its part")
	d.wrote("failback_step<6 failback_step<7 failback_failed<8 failback_ended<9")
	back(failback.Began, 0.01, 0, 0, 0)
	d.says(back(failback.Gone, 0.01, 0, 0, 0), "lost again", "begins at 1% again")
}

// TestAWayBackAfterATripIsTold: the split follows from what proxies left out, and so does the way back.
func TestAWayBackAfterATripIsTold(t *testing.T) {
	d := newDesk(t)
	d.Split(shares(split.CauseStart, 5000))
	d.LeftOut("shop/web", said("", outage.Out))
	d.later(settle)
	gate := failback.Gate{Phase: failback.Lost, Hold: time.Second, Tripped: true}
	c := shares(split.CauseLost, 9900)
	c.Returns = []failback.Move{{Cluster: "us-east", Event: failback.Gone, Gate: gate}}
	d.Split(c)
	e := d.wrote("split_begun cluster_tripped cluster_lost<3")[2]
	d.says(e, "most proxies of eu-west that use us-east leave it out", "")
	d.LeftOut("shop/web", said("", outage.Trial))
	gate.Phase = failback.Returning
	c.Outcome.Cause, c.Returns = split.CauseReturn, []failback.Move{{Cluster: "us-east", Event: failback.Began, Gate: gate}}
	d.Split(c)
	d.says(d.wrote("failback_begun<3")[0], "most proxies that use it had left us-east out", "gets 1% of its part")
}
