package proxy_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// everything is a policy that uses all that a request may pass without being refused.
func everything() ir.Traffic {
	selects := mesh.RequestMatch{Methods: []string{"GET"}, Paths: []string{"/a/*"}, Headers: []mesh.ValueMatch{{Name: "x-user", Value: "a.*", Regex: true}}}
	return ir.Traffic{Strategy: mesh.StrategyAuto, ConnectTimeout: time.Second, RequestTimeout: 15 * time.Second, IdleTimeout: time.Minute,
		Retry:   mesh.RetryPolicy{Attempts: 2, On: []string{"5xx", "reset", "timeout"}, BudgetPercent: 20, BudgetBurst: 100, Backoff: time.Millisecond},
		Outlier: mesh.Outlier{ConsecutiveFailures: 3},
		Limits: mesh.Limits{Connections: 100, Pending: 100, Requests: 100, Concurrency: 100, RequestHead: 8 << 10, ResponseHead: 8 << 10,
			RequestBody: 1 << 20, ResponseBody: 1 << 20, ReplayBody: 64 << 10},
		RateLimits: []mesh.RateLimit{
			{Name: "callers", Requests: 1e9, Per: time.Second, Burst: 1e6, Keys: []mesh.RateKey{{Identity: true}, {Header: "x-user"}}, Match: selects},
			{Name: "all", Requests: 1e9, Per: time.Second, Burst: 1e6}},
		Fallback: &ir.Fallback{Fallback: mesh.Fallback{On: []string{"no-endpoint", "503"}, Static: &mesh.StaticAnswer{Status: 200, Body: "none"}}},
		Faults:   []ir.Fault{{Fault: mesh.Fault{Match: selects, Sources: []mesh.AccessSource{{Namespaces: []string{"shop"}}}, Abort: 503}}}}
}

const sampledParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// outboundEverything is a client proxy with all features on and the request that meets them.
func outboundEverything(t testing.TB) (*proxy.Proxy, *quiet) {
	w := newWorld(t, 10, func(s *ir.Service, _ *ir.Endpoints) {
		s.Traffic, s.Routed = everything(), true
		for i := range 100 {
			s.Routes = append(s.Routes, ir.Route{Object: "HTTPRoute shop/r", Rule: i, Match: mesh.RouteMatch{PathType: mesh.PathPrefix, Path: fmt.Sprint("/p", i)}})
		}
		s.Routes = append(s.Routes, ir.Route{Object: "HTTPRoute shop/r", Rule: 100, Match: mesh.RouteMatch{PathType: mesh.PathPrefix, Path: "/a", Method: "GET",
			Headers: []mesh.ValueMatch{{Name: "x-user", Value: "a.*", Regex: true}}, Query: []mesh.ValueMatch{{Name: "q", Value: "1"}}},
			Filters: []mesh.RouteFilter{
				{Kind: mesh.FilterRequestHeaders, Set: []mesh.HeaderValue{{Name: "x-set", Value: "1"}}, Remove: []string{"x-gone"}},
				{Kind: mesh.FilterResponseHeaders, Add: []mesh.HeaderValue{{Name: "x-added", Value: "1"}}},
				{Kind: mesh.FilterMirror, Backend: &mesh.RouteBackend{Service: catalog, Port: 80}, MirrorPerMille: 0},
				{Kind: mesh.FilterCORS, CORS: &mesh.CORS{AllowOrigins: []string{"https://*.example"}, AllowCredentials: true}}},
			Backends: []ir.Backend{{Service: catalog, Port: 80, Weight: 9}, {Service: catalog, Port: 80, Weight: 1}}, RequestTimeout: 10 * time.Second})
	})
	w.state.Self = &ir.Proxy{Identity: mesh.Identity{Namespace: "shop"}, Telemetry: mesh.Telemetry{TraceSampleMilliPercent: 100_000}}
	cfg := w.cfg
	cfg.Done = func(r *proxy.Record) {
		if r.Reason != mesh.ReasonNone || r.Tries != 1 || !r.Sampled {
			t.Fatalf("%+v", r)
		}
	}
	s := answer(200, "ok")
	var open message.Stream = bare{s}
	cfg.Open = func(time.Time, *proxy.Destination) (message.Stream, error) { s.read = 0; return open, nil }
	return proxy.New(cfg), &quiet{exchange: get("catalog.shop.svc.clusterset.local", "/a/b?q=1").with("accept", "*/*").with("x-user", "anna").
		with("origin", "https://a.example").with("traceparent", sampledParent).with("tracestate", "v=1")}
}

// inboundEverything is the same of a server proxy.
func inboundEverything(t testing.TB, w *world) (*proxy.Proxy, *quiet) {
	traffic := everything()
	in := &ir.Inbound{Service: catalog, Ports: []ir.InboundPort{{Port: 80, Protocol: mesh.ProtocolHTTP}}}
	w.state.Inbound[catalog] = inbound(t, in, w.state.Inbound[catalog].Access, &traffic, nil)
	cfg := w.cfg
	cfg.Done = func(r *proxy.Record) {
		if r.Reason != mesh.ReasonNone || !r.Sampled {
			t.Fatalf("%+v", r)
		}
	}
	s := answer(200, "ok")
	var open message.Stream = bare{s}
	cfg.App = func(string, mesh.Protocol) (message.Stream, error) { s.read = 0; return open, nil }
	return proxy.New(cfg), &quiet{exchange: asked("/a/b?q=1").with("x-user", "anna").with("isthmus-deadline", "9000").
		with("traceparent", sampledParent).with("tracestate", "v=1")}
}

// TestAllFeaturesAllocateNothing: the steady state stays free of allocations with all on.
func TestAllFeaturesAllocateNothing(t *testing.T) {
	out, ask := outboundEverything(t)
	in, asked := inboundEverything(t, serving(t, mesh.AccessPolicy{Action: mesh.Allow, Rules: []mesh.AccessRule{{From: []mesh.AccessSource{{Namespaces: []string{"shop"}}}}}}))
	for name, run := range map[string]func(){"client proxy": func() { out.Outbound(ask, proxy.Via{}) }, "server proxy": func() { in.Inbound(asked, peer) }} {
		run()
		if raceEnabled {
			continue
		}
		if n := testing.AllocsPerRun(200, run); n > 0 {
			t.Errorf("%s: %v allocations a request, want 0", name, n)
		}
	}
}

func BenchmarkAllFeaturesOutbound(b *testing.B) {
	p, ex := outboundEverything(b)
	b.ReportAllocs()
	for b.Loop() {
		p.Outbound(ex, proxy.Via{})
	}
}
