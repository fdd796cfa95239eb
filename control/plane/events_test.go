package plane_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/isthmus-mesh/isthmus/core/event"
)

// happened says of the newest event with a reason, or of a kind, what it says, and of the one that it follows from.
func (c *cluster) happened(reason string) string {
	a := c.plane.Events().List(event.Filter{})
	for i := len(a.Events) - 1; i >= 0; i-- {
		e := a.Events[i]
		if e.Reason != reason && string(e.Kind) != reason {
			continue
		}
		for _, o := range a.Events {
			if o.Seq == e.Because {
				return fmt.Sprintf("because %s, so %s, after %s", e.Cause, e.Effect, o.Reason)
			}
		}
		return fmt.Sprintf("because %s, so %s", e.Cause, e.Effect)
	}
	return "no " + reason
}

// TestALossIsToldWithCauseAndEffect: requests are spread over two clusters, of which one goes away. What is written down is
// that they are spread, that the way is lost, that the spread moved because of that, and that nothing is heard.
func TestALossIsToldWithCauseAndEffect(t *testing.T) {
	ctx, parts := lasting(t)
	eu := startCluster(t, ctx, parts, "eu")
	far, cut := context.WithCancel(ctx)
	var gone sync.WaitGroup
	defer gone.Wait()
	defer cut()
	us := startCluster(t, far, &gone, "us")
	for _, c := range []*cluster{eu, us} {
		c.capacity = ", capacity: {lanes: 4}"
		c.join(eu)
		c.join(us)
	}
	eu.strategy("{strategy: Spread}")
	eu.serve("catalog")
	us.serve("catalog")
	client := eu.client()
	// tells asks on, as load has no split without requests, until an event says what is wanted.
	tells := func(reason string, want ...string) {
		t.Helper()
		eventually(t, "as it should", func() string {
			get(client, "http://catalog.shop.svc.clusterset.local/")
			got := eu.happened(reason)
			for _, w := range want {
				if !strings.Contains(got, w) {
					return got
				}
			}
			return "as it should"
		})
	}
	tells("split_begun", "because its load is known in more than one cluster", "of requests from eu: eu ")
	tells("split", ", us ") // it may have begun with the own cluster alone
	if got := eu.happened("path_lost"); got != "no path_lost" {
		t.Errorf("before anything was lost: %s", got)
	}
	cut()
	gone.Wait()
	tells("path_lost", "because its gateways refuse, or are silent", "so requests from eu go to other clusters than us (it offers 1 service)")
	tells("cluster_lost", "because us cannot be reached from eu", "→ 100.0%, us ", "→ 0.0%", "after path_lost")
	tells("link_lost", "not heard for longer than a lease lasts", "nothing new is learnt")
	a := eu.plane.Events().List(event.Filter{Service: "catalog.shop", Cluster: "us", Kinds: []event.Kind{event.Split}}) // with the path that they follow from
	if len(a.Events) < 2 || a.Events[len(a.Events)-1].Kind != event.Split {
		t.Errorf("of the service and the cluster: %+v", a.Events)
	}
}
