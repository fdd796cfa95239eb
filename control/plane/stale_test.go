package plane_test

import (
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/dataplane/agent"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestAPolicyEndsWhatIsTooOld: the control plane of the only cluster that has a service is gone, its gateway and its
// application are not. Requests go on without a policy, which is the control; by a policy they end when what is known is
// too old, over a restart of the own control plane too, and go on when the policy or the silence ends.
func TestAPolicyEndsWhatIsTooOld(t *testing.T) {
	ctx, parts := lasting(t)
	eu, us := newCluster(t, ctx, parts, "eu"), newCluster(t, ctx, parts, "us")
	stopEU, stopUS := eu.startAlone(), us.startAlone()
	eu.ctx, eu.parts, us.ctx, us.parts = ctx, parts, ctx, parts // what else runs outlives them
	for _, c := range []*cluster{eu, us} {
		c.proxy(agent.Config{ID: "isthmus-system/gateway-0", Mode: agent.ModeGateway, ServiceAccount: "gateway", Gateway: c.addr["gateway"]})
	}
	eu.join(eu)
	eu.join(us)
	us.join(us)
	us.join(eu)
	us.serve("catalog")
	client := eu.client()
	ask := func() string { return get(client, "http://catalog.shop.svc.clusterset.local/") }
	eventually(t, "200 us", ask)

	stopUS()
	eventually(t, "StaleServing", func() string { return stateOf(eu, "us") })
	if got := ask(); !strings.HasPrefix(got, "200 us") {
		t.Fatalf("without a policy: %q, want the service", got)
	}
	const policy = `
apiVersion: isthmus.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: fresh, namespace: shop}
spec: {targetRefs: [{group: multicluster.x-k8s.io, kind: ServiceImport, name: catalog}], maxStaleness: 1s, whenStale: %s}
`
	of := func(when string) string { return strings.Replace(policy, "%s", when, 1) }
	eu.apply(of("Exclude"))
	eventually(t, "503 stale_cluster", ask)
	eu.apply(of("LastResort"))
	eventually(t, "200 us", ask)
	eu.apply(of("Exclude"))
	eventually(t, "503 stale_cluster", ask)

	stopEU()
	stopEU = eu.startAlone()
	eu.ctx, eu.parts = ctx, parts
	eventually(t, "known", func() string {
		if since, ok := staleSince(eu, "us"); ok && since != 0 {
			return "known"
		}
		return "not known"
	})
	if got := ask(); !strings.HasPrefix(got, "503 stale_cluster") {
		t.Errorf("after a restart: %q, want what the policy says", got)
	}
	if _, err := eu.plane.Objects().Delete(ctx, store.Key{Kind: "TrafficPolicy.isthmus.dev", Namespace: "shop", Name: "fresh"}, store.Any()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "200 us", ask)
	eu.apply(of("Exclude"))
	eventually(t, "503 stale_cluster", ask)
	us.startAlone()
	eventually(t, "200 us", ask)
	stopEU()
}

func stateOf(c *cluster, peer mesh.ClusterName) string {
	for _, p := range c.plane.Peers() {
		if p.Cluster == peer {
			return p.State.String()
		}
	}
	return "not linked"
}

// staleSince is since when a cluster's own world says that a peer is not heard.
func staleSince(c *cluster, peer mesh.ClusterName) (int64, bool) {
	f, ok := c.plane.World().Get(mesh.Key{Kind: mesh.KindReach, Origin: c.name, Name: string(peer)})
	if !ok {
		return 0, false
	}
	return f.Value.(*mesh.Reach).StaleSinceMillis, true
}
