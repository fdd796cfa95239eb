package attach_test

import (
	"slices"
	"testing"

	"github.com/isthmus-mesh/isthmus/core/attach"
	"github.com/isthmus-mesh/isthmus/mesh"
	"pgregory.net/rapid"
)

// TestHostsInCommon are the examples of the Gateway API (HTTPRouteSpec.hostnames) and what lies beside them.
func TestHostsInCommon(t *testing.T) {
	for _, c := range []struct{ a, b, both string }{
		{"", "a.example", "a.example"}, {"a.example", "", "a.example"}, {"", "*.example", "*.example"},
		{"*.example", "a.example", "a.example"}, {"*.example", "a.b.example", "a.b.example"}, {"*.example", "*.b.example", "*.b.example"},
		{"test.example.com", "*.example.com", "test.example.com"}, {"*.example", "*.example", "*.example"},
		{"*.example", "example", "-"}, {"*.example", "anexample", "-"}, {"*.example", ".example", "-"}, {"a.example", "b.example", "-"}, {"*.a.example", "*.b.example", "-"},
	} {
		for _, swapped := range []bool{false, true} {
			a, b := c.a, c.b
			if swapped {
				a, b = b, a
			}
			got, ok := attach.Intersect(a, b)
			if !ok {
				got = "-"
			}
			if got != c.both {
				t.Errorf("%q and %q: %q, want %q", a, b, got, c.both)
			}
		}
	}
}

// TestNoTwoListenersTakeOneRequest draws Gateways: of the listeners that are served no two share port and host, or a port and
// protocols that cannot be told apart; and who is refused for a conflict has one.
func TestNoTwoListenersTakeOneRequest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all []*mesh.Gateway
		for range rapid.IntRange(1, 3).Draw(t, "gateways") {
			g := &mesh.Gateway{}
			for range rapid.IntRange(0, 4).Draw(t, "listeners") {
				l := mesh.Listener{Port: rapid.Uint16Range(80, 82).Draw(t, "port"), Passthrough: rapid.Bool().Draw(t, "passes"),
					Protocol: rapid.SampledFrom([]mesh.ListenerProtocol{mesh.ListenerHTTP, mesh.ListenerHTTPS, mesh.ListenerTLS, mesh.ListenerTCP, mesh.ListenerUDP, "odd"}).Draw(t, "protocol")}
				if l.Protocol == mesh.ListenerHTTP || l.Protocol == mesh.ListenerHTTPS || l.Protocol == mesh.ListenerTLS {
					l.Hostname = rapid.SampledFrom([]string{"", "a", "*.b"}).Draw(t, "host")
				}
				g.Listeners = append(g.Listeners, l)
			}
			all = append(all, g)
		}
		verdicts := attach.Judge(all)
		type port struct {
			number    uint16
			datagrams bool
		}
		type door struct {
			port
			host string
		}
		taken, spoken := map[door]bool{}, map[port]mesh.ListenerProtocol{}
		for i, g := range all {
			for j, l := range g.Listeners {
				if l.Protocol == mesh.ListenerHTTPS { // which shares a port with TLS, told apart by the server name
					l.Protocol = mesh.ListenerTLS
				}
				d, v := door{port{l.Port, l.Protocol == mesh.ListenerUDP}, l.Hostname}, verdicts[i][j]
				switch {
				case v.Reason == "" && l.Protocol == "odd":
					t.Fatalf("%+v is served", l)
				case v.Reason == "" && taken[d]:
					t.Fatalf("port %d has host %q twice: %+v", l.Port, l.Hostname, verdicts)
				case v.Reason == "" && spoken[d.port] != "" && spoken[d.port] != l.Protocol:
					t.Fatalf("port %d speaks %s and %s: %+v", l.Port, spoken[d.port], l.Protocol, verdicts)
				case v.Reason == "":
					taken[d], spoken[d.port] = true, l.Protocol
				case v.Reason == attach.ReasonHostnameConflict:
					rivals := 0
					for k, o := range g.Listeners {
						if k != j && o.Port == l.Port && o.Hostname == l.Hostname {
							rivals++
						}
					}
					if rivals == 0 && !taken[d] {
						t.Fatalf("a conflict without a rival: %+v of %+v", v, all)
					}
				}
			}
		}
	})
}

func TestWhatAListenerLetsAttach(t *testing.T) {
	g := &mesh.Gateway{Namespace: "shop", Name: "web"}
	ref := mesh.ParentRef{Kind: "Gateway", Namespace: "shop", Name: "web"}
	section, port := ref, ref
	section.SectionName, port.Port = "other", 81
	money := mesh.LabelSelector{{Key: "team", Values: []string{"money", "risk"}}, {Key: "closed", Not: true}}
	for _, c := range []struct {
		name     string
		listener mesh.Listener
		route    mesh.Route
		ref      mesh.ParentRef
		labels   map[string]string
		hosts    []string
		reason   string
	}{
		{"same namespace", mesh.Listener{}, mesh.Route{Kind: "HTTPRoute", Namespace: "shop"}, ref, nil, []string{""}, ""},
		{"another section", mesh.Listener{}, mesh.Route{Kind: "HTTPRoute", Namespace: "shop"}, section, nil, nil, attach.ReasonNoMatchingParent},
		{"another port", mesh.Listener{}, mesh.Route{Kind: "HTTPRoute", Namespace: "shop"}, port, nil, nil, attach.ReasonNoMatchingParent},
		{"another namespace", mesh.Listener{}, mesh.Route{Kind: "HTTPRoute", Namespace: "bank"}, ref, nil, nil, attach.ReasonNotAllowedByListeners},
		{"from all", mesh.Listener{From: mesh.FromAll}, mesh.Route{Kind: "HTTPRoute", Namespace: "bank"}, ref, nil, []string{""}, ""},
		{"from none", mesh.Listener{From: mesh.FromNone}, mesh.Route{Kind: "HTTPRoute", Namespace: "shop"}, ref, nil, nil, attach.ReasonNotAllowedByListeners},
		{"selected", mesh.Listener{From: mesh.FromSelector, Selector: money}, mesh.Route{Kind: "HTTPRoute", Namespace: "bank"}, ref, map[string]string{"team": "risk"}, []string{""}, ""},
		{"not selected", mesh.Listener{From: mesh.FromSelector, Selector: money}, mesh.Route{Kind: "HTTPRoute", Namespace: "bank"}, ref, map[string]string{"team": "risk", "closed": ""}, nil, attach.ReasonNotAllowedByListeners},
		{"without labels", mesh.Listener{From: mesh.FromSelector, Selector: money}, mesh.Route{Kind: "HTTPRoute", Namespace: "bank"}, ref, nil, nil, attach.ReasonNotAllowedByListeners},
		{"a kind that does not fit", mesh.Listener{}, mesh.Route{Kind: "TCPRoute", Namespace: "shop"}, ref, nil, nil, attach.ReasonNotAllowedByListeners},
		{"a kind that is not listed", mesh.Listener{Kinds: []mesh.Kind{mesh.KindGRPCRoute}}, mesh.Route{Kind: "HTTPRoute", Namespace: "shop"}, ref, nil, nil, attach.ReasonNotAllowedByListeners},
		{"hosts in common", mesh.Listener{Hostname: "*.example"}, mesh.Route{Kind: "HTTPRoute", Namespace: "shop", Hostnames: []string{"A.example", "b.test"}}, ref, nil, []string{"a.example"}, ""},
		{"no host in common", mesh.Listener{Hostname: "*.example"}, mesh.Route{Kind: "HTTPRoute", Namespace: "shop", Hostnames: []string{"b.test"}}, ref, nil, nil, attach.ReasonNoMatchingListenerHostname},
	} {
		l := c.listener
		l.Name, l.Port, l.Protocol = "http", 80, mesh.ListenerHTTP
		hosts, reason := attach.Route(g, &l, &c.route, c.ref, c.labels)
		if !slices.Equal(hosts, c.hosts) || reason != c.reason {
			t.Errorf("%s: %q %q, want %q %q", c.name, hosts, reason, c.hosts, c.reason)
		}
	}
}
