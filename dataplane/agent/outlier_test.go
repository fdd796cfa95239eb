package agent_test

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestASuccessRateTakesAnEndpointOut over the wire: of five applications one fails every request, by an answer that is not tried
// again. When rates are compared it is taken out, the admin port says why, and its share of the requests with it.
func TestASuccessRateTakesAnEndpointOut(t *testing.T) {
	w := newWorld(t)
	var endpoints []ir.Endpoint
	var servers []*member
	for i := range 5 {
		name := fmt.Sprint("catalog-", i)
		target := app(t, name)
		if i == 4 {
			ln, err := net.Listen("tcp", host+":0")
			if err != nil {
				t.Fatal(err)
			}
			srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "ill", 500) })}
			go func() { _ = srv.Serve(ln) }()
			t.Cleanup(func() { srv.Close() })
			target = ln.Addr().(*net.TCPAddr).AddrPort()
		}
		m, e := w.serverOf("eu-west", name, catalog, target)
		servers, endpoints = append(servers, m), append(endpoints, e)
	}
	w.service(catalog, []ir.Group{{Cluster: "eu-west", Exported: true, Identities: w.identity("eu-west", catalog), Endpoints: endpoints}}, nil)
	w.script.set(catalog.String(), &ir.Service{Name: catalog, Ports: []ir.Port{{Port: 80, Protocol: mesh.ProtocolHTTP}},
		Traffic: ir.Traffic{Strategy: mesh.StrategyAuto, ConnectTimeout: 10 * time.Second, RequestTimeout: 15 * time.Second, Balancing: mesh.Balancing{Algorithm: mesh.AlgorithmRoundRobin},
			Outlier: mesh.Outlier{ConsecutiveFailures: 3, SuccessRateStdev: mesh.DefaultSuccessRateStdev, MaxEjectedPercent: 50}}})
	client := w.client()
	for _, m := range append(servers, client) {
		m.waitReady(t)
	}
	c := via(t, client)
	var all, failed atomic.Int64
	stop := make(chan struct{})
	var load sync.WaitGroup
	for range 4 {
		load.Go(func() {
			pace := time.NewTicker(10 * time.Millisecond) // some thousand in the window over which rates are compared
			defer pace.Stop()
			for {
				select {
				case <-stop:
					return
				case <-pace.C:
				}
				status, _, _ := ask(t, c, "http://catalog.shop/")
				all.Add(1)
				if status != 200 {
					failed.Add(1)
				}
			}
		})
	}
	defer load.Wait()
	defer close(stop)
	eventually(t, "the admin port says why it is out", func() bool {
		_, page := adminCall(t, client, "GET", "/endpoints")
		return strings.Contains(page, "success rate below the others'")
	})
	if n, of := failed.Load(), all.Load(); n*10 < of { // a fifth was its share
		t.Errorf("before it was out %d of %d failed", n, of)
	}
	before, of := failed.Load(), all.Load()
	eventually(t, "the others serve", func() bool { return all.Load() >= of+100 })
	if n := failed.Load() - before; n > 10 { // what was under way, and a trial
		t.Errorf("%d of 100 failed while it was out", n)
	}
}

// TestRequestsThatWaitForAConnectionAreBounded over the wire: an endpoint that takes connections and shakes no hands has one request
// wait for it, as the policy allows, and the next one refused at once.
func TestRequestsThatWaitForAConnectionAreBounded(t *testing.T) {
	deaf, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	w := newWorld(t)
	w.service(catalog, []ir.Group{{Cluster: "eu-west", Exported: true, Identities: w.identity("eu-west", catalog),
		Endpoints: []ir.Endpoint{{Tag: "deaf", Proxy: deaf.Addr().(*net.TCPAddr).AddrPort(), Weight: 1}}}}, nil)
	w.script.set(catalog.String(), &ir.Service{Name: catalog, Ports: []ir.Port{{Port: 80, Protocol: mesh.ProtocolHTTP}},
		Traffic: ir.Traffic{Strategy: mesh.StrategyAuto, ConnectTimeout: bound, RequestTimeout: bound, Limits: mesh.Limits{Pending: 1}, Outlier: mesh.Outlier{ConsecutiveFailures: 3}}})
	client := w.client()
	client.waitReady(t)
	c := via(t, client)
	first := make(chan string, 1)
	go func() {
		r, err := c.Get("http://catalog.shop/")
		if err != nil {
			first <- err.Error()
			return
		}
		r.Body.Close()
		first <- fmt.Sprint(r.StatusCode, " ", r.Header.Get("isthmus-reason"))
	}()
	held, err := deaf.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	impatient := &http.Client{Transport: c.Transport, Timeout: 20 * time.Second} // it is refused at once, or waits for a minute
	if status, reason, _ := ask(t, impatient, "http://catalog.shop/"); status != 503 || reason != "overloaded" {
		t.Errorf("a second request that would wait: %d %s", status, reason)
	}
	select {
	case got := <-first:
		t.Errorf("the first waits no more: %s", got)
	default:
	}
	deaf.Close()
	held.Close()
	if got := <-first; !strings.HasPrefix(got, "503 ") || strings.Contains(got, "overloaded") {
		t.Errorf("the first, whose endpoint has gone: %s", got)
	}
}
