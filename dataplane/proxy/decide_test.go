package proxy_test

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestHostsAndPorts: what a request names is a service of the mesh and one of its ports, or it goes nowhere. The control of each refusal
// takes away its reason, and then the request is answered: the port is there, the service is, what is known of it has arrived, or the mesh
// lets others out. The last one lets out nothing that is named as only the mesh's own is, or that a service bears.
func TestHostsAndPorts(t *testing.T) {
	status := func(host string, change func(*world)) string {
		w := newWorld(t, 2, nil)
		w.state.ByAddress = map[netip.Addr]mesh.ServiceName{netip.MustParseAddr("10.0.0.9"): catalog}
		w.state.Names[mesh.ServiceName{Namespace: "shop", Name: "late"}] = &ir.Name{}
		change(w)
		w.script = []any{answer(200, "ok")}
		ex := get(host, "/")
		w.proxy.Outbound(ex, proxy.Via{})
		return fmt.Sprintf("%d %s", ex.status, ex.field("isthmus-reason"))
	}
	asIs := func(*world) {}
	letsOut := func(w *world) {
		w.state.Self = &ir.Proxy{OutboundAllowAny: true}
		cfg := w.cfg
		cfg.Outside = func(string, mesh.Protocol) (message.Stream, error) { return w.next() }
		w.proxy = proxy.New(cfg)
	}
	hasPort := func(w *world) {
		s := w.state.Services[catalog]
		s.Ports = append(slices.Clone(s.Ports), ir.Port{Name: "more", Port: 81, Protocol: mesh.ProtocolHTTP})
	}
	has := func(name string) func(*world) {
		return func(w *world) {
			w.state.Services[mesh.ServiceName{Namespace: "shop", Name: name}] = w.state.Services[catalog]
		}
	}
	for host, c := range map[string]struct {
		want string
		// unless is what takes the reason away; nil where the request is answered, or names nothing.
		unless func(*world)
	}{
		"catalog": {"200 ", nil}, "catalog.shop": {"200 ", nil}, "catalog.shop:80": {"200 ", nil}, "CATALOG.shop.svc.clusterset.local.": {"200 ", nil},
		"catalog.shop.svc.cluster.local": {"200 ", nil}, "10.0.0.9:80": {"200 ", nil},
		"catalog:0": {"400 malformed_request", nil}, "catalog:x": {"400 malformed_request", nil},
		"catalog.shop:81":                  {"502 unknown_port", hasPort},
		"nobody.shop.svc.clusterset.local": {"502 unknown_host", has("nobody")},
		"late.shop":                        {"503 proxy_not_ready", has("late")},
		"nobody":                           {"502 outside_mesh", letsOut}, "example.com": {"502 outside_mesh", letsOut}, "[::1]:80": {"502 outside_mesh", letsOut},
		"": {"502 outside_mesh", nil},
	} {
		if got := status(host, asIs); got != c.want {
			t.Errorf("%q: %s, want %s", host, got, c.want)
		}
		if c.unless != nil {
			if got := status(host, c.unless); got != "200 " {
				t.Errorf("control: %q without its reason: %s", host, got)
			}
		}
		if !strings.HasSuffix(c.want, "outside_mesh") {
			if got := status(host, letsOut); got != c.want {
				t.Errorf("%q, and others are let out: %s, want %s", host, got, c.want)
			}
		}
	}
}

func TestOutsideIsAskedWhereAllowed(t *testing.T) {
	w := newWorld(t, 2, nil)
	w.state.Self = &ir.Proxy{OutboundAllowAny: true}
	cfg := w.cfg
	var asked []string
	s := answer(200, "the world").says("isthmus-reason", "access_denied").says("isthmus-not-executed", "x")
	cfg.Outside = func(host string, _ mesh.Protocol) (message.Stream, error) { asked = append(asked, host); return s, nil }
	p := proxy.New(cfg)
	ex := get("example.com", "/a/../%2Fb").with("isthmus-to", "shop/catalog:80").with("isthmus_to", "x")
	p.Outbound(ex, proxy.Via{})
	if ex.status != 200 || ex.out.String() != "the world" || ex.field("isthmus-reason") != "" || w.last.Reason != "" {
		t.Errorf("%d %q, reason %q", ex.status, ex.out.String(), ex.field("isthmus-reason"))
	}
	if fmt.Sprint(asked) != "[example.com:80]" || string(s.sent.Path) != "/a/../%2Fb" || len(s.sent.Fields) != 0 {
		t.Errorf("asked %v with %q %q: want it as it came, without our fields", asked, s.sent.Path, s.sent.Fields)
	}
}

func TestAConnectionThatHadBeenClosedIsNoFailureOutside(t *testing.T) {
	for _, c := range []struct {
		name   string
		ex     *exchange
		script []any
		want   string
	}{
		{"before the answer", get("example.com", "/"), []any{answer2(errStale), answer(200, "ok")}, "200 ok"},
		{"before the answer, not idempotent", post("example.com", "/", "x"), []any{answer2(errStale), answer(200, "ok")}, "502 upstream_reset"},
		{"before the request", post("example.com", "/", "x"), []any{answer2(errRefused), answer(200, "ok")}, "200 ok"},
		{"again and again", get("example.com", "/"), []any{answer2(errStale), answer2(errStale), answer2(errStale), answer(200, "ok")}, "502 upstream_reset"},
	} {
		w := newWorld(t, 2, nil)
		w.state.Self = &ir.Proxy{OutboundAllowAny: true}
		w.script = c.script
		cfg := w.cfg
		cfg.Outside = func(string, mesh.Protocol) (message.Stream, error) { return w.next() }
		proxy.New(cfg).Outbound(c.ex, proxy.Via{})
		if got := fmt.Sprintf("%d %s", c.ex.status, c.ex.out.String()); !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// TestRoutesSeeTheForwardedPath: a route takes a path in the form in which it is forwarded. In the control nobody normalises it, and what
// is denied by having no backend is forwarded by another route.
func TestRoutesSeeTheForwardedPath(t *testing.T) {
	routed := func(s *ir.Service, _ *ir.Endpoints) {
		s.Routed = true
		s.Routes = []ir.Route{
			{Object: "HTTPRoute shop/admin", Match: mesh.RouteMatch{PathType: mesh.PathPrefix, Path: "/admin"}},
			{Object: "HTTPRoute shop/lang", Match: mesh.RouteMatch{Headers: []mesh.ValueMatch{{Name: "accept-language", Value: "de, en"}}},
				Backends: []ir.Backend{{Service: catalog, Weight: 1}}},
			{Object: "HTTPRoute shop/old", Match: mesh.RouteMatch{PathType: mesh.PathPrefix, Path: "/old"},
				Filters: []mesh.RouteFilter{{Kind: mesh.FilterRedirect, Scheme: "https", PathType: "ReplacePrefixMatch", Path: "/new", StatusCode: 301}}},
			{Object: "HTTPRoute shop/rest", Match: mesh.RouteMatch{PathType: mesh.PathPrefix, Path: "/a"}, Backends: []ir.Backend{{Service: catalog, Weight: 1}}},
		}
	}
	for _, c := range []struct {
		ex   func() *exchange
		want string
		// attack is what comes of it where nobody normalises, if that is something else.
		attack string
	}{
		{path("/x/../admin/keys"), "500 no_backend", "404 no_route"},
		{path("/a/../admin/keys"), "500 no_backend", "200 /a/../admin/keys"},
		{path("/a/%2e%2E/admin"), "500 no_backend", "200 /a/%2e%2E/admin"},
		{path("/a/..//%61dmin"), "500 no_backend", "200 /a/..//%61dmin"},
		{path("/%61dmin"), "500 no_backend", "404 no_route"},
		{path("//admin"), "500 no_backend", "404 no_route"},
		{path("/administrator"), "404 no_route", ""},
		{path("/a%2Fb"), "400 malformed_request", "404 no_route"},
		{path("/a/..%2Fadmin"), "400 malformed_request", "200 /a/..%2Fadmin"},
		{path("/a//b"), "200 /a/b", "200 /a//b"},
		{path("/x", "de,en"), "200 /x", ""},
		{path("/x", "de", "en"), "200 /x", ""},
		{path("/x", "en", "de"), "404 no_route", ""},
		{path("/old/x?y=1"), "301 https://catalog/new/x?y=1", ""},
	} {
		for _, normalises := range []bool{true, false} {
			w := newWorld(t, 2, routed)
			s, ex, want := answer(200, "ok"), c.ex(), c.want
			w.script = []any{s}
			if normalises {
				w.proxy.Outbound(ex, proxy.Via{})
			} else {
				w.proxy.OutboundWithout(ex, proxy.Via{}, "normalise the path")
				want = cmp.Or(c.attack, want)
			}
			if got := fmt.Sprintf("%d %s%s%s", ex.status, ex.field("isthmus-reason"), s.sent.Path, ex.field("location")); got != want {
				t.Errorf("%s, normalised %v: %s (%s), want %s", c.ex().head.Path, normalises, got, w.last.Detail, want)
			}
		}
	}
}

// path makes requests for a path, with lines of accept-language.
func path(path string, languages ...string) func() *exchange {
	return func() *exchange {
		ex := get("catalog:80", path)
		for _, l := range languages {
			ex = ex.with("accept-language", l)
		}
		return ex
	}
}

func TestResidencyOutranksFailover(t *testing.T) {
	w := newWorld(t, 0, func(_ *ir.Service, e *ir.Endpoints) {
		e.Groups = []ir.Group{{Cluster: "us-east", Exported: true, Slots: []uint64{1}, Forbidden: "ResidencyPolicy shop/eu"}}
	})
	w.script = []any{answer(200, "unlawful")}
	ex := get("catalog", "/")
	w.proxy.Outbound(ex, proxy.Via{})
	if ex.status != 503 || ex.field("isthmus-reason") != "residency" || len(w.opened) != 0 {
		t.Errorf("%d %s, %d streams opened", ex.status, ex.field("isthmus-reason"), len(w.opened))
	}
}

var frontend = mesh.Identity{TrustDomain: "eu-west.isthmus.local", Namespace: "shop", ServiceAccount: "frontend"}

// serving is a server proxy of shop/catalog under policies.
func serving(t testing.TB, policies ...mesh.AccessPolicy) *world {
	t.Helper()
	w := newWorld(t, 1, nil)
	a := &ir.Access{Service: catalog, Exported: true, Clusters: []ir.Caller{{TrustDomain: frontend.TrustDomain, Cluster: "eu-west"}}}
	for _, p := range policies {
		a.Policies = append(a.Policies, ir.AccessEntry{Object: "AccessPolicy shop/" + p.Name, Policy: p})
	}
	in := &ir.Inbound{Service: catalog, Ports: []ir.InboundPort{
		{Port: 80, Protocol: mesh.ProtocolHTTP, Target: netip.MustParseAddrPort("127.1.2.3:8080")}}}
	w.state.Inbound = map[mesh.ServiceName]*proxy.Inbound{catalog: inbound(t, in, proxy.NewAccess(a, "eu-west"), &ir.Traffic{}, nil)}
	return w
}

var peer = proxy.Peer{Identity: frontend, SNI: mesh.SNI{Service: catalog, TrustDomain: frontend.TrustDomain}}

func asked(path string) *exchange {
	return get("catalog", path).with("isthmus-to", "shop/catalog:80")
}

func TestServerTellsTheCallerAndHidesTheMesh(t *testing.T) {
	w := serving(t)
	s := answer(200, "ok").says("isthmus-not-executed", "app's own lie").says("isthmus-reason", "x")
	w.script = []any{s}
	ex := asked("/a//b").with("x-forwarded-client-cert", "URI=spiffe://evil").with("x_forwarded-client_cert", "y")
	w.proxy.Inbound(ex, peer)
	var seen []string
	for _, f := range s.sent.Fields {
		seen = append(seen, string(f.Name)+": "+string(f.Value))
	}
	if fmt.Sprint(seen) != "[x-forwarded-client-cert: URI="+frontend.String()+"]" || string(s.sent.Path) != "/a/b" {
		t.Errorf("the application saw %q %q", s.sent.Path, seen)
	}
	if ex.status != 200 || len(ex.fields) != 1 || ex.field("isthmus-load") == "" { // the proxy's own word
		t.Errorf("%d with %q: an application's word for the mesh's is not believed", ex.status, ex.fields)
	}
}

func TestServerRefusals(t *testing.T) {
	deny := mesh.AccessPolicy{Name: "deny", Action: mesh.Deny, Rules: []mesh.AccessRule{{To: []mesh.AccessOperation{{Paths: []string{"/admin*"}}}}}}
	connect := func() *exchange { ex := asked(""); ex.head.Method, ex.head.Path = []byte("CONNECT"), nil; return ex }
	other := peer
	other.SNI.Service.Name = "cart"
	for _, c := range []struct {
		name   string
		ex     *exchange
		peer   proxy.Peer
		script []any
		want   string // status, reason, not executed
	}{
		{"denied", asked("/admin"), peer, nil, "403 access_denied "},
		{"denied in other spellings", asked("/x/..//%61dmin/a"), peer, nil, "403 access_denied "},
		{"a path with two readings", asked("/x%2F..%2Fadmin"), peer, nil, "400 malformed_request "},
		{"a tunnel under a rule on paths", connect(), peer, nil, "403 access_denied "},
		{"another service's connection", asked("/"), other, nil, "421 misdirected "},
		{"no service named", get("catalog", "/"), peer, nil, "400 malformed_request "},
		{"two services named", asked("/").with("isthmus-to", "shop/catalog:80"), peer, nil, "400 malformed_request "},
		{"unknown port", get("catalog", "/").with("isthmus-to", "shop/catalog:81"), peer, nil, "502 unknown_port "},
		{"application down", asked("/"), peer, []any{errors.New("refused")}, "503 app_unreachable app_unreachable"},
		{"application broke", asked("/"), peer, []any{answer2(errBroken)}, "502 upstream_reset "},
		{"stale connections of the pool", asked("/"), peer, []any{answer2(errStale), answer2(errStale), answer(200, "ok")}, "200  "},
	} {
		w := serving(t, deny)
		w.script = c.script
		w.proxy.Inbound(c.ex, c.peer)
		if got := fmt.Sprintf("%d %s %s", c.ex.status, c.ex.field("isthmus-reason"), c.ex.field("isthmus-not-executed")); got != c.want {
			t.Errorf("%s: %s (%s), want %s", c.name, got, w.last.Detail, c.want)
		}
	}
}

func inbound(t testing.TB, in *ir.Inbound, a *proxy.Access, traffic *ir.Traffic, prev *proxy.Inbound) *proxy.Inbound {
	t.Helper()
	out, err := proxy.NewInbound(in, a, traffic, prev)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestServerWithoutRulesDenies(t *testing.T) {
	w := serving(t)
	w.state.Inbound[catalog] = inbound(t, &ir.Inbound{Service: catalog, Ports: []ir.InboundPort{{Port: 80}}}, nil, nil, nil)
	ex := asked("/")
	w.proxy.Inbound(ex, peer)
	if ex.status != 503 || ex.field("isthmus-reason") != "proxy_not_ready" {
		t.Errorf("%d %s", ex.status, ex.field("isthmus-reason"))
	}
}

func TestServerUpgrades(t *testing.T) {
	w := serving(t)
	upgrade := func() *exchange {
		ex := asked("/chat").with("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
		ex.head.Method, ex.head.Upgrade, ex.body = []byte("CONNECT"), []byte("websocket"), strings.NewReader("hello")
		return ex
	}
	s := answer(101, "there")
	w.script = []any{s}
	ex := upgrade()
	w.proxy.Inbound(ex, peer)
	if ex.status != 101 || string(s.sent.Method) != "GET" || string(s.sent.Path) != "/chat" || ex.out.String() != "there" {
		t.Errorf("%d; the application was asked %s %s", ex.status, s.sent.Method, s.sent.Path)
	}
	for accept, status := range map[string]int{"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=": 502, "": 502} { // no answer to the key that we made
		ex = upgrade()
		ex.head.Del("sec-websocket-key")
		w.script = []any{answer(101, "there").says("sec-websocket-accept", accept)}
		w.proxy.Inbound(ex, peer)
		if ex.status != status || ex.field("isthmus-reason") != "protocol_error" {
			t.Errorf("accept %q: %d %s", accept, ex.status, ex.field("isthmus-reason"))
		}
	}
	s = answer(200, "a page")
	w.script = []any{s}
	ex = upgrade()
	w.proxy.Inbound(ex, peer)
	if ex.status != 200 || ex.field("isthmus-not-switched") == "" || ex.out.String() != "a page" {
		t.Errorf("%d %q", ex.status, ex.fields)
	}
}

// TestServerLetsGoOfAHungApplication: the client proxy gave up, so does the server's.
func TestServerLetsGoOfAHungApplication(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := serving(t)
		s := answer(0, "")
		s.silent = true
		w.script = []any{s}
		b := breaking{asked("/")}
		time.AfterFunc(time.Second, func() { b.leave() })
		began := time.Now()
		w.proxy.Inbound(b, peer)
		if time.Since(began) != time.Second || s.closed != 1 || w.last.Reason != mesh.ReasonClientGone {
			t.Errorf("%v, closed %d times, reason %q", time.Since(began), s.closed, w.last.Reason)
		}
	})
}

func TestInboundAllocatesNothing(t *testing.T) {
	w := serving(t)
	cfg := w.cfg
	cfg.Done = func(*proxy.Record) {}
	s := answer(200, "ok")
	var open message.Stream = bare{s}
	cfg.App = func(string, mesh.Protocol) (message.Stream, error) { s.read = 0; return open, nil }
	p := proxy.New(cfg)
	ex := &quiet{exchange: asked("/a")}
	run := func() { p.Inbound(ex, peer) }
	run()
	if raceEnabled {
		return // what a request leaves behind was looked for all the same
	}
	if n := testing.AllocsPerRun(200, run); n > 0 {
		t.Errorf("%v allocations a request, want 0", n)
	}
}

// TestBytesGoByTheRoutesOfTheirPort: a connection takes a TCPRoute's backends by their weights, and
// the routes of the service's HTTP are nothing to it.
func TestBytesGoByTheRoutesOfTheirPort(t *testing.T) {
	replica := mesh.ServiceName{Namespace: "shop", Name: "replica"}
	w := newWorld(t, 2, func(s *ir.Service, _ *ir.Endpoints) {
		s.Routed = true
		s.Routes = []ir.Route{
			{Object: "HTTPRoute shop/web", Port: 80, Match: mesh.RouteMatch{PathType: mesh.PathPrefix, Path: "/only"}, Backends: []ir.Backend{{Service: catalog, Port: 80, Weight: 1}}},
			{Object: "TCPRoute shop/db", Port: 5432, Backends: []ir.Backend{{Service: catalog, Port: 5432, Weight: 3}, {Service: replica, Port: 5432, Weight: 1}}},
		}
	})
	other := newWorld(t, 2, func(s *ir.Service, e *ir.Endpoints) { s.Name, e.Service = replica, replica })
	w.state.Names[replica], w.state.Services[replica] = &ir.Name{Service: replica}, other.state.Services[catalog]
	count := map[mesh.ServiceName]int{}
	for range 400 {
		w.script = []any{answer(200, "granted")}
		ex := get("catalog.shop:5432", "")
		ex.head.Method, ex.head.Path, ex.body = []byte("CONNECT"), nil, strings.NewReader("bytes")
		w.opened = nil
		w.proxy.Outbound(ex, proxy.Via{Service: catalog, Port: 5432})
		if len(w.opened) != 1 {
			t.Fatalf("%d opened, %s: %s", len(w.opened), w.last.Reason, w.last.Detail)
		}
		count[w.opened[0].Service]++
	}
	if n := count[replica]; n < 70 || n > 130 || count[catalog] != 400-n {
		t.Errorf("connections %v, want a quarter to the replica", count)
	}
}

// TestDatagramsGoByTheRoutesOfTheirPort: a session of UDP takes a UDPRoute's backends by their weights; the routes of a
// port of TCP with the same number are nothing to it, and its own are nothing to connections.
func TestDatagramsGoByTheRoutesOfTheirPort(t *testing.T) {
	canary := mesh.ServiceName{Namespace: "shop", Name: "canary"}
	ports := func(s *ir.Service) {
		s.Ports = append(s.Ports, ir.Port{Name: "dns", Port: 5432, Protocol: mesh.ProtocolUDP})
	}
	w := newWorld(t, 2, func(s *ir.Service, _ *ir.Endpoints) {
		ports(s)
		s.Routed = true
		s.Routes = []ir.Route{
			{Object: "TCPRoute shop/db", Port: 5432, Backends: []ir.Backend{{Service: catalog, Port: 5432, Weight: 1}}},
			{Object: "UDPRoute shop/dns", Port: 5432, Datagrams: true, Backends: []ir.Backend{{Service: catalog, Port: 5432, Weight: 3}, {Service: canary, Port: 5432, Weight: 1}}},
		}
	})
	other := newWorld(t, 2, func(s *ir.Service, e *ir.Endpoints) { s.Name, e.Service = canary, canary })
	w.state.Names[canary], w.state.Services[canary] = &ir.Name{Service: canary}, other.state.Services[catalog]
	for datagrams, want := range map[bool][2]int{true: {70, 130}, false: {0, 0}} {
		count := map[mesh.ServiceName]int{}
		for range 400 {
			w.script = []any{answer(200, "granted")}
			ex := get("catalog.shop:5432", "")
			ex.head.Method, ex.head.Path, ex.body = []byte("CONNECT"), nil, strings.NewReader("")
			w.opened = nil
			w.proxy.Outbound(ex, proxy.Via{Service: catalog, Port: 5432, Datagrams: datagrams})
			if len(w.opened) != 1 {
				t.Fatalf("datagrams %v: %d opened, %s: %s", datagrams, len(w.opened), w.last.Reason, w.last.Detail)
			}
			count[w.opened[0].Service]++
		}
		if n := count[canary]; n < want[0] || n > want[1] || count[catalog] != 400-n {
			t.Errorf("datagrams %v: %v, want from %d to %d of the canary", datagrams, count, want[0], want[1])
		}
	}
}

// TestServerRefusesForAnUnhealthyApplication: whoever may call is told that it was not executed, in whatever
// method; the sign outlives changes of policy that keep a check, and no other.
func TestServerRefusesForAnUnhealthyApplication(t *testing.T) {
	w := serving(t, mesh.AccessPolicy{Name: "deny", Action: mesh.Deny, Rules: []mesh.AccessRule{{To: []mesh.AccessOperation{{Paths: []string{"/admin*"}}}}}})
	checked := &ir.Traffic{Health: &mesh.HealthCheck{Kind: mesh.HealthTCP}}
	again := func(traffic *ir.Traffic) {
		prev := w.state.Inbound[catalog]
		in := &ir.Inbound{Service: catalog, Ports: []ir.InboundPort{{Port: 80, Protocol: mesh.ProtocolHTTP, Target: netip.MustParseAddrPort("127.1.2.3:8080")}}}
		w.state.Inbound[catalog] = inbound(t, in, prev.Access, traffic, prev)
	}
	says := func(path string) string {
		w.script = []any{answer(200, "ok")}
		ex := asked(path)
		ex.head.Method = []byte("POST")
		w.proxy.Inbound(ex, peer)
		return fmt.Sprintf("%d %s %s", ex.status, ex.field("isthmus-reason"), ex.field("isthmus-not-executed"))
	}
	again(checked)
	w.state.Inbound[catalog].Health.Refuse("GET /healthz: status 503")
	again(checked)
	const refused = "503 app_unreachable app_unreachable"
	if got := says("/"); got != refused || !strings.Contains(w.last.Detail, "GET /healthz: status 503") {
		t.Errorf("%s (%s), want %s and why", got, w.last.Detail, refused)
	}
	if got := says("/admin"); got != "403 access_denied " {
		t.Errorf("who may not call learns of the application: %s", got)
	}
	w.state.Inbound[catalog].Health.Admit()
	if got := says("/"); got != "200  " {
		t.Errorf("healthy again: %s", got)
	}
	w.state.Inbound[catalog].Health.Refuse("status 503")
	again(&ir.Traffic{})
	if got := says("/"); got != "200  " {
		t.Errorf("without a check: %s", got)
	}
}
