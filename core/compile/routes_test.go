package compile

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestRoutesStandInTheOrderOfTheAPI shuffles routes that could take one request and sorts them:
// each line comes before the next.
func TestRoutesStandInTheOrderOfTheAPI(t *testing.T) {
	one, two := []mesh.ValueMatch{{Name: "a"}}, []mesh.ValueMatch{{Name: "a"}, {Name: "b"}}
	for kind, want := range map[mesh.Kind][]mesh.RouteMatch{
		mesh.KindHTTPRoute: {
			{PathType: mesh.PathExact, Path: "/a"},
			{PathType: mesh.PathPrefix, Path: "/a/b/c"},
			{PathType: mesh.PathPrefix, Path: "/a/b", Method: "GET"},
			{PathType: mesh.PathPrefix, Path: "/a/b", Headers: two},
			{PathType: mesh.PathPrefix, Path: "/a/b", Headers: one, Query: one},
			{PathType: mesh.PathPrefix, Path: "/a/b", Headers: one},
			{PathType: mesh.PathPrefix, Path: "/a/b", Query: two},
			{PathType: mesh.PathPrefix, Path: "/a/b"},
			{Method: "GET"},
			{Headers: one}, // no path is the prefix "/": no worse than one that says so
			{PathType: mesh.PathPrefix, Path: "/"},
		},
		mesh.KindGRPCRoute: {
			{PathType: mesh.PathExact, Path: "/shop.v1.Cart/Add", Headers: one},
			{PathType: mesh.PathExact, Path: "/shop.v1.Cart/Add"},
			{PathType: mesh.PathPrefix, Path: "/shop.v1.Cart", Headers: two},
			{PathType: mesh.PathPrefix, Path: "/shop.v1.Cart"},
			{PathType: mesh.PathRegex, Path: "/(?:shop.*)/(?:Ad.)"},
			{PathType: mesh.PathRegex, Path: "/(?:shop.*)/[^/]+"},
			{PathType: mesh.PathRegex, Path: "/[^/]+/Add", Headers: one},
			{PathType: mesh.PathRegex, Path: "/[^/]+/Add"},
			{Headers: two},
			{},
		},
	} {
		for seed := range uint64(20) {
			var routes []ir.Route
			for i, m := range want {
				routes = append(routes, ir.Route{Object: string(kind) + " shop/r@eu", Rule: i, Match: m}, ir.Route{Object: string(kind) + " bank/r@eu", Rule: i, Match: m, Consumer: "bank"})
			}
			r := rand.New(rand.NewPCG(seed, 1))
			r.Shuffle(len(routes), func(i, j int) { routes[i], routes[j] = routes[j], routes[i] })
			sortRoutes(routes)
			for i, route := range routes {
				if consumer := i < len(want); route.Rule != i%len(want) || (route.Consumer != "") != consumer {
					t.Fatalf("%s, seed %d: place %d has rule %d of %q", kind, seed, i, route.Rule, route.Consumer)
				}
			}
		}
	}
}

// TestOneKindOfRouteForEachPort attaches routes of several kinds to a service of several ports and
// lists which act where (GEP-1294, Route types and Ports).
func TestOneKindOfRouteForEachPort(t *testing.T) {
	route := func(kind mesh.Kind, namespace, name string, port uint16) *mesh.Fact {
		return fact(kind, "eu", namespace, name, &mesh.Route{Kind: string(kind), Namespace: namespace, Name: name,
			Parents: []mesh.ParentRef{{Kind: "Service", Namespace: "shop", Name: "a", Port: port}}, Rules: []mesh.RouteRule{{}}})
	}
	for _, c := range []struct {
		name  string
		facts []*mesh.Fact
		want  []string
	}{
		{"a route for all ports that are HTTP", []*mesh.Fact{route(mesh.KindHTTPRoute, "shop", "all", 0)},
			[]string{"80 HTTPRoute shop/all@eu", "81 HTTPRoute shop/all@eu"}},
		{"an HTTPRoute does not reach a port of bytes", []*mesh.Fact{route(mesh.KindHTTPRoute, "shop", "db", 3306)}, nil},
		{"GRPCRoute before HTTPRoute", []*mesh.Fact{route(mesh.KindHTTPRoute, "shop", "h", 0), route(mesh.KindGRPCRoute, "shop", "g", 81)},
			[]string{"80 HTTPRoute shop/h@eu", "81 GRPCRoute shop/g@eu"}},
		{"TLSRoute before TCPRoute", []*mesh.Fact{route(mesh.KindTCPRoute, "shop", "c", 3306), route(mesh.KindTLSRoute, "shop", "s", 3306)},
			[]string{"3306 TLSRoute shop/s@eu"}},
		{"a TCPRoute for all ports is left what no better one takes", []*mesh.Fact{route(mesh.KindTCPRoute, "shop", "c", 0), route(mesh.KindHTTPRoute, "shop", "h", 80)},
			[]string{"3306 TCPRoute shop/c@eu", "443 TCPRoute shop/c@eu", "80 HTTPRoute shop/h@eu", "81 TCPRoute shop/c@eu"}},
		{"consumers choose for themselves", []*mesh.Fact{route(mesh.KindGRPCRoute, "shop", "g", 80), route(mesh.KindHTTPRoute, "bank", "h", 80)},
			[]string{"80 GRPCRoute shop/g@eu", "80 bank HTTPRoute bank/h@eu"}},
		{"a UDPRoute for all ports takes those of UDP", []*mesh.Fact{route(mesh.KindUDPRoute, "shop", "u", 0), route(mesh.KindTCPRoute, "shop", "c", 53)},
			[]string{"443 udp UDPRoute shop/u@eu", "53 udp UDPRoute shop/u@eu"}},
		{"a number that UDP and TCP share has a route of each", []*mesh.Fact{route(mesh.KindUDPRoute, "shop", "u", 443), route(mesh.KindTLSRoute, "shop", "s", 443)},
			[]string{"443 TLSRoute shop/s@eu", "443 udp UDPRoute shop/u@eu"}},
		{"a port that does not exist", []*mesh.Fact{route(mesh.KindHTTPRoute, "shop", "h", 8080)}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			service := fact(mesh.KindService, "eu", "shop", "a", &mesh.Service{ServiceName: services[0], Ports: []mesh.ServicePort{{Port: 80, Protocol: mesh.ProtocolHTTP},
				{Port: 81, Protocol: mesh.ProtocolGRPC}, {Port: 3306, Protocol: mesh.ProtocolTCP}, {Port: 53, Protocol: mesh.ProtocolUDP},
				{Port: 443, Protocol: mesh.ProtocolTCP}, {Port: 443, Protocol: mesh.ProtocolUDP}}})
			got := compiled(t, ServiceOf, In{services[0], view}, append(c.facts, service)...)
			var lines []string
			for _, r := range got.Routes {
				words := []string{strconv.Itoa(int(r.Port)), r.Consumer, r.Object}
				if r.Datagrams {
					words[1] += "udp"
				}
				line := strings.Join(slices.DeleteFunc(words, func(w string) bool { return w == "" }), " ")
				lines = append(lines, line)
			}
			slices.Sort(lines)
			if d := cmp.Diff(c.want, lines); d != "" || got.Routed != (len(c.want) > 0) {
				t.Errorf("routed %v (-want +got):\n%s", got.Routed, d)
			}
		})
	}
}
