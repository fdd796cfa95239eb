package proxy_test

import (
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-mesh/isthmus/core/balance"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
	"github.com/isthmus-mesh/isthmus/mesh"
)

var plain = mesh.ServiceName{Namespace: "shop", Name: "plain"}

// falling is a world whose catalog has a fallback, and a service plain beside it.
func falling(t testing.TB, endpoints int, f *mesh.Fallback, change func(*ir.Service)) *world {
	t.Helper()
	w := newWorld(t, endpoints, func(s *ir.Service, _ *ir.Endpoints) {
		if f != nil {
			if len(f.On) == 0 {
				f.On = mesh.DefaultFallbackOn()
			}
			s.Traffic.Fallback = &ir.Fallback{Object: "TrafficPolicy shop/p@eu-west", Fallback: *f}
		}
		if change != nil {
			change(s)
		}
	})
	eps := &ir.Endpoints{Service: plain, Groups: []ir.Group{{Cluster: "eu-west", Exported: true, Endpoints: []ir.Endpoint{{Tag: "p0", Proxy: netip.MustParseAddrPort("127.1.1.1:15008")}}}}}
	view := balance.NewView(balance.Config{Endpoints: eps, Clusters: func(c mesh.ClusterName) *ir.Cluster { return w.state.Clusters[c] }, Cluster: "eu-west"})
	other, err := proxy.NewService(&ir.Service{Name: plain, Ports: []ir.Port{{Port: 8080, Protocol: mesh.ProtocolHTTP}},
		Traffic: ir.Traffic{RequestTimeout: 2 * time.Second, Fallback: &ir.Fallback{Fallback: mesh.Fallback{On: mesh.DefaultFallbackOn(), AnyMethod: true, Static: &mesh.StaticAnswer{Status: 299}}}}}, view, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.state.Services[plain], w.state.Names[plain] = other, &ir.Name{Service: plain}
	return w
}

func regrets() *mesh.Fallback {
	return &mesh.Fallback{Static: &mesh.StaticAnswer{Status: 200, ContentType: "application/json", Headers: []mesh.HeaderValue{{Name: "x-regrets", Value: "1"}}, Body: `{"items":[]}`}}
}

func instead(any bool) *mesh.Fallback {
	return &mesh.Fallback{AnyMethod: any, Service: &mesh.FallbackService{Kind: "Service", Service: plain, Port: 8080}}
}

// shed is a server proxy's word that its application has too much to do.
func shed() *stream {
	return answer(503, "").says("isthmus-not-executed", "overloaded").says("isthmus-reason", "overloaded")
}

// TestAStaticAnswerStandsInForFailures: for those that are named, of methods that are safe, and never for what is denied, or
// for what the client does wrong. The answer says what it is and why; the record too.
func TestAStaticAnswerStandsInForFailures(t *testing.T) {
	late := func() *stream { s := answer(0, ""); s.silent = true; return s }
	for _, c := range []struct {
		what      string
		endpoints int
		ask       *exchange
		on        []string
		any       bool
		script    []any
		reason    mesh.Reason // of the failure
		relieved  bool
		status    int // where it is not
	}{
		{what: "nobody there", ask: get("catalog", "/"), reason: mesh.ReasonNoEndpoint, relieved: true},
		{what: "all refuse", endpoints: 2, ask: get("catalog", "/"), script: []any{errRefused, errRefused}, reason: mesh.ReasonUnreachable, relieved: true},
		{what: "shed", endpoints: 1, ask: get("catalog", "/"), script: []any{shed()}, reason: mesh.ReasonOverloaded, relieved: true},
		{what: "late", endpoints: 1, ask: get("catalog", "/"), script: []any{late()}, reason: mesh.ReasonTimeout, relieved: true},
		{what: "503 by the application", endpoints: 1, ask: get("catalog", "/"), script: []any{answer(503, "sorry")}, relieved: true},
		{what: "503 after retries", endpoints: 3, ask: get("catalog", "/"), script: []any{answer(503, "sorry"), answer(503, "sorry"), answer(503, "sorry")}, relieved: true},
		{what: "HEAD", ask: get("catalog", "/"), reason: mesh.ReasonNoEndpoint, relieved: true},
		{what: "500 is not named", endpoints: 1, ask: get("catalog", "/"), script: []any{answer(500, "oh")}, status: 500},
		{what: "500 is named", endpoints: 1, ask: get("catalog", "/"), on: []string{"5xx"}, script: []any{answer(500, "oh")}, relieved: true},
		{what: "a reset is not named", endpoints: 1, ask: post("catalog", "/", "x"), any: true, script: []any{answer2(errBroken)}, reason: mesh.ReasonReset, status: 502},
		{what: "a reset is named", endpoints: 1, ask: post("catalog", "/", "x"), any: true, on: []string{"reset"}, script: []any{answer2(errBroken)}, reason: mesh.ReasonReset, relieved: true},
		{what: "only shed is named", ask: get("catalog", "/"), on: []string{"overloaded"}, reason: mesh.ReasonNoEndpoint, status: 503},
		{what: "POST", ask: post("catalog", "/", "x"), reason: mesh.ReasonNoEndpoint, status: 503},
		{what: "POST where allowed", ask: post("catalog", "/", "x"), any: true, reason: mesh.ReasonNoEndpoint, relieved: true},
		{what: "denied", endpoints: 1, ask: get("catalog", "/"), on: []string{"5xx", "no-endpoint", "overloaded", "timeout", "reset"}, script: []any{answer(403, "no").says("isthmus-reason", "access_denied")}, reason: mesh.ReasonDenied, status: 403},
		{what: "the rate limit", endpoints: 1, ask: get("catalog", "/"), script: []any{answer(429, "no").says("isthmus-reason", "rate_limited")}, reason: mesh.ReasonRateLimited, status: 429},
		{what: "malformed", endpoints: 1, ask: get("catalog", "/%zz"), reason: mesh.ReasonMalformed, status: 400},
		{what: "all is well", endpoints: 1, ask: get("catalog", "/"), script: []any{answer(200, "ok")}, status: 200},
		{what: "a connection", ask: connect("catalog:80"), any: true, reason: mesh.ReasonNoEndpoint, status: 503},
		{what: "gRPC", ask: grpcCall(), any: true, reason: mesh.ReasonNoEndpoint, status: 200},
	} {
		synctest.Test(t, func(t *testing.T) {
			if c.what == "HEAD" {
				c.ask.head.Method = []byte("HEAD")
			}
			f := regrets()
			f.On, f.AnyMethod = c.on, c.any
			w := falling(t, c.endpoints, f, nil)
			w.script = c.script
			w.proxy.Outbound(c.ask, proxy.Via{})
			if !c.relieved {
				if c.ask.status != c.status || c.ask.field("isthmus-fallback") != "" || w.last.Fallback != "" {
					t.Errorf("%s: %d %s %v", c.what, c.ask.status, c.ask.field("isthmus-fallback"), w.last)
				}
				return
			}
			body := `{"items":[]}`
			if c.what == "HEAD" {
				body = ""
			}
			if c.ask.status != 200 || c.ask.out.String() != body || c.ask.field("x-regrets") != "1" || c.ask.field("content-type") != "application/json" {
				t.Errorf("%s: %d %q", c.what, c.ask.status, c.ask.out.String())
			}
			if c.ask.field("isthmus-fallback") != "static" || c.ask.field("isthmus-reason") != string(c.reason) || c.ask.field("x-request-id") == "" || c.ask.ends != 1 {
				t.Errorf("%s: it says %v, ended %d times", c.what, c.ask.fields, c.ask.ends)
			}
			if w.last.Fallback != "static" || w.last.Reason != c.reason || w.last.Status != 200 || w.last.Detail == "" {
				t.Errorf("%s: on record: %+v", c.what, w.last)
			}
		})
	}
}

// TestWithoutAFallbackAFailureIsOne is the control run.
func TestWithoutAFallbackAFailureIsOne(t *testing.T) {
	for _, f := range []*mesh.Fallback{nil, {}} {
		w := falling(t, 0, f, nil)
		ex := get("catalog", "/")
		w.proxy.Outbound(ex, proxy.Via{})
		if ex.status != 503 || ex.field("isthmus-reason") != "no_endpoint" || ex.field("isthmus-fallback") != "" {
			t.Errorf("%d %s", ex.status, ex.field("isthmus-reason"))
		}
	}
}

// TestAnotherServiceStandsIn: it gets the request as it was, with its body, by its own port and policy, once; what it answers is
// passed on. Its own fallback is not looked at, and if it fails too the first failure stands.
func TestAnotherServiceStandsIn(t *testing.T) {
	w := falling(t, 2, instead(true), nil)
	served := answer(201, "from plain").says("isthmus-endpoint", "p0")
	w.script = []any{errRefused, errRefused, served}
	ex := post("catalog", "/a?b=1", "the body").with("x-user", "anna")
	w.proxy.Outbound(ex, proxy.Via{})
	if ex.status != 201 || ex.out.String() != "from plain" || ex.field("isthmus-fallback") != "service shop/plain" || ex.field("isthmus-reason") != "unreachable" {
		t.Errorf("%d %q %v", ex.status, ex.out.String(), ex.fields)
	}
	sent := &served.sent
	if to, once := sent.Only("isthmus-to"); string(to) != "shop/plain:8080" || !once {
		t.Errorf("it is for %q", to)
	}
	if served.in.String() != "the body" || string(sent.Path) != "/a?b=1" || string(sent.Get("x-user")) != "anna" || string(sent.Method) != "POST" {
		t.Errorf("it got %q %q", served.in.String(), sent.Path)
	}
	if w.opened[2].Service != plain || w.last.Reason != mesh.ReasonUnreachable || w.last.Status != 201 || w.last.Tries != 3 || w.last.Fallback != "service shop/plain" || w.last.Backend != catalog {
		t.Errorf("on record: %+v", w.last)
	}

	w.script = []any{errRefused, errRefused, errRefused}
	ex = get("catalog", "/")
	w.proxy.Outbound(ex, proxy.Via{})
	if ex.status != 503 || ex.field("isthmus-fallback") != "" || ex.field("isthmus-reason") != "unreachable" || !strings.Contains(ex.out.String(), "service shop/plain in its place") {
		t.Errorf("both fail: %d %v %q", ex.status, ex.fields, ex.out.String())
	}
	w.script = []any{errRefused, errRefused, answer(403, "no").says("isthmus-reason", "access_denied")}
	ex = get("catalog", "/")
	w.proxy.Outbound(ex, proxy.Via{})
	if ex.status != 403 || ex.field("isthmus-reason") != "access_denied" {
		t.Errorf("the other one denies: %d %v", ex.status, ex.fields)
	}
	if w.panics > 0 {
		t.Error("a fault of ours")
	}
}

// TestAnotherServiceIsBoundByItsLaw: a fallback that residency keeps every endpoint of from us is none.
func TestAnotherServiceIsBoundByItsLaw(t *testing.T) {
	w := falling(t, 0, instead(false), nil)
	eps := &ir.Endpoints{Service: plain, Groups: []ir.Group{{Cluster: "us-east", Exported: true, Forbidden: "ResidencyPolicy shop/eu@eu-west", Endpoints: []ir.Endpoint{{Tag: "p0", Proxy: netip.MustParseAddrPort("127.1.1.1:15008")}}}}}
	view := balance.NewView(balance.Config{Endpoints: eps, Clusters: func(c mesh.ClusterName) *ir.Cluster { return w.state.Clusters[c] }, Cluster: "eu-west"})
	s, err := proxy.NewService(w.state.Services[plain].Service, view, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.state.Services[plain] = s
	w.script = []any{answer(200, "against the law")}
	ex := get("catalog", "/")
	w.proxy.Outbound(ex, proxy.Via{})
	if ex.status != 503 || len(w.opened) != 0 {
		t.Errorf("%d %q after %d connections", ex.status, ex.out.String(), len(w.opened))
	}
}

// TestTheOtherServiceHasTimeOfItsOwn: where the first took all there was.
func TestTheOtherServiceHasTimeOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := falling(t, 1, instead(false), func(s *ir.Service) { s.Traffic.RequestTimeout = 3 * time.Second })
		late, slow := answer(0, ""), answer(200, "ok")
		late.silent, slow.delay = true, time.Second
		w.script = []any{late, slow}
		ex, began := get("catalog", "/"), time.Now()
		w.proxy.Outbound(ex, proxy.Via{})
		if ex.status != 200 || ex.field("isthmus-reason") != "request_timeout" || time.Since(began) != 4*time.Second {
			t.Errorf("%d %v after %v", ex.status, ex.fields, time.Since(began))
		}
		late, silent := answer(0, ""), answer(0, "")
		late.silent, silent.silent = true, true
		w.script = []any{late, silent}
		ex, began = get("catalog", "/"), time.Now()
		w.proxy.Outbound(ex, proxy.Via{})
		if ex.status != 504 || time.Since(began) != 5*time.Second {
			t.Errorf("%d %v after %v, want the times of both", ex.status, ex.fields, time.Since(began))
		}
	})
}

// TestAFallbackThatMayNotBeAskedIsNone: no grant, no service.
func TestAFallbackThatMayNotBeAskedIsNone(t *testing.T) {
	w := falling(t, 0, instead(false), func(s *ir.Service) { s.Traffic.Fallback.Missing = "no ReferenceGrant" })
	ex := get("catalog", "/")
	w.proxy.Outbound(ex, proxy.Via{})
	if ex.status != 503 || len(w.opened) != 0 {
		t.Errorf("%d after %d connections", ex.status, len(w.opened))
	}
	w = falling(t, 1, instead(false), func(s *ir.Service) { s.Traffic.Fallback.Missing = "no ReferenceGrant" })
	w.script = []any{answer(503, "the application's own word")}
	ex = get("catalog", "/")
	w.proxy.Outbound(ex, proxy.Via{})
	if ex.status != 503 || ex.out.String() != "the application's own word" {
		t.Errorf("%d %q: the application's own word is better than none", ex.status, ex.out.String())
	}
}

// TestAStreamedBodyIsNotSentTwice: what was read of it is gone.
func TestAStreamedBodyIsNotSentTwice(t *testing.T) {
	w := falling(t, 1, instead(true), nil)
	w.script = []any{errRefused, errRefused, answer(200, "half a body")}
	ex := post("catalog", "/", strings.Repeat("x", mesh.MaxReplayBody+1))
	w.proxy.Outbound(ex, proxy.Via{})
	if ex.status != 503 || w.last.Fallback != "" {
		t.Errorf("%d %+v", ex.status, w.last)
	}
}

// TestWhatWasSaidBeforeStandsIn: while the service answers, it alone does; once it cannot, what it said last, to those who may
// hear it; never to a POST; and again itself when it is back.
func TestWhatWasSaidBeforeStandsIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := falling(t, 1, &mesh.Fallback{Cache: &mesh.StaleCache{MaxStale: time.Minute}}, nil)
		ask := func(ex *exchange, step any) *exchange {
			t.Helper()
			w.script = []any{step, errRefused, errRefused, errRefused}
			w.proxy.Outbound(ex, proxy.Via{})
			return ex
		}
		fresh := func(body string) *stream {
			return answer(200, body).says("cache-control", "max-age=10").says("isthmus-load", "x")
		}
		ask(get("catalog", "/a"), fresh("one"))
		<-time.After(2 * time.Second)
		if ex := ask(get("catalog", "/a"), fresh("two")); ex.out.String() != "two" || ex.field("isthmus-fallback") != "" || ex.field("age") != "" {
			t.Fatalf("while it answers: %q %v", ex.out.String(), ex.fields)
		}
		<-time.After(20 * time.Second)
		for _, step := range []any{errRefused, answer(503, "sorry")} {
			ex := ask(get("catalog", "/a"), step)
			if ex.status != 200 || ex.out.String() != "two" || ex.field("isthmus-fallback") != "cache" || ex.field("age") != "20" || ex.field("isthmus-load") != "" {
				t.Errorf("%v: %d %q %v", step, ex.status, ex.out.String(), ex.fields)
			}
		}
		head := get("catalog", "/a")
		head.head.Method = []byte("HEAD")
		if ask(head, errRefused); head.status != 200 || head.out.Len() != 0 {
			t.Errorf("HEAD: %d %q", head.status, head.out.String())
		}
		for what, ex := range map[string]*exchange{"POST": post("catalog", "/a", ""), "another path": get("catalog", "/b"), "who is authorised": get("catalog", "/a").with("authorization", "x"),
			"who wants a new one": get("catalog", "/a").with("cache-control", "no-cache")} {
			if ask(ex, errRefused); ex.status != 503 {
				t.Errorf("%s: %d %q", what, ex.status, ex.out.String())
			}
		}
		if ex := ask(get("catalog", "/b"), answer(503, "sorry")); ex.out.String() != "sorry" {
			t.Errorf("nothing is kept, and the application's own word was %q", ex.out.String())
		}
		<-time.After(time.Minute)
		if ex := ask(get("catalog", "/a"), errRefused); ex.status != 503 {
			t.Errorf("too stale: %d", ex.status)
		}
		if ex := ask(get("catalog", "/a"), fresh("back")); ex.out.String() != "back" || ex.field("isthmus-fallback") != "" {
			t.Errorf("back: %q", ex.out.String())
		}
	})
}

// TestAnswersThatBreakOffAreNotKept: half an answer is none.
func TestAnswersThatBreakOffAreNotKept(t *testing.T) {
	w := falling(t, 1, &mesh.Fallback{Cache: &mesh.StaleCache{MaxStale: time.Minute}}, nil)
	half := answer(200, "half").says("cache-control", "public")
	half.readErr = errBroken
	w.script = []any{half}
	w.proxy.Outbound(get("catalog", "/a"), proxy.Via{})
	ex := get("catalog", "/a")
	w.script = []any{errRefused, errRefused}
	if w.proxy.Outbound(ex, proxy.Via{}); ex.status != 503 {
		t.Errorf("%d %q", ex.status, ex.out.String())
	}
}

// TestARequestsCriticalityIsThePolicys: where it says none itself.
func TestARequestsCriticalityIsThePolicys(t *testing.T) {
	for said, want := range map[string]string{"": "sheddable", "critical-plus": "critical-plus", "no such": "sheddable"} {
		w := falling(t, 1, nil, func(s *ir.Service) { s.Traffic.Criticality = mesh.Sheddable })
		s := answer(200, "ok")
		w.script = []any{s}
		ex := get("catalog", "/")
		if said != "" {
			ex = ex.with("isthmus-criticality", said)
		}
		w.proxy.Outbound(ex, proxy.Via{})
		if got, once := s.sent.Only("isthmus-criticality"); string(got) != want || !once {
			t.Errorf("%q said: %q is sent", said, got)
		}
	}
	w := falling(t, 1, nil, nil)
	s := answer(200, "ok")
	w.script = []any{s}
	if w.proxy.Outbound(get("catalog", "/"), proxy.Via{}); s.sent.Has("isthmus-criticality") {
		t.Error("a criticality that nobody said")
	}
}

// grpcCall is a call of gRPC.
func grpcCall() *exchange {
	ex := post("catalog", "/a.B/C", "x").with("content-type", "application/grpc")
	ex.head.HTTP2 = true
	return ex
}
