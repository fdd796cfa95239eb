package proxy_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// reasoned is an error of a transport that knows its reason; no application has seen the request.
type reasoned mesh.Reason

func (r reasoned) Error() string        { return "the transport: " + string(r) }
func (r reasoned) Reason() mesh.Reason  { return mesh.Reason(r) }
func (r reasoned) Is(target error) bool { return target == message.ErrNotExecuted }

// refusals holds a request that ends with each reason: what the client proxy says, or the server
// proxy where the request is asked for as between proxies.
func refusals(t *testing.T) map[mesh.Reason]func() (*world, *exchange) {
	out := map[mesh.Reason]func() (*world, *exchange){}
	from := func(r mesh.Reason, host string, change func(*ir.Service, *ir.Endpoints), script ...any) {
		out[r] = func() (*world, *exchange) {
			w := newWorld(t, 1, change)
			w.state.Names[mesh.ServiceName{Namespace: "shop", Name: "late"}] = &ir.Name{}
			w.script = script
			return w, get(host, "/")
		}
	}
	routes := func(rs ...ir.Route) func(*ir.Service, *ir.Endpoints) {
		return func(s *ir.Service, _ *ir.Endpoints) { s.Routed, s.Routes = true, rs }
	}
	from(mesh.ReasonMalformed, "catalog:x", nil)
	from(mesh.ReasonUnknownHost, "nobody.shop.svc.clusterset.local", nil)
	from(mesh.ReasonOutsideMesh, "example.com", nil)
	from(mesh.ReasonUnknownPort, "catalog:81", nil)
	from(mesh.ReasonNotReady, "late.shop", nil)
	from(mesh.ReasonNoRoute, "catalog", routes(ir.Route{Match: mesh.RouteMatch{PathType: mesh.PathPrefix, Path: "/admin"}}))
	from(mesh.ReasonNoBackend, "catalog", routes(ir.Route{}))
	from(mesh.ReasonNoEndpoint, "catalog", func(_ *ir.Service, e *ir.Endpoints) { e.Groups = nil })
	from(mesh.ReasonResidency, "catalog", func(_ *ir.Service, e *ir.Endpoints) {
		e.Groups = []ir.Group{{Cluster: "us-east", Exported: true, Slots: []uint64{1}, Forbidden: "ResidencyPolicy shop/eu"}}
	})
	from(mesh.ReasonStale, "catalog", func(s *ir.Service, e *ir.Endpoints) {
		s.Traffic.Staleness = mesh.Staleness{Max: time.Minute, When: mesh.WhenStaleExclude}
		e.Groups = []ir.Group{{Cluster: "silent", Exported: true, Slots: []uint64{1}}}
	})
	from(mesh.ReasonUnreachable, "catalog", nil, errRefused)
	for _, r := range []mesh.Reason{mesh.ReasonConnectTimeout, mesh.ReasonTLS, mesh.ReasonOwnFault, mesh.ReasonDraining} {
		from(r, "catalog", nil, reasoned(r))
	}
	from(mesh.ReasonReset, "catalog", nil, answer2(errBroken))
	from(mesh.ReasonTimeout, "catalog", func(s *ir.Service, _ *ir.Endpoints) { s.Traffic.RequestTimeout = 1 }, answer2(os.ErrDeadlineExceeded))
	from(mesh.ReasonTryTimeout, "catalog", func(s *ir.Service, _ *ir.Endpoints) { s.Traffic.TryTimeout = time.Minute }, answer2(os.ErrDeadlineExceeded))
	out[mesh.ReasonFaultInjected] = func() (*world, *exchange) {
		return faulty(t, mesh.Fault{Abort: 503, AbortMilliPercent: always}), get("catalog", "/")
	}
	out[mesh.ReasonUpgradeRefused] = func() (*world, *exchange) {
		w, ex := newWorld(t, 1, nil), get("catalog", "/")
		w.script = []any{answer(200, "a page").says("isthmus-not-switched", "1")}
		ex.head.Upgrade, ex.head.HTTP2 = []byte("websocket"), true
		return w, ex
	}

	at := func(r mesh.Reason, make func() *world, ex func() *exchange, script ...any) {
		out[r] = func() (*world, *exchange) {
			w := make()
			w.script = script
			return w, ex()
		}
	}
	here := func() *exchange { return asked("/") }
	under := func(l mesh.Limits) func() *world { return func() *world { return limited(t, &ir.Traffic{Limits: l}) } }
	at(mesh.ReasonHeadTooLarge, under(mesh.Limits{RequestHead: 100}), func() *exchange { return asked("/").with("x", strings.Repeat("x", 200)) })
	at(mesh.ReasonBodyTooLarge, under(mesh.Limits{ResponseBody: 1}), here, answer(200, "long"))
	at(mesh.ReasonRateLimited, func() *world {
		w := limited(t, &ir.Traffic{RateLimits: []mesh.RateLimit{{Requests: 1, Per: time.Hour, Burst: 1}}})
		w.script = []any{answer(200, "ok")}
		w.proxy.Inbound(asked("/"), peer)
		return w
	}, here)
	from(mesh.ReasonOverloaded, "catalog", nil, reasoned(mesh.ReasonOverloaded))
	at(mesh.ReasonDenied, func() *world {
		return serving(t, mesh.AccessPolicy{Action: mesh.Deny, Rules: []mesh.AccessRule{{To: []mesh.AccessOperation{{Paths: []string{"/*"}}}}}})
	}, here)
	at(mesh.ReasonPolicyInvalid, func() *world { return serving(t, mesh.AccessPolicy{Action: "Perhaps"}) }, here)
	at(mesh.ReasonMisdirected, func() *world { return serving(t) }, func() *exchange { return get("catalog", "/").with("isthmus-to", "shop/cart:80") })
	at(mesh.ReasonAppUnreachable, func() *world { return serving(t) }, here, errRefused)
	at(mesh.ReasonProtocol, func() *world { return serving(t) }, here, answer2(reasonedAfter(mesh.ReasonProtocol)))
	return out
}

// reasonedAfter is reasoned of a request that may have been executed.
type reasonedAfter mesh.Reason

func (r reasonedAfter) Error() string       { return "the transport: " + string(r) }
func (r reasonedAfter) Reason() mesh.Reason { return mesh.Reason(r) }

// TestEveryRefusalSaysWhyAndOfWhichRequest goes through the closed list of reasons: the answer bears the reason
// and the ID of the request, which is the client's own where it gave one, and in gRPC too.
func TestEveryRefusalSaysWhyAndOfWhichRequest(t *testing.T) {
	table := refusals(t)
	text, err := os.ReadFile("../../mesh/reason.go")
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := map[mesh.Reason]string{
		mesh.ReasonClientGone:        "nobody is there to be answered",
		mesh.ReasonPolicyUnsupported: "no version of the format has given it yet: such a policy is policy_invalid",
	}
	for _, m := range regexp.MustCompile(`Reason = "(\w+)"`).FindAllSubmatch(text, -1) {
		reason := mesh.Reason(m[1])
		made := table[reason]
		if made == nil {
			if elsewhere[reason] == "" {
				t.Errorf("no request here ends with %s", reason)
			}
			continue
		}
		for _, id := range []string{"", "of-the-client"} {
			for _, content := range []string{"text/plain", "application/grpc"} {
				w, ex := made()
				ex.with("content-type", content)
				ex.head.HTTP2 = ex.head.HTTP2 || content == "application/grpc"
				if id != "" {
					ex.with("x-request-id", id)
				}
				if ex.head.Get("isthmus-to") != nil {
					w.proxy.Inbound(ex, peer)
				} else {
					w.proxy.Outbound(ex, proxy.Via{})
				}
				got := ex.field("x-request-id")
				if ex.field("isthmus-reason") != string(reason) || w.last.Reason != reason {
					t.Errorf("%s: the answer %d says %q, the record %q (%s)", reason, ex.status, ex.field("isthmus-reason"), w.last.Reason, w.last.Detail)
				}
				if id != "" && got != id || id == "" && len(got) != 36 {
					t.Errorf("%s: x-request-id %q, the client's %q", reason, got, id)
				}
			}
		}
	}
}
