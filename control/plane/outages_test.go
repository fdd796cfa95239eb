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
