package route

import (
	"fmt"
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestReplacePrefixMatch is the table of Gateway API's HTTPPathModifier, and what it implies.
func TestReplacePrefixMatch(t *testing.T) {
	for _, c := range []struct{ path, prefix, by, want string }{
		{"/foo/bar", "/foo", "/xyz", "/xyz/bar"}, {"/foo/bar", "/foo", "/xyz/", "/xyz/bar"},
		{"/foo/bar", "/foo/", "/xyz", "/xyz/bar"}, {"/foo/bar", "/foo/", "/xyz/", "/xyz/bar"},
		{"/foo", "/foo", "/xyz", "/xyz"}, {"/foo/", "/foo", "/xyz", "/xyz/"},
		{"/foo/bar", "/foo", "", "/bar"}, {"/foo/", "/foo", "", "/"}, {"/foo", "/foo", "", "/"},
		{"/foo/", "/foo", "/", "/"}, {"/foo", "/foo", "/", "/"}, {"/foo/bar", "/foo", "/", "/bar"},
		{"/bar", "/", "/xyz", "/xyz/bar"}, {"/foo?q=1", "/foo", "", "/?q=1"}, {"/foo/bar?q=/foo", "/foo", "/x", "/x/bar?q=/foo"},
	} {
		m := mesh.RouteMatch{PathType: mesh.PathPrefix, Path: c.prefix}
		h := ask("GET", c.path)
		FilterRequest(h, []mesh.RouteFilter{{Kind: mesh.FilterRewrite, PathType: "ReplacePrefixMatch", Path: c.by}}, &m)
		if string(h.Path) != c.want {
			t.Errorf("%s with %s replaced by %q: %s, want %s", c.path, c.prefix, c.by, h.Path, c.want)
		}
	}
}

// TestRedirectLocations: Gateway API, HTTPRequestRedirectFilter.
func TestRedirectLocations(t *testing.T) {
	for _, c := range []struct {
		host   string
		port   uint16 // what the request came in on
		filter mesh.RouteFilter
		want   string
	}{
		{"a.example", 80, mesh.RouteFilter{}, "http://a.example/old/x?q=1"},
		{"a.example:8080", 8080, mesh.RouteFilter{}, "http://a.example:8080/old/x?q=1"},
		{"a.example", 8080, mesh.RouteFilter{}, "http://a.example:8080/old/x?q=1"},
		{"a.example:8080", 8080, mesh.RouteFilter{Scheme: "http"}, "http://a.example/old/x?q=1"},
		{"a.example:8080", 8080, mesh.RouteFilter{Scheme: "https"}, "https://a.example/old/x?q=1"},
		{"a.example:8080", 8080, mesh.RouteFilter{Scheme: "https", Port: 8443}, "https://a.example:8443/old/x?q=1"},
		{"a.example", 80, mesh.RouteFilter{Scheme: "https", Port: 443}, "https://a.example/old/x?q=1"},
		{"a.example", 80, mesh.RouteFilter{Scheme: "https", Port: 80}, "https://a.example:80/old/x?q=1"},
		{"a.example", 80, mesh.RouteFilter{Port: 8080}, "http://a.example:8080/old/x?q=1"},
		{"a.example:8080", 8080, mesh.RouteFilter{Port: 80}, "http://a.example/old/x?q=1"},
		{"a.example:8080", 8080, mesh.RouteFilter{Hostname: "b.example"}, "http://b.example:8080/old/x?q=1"},
		{"[::1]:8080", 8080, mesh.RouteFilter{}, "http://[::1]:8080/old/x?q=1"},
		{"a.example", 80, mesh.RouteFilter{PathType: "ReplaceFullPath", Path: "/new"}, "http://a.example/new?q=1"},
		{"a.example", 80, mesh.RouteFilter{PathType: "ReplacePrefixMatch", Path: "/"}, "http://a.example/x?q=1"},
	} {
		h := ask("GET", "/old/x?q=1")
		h.Authority = []byte(c.host)
		c.filter.Kind = mesh.FilterRedirect
		r := ir.Route{Match: mesh.RouteMatch{PathType: mesh.PathPrefix, Path: "/old"}, Filters: []mesh.RouteFilter{c.filter}}
		var out message.Head
		if !Redirect(&out, h, &r, c.port) || out.Status != 302 || string(out.Get("location")) != c.want {
			t.Errorf("%s on %d with %+v: %d %s, want %s", c.host, c.port, c.filter, out.Status, out.Get("location"), c.want)
		}
	}
}

// TestFiltersLeaveTheMeshsFields: whoever writes a route cannot write the caller's name, by whatever a filter does, each by itself, since
// removing comes last and would hide the others. The control's names are not the mesh's, and the same filters change them.
func TestFiltersLeaveTheMeshsFields(t *testing.T) {
	for _, names := range [][]string{{"isthmus-to", "isthmus_to", "x-forwarded-client-cert", "x_forwarded_client-cert"}, {"isthmus", "x-isthmus-to", "x-forwarded-client-certs"}} {
		ours := strings.HasPrefix(names[0], reservedPrefix)
		var values []mesh.HeaderValue
		for _, n := range names {
			values = append(values, mesh.HeaderValue{Name: n, Value: "forged"})
		}
		for does, f := range map[string]mesh.RouteFilter{"remove": {Remove: names}, "set": {Set: values}, "add": {Add: values}} {
			f.Kind = mesh.FilterRequestHeaders
			h := ask("GET", "/")
			for _, n := range names {
				h.Add(n, "as it was")
			}
			before := fields(h)
			FilterRequest(h, []mesh.RouteFilter{f}, &mesh.RouteMatch{})
			if changed := fields(h) != before; changed == ours {
				t.Errorf("%s %q: changed %v: %s", does, names, changed, fields(h))
			}
		}
	}
}

func fields(h *message.Head) string {
	var b strings.Builder
	fmt.Fprint(&b, h.Status)
	for _, f := range h.Fields {
		fmt.Fprintf(&b, " %s: %s;", f.Name, f.Value)
	}
	return b.String()
}

func TestPreflights(t *testing.T) {
	const vary = "204 vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers;"
	closed := mesh.CORS{AllowOrigins: []string{"https://a.example", "https://*.b.example:8443"}, AllowMethods: []string{"GET", "PUT"},
		AllowHeaders: []string{"x-a", "x-b"}, MaxAge: 600e9}
	open := mesh.CORS{AllowOrigins: []string{"*"}, AllowMethods: []string{"*"}, AllowHeaders: []string{"*"}}
	trusting := open
	trusting.AllowCredentials = true
	const told = " access-control-allow-methods: GET, PUT; access-control-allow-headers: x-a, x-b; access-control-max-age: 600;"
	for _, c := range []struct {
		cors   mesh.CORS
		origin string
		want   string
	}{
		{closed, "https://a.example", vary + " access-control-allow-origin: https://a.example;" + told},
		{closed, "HTTPS://A.example", vary + " access-control-allow-origin: HTTPS://A.example;" + told},
		{closed, "https://x.y.b.example:8443", vary + " access-control-allow-origin: https://x.y.b.example:8443;" + told},
		{closed, "https://b.example:8443", vary}, {closed, "https://x.b.example", vary}, {closed, "http://a.example", vary},
		{closed, "https://a.example.evil", vary}, {closed, "https://evil/.b.example:8443", vary}, {closed, "https://evil:1.b.example:8443", vary},
		{closed, "https://evil@x.b.example:8443", vary}, {closed, "null", vary},
		{open, "https://any", vary + " access-control-allow-origin: *; access-control-allow-methods: *; access-control-allow-headers: *;"},
		{trusting, "https://any", vary + " access-control-allow-origin: https://any; access-control-allow-credentials: true;" +
			" access-control-allow-methods: PUT; access-control-allow-headers: x-c,authorization;"},
	} {
		var out message.Head
		req := ask("OPTIONS", "/", "origin", c.origin, "access-control-request-method", "PUT", "access-control-request-headers", "x-c,authorization")
		Preflight(&out, req, &c.cors)
		if fields(&out) != c.want {
			t.Errorf("%s: %s\nwant %s", c.origin, fields(&out), c.want)
		}
	}
	two := ask("OPTIONS", "/", "origin", "https://a.example", "origin", "https://a.example", "access-control-request-method", "PUT")
	var out message.Head
	if Preflight(&out, two, &closed); fields(&out) != vary {
		t.Errorf("two origins: %s", fields(&out))
	}
}

func TestAnswersAreShared(t *testing.T) {
	closed := mesh.CORS{AllowOrigins: []string{"https://a.example"}, ExposeHeaders: []string{"x-a", "x-b"}}
	open := mesh.CORS{AllowOrigins: []string{"*"}, ExposeHeaders: []string{"*"}}
	trusting := open
	trusting.AllowCredentials = true
	for _, c := range []struct {
		cors         mesh.CORS
		origin, want string
	}{
		{closed, "https://a.example", "200 etag: 1; vary: Origin; access-control-allow-origin: https://a.example; access-control-expose-headers: x-a, x-b;"},
		{closed, "https://evil", "200 etag: 1; vary: Origin;"},
		{closed, "", "200 etag: 1; vary: Origin;"},
		{open, "https://any", "200 etag: 1; access-control-allow-origin: *; access-control-expose-headers: *;"},
		{trusting, "https://any", "200 etag: 1; vary: Origin; access-control-allow-origin: https://any; access-control-allow-credentials: true;" +
			" access-control-expose-headers: etag, vary;"},
	} {
		req := ask("GET", "/")
		if c.origin != "" {
			req.Add("origin", c.origin)
		}
		var out message.Head
		out.Status = 200
		out.Add("etag", "1")
		out.Add("access-control-allow-origin", "*") // the application's own
		if Share(&out, req, &c.cors); fields(&out) != c.want {
			t.Errorf("%s: %s\nwant %s", c.origin, fields(&out), c.want)
		}
	}
}

// TestPreflightFindsTheRouteOfItsMethod: a preflight is OPTIONS, and asks for another method.
func TestPreflightFindsTheRouteOfItsMethod(t *testing.T) {
	cors := []mesh.RouteFilter{{Kind: mesh.FilterCORS, CORS: &mesh.CORS{AllowOrigins: []string{"*"}}}}
	tab := table(t, ir.Route{Rule: 0, Match: mesh.RouteMatch{Method: "PUT"}, Filters: cors}, ir.Route{Rule: 1})
	preflight := ask("OPTIONS", "/", "origin", "https://a", "access-control-request-method", "PUT")
	for h, want := range map[*message.Head]int{preflight: 0, ask("OPTIONS", "/"): 1, ask("PUT", "/"): 0,
		ask("OPTIONS", "/", "origin", "https://a", "access-control-request-method", "GET"): 1} {
		if got := tab.Match(&Ask{Head: h}); got == nil || got.Rule != want {
			t.Errorf("%s %q: %+v, want rule %d", h.Method, h.Fields, got, want)
		}
	}
}
