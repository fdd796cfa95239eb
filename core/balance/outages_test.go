package balance

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/outage"
)

// outagesOf are those of a view as CLUSTER/ENDPOINT WHY STATE xTIMES.
func outagesOf(v *View, now int64) string {
	var out []string
	v.Outages(now, func(o outage.Outage, times uint32) {
		out = append(out, fmt.Sprintf("%s/%s %d %d x%d", o.Cluster, o.Endpoint, o.Why, o.State, times))
	})
	return strings.Join(out, ", ")
}

// TestOutagesOfAnEndpoint: out while it is held, then on trial, out again when that fails, over when a request succeeds, and counted
// by how often that began.
func TestOutagesOfAnEndpoint(t *testing.T) {
	v := NewView(Config{Endpoints: groups(4, 0, 0), Clusters: clusters(nil), Cluster: "eu"})
	now, e := int64(time.Hour), v.groups[0].all.endpoints[2]
	says := func(want string) {
		t.Helper()
		if got := outagesOf(v, now); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	fail := func() { e.inFlight.Add(1); p := Pick{Endpoint: e, start: now}; p.Done(NeverExecuted, now) }
	says("")
	for range 3 {
		fail()
	}
	says("eu/2 1 0 x1")
	now += int64(2 * ejectFirst)
	says("eu/2 1 1 x1")
	fail()
	says("eu/2 1 0 x1")
	now += int64(3 * ejectFirst)
	e.alive(now, true)
	says("eu/2 1 2 x1")
	e.eject(now, outRate, &e.health.rated)
	says("eu/2 2 0 x2")
	if got := testing.AllocsPerRun(100, func() { v.Outages(now, func(outage.Outage, uint32) {}) }); got > 0 {
		t.Errorf("%g allocations a look", got)
	}
}

// TestOutagesOfACluster: as of an endpoint, without a name.
func TestOutagesOfACluster(t *testing.T) {
	v := NewView(Config{Endpoints: groups(2, 2, 0), Clusters: clusters(nil), Cluster: "eu"})
	now := int64(time.Hour)
	v.Trip("us", now)
	if got := outagesOf(v, now); got != "us/ 1 0 x1" {
		t.Errorf("tripped: %q", got)
	}
	now += int64(2 * ejectFirst)
	if got := outagesOf(v, now); got != "us/ 1 1 x1" {
		t.Errorf("its time is over: %q", got)
	}
	v.Trip("us", now)
	if got := outagesOf(v, now); got != "us/ 1 0 x1" {
		t.Errorf("a trial failed: %q", got)
	}
	v.group("us").all.endpoints[0].alive(now, true)
	if got := outagesOf(v, now); got != "us/ 1 2 x1" {
		t.Errorf("it answers: %q", got)
	}
}
