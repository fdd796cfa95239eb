package agent_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/agent"
	"github.com/isthmus-mesh/isthmus/internal/loopback"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

// dup gives a descriptor that nobody but its receiver closes.
func dup(t testing.TB, f *os.File) int {
	t.Helper()
	fd, err := syscall.Dup(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// TestJourneys is one mesh and what requests meet in it, in order.
func TestJourneys(t *testing.T) {
	w := newWorld(t)
	first, e0 := w.server("eu-west", "catalog-0", catalog)
	second, e1 := w.server("eu-west", "catalog-1", catalog)
	far, e2 := w.server("us-east", "catalog-2", catalog)
	lost := newRelay(t, e0.Proxy)
	e0.Proxy = lost.addr()
	gateway := loopback.AddrPort(t)
	w.script.set("shop/gateway", &ir.Proxy{ID: "shop/gateway"})
	w.script.set(catalog.String(), &ir.Slots{TrustDomain: w.clusters["us-east"].td,
		Table: mesh.SlotTable{Service: catalog, Generation: 1, Slots: addrs(e2), Moved: []uint64{1}}})
	gate := w.start("us-east", "shop/gateway", "gateway", func(c *agent.Config) { c.Mode, c.Gateway = agent.ModeGateway, gateway })
	east := &ir.Cluster{Name: "us-east", TrustDomain: w.clusters["us-east"].td, RTT: 80 * time.Millisecond}
	east.Gateways = append(east.Gateways, gateway)
	w.script.set("us-east", east)
	deny := ir.AccessEntry{Object: "AccessPolicy shop/no-admin", Policy: mesh.AccessPolicy{Namespace: "shop", Name: "no-admin", Action: mesh.Deny,
		Rules: []mesh.AccessRule{{To: []mesh.AccessOperation{{Paths: []string{"/admin*"}}}}}}}
	w.service(catalog, []ir.Group{
		{Cluster: "eu-west", Exported: true, Identities: w.identity("eu-west", catalog), Endpoints: []ir.Endpoint{e0, e1}},
		{Cluster: "us-east", Exported: true, Identities: w.identity("us-east", catalog), Slots: []uint64{1}},
	}, nil, deny)
	w.service(cart, []ir.Group{{Cluster: "us-east", Exported: true, Identities: w.identity("us-east", cart), Slots: []uint64{1}, Forbidden: "ResidencyPolicy shop/eu"}}, nil)
	client := w.client()
	for _, m := range []*member{first, second, far, gate, client} {
		m.waitReady(t)
	}
	c := via(t, client)
	const name = "http://catalog.shop.svc.clusterset.local"

	t.Run("a request is carried with the caller's identity", func(t *testing.T) {
		status, _, body := ask(t, c, name+"/a//b")
		if status != 200 || !strings.HasPrefix(body, "catalog-") || !strings.Contains(body, " GET /a/b URI=spiffe://eu-west.isthmus.local/ns/shop/sa/frontend") {
			t.Errorf("%d %q", status, body)
		}
	})
	t.Run("a request to a port of bytes is one all the same", func(t *testing.T) {
		if status, reason, body := ask(t, c, name+":81/x"); status != 200 || !strings.Contains(body, " GET /x ") {
			t.Errorf("%d %s %q", status, reason, body)
		}
	})
	t.Run("a denied request says why", func(t *testing.T) {
		for _, path := range []string{"/admin", "/x/..//%61dmin/keys"} {
			if status, reason, body := ask(t, c, name+path); status != 403 || reason != "access_denied" {
				t.Errorf("%s: %d %s %q", path, status, reason, body)
			}
		}
	})
	t.Run("residency outranks failover", func(t *testing.T) {
		if status, reason, _ := ask(t, c, "http://cart.shop/"); status != 503 || reason != "residency" {
			t.Errorf("%d %s", status, reason)
		}
	})
	t.Run("names resolve", func(t *testing.T) { resolves(t, client) })
	t.Run("weights split", func(t *testing.T) {
		w.script.set(cart.String(), &ir.Service{Name: cart, Ports: []ir.Port{{Port: 80, Protocol: mesh.ProtocolHTTP}}, Routed: true,
			Traffic: ir.Traffic{Strategy: mesh.StrategyAuto, RequestTimeout: 15 * time.Second, Retry: mesh.RetryPolicy{Attempts: 2}, Outlier: mesh.Outlier{ConsecutiveFailures: 3}},
			Routes: []ir.Route{{Object: "HTTPRoute shop/split", Backends: []ir.Backend{{Service: catalog, Port: 80, Weight: 90},
				{Service: mesh.ServiceName{Namespace: "shop", Name: "gone"}, Weight: 10, Missing: "it does not exist"}}}}})
		eventually(t, "the route is in force", func() bool { s, _, _ := ask(t, c, "http://cart.shop/"); return s == 200 })
		missing := 0
		for range 400 {
			if s, _, _ := ask(t, c, "http://cart.shop/"); s == 500 {
				missing++
			}
		}
		if missing < 4 || missing > 76 { // 40 expected, within six standard deviations
			t.Errorf("%d of 400 to a backend of weight 10 of 100", missing)
		}
	})
	t.Run("bodies and connections go both ways", func(t *testing.T) { carries(t, c, client, name) })
	t.Run("endpoints that die or leave fail no GET", func(t *testing.T) {
		failed, by := underLoad(t, c, name, func() {
			lost.kill()      // reset under its requests
			_ = second.end() // drains
		})
		if failed > 0 || by["catalog-2"] == 0 {
			t.Errorf("%d failed, answered by %v", failed, by)
		}
	})
	t.Run("without a control plane requests go on, after a restart too", func(t *testing.T) {
		for _, stop := range w.stop {
			stop()
		}
		if status, _, body := ask(t, c, name+"/"); status != 200 || !strings.HasPrefix(body, "catalog-2") {
			t.Errorf("%d %q", status, body)
		}
		if err := client.end(); err == nil || !strings.Contains(err.Error(), "context canceled") {
			t.Errorf("the client ended with %v", err)
		}
		key, _ := keys.Load(client.cfg.Snapshot)
		began := time.Now()
		again := w.boot(client.cfg, key.(trust.SealKey))
		again.waitReady(t)
		if status, _, body := ask(t, via(t, again), name+"/"); status != 200 {
			t.Errorf("%d %q", status, body)
		}
		t.Logf("served %v after the restart", time.Since(began).Round(time.Millisecond))
		if status, reason, _ := ask(t, via(t, again), name+"/admin"); status != 403 || reason != "access_denied" {
			t.Errorf("%d %s: a restart loosened a policy", status, reason)
		}
		metrics(t, again)
		if err := again.end(); err == nil || !strings.Contains(err.Error(), "context canceled") {
			t.Errorf("ended with %v", err)
		}
		corrupt(t, w, client.cfg, key.(trust.SealKey))
	})
}

// carries sends a body too large to be kept, and bytes through CONNECT with a half-close.
func carries(t *testing.T, c *http.Client, client *member, name string) {
	t.Helper()
	large := strings.Repeat("x", 300<<10)
	r, err := c.Post(name+"/post", "text/plain", strings.NewReader(large))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != 200 || !strings.HasSuffix(string(b), large) {
		t.Errorf("POST: %d, %d bytes, %v", r.StatusCode, len(b), err)
	}
	conn, err := net.Dial("tcp", client.cfg.Outbound.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(bound))
	if _, err := io.WriteString(conn, "CONNECT catalog.shop:81 HTTP/1.1\r\nHost: catalog.shop:81\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	head := bufio.NewReader(conn)
	if line, err := head.ReadString('\n'); err != nil || !strings.HasPrefix(line, "HTTP/1.1 403") {
		t.Errorf("CONNECT under a Deny rule on paths: %q, %v: want 403", line, err)
	}
}

func metrics(t *testing.T, m *member) {
	t.Helper()
	tr := &http.Transport{DisableKeepAlives: true}
	admin := &http.Client{Transport: tr, Timeout: bound}
	for _, want := range []string{`isthmus_requests_total{reporter="source",source_workload="frontend",source_namespace="shop",source_cluster="eu-west",` +
		`destination_service="catalog",destination_namespace="shop",destination_cluster="us-east",protocol="HTTP",code="200",reason=""} 1`,
		`code="403",reason="access_denied"} 1`, "isthmus_request_duration_seconds_bucket{", `isthmus_connections_refused_total{listener="mesh",why="flooded"} 0`} {
		// A request is counted when it has ended, which its client may know a little earlier.
		eventually(t, "the metrics have "+want, func() bool {
			_, _, text := ask(t, admin, "http://"+m.cfg.Admin.String()+"/metrics")
			return strings.Contains(text, want)
		})
	}
	native(t, admin, "http://"+m.cfg.Admin.String()+"/metrics")
}

// native: who asks for protobuf, as Prometheus does for native histograms, gets every family so.
func native(t *testing.T, c *http.Client, u string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, u, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,text/plain;version=0.0.4;q=0.2,*/*;q=0.1")
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	d := expfmt.NewDecoder(resp.Body, expfmt.ResponseFormat(resp.Header))
	found := map[string]*dto.MetricFamily{}
	for {
		f := &dto.MetricFamily{}
		if err := d.Decode(f); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		found[f.GetName()] = f
	}
	if h := found["isthmus_request_duration_seconds"]; h == nil || len(h.Metric[0].GetHistogram().GetPositiveSpan()) == 0 {
		t.Errorf("no native histogram of requests' durations: %v", h)
	}
	for _, name := range []string{"isthmus_requests_total", "isthmus_access_log_dropped_total", "isthmus_connections_refused_total"} {
		if found[name] == nil {
			t.Errorf("%s is missing in protobuf", name)
		}
	}
}

// corrupt: damaged snapshots are not believed, and the proxy does not serve from them.
func corrupt(t *testing.T, w *world, cfg agent.Config, key trust.SealKey) {
	t.Helper()
	files, err := os.ReadDir(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		path := w.dir + "/" + f.Name()
		if !strings.HasPrefix(path, cfg.Snapshot) {
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)/2] ^= 1
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m := w.boot(cfg, key)
	eventually(t, "the proxy listens", func() bool {
		c, err := net.Dial("tcp", cfg.Outbound.String())
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	if status, reason, _ := ask(t, via(t, m), "http://catalog.shop/"); status != 503 || reason != "proxy_not_ready" || m.Ready() {
		t.Errorf("%d %s, ready %v: want 503 proxy_not_ready", status, reason, m.Ready())
	}
}

// TestRequestsInProgressEndBeforeTheProxyDoes: the client's proxy is told to end while its
// request waits for the application; the answer comes all the same.
func TestRequestsInProgressEndBeforeTheProxyDoes(t *testing.T) {
	w := newWorld(t)
	arrived, release := make(chan struct{}), make(chan struct{})
	ln, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(arrived)
		<-release
		_, _ = io.WriteString(w, "late")
	})}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() { srv.Close() })
	server, e := w.serverOf("eu-west", "catalog-0", catalog, ln.Addr().(*net.TCPAddr).AddrPort())
	w.service(catalog, []ir.Group{{Cluster: "eu-west", Exported: true, Identities: w.identity("eu-west", catalog), Endpoints: []ir.Endpoint{e}}}, nil)
	client := w.client()
	server.waitReady(t)
	client.waitReady(t)
	got, ended := make(chan string, 1), make(chan error, 1)
	c := via(t, client)
	go func() {
		r, err := c.Post("http://catalog.shop/", "text/plain", strings.NewReader("x"))
		if err != nil {
			got <- err.Error()
			return
		}
		defer r.Body.Close()
		b, _ := io.ReadAll(r.Body)
		got <- string(b)
	}()
	select {
	case <-arrived:
	case body := <-got:
		t.Fatalf("the application was not asked: the client got %q", body)
	}
	go func() { ended <- client.end() }()
	eventually(t, "the proxy drains", func() bool { return !client.Ready() })
	close(release)
	if body := <-got; body != "late" {
		t.Errorf("the client got %q", body)
	}
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "context canceled") {
		t.Errorf("ended with %v", err)
	}
}

func resolves(t *testing.T, m *member) {
	t.Helper()
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", m.cfg.DNS.String())
	}}
	ctx, stop := context.WithTimeout(context.Background(), bound)
	defer stop()
	_, err := r.LookupHost(ctx, "nobody.shop.svc.clusterset.local.")
	if d, ok := err.(*net.DNSError); !ok || !d.IsNotFound {
		t.Errorf("a name that complete knowledge lacks: %v, want not found", err)
	}
}

// underLoad sends GETs while something happens and counts what failed and who answered.
func underLoad(t *testing.T, c *http.Client, u string, happen func()) (failed int, by map[string]int) {
	t.Helper()
	by = map[string]int{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	stop, half := make(chan struct{}), make(chan struct{})
	for range 8 {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				status, reason, body := ask(t, c, u+"/load")
				mu.Lock()
				if status != 200 {
					failed++
					t.Logf("%d %s %s", status, reason, body)
				} else {
					who, _, _ := strings.Cut(body, " ")
					by[who]++
				}
				if n == 20 {
					select {
					case <-half:
					default:
						close(half)
					}
				}
				mu.Unlock()
			}
		})
	}
	<-half
	happen()
	eventually(t, "the other cluster answers", func() bool { mu.Lock(); defer mu.Unlock(); return by["catalog-2"] > 20 || failed > 0 })
	close(stop)
	wg.Wait()
	return failed, by
}
