package plane_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/dataplane/agent"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// remoteMesh is two primaries and two remote clusters, each with a gateway and a service named for it.
type remoteMesh struct {
	*testing.T
	clusters map[mesh.ClusterName]*cluster
	stops    map[mesh.ClusterName]func()
}

// remotes are the remote clusters of a remoteMesh with their primaries.
var remotes = map[mesh.ClusterName]string{"ap": "eu, us", "sa": "us, eu"}

func newRemoteMesh(t *testing.T) *remoteMesh {
	ctx, parts := lasting(t)
	m := &remoteMesh{t, map[mesh.ClusterName]*cluster{}, map[mesh.ClusterName]func(){}}
	for _, n := range []mesh.ClusterName{"eu", "us", "ap", "sa"} {
		m.clusters[n] = newCluster(t, ctx, parts, n)
		m.clusters[n].remote = remotes[n] != ""
		m.start(n)
	}
	for _, c := range m.clusters {
		for _, o := range m.clusters {
			c.join(o)
		}
		c.proxy(agent.Config{ID: "isthmus-system/gateway-0", Mode: agent.ModeGateway, ServiceAccount: "gateway", Gateway: c.addr["gateway"]})
		c.serve("of-" + string(c.name))
	}
	return m
}

// start runs a control plane or relay that ends by itself, with the proxies outliving it.
func (m *remoteMesh) start(n mesh.ClusterName) {
	c := m.clusters[n]
	ctx, parts := c.ctx, c.parts
	m.stops[n] = c.startAlone()
	c.ctx, c.parts = ctx, parts
}

func urlOf(n mesh.ClusterName) string {
	return fmt.Sprintf("http://of-%s.shop.svc.clusterset.local/", n)
}

// reaches waits until a client is answered by the services of clusters.
func (m *remoteMesh) reaches(client *http.Client, clusters ...mesh.ClusterName) {
	m.Helper()
	for _, n := range clusters {
		eventually(m.T, "200 "+string(n)+" of-"+string(n), func() string { return get(client, urlOf(n)) })
	}
}

// followed waits until a remote cluster follows one of some primaries, and says which.
func (m *remoteMesh) followed(remote mesh.ClusterName, primaries ...mesh.ClusterName) (now mesh.ClusterName) {
	m.Helper()
	eventually(m.T, "followed", func() string {
		s, _ := m.clusters[remote].plane.Uplink()
		if now = s.Primary; slices.Contains(primaries, now) {
			return "followed"
		}
		return fmt.Sprint(s.Primary, " ", s.Err)
	})
	return now
}

// inSync waits until a cluster is in sync with others, and they with it.
func (m *remoteMesh) inSync(n mesh.ClusterName, others ...mesh.ClusterName) {
	m.Helper()
	for _, o := range others {
		for _, pair := range [][2]mesh.ClusterName{{n, o}, {o, n}} {
			eventually(m.T, "in sync", func() string {
				for _, p := range m.clusters[pair[0]].plane.Peers() {
					if p.Cluster == pair[1] && p.Status.InSync && !p.Status.Stale {
						return "in sync"
					}
				}
				return fmt.Sprintf("%s is not in sync with %s", pair[0], pair[1])
			})
		}
	}
}

// load asks for a service again and again until stop, which returns how many requests there were and how they failed.
func load(client *http.Client, address string) (stop func() (int, []string)) {
	ctx, cancel := context.WithCancel(context.Background())
	total, failed, done := 0, []string(nil), make(chan struct{})
	go func() {
		defer close(done)
		for last := false; !last; total++ { // the last begins after stop, so that it meets what was brought about before
			last = ctx.Err() != nil
			if got := get(client, address); !strings.HasPrefix(got, "200 ") {
				failed = append(failed, got)
			}
		}
	}()
	return func() (int, []string) { cancel(); <-done; return total, failed }
}

// becomes changes the role of a cluster: its control plane ends and the other kind starts on the same directory, and then all
// clusters are told.
func (m *remoteMesh) becomes(n mesh.ClusterName, remote bool) {
	m.Helper()
	m.stops[n]()
	m.clusters[n].remote = remote
	m.start(n)
	eventually(m.T, "<nil>", func() string { return fmt.Sprint(m.clusters[n].plane.Ready()) })
	for _, c := range m.clusters {
		c.join(m.clusters[n])
	}
}

// TestPromotionAndDemotionDropNothing: a remote cluster becomes primary, and remote again, under load from every
// cluster; its policies, services and slots stay what they were.
func TestPromotionAndDemotionDropNothing(t *testing.T) {
	m := newRemoteMesh(t)
	all := []mesh.ClusterName{"eu", "us", "ap", "sa"}
	var stops []func() (int, []string)
	for _, n := range all {
		client := m.clusters[n].client()
		m.reaches(client, all...)
		stops = append(stops, load(client, urlOf("ap")))
		if n == "ap" {
			second := m.clusters[n].clientNamed("shell-2")
			m.reaches(second, "eu")
			stops = append(stops, load(second, urlOf("eu")))
		}
	}
	m.inSync("ap", "eu", "us", "sa")
	m.clusters["ap"].apply(denyNobody("kept"))
	held := func(n mesh.ClusterName) string {
		_, ok := m.clusters[n].plane.World().Get(mesh.Key{Kind: mesh.KindAccessPolicy, Origin: "ap", Namespace: "shop", Name: "kept"})
		return fmt.Sprint(ok)
	}
	for _, n := range all {
		eventually(t, "true", func() string { return held(n) })
	}
	for _, remote := range []bool{false, true} {
		m.becomes("ap", remote)
		m.inSync("ap", "eu", "us", "sa")
		for _, n := range all {
			if held(n) != "true" {
				t.Errorf("remote %v: the policy is gone from %s", remote, n)
			}
		}
		if _, follows := m.clusters["ap"].plane.Uplink(); follows != remote {
			t.Errorf("remote %v: follows a primary %v", remote, follows)
		}
		extra := fmt.Sprintf("after-%v", remote)
		m.clusters["ap"].serve(extra)
		eventually(t, "200 ap "+extra, func() string {
			return get(m.clusters["sa"].shell, "http://"+extra+".shop.svc.clusterset.local/")
		})
	}
	for i, stop := range stops {
		if total, failed := stop(); total < 50 || len(failed) > 0 {
			t.Errorf("client %d: %d requests, %d failed: %.3q", i, total, len(failed), failed)
		}
	}
}

func denyNobody(name string) string {
	return fmt.Sprintf(`
apiVersion: isthmus.dev/v1alpha1
kind: AccessPolicy
metadata: {name: %s, namespace: shop}
spec: {targetRefs: [{kind: Service, name: of-ap}], action: Deny, rules: [{from: [{serviceAccounts: [nobody]}]}]}
`, name)
}

// applied counts the facts of others that changed in a cluster.
func (m *remoteMesh) applied(n mesh.ClusterName) (sum int64) {
	for _, p := range m.clusters[n].plane.Peers() {
		sum += p.Applied
	}
	return sum
}

// TestRemoteClustersServeAndAreServed goes the whole way in every direction: between a remote cluster and its primary,
// another primary, and another remote one, attached elsewhere. Then primaries and relay are taken away one by one.
func TestRemoteClustersServeAndAreServed(t *testing.T) {
	m := newRemoteMesh(t)
	first := m.followed("ap", "eu", "us")
	second := map[mesh.ClusterName]mesh.ClusterName{"eu": "us", "us": "eu"}[first]
	all := []mesh.ClusterName{"eu", "us", "ap", "sa"}
	clients := map[mesh.ClusterName]*http.Client{}
	for _, n := range all {
		clients[n] = m.clusters[n].client()
		m.reaches(clients[n], all...)
	}
	m.inSync("ap", "eu", "us", "sa")
	m.inSync("sa", "eu", "us")

	// The primary ends: the relay moves to the other, by which it goes on being told and telling. Nothing that it had is sent again.
	applied := m.applied("ap")
	m.stops[first]()
	m.followed("ap", second)
	m.inSync("ap", second, "sa")
	if again := m.applied("ap") - applied; applied == 0 || again != 0 {
		t.Errorf("%d facts were applied before the move, and %d by it; want some, and none", applied, again)
	}
	m.reaches(clients["ap"], all...)
	m.clusters[second].serve("later")
	eventually(t, "200 "+string(second)+" later", func() string { return get(clients["ap"], "http://later.shop.svc.clusterset.local/") })
	m.clusters["ap"].serve("late")
	eventually(t, "200 ap late", func() string { return get(clients["sa"], "http://late.shop.svc.clusterset.local/") })

	// Every primary is gone, and the relay starts again: it has everything, signs, and follows changes of its own.
	m.stops[second]()
	m.stops["ap"]()
	m.start("ap")
	fresh := m.clusters["ap"].clientNamed("shell-2")
	m.reaches(fresh, all...)
	m.clusters["ap"].serve("latest")
	eventually(t, "200 ap latest", func() string { return get(fresh, "http://latest.shop.svc.clusterset.local/") })

	// A primary is back.
	m.start(second)
	m.followed("ap", second)
	m.inSync("ap", second, "sa")
	eventually(t, "200 ap latest", func() string { return get(clients[second], "http://latest.shop.svc.clusterset.local/") })
}
