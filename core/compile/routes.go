package compile

import (
	"cmp"
	"slices"

	"github.com/isthmus-mesh/isthmus/core/derive"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/mesh"
)

func service(c *derive.Ctx, k In) *ir.Service {
	n := NameOf.Get(c, k)
	if n == nil {
		return nil
	}
	s := &ir.Service{Name: k.Service, Ports: n.Ports, Traffic: traffic(c, k.Service)}
	for _, f := range gather(c, world.AttachedTo(mesh.KindHTTPRoute, k.Service), world.AttachedTo(mesh.KindGRPCRoute, k.Service),
		world.AttachedTo(mesh.KindTCPRoute, k.Service), world.AttachedTo(mesh.KindTLSRoute, k.Service)) {
		s.Routes = append(s.Routes, routesOf(c, k, f)...)
		s.Routed = true
	}
	sortRoutes(s.Routes)
	return s
}

// routesOf spreads a route object into one ir.Route for each match of each rule.
func routesOf(c *derive.Ctx, k In, f *mesh.Fact) []ir.Route {
	r := f.Value.(*mesh.Route)
	consumer := ""
	if r.Namespace != k.Service.Namespace {
		consumer = r.Namespace // GEP-1294: a route in another namespace is for callers there
	}
	var out []ir.Route
	for _, parent := range r.Parents {
		if (parent.Kind != "Service" && parent.Kind != "ServiceImport") || parent.Namespace != k.Service.Namespace || parent.Name != k.Service.Name {
			continue
		}
		for i, rule := range r.Rules {
			matches := rule.Matches
			if len(matches) == 0 {
				matches = []mesh.RouteMatch{{}}
			}
			backends := backendsOf(c, k.View, r, rule)
			for _, m := range matches {
				out = append(out, ir.Route{Consumer: consumer, Object: f.Key.String(), Rule: i, Port: parent.Port, Match: m,
					Filters: rule.Filters, Backends: backends, RequestTimeout: rule.RequestTimeout, TryTimeout: rule.TryTimeout, Retry: rule.Retry})
			}
		}
	}
	return out
}

func backendsOf(c *derive.Ctx, view ir.View, r *mesh.Route, rule mesh.RouteRule) []ir.Backend {
	var out []ir.Backend
	for _, b := range rule.Backends {
		out = append(out, ir.Backend{Service: b.Service, Port: b.Port, Weight: uint32(max(b.Weight, 0)), Filters: b.Filters,
			Missing: missing(c, view, r, b)})
	}
	return out
}

// missing says why a backend cannot be used, or nothing.
func missing(c *derive.Ctx, view ir.View, r *mesh.Route, b mesh.RouteBackend) string {
	if b.Service.Namespace != r.Namespace && !granted(c, r, b) {
		return "no ReferenceGrant in namespace " + b.Service.Namespace + " lets a " + r.Kind + " of namespace " + r.Namespace + " refer to it"
	}
	n := NameOf.Get(c, In{b.Service, view})
	if n == nil {
		return "service " + b.Service.String() + " does not exist in any cluster of the mesh"
	}
	if b.Port != 0 && !slices.ContainsFunc(n.Ports, func(p ir.Port) bool { return p.Port == b.Port }) {
		return "service " + b.Service.String() + " has no such port"
	}
	return ""
}

// granted reports whether a reference across namespaces is allowed (Gateway API
// ReferenceGrant).
func granted(c *derive.Ctx, r *mesh.Route, b mesh.RouteBackend) bool {
	for _, f := range gather(c, world.Granted(b.Service.Namespace)) {
		g := f.Value.(*mesh.ReferenceGrant)
		from := slices.ContainsFunc(g.From, func(x mesh.GrantFrom) bool {
			return x.Group == "gateway.networking.k8s.io" && x.Kind == r.Kind && x.Namespace == r.Namespace
		})
		to := slices.ContainsFunc(g.To, func(x mesh.GrantTo) bool {
			return x.Kind == b.Kind && (x.Name == "" || x.Name == b.Service.Name)
		})
		if from && to {
			return true
		}
	}
	return false
}

// sortRoutes puts routes in order of precedence (Gateway API HTTPRouteRule): consumer
// routes first, then the exact path, the longest prefix, a method, the most headers, the most
// query parameters; ties keep the order of objects and rules.
func sortRoutes(routes []ir.Route) {
	slices.SortStableFunc(routes, func(a, b ir.Route) int {
		return cmp.Or(
			-cmp.Compare(b2i(a.Consumer != ""), b2i(b.Consumer != "")),
			-cmp.Compare(b2i(a.Port != 0), b2i(b.Port != 0)),
			-cmp.Compare(pathRank(a.Match), pathRank(b.Match)),
			-cmp.Compare(len(a.Match.Path), len(b.Match.Path)),
			-cmp.Compare(b2i(a.Match.Method != ""), b2i(b.Match.Method != "")),
			-cmp.Compare(len(a.Match.Headers), len(b.Match.Headers)),
			-cmp.Compare(len(a.Match.Query), len(b.Match.Query)))
	})
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func pathRank(m mesh.RouteMatch) int {
	switch m.PathType {
	case mesh.PathExact:
		return 2
	case mesh.PathPrefix:
		return 1
	case mesh.PathRegex:
		return 1
	}
	return 0
}
