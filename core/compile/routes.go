package compile

import (
	"cmp"
	"slices"
	"strings"

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
	s := &ir.Service{Name: k.Service, Ports: n.Ports, Traffic: traffic(c, k)}
	for _, a := range settled(attachments(c, k.Service), n.Ports) {
		s.Routes = append(s.Routes, routesOf(c, k, a)...)
	}
	sortRoutes(s.Routes)
	s.Routed = len(s.Routes) > 0
	return s
}

// attachment is a route at one of its parents.
type attachment struct {
	fact *mesh.Fact
	// consumer is the namespace whose callers it is for; empty is every caller.
	consumer string
	ports    []uint16 // nil: every port
}

// kindsOfRoutes are in order of precedence (GEP-1294, Route types).
var kindsOfRoutes = [...]mesh.Kind{mesh.KindGRPCRoute, mesh.KindHTTPRoute, mesh.KindTLSRoute, mesh.KindTCPRoute, mesh.KindUDPRoute}

// attachments lists the routes of a service, kind by kind and then by name, each once for every
// parent that names the service.
func attachments(c *derive.Ctx, s mesh.ServiceName) []attachment {
	var out []attachment
	for _, kind := range kindsOfRoutes {
		for _, f := range gather(c, world.AttachedTo(kind, s)) {
			r := f.Value.(*mesh.Route)
			a := attachment{fact: f}
			if r.Namespace != s.Namespace {
				a.consumer = r.Namespace // GEP-1294: a route in another namespace is for callers there
			}
			for _, p := range r.Parents {
				if (p.Kind == "Service" || p.Kind == "ServiceImport") && p.Namespace == s.Namespace && p.Name == s.Name {
					if a.ports = nil; p.Port != 0 {
						a.ports = []uint16{p.Port}
					}
					out = append(out, a)
				}
			}
		}
	}
	return out
}

// settled leaves each port of the service to one kind of route, for producers and for the
// consumers of each namespace apart: the kind that stands first among those attached there.
func settled(all []attachment, ports []ir.Port) []attachment {
	type place struct {
		consumer string
		port     uint16
		datagram bool
	}
	at := func(a attachment, p ir.Port) place { return place{a.consumer, p.Port, p.Protocol == mesh.ProtocolUDP} }
	kind := map[place]mesh.Kind{}
	for _, a := range all {
		for _, p := range ports {
			if at := at(a, p); a.reaches(p) && kind[at] == "" {
				kind[at] = a.fact.Kind
			}
		}
	}
	var out []attachment
	for _, a := range all {
		var mine []uint16
		for _, p := range ports {
			if a.reaches(p) && kind[at(a, p)] == a.fact.Kind {
				mine = append(mine, p.Port)
			}
		}
		if len(mine) == 0 {
			continue
		}
		if len(mine) < len(ports) {
			a.ports = mine
		}
		out = append(out, a)
	}
	return out
}

// reaches reports whether the route is attached to a port: requests can be told apart only where
// the port speaks HTTP, and datagrams are no connection.
func (a attachment) reaches(p ir.Port) bool {
	named := a.ports == nil || slices.Contains(a.ports, p.Port)
	switch a.fact.Kind {
	case mesh.KindGRPCRoute, mesh.KindHTTPRoute:
		return named && p.Protocol.MayBeHTTP()
	case mesh.KindUDPRoute:
		return named && p.Protocol == mesh.ProtocolUDP
	}
	return named && p.Protocol != mesh.ProtocolUDP
}

// routesOf spreads a route object into one ir.Route for each match of each rule.
func routesOf(c *derive.Ctx, k In, a attachment) []ir.Route {
	r := a.fact.Value.(*mesh.Route)
	ports := a.ports
	if ports == nil {
		ports = []uint16{0}
	}
	var out []ir.Route
	for i, rule := range r.Rules {
		matches := rule.Matches
		if len(matches) == 0 {
			matches = []mesh.RouteMatch{{}}
		}
		backends, filters := backendsOf(c, k.View, r, rule), filtersOf(c, k.View, r, rule.Filters)
		for _, m := range matches {
			for _, port := range ports {
				out = append(out, ir.Route{Consumer: a.consumer, Object: a.fact.Key.String(), Rule: i, Port: port, Datagrams: a.fact.Kind == mesh.KindUDPRoute, Match: m, Filters: filters,
					Backends: backends, RequestTimeout: rule.RequestTimeout, TryTimeout: rule.TryTimeout, Retry: rule.Retry, Affinity: rule.Affinity})
			}
		}
	}
	return out
}

// filtersOf leaves out mirrors whose backend cannot be used: the API drops them, and what is
// mirrored is nobody's answer.
func filtersOf(c *derive.Ctx, view ir.View, r *mesh.Route, in []mesh.RouteFilter) []mesh.RouteFilter {
	unusable := func(f mesh.RouteFilter) bool {
		return f.Kind == mesh.FilterMirror && (f.Backend == nil || missing(c, view, r, *f.Backend) != "")
	}
	if !slices.ContainsFunc(in, func(f mesh.RouteFilter) bool { return f.Kind == mesh.FilterMirror }) {
		return in
	}
	return slices.DeleteFunc(slices.Clone(in), unusable)
}

func backendsOf(c *derive.Ctx, view ir.View, r *mesh.Route, rule mesh.RouteRule) []ir.Backend {
	var out []ir.Backend
	for _, b := range rule.Backends {
		out = append(out, ir.Backend{Service: b.Service, Port: b.Port, Weight: uint32(max(b.Weight, 0)), Filters: filtersOf(c, view, r, b.Filters),
			Missing: missing(c, view, r, b)})
	}
	return out
}

// missing says why a backend cannot be used, or nothing.
func missing(c *derive.Ctx, view ir.View, r *mesh.Route, b mesh.RouteBackend) string {
	if _, known := backendGroups[b.Kind]; !known {
		return b.Kind + " is no kind of backend"
	}
	from := mesh.GrantFrom{Group: "gateway.networking.k8s.io", Kind: r.Kind, Namespace: r.Namespace}
	if b.Service.Namespace != r.Namespace && !granted(c, from, b) {
		return "no ReferenceGrant in namespace " + b.Service.Namespace + " lets a " + r.Kind + " of namespace " + r.Namespace + " refer to it"
	}
	n := NameOf.Get(c, In{b.Service, view})
	if n == nil {
		return "service " + b.Service.String() + " does not exist in any cluster of the mesh"
	}
	if b.Port != 0 && !slices.ContainsFunc(n.Ports, func(p ir.Port) bool {
		return p.Port == b.Port && (p.Protocol == mesh.ProtocolUDP) == (r.Kind == string(mesh.KindUDPRoute))
	}) {
		return "service " + b.Service.String() + " has no such port" + ofUDP(r)
	}
	return ""
}

func ofUDP(r *mesh.Route) string {
	if r.Kind == string(mesh.KindUDPRoute) {
		return " of UDP"
	}
	return ""
}

// backendGroups are the kinds of backends and their API groups.
var backendGroups = map[string]string{"Service": "", "ServiceImport": "multicluster.x-k8s.io"}

// granted reports whether a backend of another namespace may be referred to.
func granted(c *derive.Ctx, who mesh.GrantFrom, b mesh.RouteBackend) bool {
	return permitted(c, who, b.Service.Namespace, mesh.GrantTo{Group: backendGroups[b.Kind], Kind: b.Kind, Name: b.Service.Name})
}

// sortRoutes puts routes in order of precedence: consumers' first, for they replace the
// producer's, and then as the API has it for their kind; ties keep the order of names and rules.
func sortRoutes(routes []ir.Route) {
	slices.SortStableFunc(routes, func(a, b ir.Route) int {
		if c := cmp.Compare(b2i(b.Consumer != ""), b2i(a.Consumer != "")); c != 0 {
			return c
		}
		x, y := precedence(&a), precedence(&b)
		return slices.Compare(y[:], x[:]) // the greater first
	})
}

// precedence is what decides between two routes that take one request. Routes of several kinds
// never do: their numbers are not compared for a meaning.
func precedence(r *ir.Route) [6]int {
	m := &r.Match
	if strings.HasPrefix(r.Object, string(mesh.KindGRPCRoute)) {
		// GRPCRouteRule: the longest service, the longest method, the most headers.
		service, method := grpcLengths(m)
		return [6]int{service, method, len(m.Headers)}
	}
	// HTTPRouteRule: an exact path, the longest prefix, a method, the most headers, the most query
	// parameters. A match that names no path has the API's default, the prefix "/". Of regular
	// expressions the API says nothing: they stand among prefixes, by length.
	exact, length := 0, len(m.Path)
	switch m.PathType {
	case mesh.PathExact:
		exact = 1
	case "":
		length = 1
	}
	return [6]int{exact, length, b2i(m.Method != ""), len(m.Headers), len(m.Query)}
}

// grpcLengths counts the characters that a match of gRPC, which is a path by now, names of service
// and method; see manifest for the forms.
func grpcLengths(m *mesh.RouteMatch) (service, method int) {
	path := strings.TrimPrefix(m.Path, "/")
	const anyElement = "[^/]+"
	switch m.PathType {
	case mesh.PathExact:
		s, method, _ := strings.Cut(path, "/")
		return len(s), len(method)
	case mesh.PathPrefix:
		return len(path), 0
	case mesh.PathRegex:
		s, rest, found := strings.Cut(path, ")/")
		if after, ok := strings.CutPrefix(path, anyElement+"/"); ok {
			s, rest, found = "", after, true
		}
		if !found {
			return len(path), 0
		}
		return len(s), len(strings.TrimSuffix(rest, anyElement))
	}
	return 0, 0
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
