package events

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/event"
	"github.com/isthmus-mesh/isthmus/core/liveness"
	"github.com/isthmus-mesh/isthmus/core/outage"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// said is a report of one place of catalog.shop in us-east.
func said(endpoint string, s outage.State) outage.Report {
	return outage.Report{Outages: []outage.Outage{{Why: outage.NeverExecuted, State: s,
		Place: outage.Place{Service: mesh.ServiceName{Namespace: "shop", Name: "catalog"}, Cluster: "us-east", Endpoint: endpoint}}}}
}

// later looks after so long.
func (d *desk) later(by time.Duration) {
	d.hand.now = d.hand.now.Add(by)
	d.look(Seen{})
}

// TestAnEndpointThatManyEjectIsOneEvent: which says how many; and so is its return, when one of them got an answer and none of them
// leaves it out, though most have had no request to try it with. What those say later is no news.
func TestAnEndpointThatManyEjectIsOneEvent(t *testing.T) {
	d := newDesk(t)
	all := func(from int, s outage.State) {
		for i := from; i < 40; i++ {
			d.LeftOut(fmt.Sprint("shop/web-", i), said("catalog-1", s))
		}
	}
	all(0, outage.Out)
	d.later(settle / 2)
	d.wrote("")
	all(0, outage.Out)
	d.later(settle / 2)
	e := d.wrote("endpoint_ejected")[0]
	d.says(e, "requests of 40 proxies to catalog-1 of us-east were refused", "go to other endpoints while there are any")
	if e.Kind != event.Endpoint || e.Subject != "catalog.shop" || e.Clusters[0] != "us-east" {
		t.Errorf("%+v", e)
	}
	all(0, outage.Trial)
	d.later(time.Second)
	d.wrote("") // it answers probes, and nobody has tried it
	d.LeftOut("shop/web-0", said("catalog-1", outage.Over))
	d.LeftOut("shop/web-1", said("catalog-1", outage.Out)) // its trial failed
	d.later(time.Second)
	d.wrote("")
	d.LeftOut("shop/web-1", said("catalog-1", outage.Trial))
	d.LeftOut("shop/web-0", said("catalog-1", outage.Over))
	d.later(time.Second)
	d.says(d.wrote("endpoint_back<2")[0], "succeeded; 40 proxies had left it out at most", "gets requests again")
	all(1, outage.Over)
	d.later(2 * settle)
	d.wrote("")
	if got := d.List(event.Filter{Service: "catalog", Kinds: []event.Kind{event.Endpoint}}); len(got.Events) != 2 {
		t.Errorf("of the service: %+v", got.Events)
	}
	if n := len(d.left.places) + len(d.left.proxies); n != 0 {
		t.Errorf("%d places and proxies are remembered", n)
	}
}

// TestAnOutageBetweenTwoReports is told too: with its end.
func TestAnOutageBetweenTwoReports(t *testing.T) {
	d := newDesk(t)
	d.LeftOut("shop/web", said("catalog-1", outage.Over))
	d.later(settle)
	d.says(d.wrote("endpoint_ejected endpoint_back<2")[0], "requests of 1 proxy to catalog-1", "")
}

// TestWhatIsSaidNoLonger is no return: the endpoint left the configuration, or the proxies stopped.
func TestWhatIsSaidNoLonger(t *testing.T) {
	d := newDesk(t)
	d.LeftOut("shop/web", said("catalog-1", outage.Out))
	d.LeftOut("shop/app", said("catalog-2", outage.Out))
	d.later(settle)
	d.says(d.wrote("endpoint_ejected")[0], "requests of 2 proxies to catalog-1, catalog-2 of us-east", "")
	d.LeftOut("shop/web", outage.Report{})
	d.later(time.Second)
	d.says(d.wrote("endpoint_forgotten<2")[0], "no proxy says any longer that it leaves catalog-1 of us-east out", "")
	d.later(unheard)
	d.says(d.wrote("endpoint_forgotten<2")[0], "leaves catalog-2 of us-east out", "nothing is known")
}

// TestAClusterThatIsTripped follows from the path that was lost, if one was.
func TestAClusterThatIsTripped(t *testing.T) {
	d := newDesk(t)
	d.Path("us-east", liveness.State{PathDown: true, RTT: 80 * time.Millisecond})
	d.LeftOut("shop/web", said("", outage.Out))
	d.later(settle)
	e := d.wrote("path_lost cluster_tripped<2")[1]
	if d.says(e, "to the endpoints of us-east found no way", "for catalog.shop go to other clusters than us-east"); e.Kind != event.Trip {
		t.Errorf("kind %s", e.Kind)
	}
	d.LeftOut("shop/web", said("", outage.Over))
	d.later(time.Second)
	d.says(d.wrote("cluster_back<3")[0], "requests that tried us-east succeeded", "")
}

// TestManyOutagesAreBounded: of endpoints at once there is one event that names some; what wavers is damped; and what reports have no
// room for is counted.
func TestManyOutagesAreBounded(t *testing.T) {
	d := newDesk(t)
	var r outage.Report
	for i := range outage.Most {
		r.Outages = append(r.Outages, said(fmt.Sprintf("catalog-%02d", i), outage.Out).Outages...)
	}
	r.More = 7
	r.Outages[3].Why = outage.SuccessRate
	d.LeftOut("shop/web", r)
	d.later(settle)
	got := d.wrote("endpoint_ejected endpoint_ejected")
	d.says(got[0], "catalog-00, catalog-01, catalog-02, catalog-04, 11 more of us-east were refused", "")
	d.says(got[1], "to catalog-03 of us-east failed far more often", "")
	if !strings.HasSuffix(got[0].Cause, "had no room for 7 more)") {
		t.Error(got[0].Cause)
	}
	before := d.List(event.Filter{}).Last
	for i := range 2000 {
		d.LeftOut("shop/web", said("catalog-1", []outage.State{outage.Out, outage.Over}[i%2]))
		d.later(settle)
	}
	if n := d.List(event.Filter{}).Last - before; n < 12 || n > 120 {
		t.Errorf("%d events of one that wavers for 2,000 s, want about 112", n)
	}
	for i := range 3 * placesMax {
		d.LeftOut(fmt.Sprint("shop/p", i), said(fmt.Sprint("e", i), outage.Out))
	}
	if len(d.left.places) > placesMax {
		t.Errorf("%d places are followed", len(d.left.places))
	}
}

// TestAFallbackIsTold: when it begins to answer for some proxy and when it rests for all, of the service and no cluster.
func TestAFallbackIsTold(t *testing.T) {
	d := newDesk(t)
	stands := func(s outage.State) outage.Report {
		return outage.Report{Outages: []outage.Outage{{Why: outage.Relieved, State: s, Place: outage.Place{Service: mesh.ServiceName{Namespace: "shop", Name: "catalog"}}}}}
	}
	d.LeftOut("shop/web", stands(outage.Out))
	d.LeftOut("shop/app", stands(outage.Out))
	d.later(settle)
	e := d.wrote("fallback_answers")[0]
	if d.says(e, "requests of 2 proxies to it failed for good", "stands in"); e.Kind != event.Fallback || e.Subject != "catalog.shop" || len(e.Clusters) != 0 {
		t.Errorf("%+v", e)
	}
	d.LeftOut("shop/web", stands(outage.Over))
	d.later(time.Second)
	d.wrote("")
	d.LeftOut("shop/app", stands(outage.Over))
	d.later(time.Second)
	d.says(d.wrote("fallback_rests<2")[0], "no request of the 2 proxies", "the service's own")
	if got := d.List(event.Filter{Service: "catalog"}); len(got.Events) != 2 {
		t.Errorf("of the service: %+v", got.Events)
	}
}
