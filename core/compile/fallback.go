package compile

import (
	"slices"

	"github.com/isthmus-mesh/isthmus/core/derive"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// fallbackMissing says why the service that a policy names as a fallback cannot be asked for k's, or nothing.
func fallbackMissing(c *derive.Ctx, k In, p *mesh.TrafficPolicy) string {
	to := p.Fallback.Service
	if to == nil {
		return ""
	}
	if _, known := backendGroups[to.Kind]; !known {
		return to.Kind + " is no kind of service"
	}
	if to.Service == k.Service {
		return "a service cannot answer in its own place"
	}
	from := mesh.GrantFrom{Group: "isthmus.dev", Kind: string(mesh.KindTrafficPolicy), Namespace: p.Namespace}
	b := mesh.RouteBackend{Kind: to.Kind, Service: to.Service}
	if to.Service.Namespace != p.Namespace && !granted(c, from, b) {
		return "no ReferenceGrant in namespace " + to.Service.Namespace + " lets a TrafficPolicy of namespace " + p.Namespace + " refer to it"
	}
	n := NameOf.Get(c, In{to.Service, k.View})
	if n == nil {
		return "service " + to.Service.String() + " does not exist in any cluster of the mesh"
	}
	if to.Port != 0 && !slices.ContainsFunc(n.Ports, func(x ir.Port) bool { return x.Port == to.Port && x.Protocol.MayBeHTTP() }) {
		return "service " + to.Service.String() + " has no such port of HTTP"
	}
	return ""
}

// completeFallback fills in what a fallback does not say, and leaves none of one that took a wider policy's away.
func completeFallback(t *ir.Traffic) {
	if t.Fallback.Kind() == "" {
		t.Fallback = nil
		return
	}
	f := *t.Fallback // the fact stays as it is
	if len(f.Fallback.On) == 0 {
		f.Fallback.On = mesh.DefaultFallbackOn()
	}
	if s := f.Fallback.Cache; s != nil && s.MaxStale == 0 {
		f.Fallback.Cache = &mesh.StaleCache{MaxStale: mesh.DefaultMaxStale}
	}
	t.Fallback = &f
}

// FallbackMissing is fallbackMissing for a policy by itself, whatever it is attached to: for its status.
var FallbackMissing = derive.NewFunc("fallback missing", derive.Same[string], func(c *derive.Ctx, k FallbackKey) string {
	return fallbackMissing(c, In{View: k.View}, &mesh.TrafficPolicy{Namespace: k.Namespace, Fallback: &mesh.Fallback{Service: &k.To}})
})

// FallbackKey is a fallback's service as a policy of a namespace names it.
type FallbackKey struct {
	View      ir.View
	Namespace string
	To        mesh.FallbackService
}
