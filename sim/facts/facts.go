package facts

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"github.com/isthmus-mesh/isthmus/codec/manifest"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Services are those that clusters may have, in two namespaces so that grants matter.
func Services() []mesh.ServiceName {
	var out []mesh.ServiceName
	for _, n := range []string{"bank/a", "bank/b", "shop/a", "shop/b", "shop/c", "shop/d", "shop/e"} {
		namespace, name, _ := strings.Cut(n, "/")
		out = append(out, mesh.ServiceName{Namespace: namespace, Name: name})
	}
	return out
}

// Jurisdictions are those that clusters stand under.
func Jurisdictions() []mesh.Jurisdiction { return []mesh.Jurisdiction{"EU", "IN", "US"} }

// Ports of every service, one of each way of routing.
func ports() []mesh.ServicePort {
	return []mesh.ServicePort{{Name: "http", Port: 80, Protocol: mesh.ProtocolHTTP}, {Name: "grpc", Port: 9000, Protocol: mesh.ProtocolGRPC},
		{Name: "db", Port: 5432, Protocol: mesh.ProtocolTCP}, {Name: "dns", Port: 53, Protocol: mesh.ProtocolUDP}}
}

// Maker makes facts of one cluster. It is not safe for concurrent use.
type Maker struct {
	Rand *rand.Rand
	Self mesh.ClusterName
	// Number is the cluster's, from which its addresses follow.
	Number int
	// Suffix ends the names of objects: from run to run they fall into other buckets of digests.
	Suffix string
	// Clusters are all of the mesh, the own one included, as the own one knows them.
	Clusters []*mesh.Cluster
	// bundles counts generations.
	bundles uint64
}

// Computed are the kinds that are not made here, with who makes them.
func Computed() map[mesh.Kind]string {
	return map[mesh.Kind]string{
		mesh.KindRemoteService: "core/compile, of what a cluster exports",
		mesh.KindSlotTable:     "core/balance, of the ready endpoints",
		mesh.KindReach:         "core/liveness, of lease and path",
	}
}

// Kinds are those that Make makes, in order.
func Kinds() []mesh.Kind {
	return slices.Sorted(func(yield func(mesh.Kind) bool) {
		for k := range maps.Keys(manifests) {
			if !yield(k) {
				return
			}
		}
		for k := range maps.Keys(values) {
			if !yield(k) {
				return
			}
		}
	})
}

// Make makes a fact of a kind, without stamp and position; nil for a kind of which nothing is known. A name may be one
// that was made before: then it is another version.
func (m *Maker) Make(k mesh.Kind) *mesh.Fact {
	if write := manifests[k]; write != nil {
		return m.read(write(m))
	}
	value := values[k]
	if value == nil {
		return nil
	}
	namespace, name, v := value(m)
	return &mesh.Fact{Key: mesh.Key{Kind: k, Origin: m.Self, Namespace: namespace, Name: name}, Value: v, Digest: ir.DigestOf(v)}
}

// read has the product read a manifest: one that it does not take is a mistake here.
func (m *Maker) read(text string) *mesh.Fact {
	got := manifest.Parse(string(m.Self), []byte(text), manifest.Options{})
	if len(got.Faults) > 0 || len(got.Objects) != 1 {
		panic(fmt.Sprintf("facts: manifest is not understood: %v\n%s", got.Faults, text))
	}
	f, ok := got.Objects[0].Fact(m.Self)
	if !ok {
		panic("facts: no fact of the mesh: " + text)
	}
	f.Raw = got.Objects[0].JSON
	return &f
}

// Workload is an instance of a service: the n-th.
func (m *Maker) Workload(s mesh.ServiceName, n int) *mesh.Fact {
	name := fmt.Sprintf("%s-%d", s.Name, n)
	at := slices.Index(Services(), s)
	a := netip.AddrFrom4([4]byte{10, byte(m.Number), byte(at), byte(n + 1)})
	v := &mesh.Workload{Namespace: s.Namespace, Name: name, Labels: map[string]string{"app": s.Name}, ServiceAccount: s.Name, Address: a,
		Ports: map[string]uint16{"http": 8080}, Zone: mesh.Zone(fmt.Sprintf("z%d", n%2)), Proxy: netip.AddrPortFrom(a, 15008),
		Weight: uint32(1 + m.Rand.IntN(3)), Lanes: uint32(m.Rand.IntN(4)), Unready: m.Rand.IntN(4) == 0}
	if m.Rand.IntN(12) == 0 {
		v.Proxy = netip.AddrPort{} // a workload without a proxy is no endpoint
	}
	return &mesh.Fact{Key: mesh.Key{Kind: mesh.KindWorkload, Origin: m.Self, Namespace: s.Namespace, Name: name}, Value: v, Digest: ir.DigestOf(v)}
}

// Service is a service of the cluster, and its export if there is one.
func (m *Maker) Service(s mesh.ServiceName) *mesh.Fact {
	v := &mesh.Service{ServiceName: s, Ports: ports(), Selector: map[string]string{"app": s.Name},
		Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(m.Number), 200, byte(slices.Index(Services(), s))})}}
	if m.Rand.IntN(6) == 0 {
		v.Ports = append(v.Ports, mesh.ServicePort{Name: "extra", Port: uint16(7000 + m.Rand.IntN(3)), Protocol: mesh.ProtocolAuto})
	}
	return m.own(mesh.KindService, s.Namespace, s.Name, v)
}

// Export is the export of a service, to all or to a few.
func (m *Maker) Export(s mesh.ServiceName) *mesh.Fact {
	v := &mesh.ServiceExport{ServiceName: s}
	if m.Rand.IntN(4) == 0 {
		for _, c := range m.Clusters {
			if m.Rand.IntN(2) == 0 {
				v.Consumers = append(v.Consumers, c.Name)
			}
		}
	}
	return m.own(mesh.KindServiceExport, s.Namespace, s.Name, v)
}

// Cluster is a cluster of the mesh as the own one knows it.
func (m *Maker) Cluster(c *mesh.Cluster) *mesh.Fact {
	return m.own(mesh.KindCluster, "", string(c.Name), c)
}

func (m *Maker) own(k mesh.Kind, namespace, name string, v any) *mesh.Fact {
	return &mesh.Fact{Key: mesh.Key{Kind: k, Origin: m.Self, Namespace: namespace, Name: name}, Value: v, Digest: ir.DigestOf(v)}
}

func (m *Maker) service() mesh.ServiceName { return pick(m, Services()) }

func (m *Maker) cluster() *mesh.Cluster { return pick(m, m.Clusters) }

func pick[T any](m *Maker, of []T) T { return of[m.Rand.IntN(len(of))] }

// numbered is one of few names, so that edits meet.
func (m *Maker) numbered(prefix string, few int) string {
	return fmt.Sprintf("%s%d", prefix, m.Rand.IntN(few))
}
