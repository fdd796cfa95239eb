package world

import (
	"fmt"
	"maps"
	"slices"

	"github.com/isthmus-mesh/isthmus/core/derive"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Bucket names one bucket of one index. What A and B mean depends on the index.
type Bucket struct {
	Index IndexName
	Kind  mesh.Kind
	A, B  string
	C     string
}

// String is "index Kind a/b/c", for provenance.
func (b Bucket) String() string { return fmt.Sprintf("%s %s %s/%s/%s", b.Index, b.Kind, b.A, b.B, b.C) }

// IndexName names an index.
type IndexName string

// The indexes.
const (
	// ByName: facts of one kind, namespace and name over all origins.
	ByName IndexName = "by-name"
	// ByKind: all facts of a kind that is small by nature: Cluster, Reach, Mesh, Bundle, Drain, Gateway.
	ByKind IndexName = "by-kind"
	// ByLabel: workloads by namespace and one label; services by namespace and the first
	// pair of their selector.
	ByLabel IndexName = "by-label"
	// ByService: EndpointSlices, and addresses, by their service.
	ByService IndexName = "by-service"
	// ByParent: routes by the service they attach to, or the Gateway where C says so.
	ByParent IndexName = "by-parent"
	// ByTarget: policies by target; A is the target's kind.
	ByTarget IndexName = "by-target"
	// ByGrant: reference grants by the namespace they stand in.
	ByGrant IndexName = "by-grant"
)

// The handles through which derived functions read a world.
var (
	// Facts is one fact by its key; absence is a read too.
	Facts = derive.NewFact("fact", func(w *World, k mesh.Key) (*mesh.Fact, bool) { return w.Get(k) })
	// Index is the sorted keys of a bucket.
	Index = derive.NewBucket("index", func(w *World, b Bucket) []mesh.Key { return w.Members(b) })
	// Self is the cluster whose world it is; it never changes.
	Self = derive.NewAggregate("self", func(w *World, _ struct{}) mesh.ClusterName { return w.Self() })
)

// Named is the bucket of one name over all origins.
func Named(kind mesh.Kind, namespace, name string) Bucket {
	return Bucket{Index: ByName, Kind: kind, A: namespace, B: name}
}

// Labelled is the bucket of one label in a namespace.
func Labelled(kind mesh.Kind, namespace, key, value string) Bucket {
	return Bucket{Index: ByLabel, Kind: kind, A: namespace, B: key, C: value}
}

// Small is the bucket of a whole kind that is small by nature.
func Small(kind mesh.Kind) Bucket { return Bucket{Index: ByKind, Kind: kind} }

// SlicesOf is the bucket of a service's EndpointSlices.
func SlicesOf(s mesh.ServiceName) Bucket {
	return Bucket{Index: ByService, Kind: mesh.KindEndpointSlice, A: s.Namespace, B: s.Name}
}

// AddressesOf is the bucket of the addresses given to a service.
func AddressesOf(s mesh.ServiceName) Bucket {
	return Bucket{Index: ByService, Kind: mesh.KindServiceAddress, A: s.Namespace, B: s.Name}
}

// AttachedTo is the bucket of the routes of a kind attached to a service.
func AttachedTo(kind mesh.Kind, s mesh.ServiceName) Bucket {
	return Bucket{Index: ByParent, Kind: kind, A: s.Namespace, B: s.Name}
}

// AttachedToGateway is the bucket of the routes of a kind that name a Gateway.
func AttachedToGateway(kind mesh.Kind, namespace, name string) Bucket {
	return Bucket{Index: ByParent, Kind: kind, A: namespace, B: name, C: string(mesh.KindGateway)}
}

// Targeting is the bucket of the policies of a kind that target something.
func Targeting(kind mesh.Kind, targetKind, namespace, name string) Bucket {
	return Bucket{Index: ByTarget, Kind: kind, A: targetKind, B: namespace, C: name}
}

// DrainsOf is the bucket of the drains of one thing.
func DrainsOf(t mesh.DrainTarget) Bucket { return Targeting(mesh.KindDrain, "", "", t.String()) }

// Granted is the bucket of the reference grants standing in a namespace.
func Granted(namespace string) Bucket {
	return Bucket{Index: ByGrant, Kind: mesh.KindReferenceGrant, A: namespace}
}

// bucketsOf lists the buckets a fact belongs to. It is the only place that says so.
func bucketsOf(f *mesh.Fact) []Bucket {
	if f == nil {
		return nil
	}
	out := []Bucket{Named(f.Kind, f.Namespace, f.Name)}
	switch v := f.Value.(type) {
	case *mesh.Cluster, *mesh.Reach, *mesh.Settings, *mesh.Bundle, *mesh.Gateway:
		out = append(out, Small(f.Kind))
	case *mesh.Drain:
		out = append(out, Small(f.Kind), DrainsOf(v.Target))
	case *mesh.Workload:
		for k, val := range v.Labels {
			out = append(out, Labelled(f.Kind, f.Namespace, k, val))
		}
	case *mesh.Service:
		if k, ok := FirstPair(v.Selector); ok {
			out = append(out, Labelled(f.Kind, f.Namespace, k, v.Selector[k]))
		}
	case *mesh.EndpointSlice:
		out = append(out, SlicesOf(v.Service))
	case *mesh.ServiceAddress:
		out = append(out, AddressesOf(v.Service))
	case *mesh.Route:
		for _, p := range v.Parents {
			switch p.Kind {
			case "Service", "ServiceImport":
				out = appendNew(out, AttachedTo(f.Kind, mesh.ServiceName{Namespace: p.Namespace, Name: p.Name}))
			case string(mesh.KindGateway):
				out = appendNew(out, AttachedToGateway(f.Kind, p.Namespace, p.Name))
			}
		}
	case *mesh.AccessPolicy:
		out = appendTargets(out, f, v.Targets)
	case *mesh.ResidencyPolicy:
		out = appendTargets(out, f, v.Targets)
	case *mesh.TrafficPolicy:
		out = appendTargets(out, f, v.Targets)
	case *mesh.FaultPolicy:
		out = appendTargets(out, f, v.Targets)
	case *mesh.TelemetryPolicy:
		out = appendTargets(out, f, v.Targets)
	case *mesh.BackendTLSPolicy:
		out = appendTargets(out, f, v.Targets)
	case *mesh.ReferenceGrant:
		out = append(out, Granted(f.Namespace))
	}
	return out
}

// appendTargets adds a bucket for each target. A policy without targets covers its
// namespace.
func appendTargets(out []Bucket, f *mesh.Fact, targets []mesh.TargetRef) []Bucket {
	if len(targets) == 0 {
		return append(out, Targeting(f.Kind, "Namespace", "", f.Namespace))
	}
	for _, t := range targets {
		switch t.Kind {
		case "Mesh":
			out = appendNew(out, Targeting(f.Kind, "Mesh", "", ""))
		case "Namespace":
			out = appendNew(out, Targeting(f.Kind, "Namespace", "", t.Name))
		default:
			out = appendNew(out, Targeting(f.Kind, t.Kind, t.Namespace, t.Name))
		}
	}
	return out
}

func appendNew(out []Bucket, b Bucket) []Bucket {
	if slices.Contains(out, b) {
		return out
	}
	return append(out, b)
}

// FirstPair is the key by which a selector is indexed: the first in order.
func FirstPair(selector map[string]string) (string, bool) {
	keys := slices.Sorted(maps.Keys(selector))
	if len(keys) == 0 {
		return "", false
	}
	return keys[0], true
}
