package ingress_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/ingress"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/mesh"
)

var peer = netip.MustParseAddr("192.0.2.1")

func head(fields ...string) *message.Head {
	h := &message.Head{}
	h.Method, h.Authority, h.Path = []byte("GET"), []byte("shop.example"), []byte("/")
	for i := 0; i+1 < len(fields); i += 2 {
		h.Add(fields[i], fields[i+1])
	}
	return h
}

func shown(h *message.Head) string {
	var b strings.Builder
	for _, f := range h.Fields {
		fmt.Fprintf(&b, "%s: %s; ", f.Name, f.Value)
	}
	return strings.TrimSuffix(b.String(), "; ")
}

// TestClientsAreWhoTrustedProxiesSay: each proxy appends whom it was called by.
func TestClientsAreWhoTrustedProxiesSay(t *testing.T) {
	for _, c := range []struct {
		hops   int
		fields []string
		client string
		want   string
	}{
		{0, nil, "192.0.2.1", "x-forwarded-for: 192.0.2.1; x-forwarded-proto: https; x-forwarded-host: shop.example"},
		{0, []string{"x-forwarded-for", "6.6.6.6", "x-forwarded-proto", "http", "forwarded", "for=6.6.6.6", "x_real_ip", "6.6.6.6", "accept", "*"}, "192.0.2.1",
			"accept: *; x-forwarded-for: 192.0.2.1; x-forwarded-proto: https; x-forwarded-host: shop.example"},
		{1, []string{"x-forwarded-for", "6.6.6.6, 198.51.100.7", "x-forwarded-proto", "http"}, "198.51.100.7",
			"x-forwarded-proto: http; x-forwarded-for: 6.6.6.6, 198.51.100.7, 192.0.2.1; x-forwarded-host: shop.example"},
		{2, []string{"x-forwarded-for", "6.6.6.6", "x-forwarded-for", "198.51.100.7, 203.0.113.1"}, "198.51.100.7",
			"x-forwarded-for: 6.6.6.6, 198.51.100.7, 203.0.113.1, 192.0.2.1; x-forwarded-proto: https; x-forwarded-host: shop.example"},
		{3, []string{"x-forwarded-for", "198.51.100.7"}, "192.0.2.1", "x-forwarded-for: 198.51.100.7, 192.0.2.1; x-forwarded-proto: https; x-forwarded-host: shop.example"},
		{1, []string{"x-forwarded-for", "[2001:db8::1]:4711"}, "2001:db8::1", "x-forwarded-for: [2001:db8::1]:4711, 192.0.2.1; x-forwarded-proto: https; x-forwarded-host: shop.example"},
		{1, []string{"x-forwarded-for", "unknown", "x_forwarded_for", "6.6.6.6"}, "192.0.2.1", "x-forwarded-for: unknown, 192.0.2.1; x-forwarded-proto: https; x-forwarded-host: shop.example"},
	} {
		h := head(c.fields...)
		e := ingress.Edge{Peer: peer, Secure: true}
		if got := e.Complete(h, c.hops); got.String() != c.client || shown(h) != c.want {
			t.Errorf("%d hops, %q: %s %q, want %s %q", c.hops, c.fields, got, shown(h), c.client, c.want)
		}
	}
}

// FuzzComplete holds that no outsider writes a field of ours or, where no proxy is trusted, says where it comes from.
func FuzzComplete(f *testing.F) {
	f.Add("isthmus-to", "a", "x-forwarded-for", "6.6.6.6", 0)
	f.Add("x_forwarded_client-cert", "URI=x", "isthmus_criticality", "Critical", 1)
	f.Fuzz(func(t *testing.T, name1, value1, name2, value2 string, hops int) {
		h := head(strings.ToLower(name1), value1, strings.ToLower(name2), value2)
		e := ingress.Edge{Peer: peer}
		e.Complete(h, hops&3)
		lists := 0
		for _, x := range h.Fields {
			plain := strings.ReplaceAll(string(x.Name), "_", "-")
			switch {
			case strings.HasPrefix(plain, "isthmus-"), plain == "x-forwarded-client-cert", plain == "x-request-id":
				t.Errorf("%q came in", x.Name)
			case plain == "x-forwarded-for":
				lists++
				if hops&3 == 0 && string(x.Value) != peer.String() || !strings.HasSuffix(string(x.Value), peer.String()) {
					t.Errorf("%q came in with %d hops", x.Value, hops&3)
				}
			}
		}
		if lists != 1 {
			t.Errorf("%d fields say where it comes from", lists)
		}
	})
}

func tables() *ingress.Tables {
	host := func(names ...string) (out []ir.VirtualHost) {
		for _, n := range names {
			out = append(out, ir.VirtualHost{Hostname: n, Routes: []ir.Route{{Object: "HTTPRoute shop/r"}}})
		}
		return out
	}
	return ingress.New([]*ir.Gateway{
		{Namespace: "shop", Name: "web", TrustedHops: 2, Listeners: []ir.Listener{
			{Name: "all", Port: 80, Hosts: host("a.example", "*.example", "*.b.example")}, {Name: "own", Port: 80, Hostname: "own.example", Hosts: host("")}}},
		{Namespace: "bank", Name: "web", Listeners: []ir.Listener{{Name: "high", Port: 8443, Hostname: "*.bank", Hosts: host("*.bank")}}},
	}, 8000)
}

func TestEveryRequestHasItsPlace(t *testing.T) {
	tab := tables()
	for _, c := range []struct {
		port      uint16
		authority string
		want      string
		hops      int
	}{
		{8080, "a.example", "shop/gateway:web:all:a.example", 2}, {8080, "A.Example.:8080", "shop/gateway:web:all:a.example", 2},
		{8080, "x.example", "shop/gateway:web:all:*.example", 2}, {8080, "x.y.example", "shop/gateway:web:all:*.example", 2},
		{8080, "x.b.example", "shop/gateway:web:all:*.b.example", 2}, {8080, "b.example", "shop/gateway:web:all:*.example", 2},
		{8080, "own.example", "shop/gateway:web:own:", 2}, {8080, "example", "shop/gateway:web:all", 2}, {8080, ".example", "shop/gateway:web:all", 2},
		{8080, "[::1]:8080", "shop/gateway:web:all", 2}, {8080, "", "shop/gateway:web:all", 2}, {8080, strings.Repeat("a.", 200) + "example", "shop/gateway:web:all", 2},
		{8443, "x.bank", "bank/gateway:web:high:*.bank", 0}, {8443, "a.example", "bank/gateway::8443", 0},
	} {
		h := head()
		h.Authority = []byte(c.authority)
		if p := tab.Find(c.port, h); p.Service.String() != c.want || p.Hops != c.hops {
			t.Errorf("%q on %d: %+v, want %s behind %d", c.authority, c.port, p, c.want, c.hops)
		}
		h.Method = []byte("CONNECT")
		if p := tab.Find(c.port, h); strings.Count(p.Service.Name, ":") > 2 {
			t.Errorf("a tunnel to %q on %d has a place: %+v", c.authority, c.port, p)
		}
	}
	for _, s := range tab.Services() {
		if len(s.Routes) == 0 || !s.Routed || mesh.IsLabel(s.Name.Name) {
			t.Errorf("%+v: want it routed, by a name that no Service has", s)
		}
	}
}

func BenchmarkFind(b *testing.B) {
	tab, h := tables(), head()
	h.Authority = []byte("some.host.b.example:8080")
	b.ReportAllocs()
	for b.Loop() {
		if tab.Find(8080, h).Hops != 2 {
			b.Fatal("not found")
		}
	}
}

func BenchmarkComplete(b *testing.B) {
	e, h := ingress.Edge{Peer: peer}, head()
	b.ReportAllocs()
	for b.Loop() {
		h.Reset()
		h.Authority = []byte("shop.example")
		h.Add("accept", "*/*")
		h.Add("user-agent", "bench")
		e.Complete(h, 0)
	}
}
