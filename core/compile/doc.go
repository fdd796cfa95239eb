// Package compile turns a world into what proxies must do: pure functions over
// tracked reads. Its one idea is that each resource is a function of exactly the facts it
// read, so that what a change concerns is observed and never declared.
//
// It holds no state, encodes nothing and knows no stream. The functions are package
// variables; a control plane watches those that somebody subscribed to, the API evaluates any
// of them over a world of its choice (derive.Eval), and tests do both and compare.
//
// Read EndpointsOf first: it is the whole pattern on one page.
package compile

import (
	"github.com/isthmus-mesh/isthmus/core/derive"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// In is a service as seen from a view.
type In struct {
	Service mesh.ServiceName
	View    ir.View
}

// String is "namespace/name from cluster".
func (k In) String() string { return k.Service.String() + " from " + string(k.View.Cluster) }

// The resources, nil where there is nothing to say.
var (
	// NameOf is what every proxy knows of a service; nil if it does not exist.
	NameOf = fn("name", name)
	// ServiceOf is how requests to a service are routed; nil if it does not exist.
	ServiceOf = fn("service", service)
	// EndpointsOf is where a service can be reached; nil if it does not exist.
	EndpointsOf = fn("endpoints", endpoints)
	// AccessOf is who may call a service of this cluster; nil if it is not one.
	AccessOf = fn("access", access)
	// ProxyOf is what is a proxy's own.
	ProxyOf = fn("proxy", proxy)
	// ClusterOf is one cluster as the view's proxies know it; nil if it is not joined.
	ClusterOf = fn("cluster", cluster)
	// BundleOf is the bundle of a trust domain; nil if none is known.
	BundleOf = fn("bundle", bundle)
	// SplitOf is how callers in this cluster spread their requests to a service; nil where nothing says so: then
	// the nearest come first.
	SplitOf = fn("split", func(c *derive.Ctx, s mesh.ServiceName) *mesh.Split {
		return own[mesh.Split](c, mesh.KindSplit, s.Namespace, s.Name)
	})
	// SlotsOf is the gateways' table of an exported service of this cluster; nil if it
	// is not one.
	SlotsOf = fn("slots", slots)
	// ReadyOf is the ready endpoints of an exported service of this cluster, in order of
	// address: what its slot table must cover.
	ReadyOf = fn("ready", ready)
	// NeedOf is what a service wants of this cluster's addresses; nil if it wants none.
	NeedOf = fn("need", need)
	// ExportOf is what a peer is told of a service of this cluster; nil is nothing.
	ExportOf = fn("export", export)
)

// fn declares a function whose values are compared by their canonical digest.
func fn[K comparable, V any](name string, eval func(*derive.Ctx, K) *V) *derive.Func[K, *V] {
	return derive.NewFunc(name, ir.Equal[V], eval)
}
