package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/issued"
)

const httpsObjects = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: secure, namespace: shop}
spec:
  gatewayClassName: isthmus
  listeners:
  - {name: http, port: 80, protocol: HTTP}
  - {name: https, port: 443, protocol: HTTPS, hostname: "*.example", tls: {certificateRefs: [{name: site}]}}
  - {name: own, port: 443, protocol: HTTPS, hostname: own.example, tls: {certificateRefs: [{name: nowhere}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: site, namespace: shop}
spec:
  parentRefs: [{name: secure, sectionName: https}, {name: secure, sectionName: own}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /catalog}}]
    backendRefs: [{name: catalog, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: to-https, namespace: shop}
spec:
  parentRefs: [{name: secure, sectionName: http}]
  rules: [{filters: [{type: RequestRedirect, requestRedirect: {scheme: https, port: 8443, statusCode: 301}}]}]
`

// TestHTTPSFromOutside is a Gateway that ends TLS in a mesh of two clusters: curl comes in, the certificate changes under load, the
// ingress gateway starts again without a control plane, and the key is looked for in all that the mesh writes and answers. The control of
// that search is a ConfigMap, whose content is found in the store.
func TestHTTPSFromOutside(t *testing.T) {
	m := newMesh(t, 14)
	ca := issued.NewAuthority(t)
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
`, write(t, "gateway.yaml", httpsObjects))))
	bundle := write(t, "ca.pem", string(ca.PEM()))
	pairs := []issued.Pair{ca.For("shop.example", "*.example")}
	const canary = "CANARY-of-a-config-map"
	if out, code := m.apply("eu-west", pairs[0].Secret("shop", "site")+"---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: control, namespace: shop}\ndata: {k: "+canary+"}\n"); code != 0 {
		t.Fatal(out)
	}
	curl := func(args ...string) (string, error) {
		at := m.address(0, 0, 9, 0)
		host := at[:strings.LastIndexByte(at, ':')]
		out, err := exec.Command("curl", append([]string{"-sS", "-m", "20", "--cacert", bundle, "--resolve", "shop.example:8443:" + host, "--resolve", "shop.example:8080:" + host,
			"--resolve", "own.example:8443:" + host, "-w", "\n%{http_version} %{http_code}"}, args...)...).CombinedOutput()
		return string(out), err
	}
	eventually(t, time.Minute, "curl comes in by HTTPS", func() (string, bool) {
		out, err := curl("--http2", "https://shop.example:8443/catalog")
		return out, err == nil && strings.HasSuffix(out, "\n2 200") && strings.Contains(out, `"service":"catalog"`)
	})
	for _, c := range []struct {
		what string
		args []string
		ends string // "" is refused
	}{
		{"HTTP/1.1", []string{"--http1.1", "https://shop.example:8443/catalog"}, "1.1 200"}, {"TLS 1.2", []string{"--tls-max", "1.2", "https://shop.example:8443/catalog"}, "2 200"},
		{"sent on from HTTP", []string{"-L", "http://shop.example:8080/catalog"}, "2 200"}, {"the host of another listener", []string{"-H", "Host: own.example", "https://shop.example:8443/catalog"}, "2 421"},
		{"no route", []string{"https://shop.example:8443/other"}, "2 404"}, {"a listener without certificate", []string{"https://own.example:8443/catalog"}, ""},
		{"TLS 1.1", []string{"--tls-max", "1.1", "--ciphers", "DEFAULT:@SECLEVEL=0", "https://shop.example:8443/catalog"}, ""},
	} {
		if out, err := curl(c.args...); (err == nil) != (c.ends != "") || !strings.HasSuffix(out, c.ends) {
			t.Errorf("%s: %v, %s, want %q", c.what, err, out, c.ends)
		}
	}
	if got := m.run("get", "gateway", "secure", "-n", "shop", "-o", "yaml"); !strings.Contains(got, "cluster eu-west has no such Secret of type kubernetes.io/tls") {
		t.Errorf("the listener without certificate does not say why:\n%s", got)
	}
	if got := m.run("explain", "outside@eu-west", "https://shop.example/catalog"); !strings.Contains(got, "listener https of Gateway shop/secure") || !strings.Contains(got, "shop/catalog") {
		t.Errorf("explain:\n%s", got)
	}
	// A Secret stays in its cluster: the other has the Gateway, and not what it shows.
	if c, err := tls.Dial("tcp", m.address(1, 0, 9, 8443), &tls.Config{ServerName: "shop.example", RootCAs: ca.Pool()}); err == nil {
		c.Close()
		t.Error("us-east shows a certificate that was applied to eu-west")
	}

	// So nobody is sent there, whichever ingress gateway answers for the host; for one that neither can serve each answers with its own.
	west, east := m.address(0, 0, 9, 0), m.address(1, 0, 9, 0)
	m.leads(t, 0, "shop.example", west)
	m.leads(t, 1, "shop.example", west)
	m.leads(t, 1, "own.example", east)
	if out, code := m.apply("us-east", pairs[0].Secret("shop", "site")); code != 0 {
		t.Fatal(out)
	}
	m.leads(t, 0, "shop.example", west, east)
	m.leads(t, 1, "shop.example", east, west)
	m.run("delete", "--cluster", "us-east", "secret", "site", "-n", "shop")
	m.leads(t, 1, "shop.example", west)

	pairs = append(pairs, m.rotated(t, ca)...)

	m.run("drill", "kill", "control-plane@eu-west")
	for _, pid := range m.pids("eu-west.ingress") { // asked to end, so that it keeps the newest certificate: one that is killed may lack what came in its last second
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		eventually(t, 30*time.Second, "the ingress gateway has ended", func() (string, bool) {
			now := m.pids("eu-west.ingress")
			return fmt.Sprint(now), !slices.Contains(now, pid)
		})
	}
	eventually(t, 20*time.Second, "an ingress gateway that starts without its control plane ends TLS", func() (string, bool) {
		out, err := curl("https://shop.example:8443/catalog")
		return out, err == nil && strings.HasSuffix(out, "2 200")
	})
	m.run("drill", "resume", "control-plane@eu-west")
	eventually(t, time.Minute, "the Secret is read again", func() (string, bool) {
		out, code := m.try("get", "secret", "site", "-n", "shop", "-o", "yaml")
		return out, code == 0 && strings.Contains(out, "tls.key: (hidden)")
	})
	m.keepsTheKeys(t, pairs, canary)
}

// rotated applies three certificates while requests come by old and new connections, none of which fails.
func (m *meshUnder) rotated(t *testing.T, ca *issued.Authority) (pairs []issued.Pair) {
	at := m.address(0, 0, 9, 8443)
	config := func() *tls.Config { return &tls.Config{ServerName: "shop.example", RootCAs: ca.Pool()} }
	stop := make(chan struct{})
	var load sync.WaitGroup
	var asked, failed atomic.Int64
	for _, once := range []bool{true, false, true, false} {
		load.Go(func() {
			tr := &http.Transport{TLSClientConfig: config(), ForceAttemptHTTP2: true, DisableKeepAlives: once}
			defer tr.CloseIdleConnections()
			client := http.Client{Timeout: 20 * time.Second, Transport: tr}
			for {
				select {
				case <-stop:
					return
				default:
				}
				r, _ := http.NewRequest("GET", "https://"+at+"/catalog", nil)
				r.Host = "shop.example"
				a, err := client.Do(r)
				if err == nil {
					_, err = io.Copy(io.Discard, a.Body)
					a.Body.Close()
				}
				if asked.Add(1); err != nil || a.StatusCode != 200 {
					failed.Add(1)
					t.Errorf("a request while the certificate changes: %v %+v", err, a)
				}
			}
		})
	}
	for range 3 {
		pair := ca.For("shop.example", "*.example")
		pairs = append(pairs, pair)
		if out, code := m.apply("eu-west", pair.Secret("shop", "site")); code != 0 {
			t.Error(out)
			break
		}
		eventually(t, 30*time.Second, "new connections see the new certificate", func() (string, bool) {
			c, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", at, config())
			if err != nil {
				return err.Error(), false
			}
			defer c.Close()
			block, _ := pem.Decode(pair.Certificate)
			return "another", bytes.Equal(c.ConnectionState().PeerCertificates[0].Raw, block.Bytes)
		})
	}
	close(stop)
	load.Wait()
	t.Logf("%d requests by four clients while three certificates changed, %d failed", asked.Load(), failed.Load())
	if asked.Load() < 20 {
		t.Errorf("only %d requests", asked.Load())
	}
	return pairs
}

// keepsTheKeys looks for keys in every file of the mesh, in what its processes answer, and in what commands print.
func (m *meshUnder) keepsTheKeys(t *testing.T, pairs []issued.Pair, canary string) {
	var traces []string
	for _, p := range pairs {
		traces = append(traces, p.Traces()...)
	}
	search := func(where string, b []byte) {
		for _, trace := range traces {
			if bytes.Contains(b, []byte(trace)) {
				t.Errorf("a key is found in %s", where)
				return
			}
		}
	}
	files, control := 0, false
	err := filepath.WalkDir(m.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil // sockets, and what went meanwhile
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return nil
		}
		files++
		control = control || bytes.Contains(b, []byte(canary))
		search(path, b)
		return nil
	})
	if err != nil || files < 20 || !control {
		t.Errorf("control: %v, %d files, the content of a ConfigMap was found %v", err, files, control)
	}
	for _, process := range []string{"eu-west.ingress", "us-east.ingress", "eu-west.shell"} {
		for _, page := range []string{"/config", "/stats", "/connections", "/endpoints", "/metrics"} {
			a, err := http.Get("http://" + m.admin(process) + page)
			if err != nil {
				t.Errorf("%s%s: %v", process, page, err)
				continue
			}
			b, _ := io.ReadAll(a.Body)
			a.Body.Close()
			search(process+page, b)
		}
	}
	search("metrics of eu-west", []byte(m.metrics("eu-west")))
	for _, args := range [][]string{{"get", "secrets", "-A", "-o", "yaml"}, {"get", "secrets", "-A", "-o", "json", "--all-clusters"}, {"describe", "secret", "site", "-n", "shop"}, {"get", "gateways", "-A", "-o", "yaml"},
		{"explain", "outside@eu-west", "https://shop.example/catalog", "-o", "json"}, {"proxy-config", "ingress-0.isthmus-system@eu-west"}, {"events"}, {"status", "-o", "json"}} {
		out, _ := m.try(args...) // not all of them can answer; what they print is looked at all the same
		search(strings.Join(args, " "), []byte(out))
	}
}

// leads waits until the ingress gateway of a cluster answers for a host with these addresses, in whatever order a resolver has them. Each is
// given with a port, which does not count.
func (m *meshUnder) leads(t *testing.T, cluster int, host string, want ...string) {
	t.Helper()
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, m.address(cluster, 0, 9, 15053))
	}}
	slices.Sort(want)
	eventually(t, time.Minute, host+" leads where it is served", func() (string, bool) {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		addrs, err := r.LookupNetIP(ctx, "ip4", host+".")
		var got []string
		for _, a := range addrs {
			got = append(got, a.Unmap().String()+":0")
		}
		slices.Sort(got)
		return fmt.Sprint(got, err), slices.Equal(got, want)
	})
}
