package plane_test

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/control/plane"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/agent"
	"github.com/isthmus-mesh/isthmus/internal/loopback"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/xds"
)

// sharedMesh is cluster eu with three replicas over one etcd, and three clusters that it follows.
type sharedMesh struct {
	*testing.T
	ctx   context.Context
	parts *sync.WaitGroup
	eu    []*cluster
	stops []func()
	peers []*cluster
}

func newSharedMesh(t *testing.T) *sharedMesh {
	ctx, parts := lasting(t)
	m := &sharedMesh{T: t, ctx: ctx, parts: parts}
	for _, n := range []mesh.ClusterName{"us", "ap", "sa"} {
		m.peers = append(m.peers, startCluster(t, ctx, m.parts, n))
	}
	m.eu = replicas(t, ctx, m.parts, startEtcd(t), "eu", 3)
	m.stops = make([]func(), len(m.eu))
	for i := range m.eu {
		m.start(i)
	}
	for _, c := range append([]*cluster{m.eu[0]}, m.peers...) {
		for _, o := range m.peers {
			c.join(o)
		}
		c.apply(strings.Replace(clusterYAML("eu", m.eu[0].plane.Bundle(), m.eu[0].addr), fmt.Sprintf("%q]\n  accepts", m.eu[0].addr["federation"]),
			fmt.Sprintf("%q, %q, %q]\n  accepts", m.eu[0].addr["federation"], m.eu[1].addr["federation"], m.eu[2].addr["federation"]), 1))
	}
	return m
}

// start runs a replica that ends by itself; what else runs in its name outlives it.
func (m *sharedMesh) start(i int) {
	c := m.eu[i]
	m.stops[i] = c.startAlone()
	c.ctx, c.parts = m.ctx, m.parts
	c.ready()
}

// control are the addresses of the control planes.
func (m *sharedMesh) control() (out []netip.AddrPort) {
	for _, c := range m.eu {
		out = append(out, c.addr["control"])
	}
	return out
}

// shared waits until some replicas are in sync with every peer, each of which is followed by just one of them.
func (m *sharedMesh) shared(of ...int) {
	m.Helper()
	eventually(m.T, "shared", func() string { return m.sharing(of...) })
}

func (m *sharedMesh) sharing(of ...int) string {
	direct := map[mesh.ClusterName][]int{}
	for _, i := range of {
		peers := m.eu[i].plane.Peers()
		if len(peers) != len(m.peers) {
			return fmt.Sprintf("replica %d has %d peers", i, len(peers))
		}
		for _, p := range peers {
			if !p.Status.InSync || p.Status.Stale {
				return fmt.Sprintf("replica %d is not in sync with %s", i, p.Cluster)
			}
			if p.Through == "" {
				direct[p.Cluster] = append(direct[p.Cluster], i)
			}
		}
	}
	for n, by := range direct {
		if len(by) != 1 {
			return fmt.Sprintf("%s is followed by replicas %v", n, by)
		}
	}
	return "shared"
}

// knows waits until replicas know a policy of a peer.
func (m *sharedMesh) knows(peer mesh.ClusterName, policy string, of ...int) {
	m.Helper()
	for _, i := range of {
		eventually(m.T, "true", func() string {
			_, ok := m.eu[i].plane.World().Get(mesh.Key{Kind: mesh.KindAccessPolicy, Origin: peer, Namespace: "shop", Name: policy})
			return fmt.Sprint(ok)
		})
	}
}

func (m *sharedMesh) applied(i int) (sum int64) {
	for _, p := range m.eu[i].plane.Peers() {
		sum += p.Applied
	}
	return sum
}

// TestReplicasShareLinksToPeers: each peer is followed by one of three replicas, which tells the others on. When that one
// ends the others go on at once, without anything being applied again, and share anew; what peers change meanwhile
// arrives everywhere. When it is back it has its links again.
func TestReplicasShareLinksToPeers(t *testing.T) {
	m := newSharedMesh(t)
	m.shared(0, 1, 2)
	us := m.peers[0]
	us.apply(denyNobody("first"))
	m.knows("us", "first", 0, 1, 2)
	holder := slices.IndexFunc(m.eu, func(c *cluster) bool {
		return slices.ContainsFunc(c.plane.Peers(), func(p plane.Peer) bool { return p.Cluster == "us" && p.Through == "" })
	})
	rest := slices.DeleteFunc([]int{0, 1, 2}, func(i int) bool { return i == holder })
	const facts = 4 // a bundle of each peer and the policy; a fact is in the world before it is counted
	before := make([]int64, len(rest))
	for k, i := range rest {
		eventually(t, "counted", func() string {
			before[k] = m.applied(i)
			return map[bool]string{true: "counted"}[before[k] >= facts]
		})
	}
	m.stops[holder]()
	m.shared(rest...)
	for k, i := range rest {
		if again := m.applied(i) - before[k]; again != 0 {
			t.Errorf("replica %d: %d facts were applied before the holder ended, and %d again; want none", i, before[k], again)
		}
	}
	us.apply(denyNobody("second"))
	m.knows("us", "second", rest...)
	m.start(holder)
	m.shared(0, 1, 2)
	us.apply(denyNobody("third"))
	m.knows("us", "third", 0, 1, 2)
	if p := m.eu[holder].plane.Peers(); !slices.ContainsFunc(p, func(p plane.Peer) bool { return p.Cluster == "us" && p.Through == "" }) {
		t.Errorf("the replica that came back follows us through another: %+v", p)
	}
}

// TestRollingRestartOfReplicas restarts the replicas one after the other under load, while clusters and objects change: no
// request fails, local or to a peer, and proxies that move are sent nothing that they have.
func TestRollingRestartOfReplicas(t *testing.T) {
	m := newSharedMesh(t)
	eu := m.eu[0]
	eu.proxy(agent.Config{ID: "isthmus-system/gateway-0", Mode: agent.ModeGateway, ServiceAccount: "gateway", Gateway: eu.addr["gateway"], ControlPlanes: m.control()})
	m.peers[0].serve("far")
	eu.serve("near")
	at := loopback.AddrPort(t)
	eu.proxy(agent.Config{ID: "default/shell", Mode: agent.ModeSidecar, ServiceAccount: "shell", Outbound: at, ControlPlanes: m.control()})
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: at.String()})}}
	const near, far = "http://near.shop.svc.clusterset.local/", "http://far.shop.svc.clusterset.local/"
	eventually(t, "200 eu near", func() string { return get(client, near) })
	eventually(t, "200 us far", func() string { return get(client, far) })
	m.shared(0, 1, 2)
	stops := []func() (int, []string){load(client, near), load(client, far)}
	for i := range m.eu {
		m.stops[i]()
		others := []int{(i + 1) % 3, (i + 2) % 3}
		m.eu[others[0]].apply(fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata: {name: while-%d-is-down}\n", i))
		m.peers[0].apply(denyNobody(fmt.Sprint("while-", i)))
		m.knows("us", fmt.Sprint("while-", i), others...)
		m.start(i)
		m.shared(0, 1, 2)
	}
	for i, stop := range stops {
		if total, failed := stop(); total < 50 || len(failed) > 0 {
			t.Errorf("load %d: %d requests, %d failed: %.3q", i, total, len(failed), failed)
		} else {
			t.Logf("load %d: %d requests, none failed", i, total)
		}
	}
	m.moves("default/shell")
}

// follows is the replica that a proxy follows, -1 for none.
func (m *sharedMesh) follows(id string) int {
	return slices.IndexFunc(m.eu, func(c *cluster) bool {
		return slices.ContainsFunc(c.plane.Proxies(), func(s xds.ClientStatus) bool { return s.Node.ID == id && s.InSync() })
	})
}

// moves ends the replica that a proxy follows, and counts what the others then send. Who comes with all that there is
// is sent nothing, but what the other replica itself observes of peers (how long the path is) and makes of it (whether there
// is a split).
func (m *sharedMesh) moves(id string) {
	m.Helper()
	eventually(m.T, "followed", func() string { return map[bool]string{true: "followed"}[m.follows(id) >= 0] })
	from := m.follows(id)
	sent := func() (n uint64) {
		for i, c := range m.eu {
			for typ, count := range c.plane.Discovery().Resources {
				if i != from && typ != string(ir.TypeCluster) && typ != string(ir.TypeSplit) {
					n += count
				}
			}
		}
		return n
	}
	before := sent()
	m.stops[from]()
	eventually(m.T, "followed", func() string {
		return map[bool]string{true: "followed"}[m.follows(id) >= 0 && m.follows(id) != from]
	})
	if n := sent() - before; n > 0 {
		m.Errorf("a proxy that moved to another replica was sent %d resources, want none", n)
	}
	// The control: the count counts.
	m.eu[m.follows(id)].apply("apiVersion: isthmus.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: near, namespace: shop}\n" +
		"spec: {targetRefs: [{kind: Service, name: near}], timeouts: {request: 9s}}\n")
	eventually(m.T, "counted", func() string { return map[bool]string{true: "counted"}[sent() > before] })
}
