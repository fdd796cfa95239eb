package agent_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

// cacheable is an application whose answers may be kept by anybody.
func cacheable(t *testing.T) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "public, max-age=1")
		fmt.Fprintf(w, "catalog %s", r.URL.Path)
	})}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() { srv.Close() })
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

// TestFallbacksThroughRealProxies: every instance of a service is killed. Its callers get what it said before, a static answer or
// another service's, as the policy says at the time; 503 where it says nothing, which is the control; and the service itself
// again once it is back.
func TestFallbacksThroughRealProxies(t *testing.T) {
	w := newWorld(t)
	server, e := w.serverOf("eu-west", "catalog-0", catalog, cacheable(t))
	other, o := w.server("eu-west", "cart-0", cart)
	w.service(catalog, []ir.Group{{Cluster: "eu-west", Exported: true, Identities: w.identity("eu-west", catalog), Endpoints: []ir.Endpoint{e}}}, nil)
	w.service(cart, []ir.Group{{Cluster: "eu-west", Exported: true, Identities: w.identity("eu-west", cart), Endpoints: []ir.Endpoint{o}}}, nil)
	say := func(f mesh.Fallback) {
		f.On = mesh.DefaultFallbackOn()
		s := &ir.Service{Name: catalog, Ports: []ir.Port{{Port: 80, Protocol: mesh.ProtocolHTTP}},
			Traffic: ir.Traffic{Strategy: mesh.StrategyAuto, ConnectTimeout: 10 * time.Second, RequestTimeout: 15 * time.Second, Outlier: mesh.Outlier{ConsecutiveFailures: 3}}}
		if f.Kind() != "" {
			s.Traffic.Fallback = &ir.Fallback{Object: "TrafficPolicy shop/p@eu-west", Fallback: f}
		}
		w.script.set(catalog.String(), s)
	}
	cache := mesh.Fallback{Cache: &mesh.StaleCache{MaxStale: time.Hour}}
	say(cache)
	client := w.client()
	for _, m := range []*member{server, other, client} {
		m.waitReady(t)
	}
	c := via(t, client)
	one := func(method string) (status int, by, why, body string) {
		t.Helper()
		r, err := http.NewRequest(method, "http://catalog.shop/a", nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode, answer.Header.Get("isthmus-fallback"), answer.Header.Get("isthmus-reason"), string(text)
	}
	if status, by, _, body := one("GET"); status != 200 || by != "" || body != "catalog /a" {
		t.Fatalf("while it lives: %d %q %q", status, by, body)
	}
	if err := server.end(); err != nil && !strings.Contains(err.Error(), "context canceled") {
		t.Fatal(err)
	}
	is := func(wantStatus int, wantBy, wantBody string) func() bool {
		return func() bool {
			status, by, why, body := one("GET")
			return status == wantStatus && by == wantBy && (why != "") == (wantBy != "" || status != 200) && strings.HasPrefix(body, wantBody)
		}
	}
	eventually(t, "what it said before is given", is(200, "cache", "catalog /a"))
	if status, by, _, _ := one("POST"); status != 503 || by != "" {
		t.Errorf("POST: %d %q", status, by)
	}
	say(mesh.Fallback{Static: &mesh.StaticAnswer{Status: 299, Body: "regrets"}})
	eventually(t, "the static answer is given", is(299, "static", "regrets"))
	say(mesh.Fallback{Service: &mesh.FallbackService{Kind: "Service", Service: cart, Port: 8080}})
	eventually(t, "the other service is asked", is(200, "service shop/cart", "cart-0 GET /a"))
	say(mesh.Fallback{})
	eventually(t, "without a fallback it is a failure", is(503, "", ""))
	say(cache)
	eventually(t, "what it said before is given again", is(200, "cache", "catalog /a"))
	if text := metricsOf(t, client); !strings.Contains(text, `isthmus_fallbacks_total{destination_service="catalog",destination_namespace="shop",fallback="cache",outcome="answered"}`) {
		t.Error("no count of fallbacks")
	}
	key, _ := keys.Load(server.cfg.Snapshot)
	w.boot(server.cfg, key.(trust.SealKey)).waitReady(t)
	eventually(t, "it answers itself", is(200, "", "catalog /a"))
}
