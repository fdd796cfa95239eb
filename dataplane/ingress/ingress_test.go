package ingress_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/ingress"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/internal/issued"
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
		// The control: where one proxy more is trusted than there is, what the client itself wrote is believed.
		{2, []string{"x-forwarded-for", "6.6.6.6, 198.51.100.7", "x-forwarded-proto", "http"}, "6.6.6.6",
			"x-forwarded-proto: http; x-forwarded-for: 6.6.6.6, 198.51.100.7, 192.0.2.1; x-forwarded-host: shop.example"},
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

// TestBytesHaveTheirPlace: what bears no head belongs to the listener of its port, and of TLS to that of the server name.
func TestBytesHaveTheirPlace(t *testing.T) {
	hosts := func(kind string, names ...string) (out []ir.VirtualHost) {
		for _, n := range names {
			out = append(out, ir.VirtualHost{Hostname: n, Routes: []ir.Route{{Object: kind + " shop/r", Datagrams: kind == "UDPRoute"}}})
		}
		return out
	}
	tab := ingress.New([]*ir.Gateway{{Namespace: "shop", Name: "web", Listeners: []ir.Listener{
		{Name: "dns", Port: 53, Protocol: mesh.ListenerUDP, Hosts: hosts("UDPRoute", "")}, {Name: "dns-tcp", Port: 53, Protocol: mesh.ListenerTCP, Hosts: hosts("TCPRoute", "")},
		{Name: "bare", Port: 54, Protocol: mesh.ListenerUDP}, {Name: "bare-tcp", Port: 54, Protocol: mesh.ListenerTCP},
		{Name: "tls", Port: 443, Protocol: mesh.ListenerTLS, Hostname: "*.example", Hosts: hosts("TLSRoute", "a.example", "*.b.example")},
	}}}, 8000)
	if err := tab.Fault(nil); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		port uint16
		udp  bool
		name string
		want string
	}{
		{8053, true, "", "shop/gateway:web:dns:"}, {8053, false, "", "shop/gateway:web:dns-tcp:"}, {8054, true, "", "shop/gateway:web:bare"}, {8054, false, "", "shop/gateway:web:bare-tcp"},
		{8443, false, "A.example.", "shop/gateway:web:tls:a.example"}, {8443, false, "x.b.example", "shop/gateway:web:tls:*.b.example"},
		{8443, false, "c.example", "shop/gateway:web:tls"}, {8443, false, "example", "shop/gateway::8443"}, {8443, false, "", "shop/gateway::8443"},
		{8443, true, "", "isthmus-system/gateway:gone"}, {9999, false, "a.example", "isthmus-system/gateway:gone"},
	} {
		if got := tab.Carried(ingress.Door{Number: c.port, Datagrams: c.udp}, c.name); got.String() != c.want {
			t.Errorf("%q at %d (UDP %t): %s, want %s", c.name, c.port, c.udp, got, c.want)
		}
	}
	if got := tab.Find(9999, head()); got.Service.IsZero() {
		t.Error("a request by a port that is gone belongs to no service, as those of the explicit proxy do")
	}
	for _, s := range tab.Services() {
		udp, number := s.Ports[0].Protocol == mesh.ProtocolUDP, s.Ports[0].Port
		if number == 8443 && s.Ports[0].Protocol != mesh.ProtocolTCP || len(s.Routes) == 0 || s.Routes[0].Datagrams != udp {
			t.Errorf("%s: ports %+v and routes %+v", s.Name, s.Ports, s.Routes)
		}
	}
}

// TestAConnectionOfTLSIsItsListeners has listeners of HTTPS and one of TLS that passes through at a port: the server name tells
// which takes a connection, and what that may be asked for.
func TestAConnectionOfTLSIsItsListeners(t *testing.T) {
	ca := issued.NewAuthority(t)
	end := func(name, hostname string, pair issued.Pair, hosts ...string) ir.Termination {
		out := ir.Termination{Listener: ir.Listener{Name: name, Port: 443, Protocol: mesh.ListenerHTTPS, Hostname: hostname},
			Certificates: []ir.Certificate{{Object: "Secret shop/" + name, Chain: string(pair.Certificate), Key: mesh.Hide(pair.Key)}}}
		for _, h := range hosts {
			out.Hosts = append(out.Hosts, ir.VirtualHost{Hostname: h, Routes: []ir.Route{{Object: "HTTPRoute shop/r"}}})
		}
		return out
	}
	wild, bad := ca.For("*.example"), ca.For("bad.example")
	gateways := []*ir.Gateway{{Namespace: "shop", Name: "web",
		Listeners: []ir.Listener{{Name: "pass", Port: 443, Protocol: mesh.ListenerTLS, Hostname: "pass.example", Hosts: []ir.VirtualHost{{Hostname: "pass.example", Routes: []ir.Route{{Object: "TLSRoute shop/r"}}}}},
			{Name: "http", Port: 80, Protocol: mesh.ListenerHTTP, Hosts: []ir.VirtualHost{{Hostname: "a.example", Routes: []ir.Route{{Object: "HTTPRoute shop/r"}}}}}},
		Terminations: []ir.Termination{end("wild", "*.example", wild, "a.example", "b.example"), end("own", "own.example", ca.For("own.example"), "own.example"),
			end("bad", "bad.example", issued.Pair{Certificate: bad.Certificate, Key: wild.Key}, "bad.example")}}}
	tab, door := ingress.New(gateways, 8000), ingress.Door{Number: 8443}
	var said bytes.Buffer
	log := slog.New(slog.NewTextHandler(&said, nil))
	if tab.Terminate(nil, log); strings.Count(said.String(), "\n") != 1 || !strings.Contains(said.String(), "shop/web/bad") {
		t.Errorf("said %q, want the problem of one listener", said.String())
	}
	for name, want := range map[string]string{"A.example": "shop/web/wild", "b.example.": "shop/web/wild", "own.example": "shop/web/own", "bad.example": "shop/web/bad", "pass.example": "", "other.test": "", "": ""} {
		if s, by := tab.Secure(door, name); by != want || (s == nil) != (want == "") || (tab.Ends(door, name) == nil) != (want == "") {
			t.Errorf("%q is taken by %q, want %q", name, by, want)
		}
	}
	for _, c := range []struct{ by, authority, want string }{
		{"shop/web/wild", "a.example", "shop/gateway:web:wild:a.example"}, {"shop/web/wild", "b.example:8443", "shop/gateway:web:wild:b.example"},
		{"shop/web/wild", "c.example", "shop/gateway:web:wild"}, {"shop/web/wild", "own.example", ingress.Misdirected.String()}, {"shop/web/wild", "pass.example", ingress.Misdirected.String()},
		{"shop/web/own", "a.example", ingress.Misdirected.String()}, {"shop/web/own", "own.example", "shop/gateway:web:own:own.example"},
		{"shop/web/own", "other.test", "shop/gateway::8443"}, {"shop/web/gone", "own.example", ingress.Misdirected.String()},
	} {
		h := head()
		h.Authority = []byte(c.authority)
		if got := tab.Take(8443, c.by, h).Service.String(); got != c.want {
			t.Errorf("%s asked by %s: %s, want %s", c.authority, c.by, got, c.want)
		}
	}
	h := head()
	h.Authority = []byte("a.example")
	if got := tab.Take(8080, "", h).Service.String(); got != "shop/gateway:web:http:a.example" {
		t.Errorf("in the clear: %s", got)
	}
	var protocols []mesh.ListenerProtocol
	for _, p := range tab.Ports() {
		protocols = append(protocols, p.Protocol, p.Opened())
	}
	if want := []mesh.ListenerProtocol{"HTTP", "HTTP", "TLS", "TLS"}; !slices.Equal(protocols, want) {
		t.Errorf("ports are opened for %v, want %v", protocols, want)
	}
	// What shows the same certificates goes on; what shows others is new.
	before, _ := tab.Secure(door, "own.example")
	gateways[0].Terminations[0] = end("wild", "*.example", ca.For("*.example"), "a.example")
	next := ingress.New(gateways, 8000)
	if next.Terminate(tab, log); strings.Count(said.String(), "\n") != 1 {
		t.Errorf("what was wrong before is said again: %q", said.String())
	}
	wildBefore, _ := tab.Secure(door, "a.example")
	wildAfter, _ := next.Secure(door, "a.example")
	if after, _ := next.Secure(door, "own.example"); after != before || wildAfter == wildBefore {
		t.Errorf("the listener that did not change is another: %v; that which did is not: %v", after != before, wildAfter == wildBefore)
	}
}

// TestPortsThatFallTogetherAreSaid: all of them, each with what to do.
func TestPortsThatFallTogetherAreSaid(t *testing.T) {
	web := &ir.Gateway{Namespace: "shop", Name: "web", Listeners: []ir.Listener{{Name: "low", Port: 80, Protocol: mesh.ListenerHTTP}, {Name: "high", Port: 8080, Protocol: mesh.ListenerTCP},
		{Name: "high-udp", Port: 8080, Protocol: mesh.ListenerUDP}, {Name: "admin", Port: 15020, Protocol: mesh.ListenerTCP}}}
	later := &ir.Gateway{Namespace: "shop", Name: "web-2", Listeners: []ir.Listener{{Name: "again", Port: 8080, Protocol: mesh.ListenerHTTP}}}
	err := ingress.New([]*ir.Gateway{later, web}, 8000).Fault(map[ingress.Door]string{{Number: 15020}: "its admin port"})
	want := `listener high of Gateway shop/web: port 8080 is where port 80 of listener low of Gateway shop/web is opened, since ports below 1024 are opened 8000 higher: give one of them another port
listener again of Gateway shop/web-2: port 8080 is where port 80 of listener low of Gateway shop/web is opened, since ports below 1024 are opened 8000 higher: give one of them another port
listener admin of Gateway shop/web: port 15020 is the ingress gateway's own, for its admin port: give the listener another`
	if err == nil || err.Error() != want {
		t.Errorf("%v\nwant\n%s", err, want)
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

// TestWhoTakesAHost: of each port the listener that takes it, if its routes name it; and whether all can show what they would.
func TestWhoTakesAHost(t *testing.T) {
	ca := issued.NewAuthority(t)
	host := func(names ...string) (out []ir.VirtualHost) {
		for _, n := range names {
			out = append(out, ir.VirtualHost{Hostname: n, Routes: []ir.Route{{Object: "HTTPRoute shop/web"}}})
		}
		return out
	}
	end := func(name, hostname string, port uint16, pair *issued.Pair, hosts ...string) ir.Termination {
		out := ir.Termination{Listener: ir.Listener{Name: name, Port: port, Protocol: mesh.ListenerHTTPS, Hostname: hostname, Hosts: host(hosts...)}, Invalid: "Secret shop/none: there is none"}
		if pair != nil {
			out.Invalid, out.Certificates = "", []ir.Certificate{{Object: "Secret shop/x", Chain: string(pair.Certificate), Key: mesh.Hide(pair.Key)}}
		}
		return out
	}
	good := ca.For("*.example")
	broken := good
	broken.Key = []byte("no key")
	tab := ingress.New([]*ir.Gateway{
		{Namespace: "shop", Name: "web", Listeners: []ir.Listener{{Name: "http", Port: 80, Protocol: mesh.ListenerHTTP, Hosts: host("shop.example", "plain.example")}},
			Terminations: []ir.Termination{end("wild", "*.example", 443, &good, "*.example"), end("own", "own.example", 443, nil, "own.example"), end("odd", "odd.example", 443, &broken, "odd.example")}},
		{Namespace: "debug", Name: "all", Terminations: []ir.Termination{end("any", "", 9443, nil, "")}},
	}, 8000)
	tab.Terminate(nil, slog.New(slog.DiscardHandler))
	for name, want := range map[string]string{
		"shop.example":   "shop/web/http shop/web/wild true",
		"Shop.Example.":  "shop/web/http shop/web/wild true",
		"other.example":  "shop/web/wild true", // of the port 9443 no route names it
		"own.example":    "shop/web/own false",
		"odd.example":    "shop/web/odd false",
		"nobody.test":    "true",
		"":               "true",
		"x.shop.example": "shop/web/wild true",
	} {
		got, able := tab.Takers(name)
		slices.Sort(got)
		if text := strings.TrimSpace(fmt.Sprint(strings.Join(got, " "), " ", able)); text != want {
			t.Errorf("%q is taken by %s, want %s", name, text, want)
		}
	}
	if got, able := (*ingress.Tables)(nil).Takers("shop.example"); got != nil || !able {
		t.Errorf("without tables: %v, %v", got, able)
	}
}
