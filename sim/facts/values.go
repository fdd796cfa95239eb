package facts

import (
	"fmt"
	"iter"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// values are the facts that stay in their cluster, made as values: namespace, name and value of one.
var values = map[mesh.Kind]func(*Maker) (namespace, name string, v any){
	mesh.KindCluster: func(m *Maker) (string, string, any) {
		c := *m.cluster()
		c.RTT, c.EgressPerGiB = time.Duration(m.Rand.IntN(5))*20*time.Millisecond, float64(m.Rand.IntN(3))/100
		if c.Name == m.Self && m.Rand.IntN(2) == 0 {
			c.Accepts = []mesh.Accept{{Origin: m.cluster().Name, Kind: "*", Namespace: "*"}}
		}
		return "", string(c.Name), &c
	},
	mesh.KindNamespace: func(m *Maker) (string, string, any) {
		s := m.service()
		return "", s.Namespace, &mesh.NamespaceObject{Name: s.Namespace, Labels: map[string]string{"team": m.numbered("t", 3)}}
	},
	mesh.KindServiceAccount: func(m *Maker) (string, string, any) {
		s := m.service()
		return s.Namespace, s.Name, &mesh.ServiceAccount{Namespace: s.Namespace, Name: s.Name}
	},
	mesh.KindService: func(m *Maker) (string, string, any) {
		s := m.service()
		return s.Namespace, s.Name, m.Service(s).Value
	},
	mesh.KindServiceExport: func(m *Maker) (string, string, any) {
		s := m.service()
		return s.Namespace, s.Name, m.Export(s).Value
	},
	mesh.KindServiceImport: func(m *Maker) (string, string, any) {
		s := m.service()
		v := &mesh.ServiceImport{ServiceName: s}
		if m.Rand.IntN(2) == 0 {
			v.Address, v.TakesAddress = m.given(), m.Rand.IntN(2) == 0
		}
		return s.Namespace, s.Name, v
	},
	mesh.KindWorkload: func(m *Maker) (string, string, any) {
		f := m.Workload(m.service(), m.Rand.IntN(3))
		return f.Namespace, f.Name, f.Value
	},
	mesh.KindEndpointSlice: func(m *Maker) (string, string, any) {
		s := m.service()
		v := &mesh.EndpointSlice{Namespace: s.Namespace, Name: s.Name + "-slice", Service: s, Ports: []mesh.EndpointPort{{Name: "http", Port: 8080}}}
		for i := range m.Rand.IntN(3) {
			v.Endpoints = append(v.Endpoints, mesh.SliceEndpoint{Ready: m.Rand.IntN(3) > 0, Workload: fmt.Sprintf("%s-%d", m.service().Name, i)})
		}
		return s.Namespace, v.Name, v
	},
	mesh.KindMesh: func(m *Maker) (string, string, any) {
		return "", "mesh", &mesh.Settings{Domain: mesh.DefaultDomain, OutboundAllowAny: m.Rand.IntN(2) == 0, Strict: m.Rand.IntN(2) == 0}
	},
	mesh.KindBackendTLSPolicy: func(m *Maker) (string, string, any) {
		s, v := m.service(), &mesh.BackendTLSPolicy{}
		m.fill(reflect.ValueOf(v).Elem())
		v.Namespace, v.Name = s.Namespace, m.numbered("tls", 3)
		v.Targets = []mesh.TargetRef{{Kind: "Service", Namespace: s.Namespace, Name: s.Name}}
		v.Authorities = []mesh.ObjectRef{{Kind: "ConfigMap", Name: m.numbered("roots", 2)}}
		return v.Namespace, v.Name, v
	},
	mesh.KindConfigMap: func(m *Maker) (string, string, any) {
		v := &mesh.ConfigMap{}
		m.fill(reflect.ValueOf(v).Elem())
		v.Namespace, v.Name = m.service().Namespace, m.numbered("roots", 2)
		return v.Namespace, v.Name, v
	},
	mesh.KindSecret: func(m *Maker) (string, string, any) {
		v := &mesh.Certificate{Namespace: m.service().Namespace, Name: m.numbered("certificate", 2), Chain: m.numbered("chain", 3), Key: mesh.Hide([]byte("key"))}
		return v.Namespace, v.Name, v
	},
	mesh.KindBundle: func(m *Maker) (string, string, any) {
		td := mesh.TrustDomainOf(m.Self, mesh.DefaultDomain)
		m.bundles++
		return "", string(td), &mesh.Bundle{TrustDomain: td, Generation: m.bundles, Roots: [][]byte{{byte(m.Number), byte(m.bundles)}}}
	},
	mesh.KindServiceAddress: func(m *Maker) (string, string, any) {
		v := &mesh.ServiceAddress{Service: m.service(), Address: m.given(), SinceMillis: int64(m.Rand.IntN(3))}
		return "", v.Address.String(), v
	},
	mesh.KindIngress: func(m *Maker) (string, string, any) {
		n := m.cluster().Name
		return "", string(n), &mesh.Ingress{Cluster: n, Unserved: []string{m.numbered("shop/web/l", 3)}}
	},
	mesh.KindSplit: func(m *Maker) (string, string, any) {
		s := m.service()
		v := &mesh.Split{Service: s, Beat: uint64(m.Rand.IntN(3))}
		for _, c := range m.Clusters[:min(2, len(m.Clusters))] {
			v.Shares = append(v.Shares, mesh.Share{Cluster: c.Name, Parts: mesh.AllParts / 2})
		}
		return s.Namespace, s.Name, v
	},
	mesh.KindDelivery: func(m *Maker) (string, string, any) {
		v := &mesh.Delivery{}
		m.fill(reflect.ValueOf(v).Elem())
		return "", m.numbered("delivery", 2), v
	},
}

// given is one of the cluster's own addresses for services.
func (m *Maker) given() netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(m.Number), 201, byte(m.Rand.IntN(4))})
}

// fill draws every exported field at any depth, zero as often as not, so that a field that a kind grows is drawn without
// a word here.
func (m *Maker) fill(v reflect.Value) {
	if v.Kind() != reflect.Struct && m.Rand.IntN(2) == 0 {
		v.SetZero()
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			m.fill(v.Field(i))
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		m.fill(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		m.fill(v.Index(0))
	case reflect.String:
		v.SetString(pick(m, []string{"x", "y"}))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(int64(1 + m.Rand.IntN(2)))
	case reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(1 + m.Rand.IntN(2)))
	default:
		panic("facts: no way to fill a " + v.Type().String())
	}
}

// Serves lists by hand, and not by the code under test, the ready workloads with a proxy that a cluster's own facts give
// to a service: the addresses of their proxies, sorted.
func Serves(s mesh.ServiceName, own iter.Seq[*mesh.Fact]) []netip.AddrPort {
	var selector map[string]string
	named := map[string]bool{}
	var workloads []*mesh.Workload
	for f := range own {
		switch v := f.Value.(type) {
		case *mesh.Service:
			if v.ServiceName == s {
				selector = v.Selector
			}
		case *mesh.EndpointSlice:
			for _, e := range v.Endpoints {
				if v.Service == s && e.Ready {
					named[e.Workload] = true
				}
			}
		case *mesh.Workload:
			if v.Namespace == s.Namespace {
				workloads = append(workloads, v)
			}
		}
	}
	var out []netip.AddrPort
	for _, w := range workloads {
		if selector != nil && !w.Unready && w.Proxy.IsValid() && (w.Labels["app"] == selector["app"] || named[w.Name]) {
			out = append(out, w.Proxy)
		}
	}
	slices.SortFunc(out, netip.AddrPort.Compare)
	return out
}

// Reach is what a cluster observes of another.
func Reach(self, other mesh.ClusterName, r mesh.Reachability) *mesh.Fact {
	v := &mesh.Reach{Cluster: other, State: r}
	return &mesh.Fact{Key: mesh.Key{Kind: mesh.KindReach, Origin: self, Name: string(other)}, Value: v, Digest: ir.DigestOf(v)}
}
