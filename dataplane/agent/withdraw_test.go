package agent_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/agent"
	"github.com/isthmus-mesh/isthmus/dataplane/tunnel"
	"github.com/isthmus-mesh/isthmus/internal/loopback"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// passing is how many connections pass through a gateway.
func passing(t testing.TB, m *member) int64 {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: bound}
	_, _, text := ask(t, c, "http://"+m.cfg.Admin.String()+"/stats")
	var stats struct{ Gateway tunnel.Stats }
	if err := json.Unmarshal([]byte(text), &stats); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return stats.Gateway.Passing
}

// TestProxiesMoveAwayFromAWithdrawnGateway takes one of two gateways off the list under load that must not be
// repeated: nothing fails, and nothing passes there any more though the gateway itself goes on.
func TestProxiesMoveAwayFromAWithdrawnGateway(t *testing.T) {
	w := newWorld(t)
	server, e := w.server("us-east", "catalog-0", catalog)
	w.script.set(catalog.String(), &ir.Slots{TrustDomain: w.clusters["us-east"].td,
		Table: mesh.SlotTable{Service: catalog, Generation: 1, Slots: addrs(e), Moved: []uint64{1}}})
	var gates []*member
	var at []netip.AddrPort
	for _, id := range []string{"shop/gateway-0", "shop/gateway-1"} {
		w.script.set(id, &ir.Proxy{ID: id})
		gates = append(gates, w.start("us-east", id, "gateway", func(c *agent.Config) { c.Mode, c.Gateway = agent.ModeGateway, loopback.AddrPort(t) }))
		at = append(at, gates[len(gates)-1].cfg.Gateway)
	}
	list := func(g ...netip.AddrPort) {
		w.script.set("us-east", &ir.Cluster{Name: "us-east", TrustDomain: w.clusters["us-east"].td, RTT: 80 * time.Millisecond, Gateways: g})
	}
	list(at...)
	w.service(catalog, []ir.Group{{Cluster: "us-east", Exported: true, Identities: w.identity("us-east", catalog), Slots: []uint64{1}}}, nil)
	client := w.client()
	for _, m := range append(gates, server, client) {
		m.waitReady(t)
	}
	c := via(t, client)
	load := &traffic{what: "POST"}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var work sync.WaitGroup
	for range 2 {
		load.drive(ctx, &work, func() error { return request(c, "POST", catalogURL) })
	}
	moved := func(what string, from, to int) {
		n := load.count() + 30
		eventually(t, what, func() bool {
			return load.count() >= n && passing(t, gates[from]) == 0 && passing(t, gates[to]) > 0
		})
	}
	moved("all passes through the first gateway", 1, 0)
	list(at[1])
	moved("all passes through the second gateway", 0, 1)
	list(at[0])
	moved("all passes through the first gateway again", 1, 0)
	stop()
	work.Wait()
	if len(load.failed) > 0 {
		t.Errorf("%d of %d failed: %s", len(load.failed), load.n, load.failed[0])
	}
}
