package compile

import (
	"cmp"
	"slices"
	"strings"

	"github.com/isthmus-mesh/isthmus/core/attach"
	"github.com/isthmus-mesh/isthmus/core/derive"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// GatewayKey names a Gateway as seen from a view.
type GatewayKey struct {
	Namespace, Name string
	View            ir.View
}

// String is "namespace/name from cluster".
func (k GatewayKey) String() string {
	return k.Namespace + "/" + k.Name + " from " + string(k.View.Cluster)
}

// GatewayOf is what ingress gateways serve of a Gateway; nil if it is not the mesh's to serve.
var GatewayOf = fn("gateway", gateway)

// GatewayReportOf is what becomes of a Gateway's listeners and of the routes that name it; nil as GatewayOf.
var GatewayReportOf = fn("gateway-report", gatewayReport)

// GatewayReport is for people.
type GatewayReport struct {
	// Verdicts are those of the listeners, in their order.
	Verdicts []attach.Verdict
	// Routes that name the Gateway, in order of kind and name, each once for every reference.
	Routes []RouteReport
	// Certificates are what became of the listeners' references to certificates, in their order.
	Certificates []CertificateReport
}

// RouteReport is what becomes of a route at one of its references to a Gateway.
type RouteReport struct {
	Key mesh.Key
	// Parent is the index of the reference.
	Parent int
	// Hosts for which it attaches to each listener, and Reasons where it does not.
	Hosts   [][]string
	Reasons []string
}

// verdicts are those of all listeners of the cluster's ingress.
var verdicts = fn("listeners", func(c *derive.Ctx, _ struct{}) *judged {
	out := &judged{}
	var all []*mesh.Gateway
	for _, f := range gather(c, world.Small(mesh.KindGateway)) {
		if g := f.Value.(*mesh.Gateway); g.Class == mesh.GatewayClass {
			all = append(all, g)
			out.Names = append(out.Names, g.Namespace+"/"+g.Name)
		}
	}
	out.Verdicts = attach.Judge(all)
	return out
})

// judged are the verdicts of Gateways by name.
type judged struct {
	Names    []string
	Verdicts [][]attach.Verdict
}

func gatewayReport(c *derive.Ctx, k GatewayKey) *GatewayReport {
	f := effective.Get(c, objectName{mesh.KindGateway, k.Namespace, k.Name})
	all := verdicts.Get(c, struct{}{})
	i := slices.Index(all.Names, k.Namespace+"/"+k.Name)
	if f == nil || i < 0 {
		return nil
	}
	g, out := f.Value.(*mesh.Gateway), &GatewayReport{Verdicts: all.Verdicts[i]}
	out.Certificates = certificatesOf(c, g)
	for _, kind := range kindsOfRoutes {
		for _, f := range gather(c, world.AttachedToGateway(kind, k.Namespace, k.Name)) {
			r := f.Value.(*mesh.Route)
			var labels map[string]string
			if ns := own[mesh.NamespaceObject](c, mesh.KindNamespace, "", r.Namespace); ns != nil {
				labels = ns.Labels
			}
			for i, p := range r.Parents {
				if p.Kind != string(mesh.KindGateway) || p.Namespace != k.Namespace || p.Name != k.Name {
					continue
				}
				at := RouteReport{Key: f.Key, Parent: i}
				for j := range g.Listeners {
					hosts, reason := attach.Route(g, &g.Listeners[j], r, p, labels)
					at.Hosts, at.Reasons = append(at.Hosts, hosts), append(at.Reasons, reason)
				}
				out.Routes = append(out.Routes, at)
			}
		}
	}
	return out
}

func gateway(c *derive.Ctx, k GatewayKey) *ir.Gateway {
	report := GatewayReportOf.Get(c, k)
	f := effective.Get(c, objectName{mesh.KindGateway, k.Namespace, k.Name})
	if report == nil || f == nil {
		return nil
	}
	g := f.Value.(*mesh.Gateway)
	out := &ir.Gateway{Namespace: k.Namespace, Name: k.Name, Object: f.Key.String(), TrustedHops: g.TrustedHops, Home: f.Home}
	for j := range g.Listeners {
		if report.Verdicts[j].Reason != "" {
			continue
		}
		l := &g.Listeners[j]
		as := ir.Listener{Name: l.Name, Hostname: l.Hostname, Port: l.Port, Protocol: l.Protocol, Hosts: hostsOf(c, k.View, report, j)}
		if attach.Ends(l) {
			out.Terminations = append(out.Terminations, termination(c, g, l, as))
		} else {
			out.Listeners = append(out.Listeners, as)
		}
	}
	return out
}

// placed are the routes that attach for one pattern of hosts.
type placed struct {
	host   string
	routes []ir.Route
}

// hostsOf are the hosts of a listener with the routes that take their requests: those attached for the most specific pattern
// first (HTTPRouteSpec.hostnames), and then as the API has it for their kind.
func hostsOf(c *derive.Ctx, view ir.View, report *GatewayReport, listener int) []ir.VirtualHost {
	var all []placed
	for i := range report.Routes {
		at := &report.Routes[i]
		if len(at.Hosts[listener]) == 0 {
			continue
		}
		f := effective.Get(c, objectName{at.Key.Kind, at.Key.Namespace, at.Key.Name})
		if f == nil {
			continue
		}
		routes := routesOf(c, In{View: view}, attachment{fact: f})
		for _, h := range at.Hosts[listener] {
			n := slices.IndexFunc(all, func(p placed) bool { return p.host == h })
			if n < 0 {
				n, all = len(all), append(all, placed{host: h})
			}
			if !slices.ContainsFunc(all[n].routes, func(r ir.Route) bool { return r.Object == f.Key.String() }) { // by another reference
				all[n].routes = append(all[n].routes, routes...)
			}
		}
	}
	slices.SortFunc(all, func(a, b placed) int { return attach.CompareHosts(a.host, b.host) })
	for i := range all {
		sortGatewayRoutes(all[i].routes)
	}
	var out []ir.VirtualHost
	for _, p := range all {
		v := ir.VirtualHost{Hostname: p.host}
		for _, broader := range all {
			if !attach.Covers(broader.host, p.host) {
				continue
			}
			before := v.Routes // one that attaches for both patterns stands where it is more specific
			for _, r := range broader.routes {
				if !slices.ContainsFunc(before, func(o ir.Route) bool { return o.Object == r.Object }) {
					v.Routes = append(v.Routes, r)
				}
			}
		}
		out = append(out, v)
	}
	return out
}

// sortGatewayRoutes is sortRoutes where calls of gRPC and requests of HTTP may share a host: calls come first, each of which
// names its method, and no request of a browser looks like one.
func sortGatewayRoutes(routes []ir.Route) {
	sortRoutes(routes)
	http := func(r ir.Route) int { return b2i(strings.HasPrefix(r.Object, string(mesh.KindHTTPRoute))) }
	slices.SortStableFunc(routes, func(a, b ir.Route) int { return cmp.Compare(http(a), http(b)) })
}

// IngressOf is which listeners of Gateways this cluster knows of and does not serve, for peers who would send clients here; nil is none.
// Of those for which another is in the way, or whose certificates lead nowhere, it says so, and of a Gateway whose origin it does not obey.
var IngressOf = fn("ingress", func(c *derive.Ctx, _ struct{}) *mesh.Ingress {
	self := world.Self.Get(c, struct{}{})
	out := &mesh.Ingress{Cluster: self}
	all := verdicts.Get(c, struct{}{})
	for _, k := range world.Index.Get(c, world.Small(mesh.KindGateway)) {
		stated, ok := world.Facts.Get(c, k)
		if !ok || stated.Value.(*mesh.Gateway).Class != mesh.GatewayClass {
			continue
		}
		f := effective.Get(c, objectName{k.Kind, k.Namespace, k.Name})
		i := slices.Index(all.Names, k.Namespace+"/"+k.Name)
		if f == nil || i < 0 {
			for _, l := range stated.Value.(*mesh.Gateway).Listeners {
				out.Unserved = append(out.Unserved, mesh.ListenerName(k.Namespace, k.Name, l.Name))
			}
			continue
		}
		g := f.Value.(*mesh.Gateway)
		for j := range g.Listeners {
			if l := &g.Listeners[j]; !f.Home && (all.Verdicts[i][j].Reason != "" || attach.Ends(l) && !shows(c, g, l)) {
				out.Unserved = append(out.Unserved, mesh.ListenerName(g.Namespace, g.Name, l.Name))
			}
		}
	}
	if len(out.Unserved) == 0 {
		return nil
	}
	slices.Sort(out.Unserved)
	out.Unserved = slices.Compact(out.Unserved)
	return out
})

// shows reports whether a listener has a certificate that can be used.
func shows(c *derive.Ctx, g *mesh.Gateway, l *mesh.Listener) bool {
	return slices.ContainsFunc(l.Certificates, func(r mesh.CertificateRef) bool {
		_, reason, _ := certificateOf(c, g, r)
		return reason == ""
	})
}
