package proxy_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
	"github.com/isthmus-mesh/isthmus/dataplane/raw"
	"github.com/isthmus-mesh/isthmus/mesh"
)

var (
	elsewhere = proxy.Peer{Identity: frontend, HBONE: true}
	admin     = mesh.ServiceName{Namespace: "shop", Name: "admin"}
	place     = netip.MustParseAddrPort("127.1.2.3:8080")
)

// serves has the workload serve a service at ports whose application is at place, under policies.
func serves(t *testing.T, s *proxy.State, n mesh.ServiceName, ports []ir.InboundPort, policies ...mesh.AccessPolicy) {
	t.Helper()
	for i := range ports {
		if !ports[i].Target.IsValid() {
			ports[i].Target = place
		}
	}
	a := &ir.Access{Service: n, Exported: true, Clusters: []ir.Caller{{TrustDomain: frontend.TrustDomain, Cluster: "eu-west"}}}
	for _, p := range policies {
		a.Policies = append(a.Policies, ir.AccessEntry{Object: "AccessPolicy shop/" + p.Name, Policy: p})
	}
	in := ir.Inbound{Service: n, Ports: ports}
	if s.Inbound == nil {
		s.Inbound = map[mesh.ServiceName]*proxy.Inbound{}
	}
	s.Inbound[n] = inbound(t, &in, proxy.NewAccess(a, "eu-west"), &ir.Traffic{}, nil)
	self := *s.Self
	self.Inbound = append(slices.DeleteFunc(slices.Clone(self.Inbound), func(o ir.Inbound) bool { return o.Service == n }), in)
	slices.SortFunc(self.Inbound, func(a, b ir.Inbound) int { return -a.Service.Compare(b.Service) }) // shop/catalog first
	s.Self = &self
}

func deny(name string, to ...mesh.AccessOperation) mesh.AccessPolicy {
	return mesh.AccessPolicy{Name: name, Action: mesh.Deny, Rules: []mesh.AccessRule{{To: to}}}
}

func connect(authority string) *exchange {
	ex := get(authority, "")
	ex.head.Method, ex.head.Path, ex.head.Scheme = []byte("CONNECT"), nil, nil
	return ex
}

// TestAnAddressIsDecidedByEveryServiceThere: no service's rules are passed under by way of another that listens at the same port,
// and what is not known of one of them denies.
func TestAnAddressIsDecidedByEveryServiceThere(t *testing.T) {
	one := []ir.InboundPort{{Port: 80, Protocol: mesh.ProtocolHTTP}}
	byTLS := []ir.InboundPort{{Port: 80, Protocol: mesh.ProtocolHTTP, TLS: &ir.BackendTLS{Hostname: "admin"}}}
	nobody := mesh.AccessPolicy{Name: "nobody", Action: mesh.Allow, Rules: []mesh.AccessRule{{From: []mesh.AccessSource{{Namespaces: []string{"none"}}}}}}
	onAdmin := elsewhere
	onAdmin.SNI = mesh.SNI{Service: admin}
	for _, c := range []struct {
		name  string
		admin func(*proxy.State)
		peer  proxy.Peer
		want  string // at the address; by the name of shop/catalog it is always let in
	}{
		{"alone", func(*proxy.State) {}, elsewhere, "200 shop/catalog"},
		{"beside one that allows", func(s *proxy.State) { serves(t, s, admin, one) }, elsewhere, "200 shop/catalog"},
		{"beside one that denies all", func(s *proxy.State) { serves(t, s, admin, one, deny("all")) }, elsewhere, "403 access_denied AccessPolicy shop/all"},
		{"beside one that denies the port", func(s *proxy.State) {
			serves(t, s, admin, one, deny("port", mesh.AccessOperation{Ports: []uint16{80}}))
		}, elsewhere, "403 access_denied AccessPolicy shop/port"},
		{"beside one that denies another port", func(s *proxy.State) {
			serves(t, s, admin, one, deny("port", mesh.AccessOperation{Ports: []uint16{81}}))
		}, elsewhere, "200 shop/catalog"},
		{"beside one that allows nobody here", func(s *proxy.State) { serves(t, s, admin, one, nobody) }, elsewhere, "403 access_denied"},
		{"beside one that looks at paths", func(s *proxy.State) {
			serves(t, s, admin, one, deny("paths", mesh.AccessOperation{Paths: []string{"/admin*"}}))
		}, elsewhere, "403 access_denied AccessPolicy shop/paths"},
		{"beside one that cannot be understood", func(s *proxy.State) { serves(t, s, admin, one, mesh.AccessPolicy{Name: "new", Action: "Perhaps"}) }, elsewhere,
			"403 policy_invalid AccessPolicy shop/new"},
		{"beside one whose rules have not come", func(s *proxy.State) {
			serves(t, s, admin, one)
			s.Inbound[admin] = inbound(t, &ir.Inbound{Service: admin, Ports: one}, nil, nil, nil)
		}, elsewhere, "503 proxy_not_ready"},
		{"beside one that is spoken to by TLS", func(s *proxy.State) { serves(t, s, admin, byTLS) }, elsewhere, "421 misdirected"},
		{"beside one at another port", func(s *proxy.State) {
			serves(t, s, admin, []ir.InboundPort{{Port: 80, Target: netip.MustParseAddrPort("127.1.2.3:9090")}}, nobody)
		}, elsewhere, "200 shop/catalog"},
		{"beside UDP", func(s *proxy.State) {
			serves(t, s, admin, []ir.InboundPort{{Port: 80, Protocol: mesh.ProtocolUDP}}, nobody)
		}, elsewhere, "200 shop/catalog"},
		{"on a connection for the one that denies", func(s *proxy.State) { serves(t, s, admin, one, nobody) }, onAdmin, "403 access_denied"},
		{"on a connection for the one that allows", func(s *proxy.State) { serves(t, s, admin, one) }, onAdmin, "200 shop/admin"},
	} {
		for _, authority := range []string{place.String(), "catalog.shop:80"} {
			w := newWorld(t, 1, nil)
			serves(t, w.state, catalog, []ir.InboundPort{{Port: 80, Protocol: mesh.ProtocolHTTP}})
			c.admin(w.state)
			w.script = []any{answer(200, "")}
			ex := connect(authority)
			w.proxy.Inbound(ex, c.peer)
			got := fmt.Sprint(ex.status, " ", ex.field("isthmus-reason"))
			if ex.status == 200 {
				got = fmt.Sprint(ex.status, " ", w.last.Service)
			} else if w.last.Policy != "" {
				got += " " + w.last.Policy
			}
			want := c.want
			if authority != place.String() {
				if want = "200 shop/catalog"; !c.peer.SNI.Service.IsZero() {
					want = "421 misdirected"
				}
			}
			if got != want {
				t.Errorf("%s, to %s: %s (%s), want %s", c.name, authority, got, w.last.Detail, want)
			}
			if ex.field("isthmus-load")+ex.field("isthmus-not-executed") != "" || w.last.Protocol != mesh.ProtocolTCP || w.last.Caller != frontend {
				t.Errorf("%s, to %s: answered %q, recorded %+v", c.name, authority, ex.fields, w.last)
			}
		}
	}
}

// TestAConnectionByAddressIsJudgedByWhatIsThereNow: also by a service that came to listen there after it was let in.
func TestAConnectionByAddressIsJudgedByWhatIsThereNow(t *testing.T) {
	one := func() []ir.InboundPort { return []ir.InboundPort{{Port: 80, Protocol: mesh.ProtocolHTTP}} }
	w := newWorld(t, 1, nil)
	serves(t, w.state, catalog, one())
	o := newOpen(w)
	up, _ := tcpPair(t)
	o.w.script = []any{message.Stream(raw.Stream(up))}
	ex := connect(place.String())
	ex.more = make(chan []byte)
	o.run(func() { o.w.proxy.Inbound(ex, elsewhere) })
	o.change(func(s *proxy.State) {
		serves(t, s, admin, one(), deny("other", mesh.AccessOperation{Ports: []uint16{81}}))
	})
	o.lives(t)
	o.change(func(s *proxy.State) { delete(s.Inbound, catalog); delete(s.Inbound, admin) }) // as while an endpoint moves
	o.lives(t)
	o.change(func(s *proxy.State) { // its rules are to come
		serves(t, s, catalog, one())
		s.Inbound[admin] = inbound(t, &ir.Inbound{Service: admin, Ports: []ir.InboundPort{{Port: 80, Target: place}}}, nil, nil, nil)
	})
	o.lives(t)
	o.change(func(s *proxy.State) {
		serves(t, s, admin, one(), deny("port", mesh.AccessOperation{Ports: []uint16{80}}))
	})
	if r := o.ends(t, mesh.ReasonDenied); r.Policy != "AccessPolicy shop/port" || r.Status != 200 || r.Service != catalog {
		t.Errorf("recorded %+v", r)
	}
	if ex.aborted == nil {
		t.Error("the client was not told")
	}
}
