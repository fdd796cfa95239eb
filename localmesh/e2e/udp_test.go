package e2e

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// datagrams is a workload that answers each datagram with its own address and what it got.
func datagrams(at string) error {
	c, err := net.ListenPacket("udp", at)
	if err != nil {
		return err
	}
	b := make([]byte, 1<<16)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return err
		}
		_, _ = c.WriteTo(fmt.Appendf(nil, "%s %s", at, b[:n]), from)
	}
}

// udpObjects are services of UDP of the workloads dns and canary, and the way from one to the other.
const udpObjects = `apiVersion: v1
kind: Service
metadata: {name: resolver, namespace: demo}
spec:
  selector: {app: dns}
  ports: [{name: dns, port: 5353, targetPort: 8080, protocol: UDP}]
---
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceExport
metadata: {name: resolver, namespace: demo}
---
apiVersion: v1
kind: Service
metadata: {name: next, namespace: demo}
spec:
  selector: {app: canary}
  ports: [{name: dns, port: 5353, targetPort: 8080, protocol: UDP}]
---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: UDPRoute
metadata: {name: resolver, namespace: demo}
spec:
  parentRefs: [{group: "", kind: Service, name: resolver}]
  rules: [{backendRefs: [{name: resolver, port: 5353, weight: 3}, {name: next, port: 5353, weight: 1}]}]
`

// udpSession is one client of UDP, which asks until it is answered.
func udpSession(t *testing.T, to string) func() string {
	t.Helper()
	c, err := net.Dial("udp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	n, b := 0, make([]byte, 1<<16)
	return func() string {
		t.Helper()
		for limit := time.Now().Add(20 * time.Second); time.Now().Before(limit); {
			n++
			question := fmt.Sprint("question ", n)
			_, _ = c.Write([]byte(question)) // refused, while nobody listens
			_ = c.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
			for {
				k, err := c.Read(b)
				if err != nil {
					break
				}
				if who, what, _ := strings.Cut(string(b[:k]), " "); what == question {
					return who
				}
			}
		}
		t.Fatal("nobody answered in 20 s")
		return ""
	}
}

// TestUDPRoutes is a mesh, and what sessions of UDP meet there whose service has a route.
func TestUDPRoutes(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	m := newMesh(t, 30)
	m.up("-f", write(t, "mesh.yaml", fmt.Sprintf(`
apiVersion: isthmus.dev/v1alpha1
kind: LocalMesh
clusters:
  - {name: eu-west}
  - {name: us-east}
links:
  - {between: [eu-west, us-east], rtt: 10ms}
manifests: [%[3]q]
workloads:
  - {name: dns, namespace: demo, protocol: tcp, replicas: 2, run: [%[1]q, %[2]s, udp]}
  - {name: canary, namespace: demo, protocol: tcp, clusters: [eu-west], run: [%[1]q, %[2]s, udp]}
`, self, workloadArg, write(t, "udp.yaml", udpObjects))))
	host, _, _ := net.SplitHostPort(m.serviceAddress(t, "resolver"))
	to := net.JoinHostPort(host, "5353")
	canary, dead := m.address(0, 1, 2, 8080), m.address(0, 2, 2, 8080) // instances are in the order of their names

	const clients = 120
	sessions := make([]func() string, clients)
	first, count := make([]string, clients), map[string]int{}
	for i := range sessions {
		sessions[i] = udpSession(t, to)
		first[i] = sessions[i]()
		count[first[i]]++
	}
	if n := count[canary]; n < 12 || n > 54 { // a quarter of 120; beyond it lies less than one run in 10,000
		t.Errorf("%d of %d sessions went to the canary %s, want about a quarter: %v", n, clients, canary, count)
	}
	if len(count) != 3 || count[dead] == 0 {
		t.Errorf("sessions went to %v, want the two of eu-west and the canary", count)
	}
	for i, ask := range sessions {
		if who := ask(); who != first[i] {
			t.Fatalf("the session of client %d moved from %s to %s", i, first[i], who)
		}
	}

	// Who is asked of an endpoint that died is asked elsewhere, and nothing else moves.
	m.run("drill", "kill", "dns.demo/0@eu-west")
	for i, ask := range sessions {
		who := ask()
		if first[i] == dead && who == dead {
			t.Fatalf("%s, which was killed, answered", who)
		}
		if first[i] != dead && who != first[i] {
			t.Fatalf("the session of client %d moved from %s, which lives, to %s", i, first[i], who)
		}
	}

	// With none left here, the backend's share goes to the other cluster, through the gateways.
	m.run("drill", "kill", "dns.demo@eu-west")
	far := map[string]int{}
	for i, ask := range sessions {
		if first[i] == canary {
			if who := ask(); who != canary {
				t.Fatalf("the session of client %d moved from %s, which lives, to %s", i, canary, who)
			}
			continue
		}
		far[ask()]++
	}
	far[canary] = 0 // a session that begins anew draws its backend anew
	if len(far) < 2 {
		t.Errorf("sessions were answered by %v, want the other cluster's", far)
	}
	out := m.run("explain", "shell.default@eu-west", "udp://resolver.demo:5353")
	for _, want := range []string{"UDPRoute demo/resolver", "next"} {
		if !strings.Contains(out, want) {
			t.Errorf("explain does not tell of %s:\n%s", want, out)
		}
	}
}
