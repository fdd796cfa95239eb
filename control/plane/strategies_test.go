package plane_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/agent"
	"github.com/isthmus-mesh/isthmus/internal/loopback"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// instance adds an instance of the service catalog in a zone, which answers with its cluster and zone.
func (c *cluster) instance(zone string, ready bool) {
	c.t.Helper()
	key := "catalog in " + zone
	if _, there := c.addr[key]; !there {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			c.t.Fatal(err)
		}
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, "%s/%s", c.name, zone) })}
		c.run("application", func(ctx context.Context) error {
			defer context.AfterFunc(ctx, func() { srv.Close() })()
			return srv.Serve(ln)
		})
		c.addr[key], c.addr[key+" app"] = loopback.AddrPort(c.t), netip.MustParseAddrPort(ln.Addr().String())
		c.proxy(agent.Config{ID: "shop/catalog-" + zone, Mode: agent.ModeSidecar, ServiceAccount: "catalog", Zone: mesh.Zone(zone), Inbound: c.addr[key]})
	}
	app := c.addr[key+" app"]
	c.apply(fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: catalog, namespace: shop}
spec: {selector: {app: catalog}, ports: [{name: http, port: 80, targetPort: http}]}
---
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceExport
metadata: {name: catalog, namespace: shop}
---
apiVersion: isthmus.dev/v1alpha1
kind: Workload
metadata: {name: catalog-%s, namespace: shop, labels: {app: catalog}}
spec: {address: %s, serviceAccount: catalog, ports: [{name: http, port: %d}], proxy: "%s", locality: {zone: %s}, unready: %v}
`, zone, app.Addr(), app.Port(), c.addr[key], zone, !ready))
}

// strategy puts a TrafficPolicy for all services in force.
func (c *cluster) strategy(locality string) {
	c.t.Helper()
	c.apply(`
apiVersion: isthmus.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: everywhere, namespace: ops}
spec: {targetRefs: [{kind: Mesh}], locality: ` + locality + `}
`)
}

// TestStrategiesInAMesh walks through the strategies in three clusters, two of them in one region, without declared
// lanes: what proxies do by themselves. Each is put in force, asked for a while, and then loses what it likes best.
func TestStrategiesInAMesh(t *testing.T) {
	ctx, parts := lasting(t)
	regions := map[mesh.ClusterName]string{"eu-west": "eu", "eu-north": "eu", "us-east": "us"}
	west, north, us := startCluster(t, ctx, parts, "eu-west"), startCluster(t, ctx, parts, "eu-north"), startCluster(t, ctx, parts, "us-east")
	all := []*cluster{west, north, us}
	for _, c := range all {
		for _, o := range all {
			yaml := clusterYAML(o.name, o.plane.Bundle(), o.addr)
			c.apply(strings.Replace(yaml, "spec:\n", "spec:\n  region: "+regions[o.name]+"\n", 1))
		}
	}
	west.instance("a", true)
	west.instance("b", true)
	north.instance("a", true)
	us.instance("a", true)
	at := loopback.AddrPort(t)
	west.proxy(agent.Config{ID: "default/shell", Mode: agent.ModeSidecar, ServiceAccount: "shell", Zone: "b", Outbound: at})
	client := &http.Client{Timeout: bound, Transport: &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: at.String()})}}

	// tally asks n times, and counts who answered; anything else counts as itself.
	tally := func(n int) map[string]int {
		got := map[string]int{}
		for range n {
			got[strings.TrimPrefix(get(client, "http://catalog.shop.svc.clusterset.local/"), "200 ")]++
		}
		return got
	}
	// becomes waits until what answers fits.
	becomes := func(what string, n int, fits func(map[string]int) bool) {
		t.Helper()
		var got map[string]int
		for end := time.Now().Add(bound); time.Now().Before(end); {
			if got = tally(n); fits(got) {
				return
			}
		}
		t.Fatalf("%s: of %d requests %v", what, n, got)
	}
	only := func(places ...string) func(map[string]int) bool {
		return func(got map[string]int) bool {
			sum := 0
			for _, p := range places {
				if got[p] == 0 {
					return false
				}
				sum += got[p]
			}
			n := 0
			for _, k := range got {
				n += k
			}
			return sum == n
		}
	}
	between := func(place string, low, high int, rest func(map[string]int) bool) func(map[string]int) bool {
		return func(got map[string]int) bool { return got[place] >= low && got[place] <= high && rest(got) }
	}
	everywhere := only("eu-west/a", "eu-west/b", "eu-north/a", "us-east/a")

	// Auto, and Latency, take the own cluster while it has room.
	becomes("without a policy", 40, only("eu-west/a", "eu-west/b"))
	west.strategy("{strategy: Latency}")
	becomes("Latency", 40, only("eu-west/a", "eu-west/b"))

	// Spread: by endpoints, of which the own cluster has two of four.
	west.strategy("{strategy: Spread}")
	becomes("Spread", 80, between("us-east/a", 8, 34, everywhere))

	// Weighted: 3 to 1, nothing elsewhere; the weight of what is lost goes to what is left, then to what is not named.
	west.strategy("{strategy: Weighted, weights: [{cluster: us-east, weight: 3}, {region: eu, weight: 1}]}")
	becomes("Weighted", 80, between("us-east/a", 46, 74, everywhere))
	us.instance("a", false)
	becomes("Weighted, without its heaviest", 40, only("eu-west/a", "eu-west/b", "eu-north/a"))
	us.instance("a", true)
	west.strategy("{strategy: Weighted, weights: [{cluster: us-east, weight: 1}, {cluster: eu-west, zone: a, weight: 1}]}")
	becomes("Weighted, by zone", 40, only("us-east/a", "eu-west/a"))

	// Nearest: zone, cluster, region, order.
	west.strategy("{strategy: Nearest, order: [{cluster: us-east}]}")
	becomes("Nearest", 40, only("eu-west/b"))
	west.instance("b", false)
	becomes("Nearest, without the own zone", 20, only("eu-west/a"))
	west.instance("a", false)
	becomes("Nearest, without the own cluster", 20, only("eu-north/a"))
	north.instance("a", false)
	becomes("Nearest, without the own region", 20, only("us-east/a"))

	// Local fails rather than to leave.
	west.strategy("{strategy: Local}")
	becomes("Local, with nothing at home", 5, func(got map[string]int) bool {
		for answer := range got {
			if !strings.HasPrefix(answer, "503 ") {
				return false
			}
		}
		return true
	})
	west.instance("b", true)
	becomes("Local", 20, only("eu-west/b"))
}
