package agent_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestPoliciesReachBothSides: what a TrafficPolicy and a FaultPolicy ask is done by the proxies
// whose part it is, over the wire, and no longer when they are gone.
func TestPoliciesReachBothSides(t *testing.T) {
	w := newWorld(t)
	server, e := w.server("eu-west", "catalog-0", catalog)
	copies := make(chan string, 100)
	shadow := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { copies <- r.URL.Path }))
	ln, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	shadow.Listener.Close()
	shadow.Listener = ln
	shadow.Start()
	defer shadow.Close()
	shade, shadeEndpoint := w.serverOf("eu-west", "cart-0", cart, ln.Addr().(*net.TCPAddr).AddrPort())
	w.service(catalog, []ir.Group{{Cluster: "eu-west", Exported: true, Identities: w.identity("eu-west", catalog), Endpoints: []ir.Endpoint{e}}}, nil)
	w.service(cart, []ir.Group{{Cluster: "eu-west", Exported: true, Identities: w.identity("eu-west", cart), Endpoints: []ir.Endpoint{shadeEndpoint}}}, nil)
	client := w.client()
	for _, m := range []*member{server, shade, client} {
		m.waitReady(t)
	}
	c := via(t, client)
	const name = "http://catalog.shop.svc.clusterset.local"
	plain := ir.Traffic{Strategy: mesh.StrategyAuto, ConnectTimeout: 10 * time.Second, RequestTimeout: 15 * time.Second, Outlier: mesh.Outlier{ConsecutiveFailures: 3}}
	say := func(change func(*ir.Service)) {
		s := &ir.Service{Name: catalog, Ports: []ir.Port{{Port: 80, Protocol: mesh.ProtocolHTTP}}, Traffic: plain}
		change(s)
		w.script.set(catalog.String(), s)
	}
	answers := func(status int, reason string) func() bool {
		return func() bool { got, why, _ := ask(t, c, name+"/a"); return got == status && why == reason }
	}

	// The server proxy keeps the rate: it subscribes to what it serves.
	say(func(s *ir.Service) {
		s.Traffic.RateLimits = []mesh.RateLimit{{Name: "few", Requests: 1, Per: time.Hour, Burst: 1, Keys: []mesh.RateKey{{Identity: true}}}}
	})
	eventually(t, "the rate is limited", answers(429, "rate_limited"))
	r, err := c.Get(name + "/a")
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if after := r.Header.Get("retry-after"); r.StatusCode != 429 || after == "" || after == "0" {
		t.Errorf("%d, retry-after %q", r.StatusCode, after)
	}
	say(func(*ir.Service) {})
	eventually(t, "the limit is gone", answers(200, ""))

	// The client proxy injects faults.
	say(func(s *ir.Service) {
		s.Traffic.Faults = []ir.Fault{{Object: "FaultPolicy shop/test", Fault: mesh.Fault{Abort: 418, AbortMilliPercent: 100_000,
			Match: mesh.RequestMatch{Paths: []string{"/a*"}}}}}
	})
	eventually(t, "the fault is injected", answers(418, "fault_injected"))
	if status, _, _ := ask(t, c, name+"/b"); status != 200 {
		t.Errorf("another path: %d", status)
	}

	// Copies go to a service that the client never called, and CORS is the route's.
	say(func(s *ir.Service) {
		s.Routed = true
		s.Routes = []ir.Route{{Object: "HTTPRoute shop/r", Backends: []ir.Backend{{Service: catalog, Port: 80, Weight: 1}}, Filters: []mesh.RouteFilter{
			{Kind: mesh.FilterMirror, Backend: &mesh.RouteBackend{Service: cart, Port: 80}, MirrorPerMille: 1000},
			{Kind: mesh.FilterCORS, CORS: &mesh.CORS{AllowOrigins: []string{"https://a.example"}, AllowMethods: []string{"PUT"}}}}}}
	})
	preflight := func() bool {
		q, err := http.NewRequest("OPTIONS", name+"/a", nil)
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("Origin", "https://a.example")
		q.Header.Set("Access-Control-Request-Method", "PUT")
		r, err := c.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		return r.StatusCode == 204 && r.Header.Get("Access-Control-Allow-Origin") == "https://a.example" && r.Header.Get("Access-Control-Allow-Methods") == "PUT"
	}
	eventually(t, "the preflight is answered", preflight)
	if !answers(200, "")() {
		t.Error("the request that is copied is not answered")
	}
	select {
	case path := <-copies:
		if path != "/a" {
			t.Errorf("the copy is of %s", path)
		}
	case <-time.After(bound):
		t.Error("no copy arrived")
	}
}

// TestADenialEndsOpenConnections over the wire.
func TestADenialEndsOpenConnections(t *testing.T) {
	w := newWorld(t)
	client, server := w.pair(time.Second)
	l, err := dialTunnel(client.cfg.Outbound)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.say("before"); err != nil {
		t.Fatal(err)
	}
	w.service(catalog, []ir.Group{{Cluster: "eu-west", Exported: true, Identities: w.identity("eu-west", catalog),
		Endpoints: []ir.Endpoint{{Tag: "catalog-0", Proxy: server.cfg.Inbound, Weight: 1}}}}, nil,
		ir.AccessEntry{Object: "AccessPolicy shop/none", Policy: mesh.AccessPolicy{Name: "none", Action: mesh.Deny, Rules: []mesh.AccessRule{{To: []mesh.AccessOperation{{Ports: []uint16{81}}}}}}})
	_ = l.SetDeadline(time.Now().Add(bound))
	if _, err := l.r.ReadByte(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection that is denied now reads %v", err)
	}
	if _, err := dialTunnel(client.cfg.Outbound); err == nil {
		t.Error("another one was let in")
	}
}

// TestADrainsPatienceEndsWhatNobodyReads: a tunnel out of the mesh whose far end takes nothing, says nothing and does not
// close. That its client's connection is closed wakes neither direction.
func TestADrainsPatienceEndsWhatNobodyReads(t *testing.T) {
	w := newWorld(t)
	client, _ := w.pair(time.Second)
	w.script.set("shop/frontend", &ir.Proxy{ID: "shop/frontend", OutboundAllowAny: true})
	far, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	var c net.Conn
	eventually(t, "the mesh lets connections out", func() bool {
		if c, err = net.Dial("tcp", client.cfg.Outbound.String()); err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(bound))
		fmt.Fprintf(c, "CONNECT %[1]s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", far.Addr())
		a, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: "CONNECT"})
		if err == nil && a.StatusCode == 200 {
			return true
		}
		c.Close()
		return false
	})
	defer c.Close()
	up, err := far.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer up.Close()
	much, n := make([]byte, 64<<20), 0
	eventually(t, "the way is full", func() bool {
		_ = c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		k, err := c.Write(much)
		n += k
		return n > 0 && k == 0 && errors.Is(err, os.ErrDeadlineExceeded)
	})
	ended := make(chan error, 1)
	go func() { ended <- client.end() }()
	select {
	case <-ended:
	case <-time.After(bound):
		t.Error("the proxy does not end")
		up.Close()
		<-ended
	}
}
