package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/localmesh/link"
)

// flatMesh is three clusters on one network: their proxies connect to each other's endpoints, and not to gateways.
const flatMesh = `
apiVersion: isthmus.dev/v1alpha1
kind: LocalMesh
clusters:
  - {name: eu-west, network: flat}
  - {name: us-east, network: flat}
  - {name: ap-south, network: flat}
links:
  - {between: [eu-west, us-east], rtt: 60ms}
  - {between: [eu-west, ap-south], rtt: 150ms}
workloads:
  - {name: echo, namespace: demo, clusters: [us-east, ap-south], replicas: 2, run: builtin/echo}
`

// TestClustersOfOneNetworkMeetThroughLinks: what a link does is felt where endpoints are reached directly, too.
func TestClustersOfOneNetworkMeetThroughLinks(t *testing.T) {
	m := newMesh(t, 210)
	m.up("-f", write(t, "mesh.yaml", flatMesh))
	client := m.shell(0)
	const rtt = 60 * time.Millisecond
	quickest := time.Hour
	for range 20 {
		begin := time.Now()
		a := get(client, echo+"/")
		if a.Status != 200 || a.Cluster != "us-east" {
			t.Fatalf("the nearest cluster that serves: %s", a)
		}
		quickest = min(quickest, time.Since(begin))
	}
	if quickest < rtt {
		t.Errorf("a request took %v, less than the %v that light takes to us-east and back: it went past the link", quickest, rtt)
	}
	if used := m.endpointForwards(t, "eu-west--us-east"); used != 2 {
		t.Errorf("%d of us-east's 2 endpoints were reached through the link: gateways are not for one network", used)
	}
	l := m.load(0, echo+"/", 100)
	defer l.stop()
	l.movesTo(t, "us-east", 10*time.Second)
	m.connections(t, 20)
	m.run("drill", "partition", "eu-west--us-east")
	l.movesTo(t, "ap-south", 10*time.Second)
	cut := l.servedBy("us-east")
	l.movesTo(t, "ap-south", 10*time.Second)
	if crossed := l.servedBy("us-east") - cut; crossed > 0 {
		t.Errorf("%d requests crossed a link that is cut", crossed)
	}
	m.connections(t, 20)
	m.run("drill", "heal", "eu-west--us-east")
	l.movesTo(t, "us-east", 40*time.Second)
	l.stop().mustNotFail(t)

	// Nor does what the mesh lets out lead into another cluster.
	if out, code := m.apply("eu-west", "{apiVersion: isthmus.dev/v1alpha1, kind: Mesh, metadata: {name: mesh}, spec: {domain: isthmus.local, outbound: AllowAny}}"); code != 0 {
		t.Fatalf("apply: exit %d: %s", code, out)
	}
	outside := "http://" + m.address(1, 1, 2, 8080) + "/"
	eventually(t, 10*time.Second, "an address of another cluster is reached by no path", func() (string, bool) {
		a := get(client, outside)
		return a.String(), a.Status != 200 && a.Reason != "outside_mesh" && strings.Contains(a.text, "no path leads there")
	})
}

// endpointForwards is how many endpoints carried something over a link.
func (m *meshUnder) endpointForwards(t *testing.T, name string) int {
	t.Helper()
	c, err := m.link(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var used []string
	for _, f := range s.Forwards {
		if strings.HasPrefix(f.Name, "endpoint ") && f.Received > 0 && !slices.Contains(used, f.Name) {
			used = append(used, f.Name)
		}
	}
	return len(used)
}

// link is the switch of the link between two clusters of those of the tests.
func (m *meshUnder) link(ctx context.Context, name string) (*link.Client, error) {
	a, b, _ := strings.Cut(name, "--")
	return link.Dial(ctx, fmt.Sprintf("%s/run/%d-%d.sock", m.dir, 1+slices.Index(clusters, a), 1+slices.Index(clusters, b)))
}
