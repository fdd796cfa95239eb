package loop

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-mesh/isthmus/codec/wire"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/xds"
)

// sink holds what a loop handed out, as a server and peers would hold it.
type sink struct {
	resources map[string]*xds.Resource // by type and name
	complete  map[string]bool
	vector    mesh.Vector
	exports   map[string]*mesh.RemoteService
	saved     int // slot tables
	loop      *Loop
}

func (s *sink) publish(v mesh.Vector, updates []xds.Update) {
	s.vector = v
	for _, u := range updates {
		if u.Name == "*" {
			s.complete[u.Type] = true
		} else {
			s.resources[u.Type+" "+u.Name] = u.Resource
		}
	}
}

func run(t *testing.T, story func(ctx context.Context, l *Loop, s *sink)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		s := &sink{resources: map[string]*xds.Resource{}, complete: map[string]bool{}, exports: map[string]*mesh.RemoteService{}}
		l := New(Config{Self: "eu", Network: "eu", Now: time.Now, Log: slog.New(slog.DiscardHandler), Publish: s.publish,
			Export: func(e Export) { s.exports[fmt.Sprintf("%s to %s", e.Service, e.Peer)] = e.Value },
			SaveSlots: func(table mesh.SlotTable) { // the store: what is saved comes back as a fact
				s.saved++
				go s.loop.Edit(ctx, []world.Edit{put(mesh.KindSlotTable, "eu", table.Service.Namespace, table.Service.Name, &table)}, nil)
			}})
		s.loop = l
		done := make(chan error, 1)
		go func() { done <- l.Run(ctx) }()
		story(ctx, l, s)
		stop()
		<-done
	})
}

func put(kind mesh.Kind, origin mesh.ClusterName, ns, name string, v any) world.Edit {
	return world.Put(&mesh.Fact{Key: mesh.Key{Kind: kind, Origin: origin, Namespace: ns, Name: name}, Value: v, Digest: ir.DigestOf(v)})
}

func change(t *testing.T, ctx context.Context, l *Loop, edits ...world.Edit) {
	t.Helper()
	if err := l.EditAndWait(ctx, edits, nil); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

var catalog = mesh.ServiceName{Namespace: "shop", Name: "catalog"}

func base() []world.Edit {
	var out []world.Edit
	for _, c := range []mesh.ClusterName{"eu", "us"} {
		out = append(out, put(mesh.KindCluster, "eu", "", string(c), &mesh.Cluster{Name: c, Network: mesh.Network(c), TrustDomain: mesh.TrustDomainOf(c, mesh.DefaultDomain)}))
	}
	return append(out, put(mesh.KindService, "eu", "shop", "catalog", &mesh.Service{ServiceName: catalog, Selector: map[string]string{"app": "catalog"}}),
		put(mesh.KindServiceExport, "eu", "shop", "catalog", &mesh.ServiceExport{ServiceName: catalog}))
}

func instance(n byte) world.Edit {
	name := fmt.Sprintf("catalog-%d", n)
	return put(mesh.KindWorkload, "eu", "shop", name, &mesh.Workload{Namespace: "shop", Name: name, ServiceAccount: "catalog",
		Labels: map[string]string{"app": "catalog"}, Proxy: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, n, 1}), 15008)})
}

func TestChangesReachSubscribersAndPeers(t *testing.T) {
	run(t, func(ctx context.Context, l *Loop, s *sink) {
		l.Watch("eu", string(ir.TypeEndpoints), "shop/catalog")
		l.Watch("eu", string(ir.TypeEndpoints), "shop/nothing")
		l.Watch("eu", string(ir.TypeSlots), "*")
		synctest.Wait()
		if r, told := s.resources[string(ir.TypeEndpoints)+" shop/nothing"]; !told || r != nil {
			t.Errorf("a name that does not exist: told %v, %v; want told that it is absent", told, r)
		}
		if !s.complete[string(ir.TypeSlots)] {
			t.Error("the empty set of slot tables was not said to be complete")
		}
		change(t, ctx, l, append(base(), instance(1), instance(2))...)
		eps := decode[*ir.Endpoints](t, s.resources[string(ir.TypeEndpoints)+" shop/catalog"])
		if len(eps.Groups) != 1 || len(eps.Groups[0].Endpoints) != 2 {
			t.Errorf("endpoints %+v, want one group of two", eps)
		}
		table := decode[*ir.Slots](t, s.resources[string(ir.TypeSlots)+" shop/catalog"]).Table
		if len(table.Slots) != 2 || table.Generation != 1 {
			t.Errorf("slot table %+v, want two slots of generation 1", table)
		}
		if e := s.exports["shop/catalog to us"]; e == nil || e.Slots != 2 || len(e.Endpoints) != 0 {
			t.Errorf("export %+v, want two slots and no address", e)
		}
		change(t, ctx, l, world.Remove(instance(1).Key))
		if e := s.exports["shop/catalog to us"]; e.Slots != 1 || e.SlotGeneration != 2 {
			t.Errorf("export %+v after an endpoint left, want one slot of generation 2", e)
		}
		change(t, ctx, l, world.Remove(base()[3].Key))
		if e, told := s.exports["shop/catalog to us"]; !told || e != nil {
			t.Errorf("export %+v after it was withdrawn, want none", e)
		}
		if r := s.resources[string(ir.TypeSlots)+" shop/catalog"]; r != nil {
			t.Error("the slot table outlives the export")
		}
	})
}

// TestSlotTablesAreKeptForOtherNetworks: a table is a write to the store for each change of an endpoint. Where every peer that may be
// told is on the own network none is made; when one on another joins, or the export is for it too, there is one for the endpoints of
// then; and a table that was not kept for a while goes on from its generation, so that no slot is another endpoint's unseen.
func TestSlotTablesAreKeptForOtherNetworks(t *testing.T) {
	run(t, func(ctx context.Context, l *Loop, s *sink) {
		network := func(cluster mesh.ClusterName, n mesh.Network) world.Edit {
			return put(mesh.KindCluster, "eu", "", string(cluster), &mesh.Cluster{Name: cluster, Network: n, TrustDomain: mesh.TrustDomainOf(cluster, mesh.DefaultDomain)})
		}
		exported := func(consumers ...mesh.ClusterName) world.Edit {
			return put(mesh.KindServiceExport, "eu", "shop", "catalog", &mesh.ServiceExport{ServiceName: catalog, Consumers: consumers})
		}
		want := func(saved int, generation uint64, slots int) {
			t.Helper()
			var table mesh.SlotTable
			if f, ok := l.World().Get(mesh.Key{Kind: mesh.KindSlotTable, Origin: "eu", Namespace: "shop", Name: "catalog"}); ok {
				table = *f.Value.(*mesh.SlotTable)
			}
			if s.saved != saved || table.Generation != generation || len(table.Slots) != slots {
				t.Errorf("%d tables were saved and the last is %+v; want %d, generation %d of %d slots", s.saved, table, saved, generation, slots)
			}
		}
		change(t, ctx, l, append(base(), network("us", "eu"), exported(), instance(1), instance(2))...)
		want(0, 0, 0)
		if e := s.exports["shop/catalog to us"]; e == nil || e.Slots != 0 || len(e.Endpoints) != 2 {
			t.Errorf("export %+v, want two addresses and no slot", e)
		}
		change(t, ctx, l, network("ap", "ap"))
		want(1, 1, 2)
		change(t, ctx, l, instance(3))
		want(2, 2, 3)
		if e := s.exports["shop/catalog to ap"]; e == nil || e.Slots != 3 || e.SlotGeneration != 2 {
			t.Errorf("export %+v, want three slots of generation 2", e)
		}
		change(t, ctx, l, exported("us"), instance(4), world.Remove(instance(1).Key))
		want(2, 2, 3)
		change(t, ctx, l, exported("us", "ap"))
		want(3, 3, 3)
	})
}

func TestWholeTypesFollowTheirFacts(t *testing.T) {
	run(t, func(ctx context.Context, l *Loop, s *sink) {
		change(t, ctx, l, base()...)
		l.Watch("eu", string(ir.TypeName), "*")
		synctest.Wait()
		key := string(ir.TypeName) + " shop/catalog"
		if s.resources[key] == nil || !s.complete[string(ir.TypeName)] {
			t.Fatalf("resources %v complete %v, want the one service", s.resources, s.complete)
		}
		change(t, ctx, l, world.Remove(base()[2].Key))
		if s.resources[key] != nil {
			t.Error("a removed service is still published")
		}
		change(t, ctx, l, base()[2])
		if s.resources[key] == nil {
			t.Error("a service that came back is not published")
		}
		l.Unwatch("eu", string(ir.TypeName), "*")
		synctest.Wait()
		if n := l.engine.Stats().Nodes; n > 8 {
			t.Errorf("%d nodes alive after the last subscriber left", n)
		}
	})
}

// TestASecondSubscriberOfAWholeTypeGetsItAll: the control plane itself may watch a type
// before the first stream does.
func TestASecondSubscriberOfAWholeTypeGetsItAll(t *testing.T) {
	run(t, func(ctx context.Context, l *Loop, s *sink) {
		l.Watch("eu", string(ir.TypeName), "*")
		change(t, ctx, l, base()...)
		clear(s.resources)
		clear(s.complete)
		l.Watch("eu", string(ir.TypeName), "*")
		synctest.Wait()
		if s.resources[string(ir.TypeName)+" shop/catalog"] == nil || !s.complete[string(ir.TypeName)] {
			t.Errorf("resources %v complete %v, want the one service again", s.resources, s.complete)
		}
	})
}

func TestPublishCarriesTheVector(t *testing.T) {
	run(t, func(ctx context.Context, l *Loop, s *sink) {
		l.Watch("eu", string(ir.TypeName), "*")
		want := mesh.Vector{"eu": {Epoch: mesh.Epoch{StartMillis: 1, ID: "a"}, Revision: 7}}
		if err := l.EditAndWait(ctx, base(), want); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if !s.vector.Covers(want) {
			t.Errorf("published with %v, want %v", s.vector, want)
		}
	})
}

func TestScopeKeepsNodesApart(t *testing.T) {
	l := New(Config{Self: "eu", Now: time.Now})
	node := func(td, ns, sa, id string) xds.Node {
		return xds.Node{Identity: mesh.Identity{TrustDomain: mesh.TrustDomain(td), Namespace: ns, ServiceAccount: sa}, ID: id, Mode: "gateway"}
	}
	tests := []struct {
		node    xds.Node
		typ     ir.Type
		allowed bool
	}{
		{node("eu.isthmus.local", "shop", "catalog", "shop/catalog-0"), ir.TypeEndpoints, true},
		{node("us.isthmus.local", "shop", "catalog", "shop/catalog-0"), ir.TypeEndpoints, false},
		{node("eu.isthmus.local", "shop", "catalog", "bank/vault-0"), ir.TypeEndpoints, false},
		{node("eu.isthmus.local", "shop", "catalog", "shop/catalog-0"), ir.TypeService, true}, // of what it calls, and of what it serves
		{node("eu.isthmus.local", "shop", "catalog", "shop/catalog-0"), ir.TypeSlots, false},
		{node("eu.isthmus.local", SystemNamespace, "gateway", SystemNamespace+"/gateway-0"), ir.TypeSlots, true},
		{node("eu.isthmus.local", SystemNamespace, "gateway", SystemNamespace+"/gateway-0"), ir.TypeGateway, false},
		{node("eu.isthmus.local", "shop", IngressAccount, "shop/ingress-0"), ir.TypeGateway, false},
		{node("eu.isthmus.local", SystemNamespace, IngressAccount, SystemNamespace+"/ingress-0"), ir.TypeGateway, true},
		{node("eu.isthmus.local", "shop", "catalog", "shop/catalog-0"), "type.example/Other", false},
	}
	for _, tt := range tests {
		if _, err := l.Scope(tt.node, string(tt.typ)); (err == nil) != tt.allowed {
			t.Errorf("Scope(%s as %s, %s) = %v, want allowed %v", tt.node.Identity, tt.node.ID, tt.typ, err, tt.allowed)
		}
	}
	a, _ := l.Scope(node("eu.isthmus.local", "shop", "catalog", "shop/catalog-0"), string(ir.TypeProxy))
	b, _ := l.Scope(node("eu.isthmus.local", "shop", "cart", "shop/catalog-0"), string(ir.TypeProxy))
	if a == b {
		t.Error("two identities share the scope of proxies' own resources")
	}
}

// TestAKeyReachesIngressGatewaysAlone asks for everything there is, as every identity there is, and looks for the key of a listener's
// certificate in the bytes that would be sent. The controls: it is found by the ingress gateway's identity, as long as a listener that
// is served refers to it; and that of a Secret to which none refers is found by nobody.
func TestAKeyReachesIngressGatewaysAlone(t *testing.T) {
	const canary, unused = "CANARY-of-a-key", "CANARY-of-an-unused-key"
	certificate := func(ns, name, key string) world.Edit {
		return put(mesh.KindSecret, "eu", ns, name, &mesh.Certificate{Namespace: ns, Name: name, Chain: "chain of " + name, Key: mesh.Hide([]byte(key))})
	}
	gateway := func(class string, ref mesh.CertificateRef) world.Edit {
		return put(mesh.KindGateway, "eu", "shop", "web", &mesh.Gateway{Namespace: "shop", Name: "web", Class: class,
			Listeners: []mesh.Listener{{Name: "https", Port: 443, Protocol: mesh.ListenerHTTPS, Certificates: []mesh.CertificateRef{ref}}}})
	}
	own, granted := mesh.CertificateRef{Kind: "Secret", Namespace: "shop", Name: "web"}, mesh.CertificateRef{Kind: "Secret", Namespace: "bank", Name: "web"}
	types := append(ir.Order(), "type.isthmus.dev/v1/Secret", "type.isthmus.dev/v1/Certificate", ir.Type(mesh.KindSecret))
	names := []string{"*", "shop/web", "bank/web", "shop/unused", "shop/catalog", "web", "Secret shop/web"}
	for _, c := range []struct {
		name  string
		edits []world.Edit
		told  bool
	}{
		{"a listener refers to it", []world.Edit{gateway(mesh.GatewayClass, own)}, true},
		{"nobody does", nil, false},
		{"a Gateway of another class does", []world.Edit{gateway("other", own)}, false},
		{"one of another namespace does, without leave", []world.Edit{gateway(mesh.GatewayClass, granted)}, false},
		{"one of another namespace does, with leave", []world.Edit{gateway(mesh.GatewayClass, granted), put(mesh.KindReferenceGrant, "eu", "bank", "g", &mesh.ReferenceGrant{Namespace: "bank", Name: "g",
			From: []mesh.GrantFrom{{Group: "gateway.networking.k8s.io", Kind: "Gateway", Namespace: "shop"}}, To: []mesh.GrantTo{{Kind: "Secret"}}})}, true},
	} {
		for _, who := range []mesh.Identity{{TrustDomain: "eu.isthmus.local", Namespace: SystemNamespace, ServiceAccount: IngressAccount}, {TrustDomain: "eu.isthmus.local", Namespace: SystemNamespace, ServiceAccount: "gateway"},
			{TrustDomain: "eu.isthmus.local", Namespace: "shop", ServiceAccount: "catalog"}, {TrustDomain: "eu.isthmus.local", Namespace: "shop", ServiceAccount: IngressAccount},
			{TrustDomain: "us.isthmus.local", Namespace: SystemNamespace, ServiceAccount: IngressAccount}} {
			run(t, func(ctx context.Context, l *Loop, s *sink) {
				change(t, ctx, l, append(append(base(), instance(1), certificate("shop", "web", canary), certificate("bank", "web", canary), certificate("shop", "unused", unused)), c.edits...)...)
				for _, typ := range types {
					scope, err := l.Scope(xds.Node{Identity: who, ID: who.Namespace + "/a-0", Mode: "ingress"}, string(typ))
					if err != nil {
						continue
					}
					for _, n := range names {
						l.Watch(scope, string(typ), n)
					}
				}
				synctest.Wait()
				found := false
				for name, r := range s.resources {
					if r == nil {
						continue
					}
					found = found || strings.Contains(string(r.Body), canary)
					if strings.Contains(string(r.Body), unused) || strings.Contains(r.Version+r.Name, "CANARY") {
						t.Errorf("%s: %s is told a key by %s", c.name, who, name)
					}
				}
				for to, e := range s.exports {
					if b, _ := json.Marshal(e); strings.Contains(string(b), "CANARY") || strings.Contains(fmt.Sprintf("%+v", e), "CANARY") {
						t.Errorf("%s: export %s has a key", c.name, to)
					}
				}
				want := c.told && who.ServiceAccount == IngressAccount && who.Namespace == SystemNamespace && who.TrustDomain == "eu.isthmus.local"
				if found != want {
					t.Errorf("%s: %s is told the key: %v, want %v", c.name, who, found, want)
				}
			})
		}
	}
}

func decode[V any](t *testing.T, r *xds.Resource) V {
	t.Helper()
	if r == nil {
		t.Fatal("the resource was not published")
	}
	v, err := wire.Decode(ir.Type(r.Type), r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return v.(V)
}
