package agent_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// moody is an application that serves, and says of itself what the test wants.
func moody(t *testing.T, name string) (at netip.AddrPort, ill *atomic.Bool) {
	t.Helper()
	ln, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	ill = new(atomic.Bool)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/healthz") && ill.Load() {
			w.WriteHeader(503)
			return
		}
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %d", name, len(body))
	})}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() { srv.Close() })
	return ln.Addr().(*net.TCPAddr).AddrPort(), ill
}

// TestUnhealthyApplicationsAreSpared: an application that says it is not well gets no requests, its
// callers lose none, whatever the method, and when it is well again it serves again.
func TestUnhealthyApplicationsAreSpared(t *testing.T) {
	w := newWorld(t)
	at0, ill := moody(t, "catalog-0")
	at1, _ := moody(t, "catalog-1")
	first, e0 := w.serverOf("eu-west", "catalog-0", catalog, at0)
	second, e1 := w.serverOf("eu-west", "catalog-1", catalog, at1)
	w.service(catalog, []ir.Group{{Cluster: "eu-west", Exported: true, Identities: w.identity("eu-west", catalog), Endpoints: []ir.Endpoint{e0, e1}}}, nil)
	check := func(path string) *mesh.HealthCheck {
		return &mesh.HealthCheck{Kind: mesh.HealthHTTP, Path: path, Interval: 20 * time.Millisecond, Timeout: 20 * time.Second, Healthy: 2, Unhealthy: 3}
	}
	say := func(h *mesh.HealthCheck) {
		w.script.set(catalog.String(), &ir.Service{Name: catalog, Ports: []ir.Port{{Port: 80, Protocol: mesh.ProtocolHTTP}},
			Traffic: ir.Traffic{Strategy: mesh.StrategyAuto, ConnectTimeout: 10 * time.Second, RequestTimeout: 15 * time.Second, Retry: mesh.RetryPolicy{Attempts: 2},
				Outlier: mesh.Outlier{ConsecutiveFailures: 3, BaseEjection: 50 * time.Millisecond, MaxEjection: 50 * time.Millisecond}, Health: h}})
	}
	say(check("/healthz"))
	client := w.client()
	for _, m := range []*member{first, second, client} {
		m.waitReady(t)
	}
	c := via(t, client)
	by := map[string]int{}
	post := func(n int) {
		t.Helper()
		for i := range n {
			body := strings.Repeat("x", 100*i)
			r, err := c.Post("http://catalog.shop/order", "text/plain", strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(r.Body)
			r.Body.Close()
			name, size, _ := strings.Cut(string(b), " ")
			if err != nil || r.StatusCode != 200 || size != fmt.Sprint(len(body)) {
				t.Errorf("POST: %d %s %q %v", r.StatusCode, r.Header.Get("isthmus-reason"), b, err)
			}
			by[name]++
			if status, reason, body := ask(t, c, "http://catalog.shop/"); status != 200 {
				t.Errorf("GET: %d %s %q", status, reason, body)
			}
		}
	}
	is := func(state string) func() bool {
		return func() bool { h := first.Dump().Health; return len(h) == 1 && h[0].State == state }
	}
	spared := func() {
		t.Helper()
		by = map[string]int{}
		if post(50); by["catalog-0"] != 0 || by["catalog-1"] != 50 {
			t.Errorf("answered by %v, and catalog-0 is unhealthy", by)
		}
	}
	eventually(t, "the application is found healthy", is("healthy"))
	eventually(t, "both serve", func() bool { post(1); return by["catalog-0"] > 0 && by["catalog-1"] > 0 })

	ill.Store(true)
	eventually(t, "the application is found unhealthy", is("unhealthy"))
	spared()
	if h := first.Dump().Health[0]; !strings.Contains(h.LastError, "GET /healthz at "+at0.String()+": status 503") || h.Service != "shop/catalog" || h.Since.IsZero() {
		t.Errorf("%+v", h)
	}
	admin := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: bound}
	if _, _, text := ask(t, admin, "http://"+first.cfg.Admin.String()+"/metrics"); !strings.Contains(text,
		`isthmus_application_healthy{destination_service="catalog",destination_namespace="shop"} 0`) {
		t.Errorf("the metrics do not tell: %s", text)
	}

	// Another question does not bring it back; its answers do.
	say(check("/healthz2"))
	eventually(t, "the new question is asked", func() bool {
		h := first.Dump().Health
		return len(h) == 1 && strings.Contains(h[0].LastError, "/healthz2")
	})
	spared()
	ill.Store(false)
	eventually(t, "the application is found healthy again", is("healthy"))
	by = map[string]int{}
	eventually(t, "it serves again", func() bool { post(1); return by["catalog-0"] > 0 })

	// Without a check nobody asks, and what was found is forgotten.
	ill.Store(true)
	eventually(t, "the application is found unhealthy", is("unhealthy"))
	say(nil)
	eventually(t, "nobody asks", func() bool { return len(first.Dump().Health) == 0 })
	by = map[string]int{}
	eventually(t, "it serves again", func() bool { post(1); return by["catalog-0"] > 0 })
}
