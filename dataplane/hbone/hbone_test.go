package hbone_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/hbone"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// authorities are what Parse makes of each: an address, a service and port, or a problem ("!").
var authorities = map[string]string{
	"10.0.0.9:8080":                          "10.0.0.9:8080",
	"[2001:db8::9]:8080":                     "[2001:db8::9]:8080",
	"[2001:DB8:0:0::9]:8080":                 "[2001:db8::9]:8080",
	"[::ffff:10.0.0.9]:1":                    "10.0.0.9:1",
	"catalog.shop.svc.clusterset.local:80":   "shop/catalog 80",
	"Catalog.Shop.svc.cluster.local.:65535":  "shop/catalog 65535",
	"catalog.shop:80":                        "shop/catalog 80",
	"":                                       "! no port",
	":80":                                    "! neither",
	"10.0.0.9":                               "! no port",
	"10.0.0.9:":                              "! not a number",
	"10.0.0.9:0":                             "! not a number",
	"10.0.0.9:080":                           "! not a number",
	"10.0.0.9:+80":                           "! not a number",
	"10.0.0.9:65536":                         "! not a number",
	"10.0.0.9:99999999999999999999":          "! not a number",
	"10.0.0.9:80:81":                         "! brackets",
	"[10.0.0.9]:80":                          "! brackets",
	"2001:db8::9:80":                         "! brackets",
	"[2001:db8::9:80":                        "! hold no",
	"2001:db8::9]:80":                        "! brackets",
	"[]:80":                                  "! brackets",
	"[fe80::1%eth0]:80":                      "! zone",
	"010.0.0.9:80":                           "! neither",
	"10.9:80":                                "9/10 80", // a name: nobody takes it for an address of old
	"catalog:80":                             "! neither",
	"example.com.:80":                        "com/example 80",
	"www.example.com:80":                     "! neither",
	"user@10.0.0.9:80":                       "! neither",
	"10.0.0.9:80/":                           "! not a number",
	strings.Repeat("a", 64) + ".shop.svc:80": "! neither",
	"catalog.shop.svc.clusterset.local..:80": "! neither",
	"[catalog.shop.svc.clusterset.local]:8080": "! brackets",
}

func TestAuthorities(t *testing.T) {
	for in, want := range authorities {
		a, problem := hbone.Parse([]byte(in))
		got := ""
		switch {
		case problem != "":
			got = "! " + problem
		case a.At.IsValid():
			got = a.At.String()
		default:
			got = fmt.Sprint(a.Service, " ", a.Port)
		}
		if rest, refused := strings.CutPrefix(want, "! "); refused && problem != "" && strings.Contains(problem, rest) {
			continue
		}
		if got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

// FuzzParse: what is understood is one thing, and what net/netip takes for an address is that address.
func FuzzParse(f *testing.F) {
	for in := range authorities {
		f.Add([]byte(in))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		a, problem := hbone.Parse(in)
		if problem != "" {
			if a != (hbone.Ask{}) {
				t.Errorf("%q: %v, and %s", in, a, problem)
			}
			return
		}
		again := ""
		switch {
		case a.At.IsValid() == (a.Port != 0):
			t.Fatalf("%q: %+v: want an address or a service", in, a)
		case a.At.IsValid():
			if a.At.Port() == 0 || a.At.Addr().Zone() != "" || a.At.Addr().Is4In6() {
				t.Errorf("%q: %v", in, a.At)
			}
			std, err := netip.ParseAddrPort(string(in))
			if err != nil || netip.AddrPortFrom(std.Addr().Unmap(), std.Port()) != a.At {
				t.Errorf("%q: %v, and net/netip says %v, %v", in, a.At, std, err)
			}
			again = a.At.String()
		default:
			again = fmt.Sprintf("%s.%s.svc.clusterset.local:%d", a.Service.Name, a.Service.Namespace, a.Port)
		}
		if b, problem := hbone.Parse([]byte(again)); problem != "" || b != a {
			t.Errorf("%q is %v, and written anew %q is %v %s", in, a, again, b, problem)
		}
	})
}

// TestAnAddressIsEveryServiceThere, whatever the order, and no port of UDP.
func TestAnAddressIsEveryServiceThere(t *testing.T) {
	at, other := netip.MustParseAddrPort("10.0.0.9:8080"), netip.MustParseAddrPort("10.0.0.9:9090")
	cart, catalog := mesh.ServiceName{Namespace: "shop", Name: "cart"}, mesh.ServiceName{Namespace: "shop", Name: "catalog"}
	served := []ir.Inbound{
		{Service: cart, Ports: []ir.InboundPort{{Port: 80, Target: at}, {Port: 53, Target: at, Protocol: mesh.ProtocolUDP}, {Port: 90, Target: other}, {Port: 91}}},
		{Service: catalog, Ports: []ir.InboundPort{{Port: 80, Target: at, Protocol: mesh.ProtocolHTTP}, {Port: 81, Target: at}}},
	}
	all := []hbone.Claim{{cart, 80}, {catalog, 80}, {catalog, 81}}
	for _, c := range []struct {
		at     netip.AddrPort
		only   mesh.ServiceName
		want   []hbone.Claim
		reason mesh.Reason
	}{
		{at, mesh.ServiceName{}, all, ""},
		{at, catalog, all[1:], ""},
		{other, mesh.ServiceName{}, []hbone.Claim{{cart, 90}}, ""},
		{other, catalog, nil, mesh.ReasonMisdirected},
		{netip.MustParseAddrPort("10.0.0.9:15001"), mesh.ServiceName{}, nil, mesh.ReasonUnknownPort},
		{netip.MustParseAddrPort("10.0.0.9:15001"), catalog, nil, mesh.ReasonUnknownPort},
		{netip.MustParseAddrPort("10.0.0.8:8080"), mesh.ServiceName{}, nil, mesh.ReasonMisdirected},
		{netip.MustParseAddrPort("127.0.0.1:8080"), mesh.ServiceName{}, nil, mesh.ReasonMisdirected},
	} {
		got := hbone.Find(nil, served, c.at, c.only)
		if !slices.Equal(got, c.want) {
			t.Errorf("%s for %s: %v, want %v", c.at, c.only, got, c.want)
		}
		if len(c.want) > 0 {
			continue
		}
		if reason, _ := hbone.Nothing(&ir.Proxy{Inbound: served}, c.at, c.only); reason != c.reason {
			t.Errorf("%s for %s: %s, want %s", c.at, c.only, reason, c.reason)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	authority := []byte("10.0.0.9:8080")
	b.ReportAllocs()
	for b.Loop() {
		if _, problem := hbone.Parse(authority); problem != "" {
			b.Fatal(problem)
		}
	}
}
