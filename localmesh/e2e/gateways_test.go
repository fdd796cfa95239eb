package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/localmesh/app"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// gatewayObjects are what lets requests for shop.example into the mesh.
const gatewayObjects = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: web, namespace: shop}
spec:
  gatewayClassName: isthmus
  listeners:
  - {name: http, port: 80, protocol: HTTP, hostname: "*.example"}
  - {name: dns, port: 53, protocol: UDP}
  - {name: bytes, port: 53, protocol: TCP}
---
apiVersion: v1
kind: Service
metadata: {name: resolver, namespace: shop}
spec: {selector: {app: catalog}, ports: [{name: dns, port: 5353, targetPort: 8080, protocol: UDP}]}
---
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceExport
metadata: {name: resolver, namespace: shop}
---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: UDPRoute
metadata: {name: dns, namespace: shop}
spec:
  parentRefs: [{name: web, sectionName: dns}]
  rules: [{backendRefs: [{name: resolver, port: 5353}]}]
---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: {name: bytes, namespace: shop}
spec:
  parentRefs: [{name: web, sectionName: bytes}]
  rules: [{backendRefs: [{name: catalog, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{name: web}]
  hostnames: [shop.example]
  rules:
  - matches: [{path: {type: PathPrefix, value: /catalog}}]
    backendRefs: [{name: catalog, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: astray, namespace: shop}
spec:
  parentRefs: [{name: web}]
  hostnames: [shop.test]
  rules: [{backendRefs: [{name: catalog, port: 80}]}]
`

// entered is what a request from outside the mesh met.
type entered struct {
	status          int
	reason          string
	Cluster, Caller string
	Headers         map[string]string
}

// enter asks the ingress gateway of a cluster, numbered from 0, as a client outside the mesh.
func (m *meshUnder) enter(cluster int, host, path string) (*entered, error) {
	return m.enterAt(m.address(cluster, 0, 9, 8080), host, path)
}

// datagram asks the ingress gateway of a cluster by UDP, and returns who answered.
func (m *meshUnder) datagram(cluster int, text string) (app.Received, error) {
	var got app.Received
	c, err := net.Dial("udp", m.address(cluster, 0, 9, 8053))
	if err != nil {
		return got, err
	}
	defer c.Close()
	if _, err := io.WriteString(c, text); err != nil {
		return got, err
	}
	_ = c.SetReadDeadline(time.Now().Add(time.Second))
	b := make([]byte, 4096)
	n, err := c.Read(b)
	if err != nil {
		return got, err
	}
	return got, json.Unmarshal(b[:n], &got)
}

func (m *meshUnder) enterAt(at, host, path string) (*entered, error) {
	r, err := http.NewRequest("GET", "http://"+at+path, nil)
	if err != nil {
		return nil, err
	}
	r.Host = host
	r.Header.Set("X-Forwarded-For", "6.6.6.6")
	r.Header.Set("X-Forwarded-Client-Cert", "URI=spiffe://eu-west.isthmus.local/ns/shop/sa/frontend")
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	a, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer a.Body.Close()
	out := &entered{status: a.StatusCode, reason: a.Header.Get("isthmus-reason")}
	b, err := io.ReadAll(a.Body)
	if err == nil && a.StatusCode == 200 {
		err = json.Unmarshal(b, out)
	}
	return out, err
}

// TestGateways is a mesh of two clusters with an ingress gateway each, and one Gateway that is applied to one of them.
func TestGateways(t *testing.T) {
	m := newMesh(t, 33)
	m.up("-f", write(t, "mesh.yaml", fmt.Sprintf(`
apiVersion: isthmus.dev/v1alpha1
kind: LocalMesh
clusters:
  - {name: eu-west, ingress: true}
  - {name: us-east, ingress: true}
links:
  - {between: [eu-west, us-east], rtt: 10ms}
manifests: [%q]
workloads:
  - {name: catalog, namespace: shop, run: builtin/echo}
`, write(t, "gateway.yaml", gatewayObjects))))
	within := func(what string, ok func() bool) {
		t.Helper()
		limit := time.NewTimer(time.Minute)
		defer limit.Stop()
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for !ok() {
			select {
			case <-tick.C:
			case <-limit.C:
				t.Fatalf("a minute passed before %s", what)
			}
		}
	}
	for i, cluster := range []string{"eu-west", "us-east"} {
		var got *entered
		within("a request enters at "+cluster, func() bool {
			var err error
			got, err = m.enter(i, "shop.example", "/catalog")
			return err == nil && got.status == 200
		})
		if got.Cluster != cluster || got.Caller != "spiffe://"+cluster+".isthmus.local/ns/isthmus-system/sa/ingress" {
			t.Errorf("%s: answered in %s to caller %s", cluster, got.Cluster, got.Caller)
		}
		if text := fmt.Sprint(got.Headers); strings.Contains(text, "6.6.6.6") || strings.Contains(text, "frontend") {
			t.Errorf("%s: what a client forged came in: %s", cluster, text)
		}
		for _, away := range []string{"other.example", "shop.test", "catalog.shop.svc.clusterset.local"} {
			if got, err := m.enter(i, away, "/catalog"); err != nil || got.status != 404 || got.reason != "no_route" {
				t.Errorf("%s: a request for %s: %+v, %v", cluster, away, got, err)
			}
		}
	}
	t.Run("datagrams and bytes come in", func(t *testing.T) {
		for i, cluster := range []mesh.ClusterName{"eu-west", "us-east"} {
			within("a datagram is answered at "+string(cluster), func() bool {
				got, err := m.datagram(i, "who?")
				return err == nil && got.Cluster == cluster && got.Text == "who?"
			})
			within("bytes are answered at "+string(cluster), func() bool {
				got, err := m.enterAt(m.address(i, 0, 9, 8053), "any.test", "/")
				return err == nil && got.status == 200 && got.Cluster == string(cluster)
			})
		}
	})
	t.Run("its status says what is served", func(t *testing.T) {
		within("the Gateway is programmed", func() bool {
			out := m.run("get", "gateways", "-n", "shop", "-o", "wide", "--cluster", "us-east")
			return strings.Contains(out, strings.TrimSuffix(m.address(1, 0, 9, 0), ":0")) && strings.Contains(out, "http HTTP/80 *.example (1 routes)") &&
				strings.Contains(out, "dns UDP/53 (1 routes)") && strings.Contains(out, "bytes TCP/53 (1 routes)") && strings.Count(out, "True") == 2
		})
		out := m.run("get", "httproute", "astray", "-n", "shop", "-o", "yaml", "--cluster", "eu-west")
		if !strings.Contains(out, "reason: NoMatchingListenerHostname") {
			t.Errorf("the status of a route for no host of the Gateway:\n%s", out)
		}
		if out := m.run("proxy-status"); strings.Count(out, "isthmus-system/ingress-0") != 2 {
			t.Errorf("proxy-status shows not two ingress gateways:\n%s", out)
		}
	})
	t.Run("names lead to the ingress gateways that can be reached", func(t *testing.T) {
		r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, m.address(0, 0, 9, 15053))
		}}
		leads := func(want int) func() bool {
			return func() bool {
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				defer cancel()
				got, err := r.LookupNetIP(ctx, "ip4", "shop.example.")
				return err == nil && len(got) == want && m.address(0, 0, 9, 0) == got[0].Unmap().String()+":0"
			}
		}
		within("both are told, the own first", leads(2))
		m.run("drill", "partition", "eu-west--us-east")
		within("the one beyond the cut is withdrawn", leads(1))
		m.run("drill", "heal", "eu-west--us-east")
		within("it is told again", leads(2))
	})
	t.Run("another cluster answers where the workload is down", func(t *testing.T) {
		m.run("drill", "kill", "catalog.shop@eu-west")
		within("us-east answers", func() bool {
			got, err := m.enter(0, "shop.example", "/catalog")
			return err == nil && got.status == 200 && got.Cluster == "us-east"
		})
		within("us-east answers datagrams", func() bool {
			got, err := m.datagram(0, "who?")
			return err == nil && got.Cluster == "us-east"
		})
		within("us-east answers bytes", func() bool {
			got, err := m.enterAt(m.address(0, 0, 9, 8053), "any.test", "/")
			return err == nil && got.status == 200 && got.Cluster == "us-east"
		})
		m.run("drill", "resume", "catalog.shop@eu-west")
	})
	t.Run("an ingress gateway can be drilled, and comes back without a control plane", func(t *testing.T) {
		m.run("drill", "kill", "control-plane@eu-west")
		m.run("drill", "kill", "ingress@eu-west")
		if got, err := m.enter(0, "shop.example", "/catalog"); err == nil {
			t.Errorf("an ingress gateway that was killed answers: %+v", got)
		}
		if got, err := m.enter(1, "shop.example", "/catalog"); err != nil || got.status != 200 {
			t.Errorf("the other: %+v, %v", got, err)
		}
		m.run("drill", "resume", "ingress@eu-west")
		within("it serves again", func() bool {
			got, err := m.enter(0, "shop.example", "/catalog")
			return err == nil && got.status == 200
		})
		m.run("drill", "resume", "control-plane@eu-west")
	})
}
