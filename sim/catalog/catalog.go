package catalog

import (
	"slices"

	"github.com/isthmus-mesh/isthmus/core/compile"
	"github.com/isthmus-mesh/isthmus/core/derive"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/sim/facts"
)

// Catalog is every resource that proxies of one cluster can be told of, in the order in which additions are sent:
// each stands before what refers to it. It is immutable.
type Catalog struct {
	Resources []Resource
	// ByRef finds a resource by the function behind it.
	ByRef map[derive.Ref]int
	// Services and Endpoints are where those of each service stand.
	Services, Endpoints map[mesh.ServiceName]int
}

// Resource is a derived function at a key, with the types taken off.
type Resource struct {
	Type    ir.Type
	Name    string
	Service mesh.ServiceName // zero where the name is none
	Watch   func(*derive.Engine)
	// Value is nil if there is none.
	Value func(*derive.Engine) any
}

// New is the catalog of a view, in a mesh of the clusters given.
func New(view ir.View, clusters []mesh.ClusterName) *Catalog {
	c := &Catalog{ByRef: map[derive.Ref]int{}, Services: map[mesh.ServiceName]int{}, Endpoints: map[mesh.ServiceName]int{}}
	for _, typ := range ir.Order() {
		for _, s := range facts.Services() {
			in := compile.In{Service: s, View: view}
			switch typ {
			case ir.TypeEndpoints:
				c.Endpoints[s] = len(c.Resources)
				add(c, typ, s.String(), compile.EndpointsOf, in)
			case ir.TypeService:
				c.Services[s] = len(c.Resources)
				add(c, typ, s.String(), compile.ServiceOf, in)
			case ir.TypeName:
				add(c, typ, s.String(), compile.NameOf, in)
			case ir.TypeAccess:
				add(c, typ, s.String(), compile.AccessOf, s)
			case ir.TypeSlots:
				add(c, typ, s.String(), compile.SlotsOf, s)
			case ir.TypeSplit:
				add(c, typ, s.String(), compile.SplitOf, s)
			case ir.TypeProxy:
				id := mesh.Identity{TrustDomain: mesh.TrustDomainOf(view.Cluster, mesh.DefaultDomain), Namespace: s.Namespace, ServiceAccount: s.Name}
				add(c, typ, s.String()+"-0", compile.ProxyOf, compile.ProxyKey{ID: s.String() + "-0", Identity: id, View: view})
			}
		}
		for _, n := range clusters {
			switch typ {
			case ir.TypeCluster:
				add(c, typ, string(n), compile.ClusterOf, n)
			case ir.TypeBundle:
				td := mesh.TrustDomainOf(n, mesh.DefaultDomain)
				add(c, typ, string(td), compile.BundleOf, td)
			}
		}
	}
	return c
}

func add[K comparable, V any](c *Catalog, typ ir.Type, name string, f *derive.Func[K, *V], k K) {
	s, _ := mesh.ParseServiceName(name)
	r := Resource{typ, name, s, func(e *derive.Engine) { f.Watch(e, k) }, func(e *derive.Engine) any {
		if v, ok := f.Value(e, k); ok && v != nil {
			return v
		}
		return nil
	}}
	c.ByRef[f.Ref(k)] = len(c.Resources)
	c.Resources = append(c.Resources, r)
}

// Entry is a resource as a proxy may hold it; the zero Entry is none.
type Entry struct {
	Version ir.Digest
	Value   any
}

// EntryOf is the entry of a value; nil is none.
func EntryOf(v any) Entry {
	if v == nil {
		return Entry{}
	}
	return Entry{ir.DigestOf(v), v}
}

// Backends lists what a service's routes refer to and may use, sorted.
func Backends(svc *ir.Service) []mesh.ServiceName {
	var out []mesh.ServiceName
	mirrors := func(fs []mesh.RouteFilter) {
		for _, f := range fs {
			if f.Kind == mesh.FilterMirror && f.Backend != nil {
				out = append(out, f.Backend.Service)
			}
		}
	}
	for _, r := range svc.Routes {
		mirrors(r.Filters)
		for _, b := range r.Backends {
			mirrors(b.Filters)
			if b.Missing == "" {
				out = append(out, b.Service)
			}
		}
	}
	slices.SortFunc(out, mesh.ServiceName.Compare)
	return slices.Compact(out)
}
