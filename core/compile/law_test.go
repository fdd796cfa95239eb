package compile

import (
	"fmt"
	"net/netip"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/isthmus-mesh/isthmus/core/derive"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/mesh"
	"pgregory.net/rapid"
)

// The universe is small so that facts meet: three clusters, three services, four
// workloads.
var (
	clusters = []mesh.ClusterName{"eu", "us", "in"}
	services = []mesh.ServiceName{{Namespace: "shop", Name: "a"}, {Namespace: "shop", Name: "b"}, {Namespace: "bank", Name: "a"}}
	view     = ir.View{Cluster: "eu", Network: "eu"}
)

func fact(kind mesh.Kind, origin mesh.ClusterName, ns, name string, v any) *mesh.Fact {
	return &mesh.Fact{Key: mesh.Key{Kind: kind, Origin: origin, Namespace: ns, Name: name}, Value: v, Digest: ir.DigestOf(v),
		Stamp: mesh.Stamp{Origin: origin}}
}

func drawService(t *rapid.T) mesh.ServiceName { return rapid.SampledFrom(services).Draw(t, "service") }

func drawTargets(t *rapid.T) []mesh.TargetRef {
	s := drawService(t)
	return rapid.SampledFrom([][]mesh.TargetRef{nil, {{Kind: "Mesh"}}, {{Kind: "Namespace", Name: s.Namespace}},
		{{Kind: "Service", Namespace: s.Namespace, Name: s.Name}}}).Draw(t, "targets")
}

// fill draws every exported field at any depth, zero as often as not, so that a field that a policy
// grows is drawn without a word here.
func fill(t *rapid.T, v reflect.Value, label string) {
	if v.Kind() != reflect.Struct && rapid.Bool().Draw(t, label+" unset") {
		v.SetZero()
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(t, v.Field(i), v.Type().Field(i).Name)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, v.Elem(), label)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(t, v.Index(0), label)
	case reflect.String:
		v.SetString(rapid.SampledFrom([]string{"x", "y"}).Draw(t, label))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(int64(rapid.SampledFrom([]int{-1, 1, 2}).Draw(t, label)))
	case reflect.Float64:
		v.SetFloat(rapid.SampledFrom([]float64{1, 2.5}).Draw(t, label))
	case reflect.Uint16, reflect.Uint32:
		v.SetUint(uint64(rapid.IntRange(1, 2).Draw(t, label)))
	default:
		panic("fill: " + v.Type().String())
	}
}

// drawFact draws a fact of any kind that compile reads; kinds lists them.
func drawFact(t *rapid.T) *mesh.Fact {
	origin := rapid.SampledFrom(clusters).Draw(t, "origin")
	peer := rapid.SampledFrom(clusters).Draw(t, "peer")
	s := drawService(t)
	small := func(label string) int { return rapid.IntRange(0, 2).Draw(t, label) }
	kind := rapid.SampledFrom(kinds).Draw(t, "kind")
	f := func() *mesh.Fact {
		switch kind {
		case mesh.KindCluster:
			return fact(kind, "eu", "", string(peer), &mesh.Cluster{Name: peer, Network: mesh.Network(rapid.SampledFrom([]string{"eu", "far"}).Draw(t, "network")),
				Jurisdiction: mesh.Jurisdiction(fmt.Sprintf("J%d", small("jurisdiction"))), TrustDomain: mesh.TrustDomainOf(peer, mesh.DefaultDomain),
				Accepts: rapid.SampledFrom([][]mesh.Accept{nil, {{Origin: "*", Kind: "*", Namespace: "*"}}}).Draw(t, "accepts")})
		case mesh.KindService:
			return fact(kind, "eu", s.Namespace, s.Name, &mesh.Service{ServiceName: s, Ports: []mesh.ServicePort{
				{Port: 80, Protocol: rapid.SampledFrom([]mesh.Protocol{mesh.ProtocolHTTP, mesh.ProtocolTCP}).Draw(t, "protocol")}, {Port: 81 + uint16(small("port")), Protocol: mesh.ProtocolGRPC}},
				Selector: map[string]string{"app": fmt.Sprint(small("app"))}})
		case mesh.KindServiceExport:
			return fact(kind, "eu", s.Namespace, s.Name, &mesh.ServiceExport{ServiceName: s,
				Consumers: rapid.SampledFrom([][]mesh.ClusterName{nil, {"us"}}).Draw(t, "consumers")})
		case mesh.KindWorkload:
			n := fmt.Sprintf("w%d", small("workload"))
			return fact(kind, "eu", s.Namespace, n, &mesh.Workload{Namespace: s.Namespace, Name: n, ServiceAccount: n, Unready: rapid.Bool().Draw(t, "unready"),
				Labels: map[string]string{"app": fmt.Sprint(small("app"))}, Proxy: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, byte(small("address"))}), 15008)})
		case mesh.KindEndpointSlice:
			return fact(kind, "eu", s.Namespace, s.Name, &mesh.EndpointSlice{Namespace: s.Namespace, Name: s.Name, Service: s,
				Endpoints: []mesh.SliceEndpoint{{Workload: fmt.Sprintf("w%d", small("workload")), Ready: rapid.Bool().Draw(t, "ready")}}})
		case mesh.KindHTTPRoute, mesh.KindGRPCRoute, mesh.KindTLSRoute, mesh.KindTCPRoute, mesh.KindUDPRoute:
			r := &mesh.Route{}
			fill(t, reflect.ValueOf(&r.Rules).Elem(), "rules")
			for i := range r.Rules {
				r.Rules[i].Backends = append(r.Rules[i].Backends, mesh.RouteBackend{Kind: "Service", Service: drawService(t), Port: 80, Weight: int32(small("weight"))})
			}
			r.Kind, r.Namespace = string(kind), drawService(t).Namespace
			r.Parents = []mesh.ParentRef{{Kind: "Service", Namespace: s.Namespace, Name: s.Name, Port: rapid.SampledFrom([]uint16{0, 80, 81}).Draw(t, "parent port")},
				{Kind: "Gateway", Namespace: drawService(t).Namespace, Name: fmt.Sprintf("gw%d", small("gateway")), SectionName: rapid.SampledFrom([]string{"", "l0"}).Draw(t, "section")}}
			r.Hostnames = rapid.SampledFrom([][]string{nil, {"a.example"}, {"*.example"}}).Draw(t, "hostnames")
			return fact(kind, origin, r.Namespace, fmt.Sprintf("r%d", small("route")), r)
		case mesh.KindGateway:
			g := &mesh.Gateway{Namespace: s.Namespace, Name: fmt.Sprintf("gw%d", small("gateway")), Class: mesh.GatewayClass}
			for i := range small("listeners") {
				g.Listeners = append(g.Listeners, mesh.Listener{Name: fmt.Sprintf("l%d", i), Port: 80 + uint16(small("port")), Protocol: mesh.ListenerHTTP,
					Hostname: rapid.SampledFrom([]string{"", "a.example", "*.example"}).Draw(t, "hostname"), From: rapid.SampledFrom([]mesh.RoutesFrom{mesh.FromSame, mesh.FromAll, mesh.FromSelector}).Draw(t, "from"),
					Selector: mesh.LabelSelector{{Key: "team", Values: []string{"t1"}}}})
			}
			return fact(kind, origin, g.Namespace, g.Name, g)
		case mesh.KindNamespace:
			return fact(kind, "eu", "", s.Namespace, &mesh.NamespaceObject{Name: s.Namespace, Labels: map[string]string{"team": fmt.Sprintf("t%d", small("team"))}})
		case mesh.KindReferenceGrant:
			return fact(kind, origin, s.Namespace, "g", &mesh.ReferenceGrant{Namespace: s.Namespace, Name: "g",
				From: []mesh.GrantFrom{{Group: "gateway.networking.k8s.io", Kind: string(rapid.SampledFrom(kindsOfRoutes[:]).Draw(t, "grants")), Namespace: drawService(t).Namespace}}, To: []mesh.GrantTo{{Kind: "Service"}}})
		case mesh.KindBackendTLSPolicy:
			p := &mesh.BackendTLSPolicy{}
			fill(t, reflect.ValueOf(p).Elem(), "tls")
			p.Namespace, p.Targets = s.Namespace, drawTargets(t)
			p.Authorities = []mesh.ObjectRef{{Kind: rapid.SampledFrom([]string{"ConfigMap", "Secret"}).Draw(t, "authorities"), Name: fmt.Sprintf("ca%d", small("ca"))}}
			return fact(kind, "eu", s.Namespace, fmt.Sprintf("t%d", small("tls")), p)
		case mesh.KindConfigMap:
			n := fmt.Sprintf("ca%d", small("ca"))
			return fact(kind, "eu", s.Namespace, n, &mesh.ConfigMap{Namespace: s.Namespace, Name: n, Authorities: fmt.Sprint(small("roots"))})
		case mesh.KindAccessPolicy:
			return fact(kind, origin, s.Namespace, fmt.Sprintf("p%d", small("policy")), &mesh.AccessPolicy{Namespace: s.Namespace, Targets: drawTargets(t),
				Action: rapid.SampledFrom([]mesh.Action{mesh.Allow, mesh.Deny}).Draw(t, "action")})
		case mesh.KindResidencyPolicy:
			return fact(kind, origin, s.Namespace, "l", &mesh.ResidencyPolicy{Namespace: s.Namespace, Targets: drawTargets(t),
				Allowed: []mesh.Jurisdiction{"J0", mesh.Jurisdiction(fmt.Sprintf("J%d", small("allowed")))}})
		case mesh.KindTrafficPolicy:
			p := &mesh.TrafficPolicy{}
			fill(t, reflect.ValueOf(p).Elem(), "policy")
			p.Namespace, p.Targets = s.Namespace, drawTargets(t)
			return fact(kind, origin, s.Namespace, fmt.Sprintf("t%d", small("policy")), p)
		case mesh.KindFaultPolicy:
			p := &mesh.FaultPolicy{}
			fill(t, reflect.ValueOf(p).Elem(), "policy")
			p.Namespace, p.Targets = s.Namespace, drawTargets(t)
			return fact(kind, origin, s.Namespace, fmt.Sprintf("f%d", small("policy")), p)
		case mesh.KindTelemetryPolicy:
			p := &mesh.TelemetryPolicy{}
			fill(t, reflect.ValueOf(p).Elem(), "policy")
			p.Namespace = s.Namespace
			p.Targets = rapid.SampledFrom([][]mesh.TargetRef{{{Kind: "Mesh"}}, {{Kind: "Namespace", Name: s.Namespace}}}).Draw(t, "targets")
			return fact(kind, origin, s.Namespace, fmt.Sprintf("o%d", small("policy")), p)
		case mesh.KindDrain:
			target := mesh.DrainTarget{Cluster: rapid.SampledFrom(clusters[:2]).Draw(t, "drained")}
			switch small("what") {
			case 1:
				target.Zone = mesh.Zone(fmt.Sprintf("z%d", small("zone")))
			case 2:
				target.Namespace, target.Workload = s.Namespace, fmt.Sprintf("w%d", small("workload"))
			}
			return fact(kind, origin, "", fmt.Sprintf("d%d", small("drain")), &mesh.Drain{Target: target, Goal: rapid.SampledFrom([]mesh.DrainGoal{mesh.GoalDrained, mesh.GoalServing}).Draw(t, "goal"),
				SinceMillis: int64(small("since"))})
		case mesh.KindMesh:
			return fact(kind, "eu", "", "mesh", &mesh.Settings{Strict: rapid.Bool().Draw(t, "strict")})
		case mesh.KindBundle:
			return fact(kind, origin, "", string(mesh.TrustDomainOf(peer, mesh.DefaultDomain)), &mesh.Bundle{
				TrustDomain: mesh.TrustDomainOf(peer, mesh.DefaultDomain), Generation: uint64(small("generation")), Roots: [][]byte{{byte(small("root"))}}})
		case mesh.KindRemoteService:
			return fact(kind, rapid.SampledFrom(clusters[1:]).Draw(t, "exporter"), s.Namespace, s.Name, &mesh.RemoteService{ServiceName: s, Slots: 1, Moved: []uint64{uint64(small("moved"))},
				Ports: []mesh.ServicePort{{Port: 80}}})
		case mesh.KindSlotTable:
			return fact(kind, "eu", s.Namespace, s.Name, &mesh.SlotTable{Service: s, Generation: uint64(small("generation"))})
		case mesh.KindServiceAddress:
			a := netip.AddrFrom4([4]byte{127, 0, 0, byte(10 + small("address"))})
			return fact(kind, rapid.SampledFrom(clusters[:2]).Draw(t, "giver"), "", a.String(), &mesh.ServiceAddress{Service: s, Address: a, SinceMillis: int64(small("since"))})
		case mesh.KindServiceImport:
			v := &mesh.ServiceImport{ServiceName: s}
			if n := small("pinned"); n > 0 {
				v.Address = netip.AddrFrom4([4]byte{127, 0, 0, byte(9 + n)})
			}
			return fact(kind, "eu", s.Namespace, s.Name, v)
		case mesh.KindReach:
			return fact(kind, "eu", "", string(peer), &mesh.Reach{Cluster: peer, State: mesh.Reachability(small("state"))})
		case mesh.KindIngress:
			return fact(kind, "eu", "", string(peer), &mesh.Ingress{Cluster: peer, Unserved: []string{"shop/gw0/http"}})
		case mesh.KindSplit:
			return fact(kind, "eu", s.Namespace, s.Name, &mesh.Split{Service: s, Beat: uint64(small("beat")), Shares: []mesh.Share{{Cluster: peer, Parts: mesh.AllParts}}})
		}
		panic("no generator for " + kind)
	}()
	f.Stamp.WallMillis = int64(small("stamp"))
	return f
}

var kinds = []mesh.Kind{mesh.KindCluster, mesh.KindService, mesh.KindServiceExport, mesh.KindWorkload, mesh.KindEndpointSlice,
	mesh.KindHTTPRoute, mesh.KindGRPCRoute, mesh.KindTLSRoute, mesh.KindTCPRoute, mesh.KindUDPRoute,
	mesh.KindGateway, mesh.KindNamespace, mesh.KindReferenceGrant, mesh.KindAccessPolicy, mesh.KindResidencyPolicy, mesh.KindTrafficPolicy, mesh.KindFaultPolicy, mesh.KindTelemetryPolicy, mesh.KindBackendTLSPolicy, mesh.KindConfigMap, mesh.KindMesh, mesh.KindDrain, mesh.KindBundle,
	mesh.KindRemoteService, mesh.KindSlotTable, mesh.KindServiceAddress, mesh.KindServiceImport, mesh.KindReach, mesh.KindIngress, mesh.KindSplit}

// watchAll watches every resource that the universe can have.
func watchAll(e *derive.Engine) {
	for _, s := range services {
		in := In{s, view}
		NameOf.Watch(e, in)
		ServiceOf.Watch(e, in)
		EndpointsOf.Watch(e, in)
		AccessOf.Watch(e, s)
		SlotsOf.Watch(e, s)
		SplitOf.Watch(e, s)
		ReadyOf.Watch(e, s)
		NeedOf.Watch(e, s)
		ExportOf.Watch(e, Export{s, "us"})
		ExportOf.Watch(e, Export{s, "in"})
	}
	IngressOf.Watch(e, struct{}{})
	for _, ns := range []string{"shop", "bank"} {
		for _, n := range []string{"gw0", "gw1", "gw2"} {
			GatewayOf.Watch(e, GatewayKey{ns, n, view})
		}
	}
	for _, n := range clusters {
		ClusterOf.Watch(e, n)
		BundleOf.Watch(e, mesh.TrustDomainOf(n, mesh.DefaultDomain))
	}
	for _, w := range []string{"shop/w0", "shop/w1", "bank/w0"} {
		id, _ := mesh.ParseServiceName(w)
		ProxyOf.Watch(e, ProxyKey{w, mesh.Identity{TrustDomain: "eu.isthmus.local", Namespace: id.Namespace, ServiceAccount: id.Name}, view})
	}
}

// image is the digest of every watched resource.
func image(e *derive.Engine) map[string]string {
	out := map[string]string{}
	add := func(name string, v any, ok bool) { out[name] = fmt.Sprint(ok, ir.DigestOf(v)) }
	for _, s := range services {
		in := In{s, view}
		v1, ok := NameOf.Value(e, in)
		add("name "+s.String(), v1, ok)
		v2, ok := ServiceOf.Value(e, in)
		add("service "+s.String(), v2, ok)
		v3, ok := EndpointsOf.Value(e, in)
		add("endpoints "+s.String(), v3, ok)
		v4, ok := AccessOf.Value(e, s)
		add("access "+s.String(), v4, ok)
		v5, ok := SlotsOf.Value(e, s)
		add("slots "+s.String(), v5, ok)
		split, ok := SplitOf.Value(e, s)
		add("split "+s.String(), split, ok)
		v6, ok := ReadyOf.Value(e, s)
		add("ready "+s.String(), v6, ok)
		need, ok := NeedOf.Value(e, s)
		add("need "+s.String(), need, ok)
		for _, p := range []mesh.ClusterName{"us", "in"} {
			v7, ok := ExportOf.Value(e, Export{s, p})
			add("export "+s.String()+string(p), v7, ok)
		}
	}
	for _, ns := range []string{"shop", "bank"} {
		for _, n := range []string{"gw0", "gw1", "gw2"} {
			v, ok := GatewayOf.Value(e, GatewayKey{ns, n, view})
			add("gateway "+ns+"/"+n, v, ok)
		}
	}
	for _, n := range clusters {
		v8, ok := ClusterOf.Value(e, n)
		add("cluster "+string(n), v8, ok)
		v9, ok := BundleOf.Value(e, mesh.TrustDomainOf(n, mesh.DefaultDomain))
		add("bundle "+string(n), v9, ok)
	}
	for _, w := range []string{"shop/w0", "shop/w1", "bank/w0"} {
		id, _ := mesh.ParseServiceName(w)
		v, ok := ProxyOf.Value(e, ProxyKey{w, mesh.Identity{TrustDomain: "eu.isthmus.local", Namespace: id.Namespace, ServiceAccount: id.Name}, view})
		add("proxy "+w, v, ok)
	}
	return out
}

// TestIncrementalEqualsScratch drives random edits through engines with 1, 2 and 16 workers
// and compares each revision with a compile from nothing, fed in another order.
func TestIncrementalEqualsScratch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := world.New("eu")
		engines := map[int]*derive.Engine{1: derive.New(w), 2: derive.New(w), 16: derive.New(w)}
		for _, e := range engines {
			watchAll(e)
		}
		for range rapid.IntRange(1, 6).Draw(t, "commits") {
			var edits []world.Edit
			for range rapid.IntRange(1, 12).Draw(t, "size") {
				f := drawFact(t)
				if rapid.IntRange(0, 3).Draw(t, "remove") == 0 {
					edits = append(edits, world.Remove(f.Key))
				} else {
					edits = append(edits, world.Put(f))
				}
			}
			next, changed := w.Edit(edits)
			w = next
			for workers, e := range engines {
				e.Commit(w, changed...)
				if r := e.Settle(workers); len(r.Failed) > 0 {
					t.Fatalf("settle with %d workers: %v", workers, r.Failed)
				}
			}
			scratch := world.New("eu")
			for f := range w.All() { // in no order
				scratch, _ = scratch.Edit([]world.Edit{world.Put(f)})
			}
			fresh := derive.New(scratch)
			watchAll(fresh)
			fresh.Settle(1)
			want := image(fresh)
			for workers, e := range engines {
				if diff := cmp.Diff(want, image(e)); diff != "" {
					t.Fatalf("%d workers, incremental differs from scratch (-scratch +incremental):\n%s", workers, diff)
				}
			}
		}
	})
}

// TestOnlyStatusReadsDelivery walks the recorded reads of every resource: what proxies
// said of a configuration must never change the configuration.
func TestOnlyStatusReadsDelivery(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := world.New("eu")
		for range 30 {
			w, _ = w.Edit([]world.Edit{world.Put(drawFact(t))})
		}
		e := derive.New(w)
		watchAll(e)
		e.Settle(1)
		for n := range e.Nodes() {
			for _, r := range e.Reads(n) {
				k, isFact := r.Key.(mesh.Key)
				b, isBucket := r.Key.(world.Bucket)
				if isFact && k.Kind == mesh.KindDelivery || isBucket && b.Kind == mesh.KindDelivery {
					t.Fatalf("%v reads %v", n, r)
				}
			}
		}
	})
}

// TestOneFlipIsAHandful counts evaluations after one endpoint changes among many
// services and proxies.
func TestOneFlipIsAHandful(t *testing.T) {
	evaluated := func(n int) int {
		w := world.New("eu")
		var edits []world.Edit
		edits = append(edits, world.Put(fact(mesh.KindCluster, "eu", "", "eu", &mesh.Cluster{Name: "eu", TrustDomain: "eu.isthmus.local"})))
		flip := func(i int, unready bool) *mesh.Fact {
			name := fmt.Sprintf("w%d", i)
			return fact(mesh.KindWorkload, "eu", "shop", name, &mesh.Workload{Namespace: "shop", Name: name, Labels: map[string]string{"app": fmt.Sprintf("s%d", i/5)},
				Unready: unready, Proxy: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 15008)})
		}
		for i := range n {
			s := mesh.ServiceName{Namespace: "shop", Name: fmt.Sprintf("s%d", i)}
			edits = append(edits, world.Put(fact(mesh.KindService, "eu", s.Namespace, s.Name, &mesh.Service{ServiceName: s, Selector: map[string]string{"app": s.Name}})))
		}
		for i := range 5 * n {
			edits = append(edits, world.Put(flip(i, false)))
		}
		w, _ = w.Edit(edits)
		e := derive.New(w)
		for i := range n {
			k := In{mesh.ServiceName{Namespace: "shop", Name: fmt.Sprintf("s%d", i)}, view}
			EndpointsOf.Watch(e, k)
			ServiceOf.Watch(e, k)
			ProxyOf.Watch(e, ProxyKey{fmt.Sprintf("shop/w%d", 5*i), mesh.Identity{TrustDomain: "eu.isthmus.local", Namespace: "shop"}, view})
		}
		e.Settle(2)
		before := e.Stats().Evaluated
		next, changed := w.Edit([]world.Edit{world.Put(flip(1, true))})
		e.Commit(next, changed...)
		r := e.Settle(2)
		if len(r.Changed) != 1 {
			t.Errorf("%d services: %d resources changed, want 1", n, len(r.Changed))
		}
		return e.Stats().Evaluated - before
	}
	few, many := evaluated(10), evaluated(400)
	if few != many || many > 6 {
		t.Errorf("evaluations for one flip: %d among 10 services, %d among 400; want the same handful", few, many)
	}
}
