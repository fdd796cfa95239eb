package plane_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// asked is what a control plane knows of the callers of a service in a cluster, in requests a second, and of what the cluster can serve.
func (c *cluster) asked(service mesh.ServiceName, in mesh.ClusterName) (demand, capacity float64) {
	for _, f := range c.plane.Load().Foresee(nil, false) {
		if f.Service == service {
			if i := slices.Index(f.Before.Clusters, in); i >= 0 {
				return f.Before.Demand[i], f.Before.Capacity[i]
			}
		}
	}
	return 0, 0
}

// TestAPrimarySeesTheLoadOfARemoteCluster: what a remote cluster's callers ask for, and what its endpoints can serve, reaches both of its primaries by way of the one that it is
// attached to, and every split is made of it; and when nobody asks any more, that does too. The control is the time before, when nobody asked there, and the same service's
// callers in the primary itself, of whom there is one request.
func TestAPrimarySeesTheLoadOfARemoteCluster(t *testing.T) {
	m := newRemoteMesh(t)
	ap, busy := m.clusters["ap"], mesh.ServiceName{Namespace: "shop", Name: "busy"}
	ap.capacity = ", capacity: {lanes: 4}"
	ap.serve(busy.Name)
	const url = "http://busy.shop.svc.clusterset.local/"
	primaries := []*cluster{m.clusters["eu"], m.clusters["us"]}
	for _, c := range primaries { // a control plane looks after the services that its proxies use
		client := c.client()
		eventually(t, "200 ap busy", func() string { return get(client, url) })
		if demand, _ := c.asked(busy, "ap"); demand > 1 {
			t.Errorf("%s sees %.1f requests a second of callers in ap before there is one", c.name, demand)
		}
	}
	client := ap.client()
	eventually(t, "200 ap busy", func() string { return get(client, url) })
	stop := load(client, url)
	for _, c := range primaries {
		eventually(t, "sees it", func() string {
			demand, capacity := c.asked(busy, "ap")
			if own, _ := c.asked(busy, c.name); demand > 10 && demand > 10*own && capacity > demand/10 {
				t.Logf("%s sees %.0f requests a second of callers in ap, which can serve %.0f; of its own %.1f", c.name, demand, capacity, own)
				return "sees it"
			}
			return fmt.Sprintf("%s sees %.1f, capacity %.1f", c.name, demand, capacity)
		})
	}
	total, failed := stop()
	if len(failed) > 0 {
		t.Errorf("%d of %d requests failed: %.3q", len(failed), total, failed)
	}
	for _, c := range primaries {
		eventually(t, "sees the end", func() string {
			if demand, _ := c.asked(busy, "ap"); demand > 1 {
				return fmt.Sprintf("%s sees %.1f", c.name, demand)
			}
			return "sees the end"
		})
	}
}
