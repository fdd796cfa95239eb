package plane_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/isthmus-mesh/isthmus/core/event"
	"github.com/isthmus-mesh/isthmus/dataplane/agent"
	"github.com/isthmus-mesh/isthmus/internal/loopback"
)

// TestWhatProxiesLeaveOutIsTold: of two endpoints of a service one is killed. Two proxies that ask find it, each by itself, and leave
// it out: one event says that it was both. When it is there again they use it again, and an event says that.
func TestWhatProxiesLeaveOutIsTold(t *testing.T) {
	ctx, parts := lasting(t)
	eu := startCluster(t, ctx, parts, "eu")
	eu.join(eu)
	eu.instance("a", true)
	inbound := loopback.AddrPort(t)
	second := agent.Config{ID: "shop/catalog-1", Mode: agent.ModeSidecar, ServiceAccount: "catalog", Inbound: inbound}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "second") })}
	eu.run("application", func(ctx context.Context) error {
		defer context.AfterFunc(ctx, func() { srv.Close() })()
		return srv.Serve(ln)
	})
	app := netip.MustParseAddrPort(ln.Addr().String())
	eu.apply(fmt.Sprintf(`
apiVersion: isthmus.dev/v1alpha1
kind: Workload
metadata: {name: catalog-1, namespace: shop, labels: {app: catalog}}
spec: {address: %s, serviceAccount: catalog, ports: [{name: http, port: %d}], proxy: "%s"}
`, app.Addr(), app.Port(), inbound))
	run := func() (kill func()) {
		a := eu.agent(second)
		alive, stop := context.WithCancel(ctx)
		var done sync.WaitGroup
		done.Go(func() {
			if err := a.Run(alive); err != nil && alive.Err() == nil {
				t.Errorf("the second proxy: %v", err)
			}
		})
		return func() { stop(); done.Wait() }
	}
	kill := run()
	defer func() { kill() }()
	clients := []*http.Client{eu.clientNamed("shell"), eu.clientNamed("other")}
	ask := func() (all string) {
		for _, c := range clients {
			for range 8 {
				all += get(c, "http://catalog.shop.svc.clusterset.local/") + "; "
			}
		}
		return all
	}
	eventually(t, "both serve", func() string {
		got := ask()
		if strings.Contains(got, "200 second;") {
			return "both serve"
		}
		return got
	})
	if got := eu.happened("endpoint"); got != "no endpoint" {
		t.Errorf("before anything was killed: %s", got)
	}
	kill()
	tells := func(reason string, want ...string) {
		t.Helper()
		eventually(t, "as it should", func() string {
			ask()
			got := eu.happened(reason)
			for _, w := range want {
				if !strings.Contains(got, w) {
					return got
				}
			}
			return "as it should"
		})
	}
	tells("endpoint_ejected", "because requests of ", "of eu were refused, or found no way", "so their requests go to other endpoints")
	kill = run()
	tells("endpoint_back", "succeeded", "so it gets requests again", "after endpoint_ejected")
	ejected := 0
	for _, e := range eu.plane.Events().List(event.Filter{Service: "catalog.shop", Kinds: []event.Kind{event.Endpoint}}).Events {
		t.Logf("%s: because %s, so %s", e.Reason, e.Cause, e.Effect)
		if e.Reason == "endpoint_ejected" {
			ejected++
		}
	}
	if ejected != 1 {
		t.Errorf("%d events say that two proxies took it out, want one", ejected)
	}
}

// TestWhatProxiesTrippedProvesItself: the application of a cluster is gone while its proxies and its gateway answer. No way is lost, and nobody but
// the proxies that use it knows: they leave the cluster out. When the application is there again the cluster comes back step by step, which
// events tell, and no request has failed.
func TestWhatProxiesTrippedProvesItself(t *testing.T) {
	ctx, parts := lasting(t)
	eu, us := startCluster(t, ctx, parts, "eu"), startCluster(t, ctx, parts, "us")
	for _, c := range []*cluster{eu, us} {
		c.capacity = ", capacity: {lanes: 4}"
		c.join(eu)
		c.join(us)
	}
	eu.strategy("{strategy: Spread}")
	eu.serve("catalog")
	app := loopback.AddrPort(t)
	stop := us.answers(app)
	us.serveAt("catalog", app, 4)
	url := "http://catalog.shop.svc.clusterset.local/"
	clients := []*http.Client{eu.clientNamed("shell"), eu.clientNamed("other")}
	tells := func(reason string, want ...string) {
		t.Helper()
		eventually(t, "as it should", func() string {
			for _, c := range clients {
				for range 4 {
					if got := get(c, url); !strings.HasPrefix(got, "200 ") && !strings.HasPrefix(eu.happened("split"), "no ") {
						t.Fatalf("a request failed: %s", got)
					}
				}
			}
			got := eu.happened(reason)
			for _, w := range want {
				if !strings.Contains(got, w) {
					return got
				}
			}
			return "as it should"
		})
	}
	tells("split", ", us ")
	stop()
	tells("cluster_tripped", "of us found no way, or were refused by all of them")
	defer us.answers(app)()
	tells("failback_begun", "most proxies that use it had left us out", "gets 1% of its part") // its proxies answer, which is enough to be tried
	tells("failback_ended", "all of its part")
	for _, e := range eu.plane.Events().List(event.Filter{Service: "catalog.shop"}).Events {
		t.Logf("%s: because %s, so %s", e.Reason, e.Cause, e.Effect)
	}
	if got := eu.happened("path_lost"); got != "no path_lost" {
		t.Errorf("a way was lost: %s", got)
	}
}

// answers runs an application at an address, until stop or the context ends.
func (c *cluster) answers(at netip.AddrPort) (stop func()) {
	c.t.Helper()
	ln, err := net.Listen("tcp", at.String())
	if err != nil {
		c.t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, c.name) })}
	alive, end := context.WithCancel(c.ctx)
	var done sync.WaitGroup
	done.Add(1)
	c.run("application", func(context.Context) error {
		defer done.Done()
		defer context.AfterFunc(alive, func() { srv.Close() })()
		if err := srv.Serve(ln); alive.Err() == nil {
			return err
		}
		return nil
	})
	return func() { end(); done.Wait() }
}

// serveAt adds an exported service with so many instances, each with a proxy of its own, of one application.
func (c *cluster) serveAt(service string, app netip.AddrPort, n int) {
	c.t.Helper()
	c.apply(fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %[1]s, namespace: shop}
spec: {selector: {app: %[1]s}, ports: [{name: http, port: 80, targetPort: %[2]d}]}
---
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceExport
metadata: {name: %[1]s, namespace: shop}
`, service, app.Port()))
	for i := range n {
		inbound, name := loopback.AddrPort(c.t), fmt.Sprint(service, "-", i)
		c.apply(fmt.Sprintf(`
apiVersion: isthmus.dev/v1alpha1
kind: Workload
metadata: {name: %s, namespace: shop, labels: {app: %s}}
spec: {address: %s, serviceAccount: %s, ports: [{name: http, port: %d}], proxy: "%s"%s}
`, name, service, app.Addr(), service, app.Port(), inbound, c.capacity))
		c.proxy(agent.Config{ID: "shop/" + name, Mode: agent.ModeSidecar, ServiceAccount: service, Inbound: inbound})
	}
}
