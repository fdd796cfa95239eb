package api

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/isthmus-mesh/isthmus/api/attachments"
	"github.com/isthmus-mesh/isthmus/api/consistency"
	"github.com/isthmus-mesh/isthmus/api/roots"
	"github.com/isthmus-mesh/isthmus/codec/manifest"
	"github.com/isthmus-mesh/isthmus/core/compile"
	"github.com/isthmus-mesh/isthmus/core/derive"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/xds"
)

// controllerName is who sets the status (Gateway API controllerName).
const controllerName = "isthmus.dev/controller"

// Condition types and their states.
const (
	accepted     = "Accepted"
	resolvedRefs = "ResolvedRefs"
	programmed   = "Programmed"
	conflict     = "Conflict"

	isTrue    = "True"
	isFalse   = "False"
	isUnknown = "Unknown"
)

// statuses computes the status of objects over one world.
type statuses struct {
	server  *Server
	world   *world.World
	proxies []xds.ClientStatus
	// refused are the delivery facts of resources that proxies refuse.
	refused []*mesh.Delivery
}

func (s *Server) statuses(w *world.World) *statuses {
	st := &statuses{server: s, world: w, proxies: s.cfg.Proxies()}
	for f := range w.All() {
		if d, ok := f.Value.(*mesh.Delivery); ok && d.Nacked > 0 {
			st.refused = append(st.refused, d)
		}
	}
	slices.SortFunc(st.refused, func(a, b *mesh.Delivery) int { return strings.Compare(a.Resource, b.Resource) })
	return st
}

// of is the status of an object, nil for kinds that have none.
func (st *statuses) of(it item) any {
	if it.fact == nil {
		return nil
	}
	switch v := it.fact.Value.(type) {
	case *mesh.Service:
		return st.service(v)
	case *mesh.Route:
		return st.route(it, v)
	case *mesh.Gateway:
		c := st.conditions(it, nil, "", mesh.ServiceName{Namespace: v.Namespace, Name: v.Name})
		return attachments.Gateway(st.world, st.server.cfg.View, it.fact, c[0], c[2], st.proxies, st.server.cfg.Now())
	case *mesh.TrafficPolicy:
		return st.policy(it, v.Targets, "")
	case *mesh.FaultPolicy:
		return st.policy(it, v.Targets, "")
	case *mesh.TelemetryPolicy:
		return st.policy(it, v.Targets, "")
	case *mesh.AccessPolicy:
		return st.policy(it, v.Targets, v.Invalid)
	case *mesh.ResidencyPolicy:
		return st.policy(it, v.Targets, v.Invalid)
	case *mesh.BackendTLSPolicy:
		return st.backendTLS(it, v)
	case *mesh.Cluster:
		return st.cluster(v)
	}
	return nil
}

// ServiceStatus is where a service serves, as this cluster's proxies know it.
type ServiceStatus struct {
	// Origins are the clusters that state it: this one, or those that it is imported from.
	Origins  []mesh.ClusterName `json:"origins,omitempty"`
	Clusters []ServiceCluster   `json:"clusters,omitempty"`
	// Traffic is how its requests are carried.
	Traffic *TrafficInForce `json:"traffic,omitempty"`
	// Policies in force on it, routes first.
	Policies   []string    `json:"policies,omitempty"`
	Conditions []Condition `json:"conditions,omitempty"`
}

// ServiceCluster is one cluster's part of a service.
type ServiceCluster struct {
	Cluster mesh.ClusterName `json:"cluster"`
	// Endpoints that can be chosen: addresses, or slots behind gateways.
	Endpoints int    `json:"endpoints"`
	Exported  bool   `json:"exported"`
	Forbidden string `json:"forbidden,omitempty"`
	Reach     string `json:"reach,omitempty"`
}

func (st *statuses) service(v *mesh.Service) *ServiceStatus {
	out := &ServiceStatus{}
	st.origins(v.ServiceName, out)
	in := compile.In{Service: v.ServiceName, View: st.server.cfg.View}
	eps, err := derive.Eval(st.world, compile.EndpointsOf, in)
	if err == nil && eps != nil {
		for _, g := range eps.Groups {
			c := ServiceCluster{Cluster: g.Cluster, Endpoints: len(g.Endpoints) + len(g.Slots), Exported: g.Exported, Forbidden: g.Forbidden}
			if cl, err := derive.Eval(st.world, compile.ClusterOf, g.Cluster); err == nil && cl != nil && g.Cluster != st.server.cfg.Cluster {
				c.Reach = cl.Reach.String()
			}
			out.Clusters = append(out.Clusters, c)
		}
	}
	if svc, err := derive.Eval(st.world, compile.ServiceOf, in); err == nil && svc != nil {
		for _, r := range svc.Routes {
			if !slices.Contains(out.Policies, r.Object) {
				out.Policies = append(out.Policies, r.Object)
			}
		}
		out.Traffic = trafficInForce(&svc.Traffic)
		out.Policies = append(out.Policies, svc.Traffic.Policies...)
	}
	if a, err := derive.Eval(st.world, compile.AccessOf, v.ServiceName); err == nil && a != nil {
		for _, p := range a.Policies {
			out.Policies = append(out.Policies, p.Object)
		}
	}
	for _, p := range v.Ports {
		if t, err := derive.Eval(st.world, compile.BackendTLSOf, compile.ServicePort{Service: v.ServiceName, Port: p.Name}); err == nil && t != nil && !slices.Contains(out.Policies, t.Object) {
			out.Policies = append(out.Policies, t.Object)
		}
	}
	return out
}

// RouteStatus is Gateway API's, with the origin of the object.
type RouteStatus struct {
	Origin  mesh.ClusterName `json:"origin,omitempty"`
	Parents []Attachment     `json:"parents"`
}

// PolicyStatus is Gateway API's policy status (GEP-713), with the origin of the object.
type PolicyStatus struct {
	Origin    mesh.ClusterName `json:"origin,omitempty"`
	Ancestors []Attachment     `json:"ancestors"`
}

// Attachment is the state of an object at one thing it attaches to.
type Attachment struct {
	ParentRef      *Ref        `json:"parentRef,omitempty"`
	AncestorRef    *Ref        `json:"ancestorRef,omitempty"`
	ControllerName string      `json:"controllerName"`
	Conditions     []Condition `json:"conditions"`
}

// Ref names what an object attaches to.
type Ref struct {
	Group     string `json:"group"`
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	Port      uint16 `json:"port,omitempty"`
}

func refTo(kind, namespace, name string, port uint16) *Ref {
	r := &Ref{Kind: kind, Namespace: namespace, Name: name, Port: port}
	if k, ok := manifest.KindNamed(kind); ok {
		r.Group = k.Group()
	}
	return r
}

func (st *statuses) route(it item, v *mesh.Route) *RouteStatus {
	out := &RouteStatus{Origin: it.origin, Parents: []Attachment{}}
	dangling := st.server.dangling(st.world, it.fact)
	for i, p := range v.Parents {
		field := fmt.Sprintf("spec.parentRefs[%d]", i)
		mine := slices.DeleteFunc(slices.Clone(dangling), func(d dangle) bool {
			return strings.HasPrefix(d.field, "spec.parentRefs") && d.field != field
		})
		out.Parents = append(out.Parents, Attachment{ParentRef: refTo(p.Kind, p.Namespace, p.Name, p.Port), ControllerName: controllerName,
			Conditions: st.conditions(it, mine, "", mesh.ServiceName{Namespace: p.Namespace, Name: p.Name})})
		if reason, message := st.unattached(it.fact, i); reason != "" {
			if c := &out.Parents[i].Conditions[0]; c.Type == accepted && c.Status == isTrue {
				c.Status, c.Reason, c.Message = isFalse, reason, message
			}
		}
	}
	return out
}

// unattached says why a route that is in force takes no request of a parent that exists.
func (st *statuses) unattached(f *mesh.Fact, parent int) (reason, message string) {
	p := f.Value.(*mesh.Route).Parents[parent]
	if p.Kind == string(mesh.KindGateway) {
		return attachments.Unattached(st.world, st.server.cfg.View, f, parent)
	}
	at := mesh.ServiceName{Namespace: p.Namespace, Name: p.Name}
	svc, err := derive.Eval(st.world, compile.ServiceOf, compile.In{Service: at, View: st.server.cfg.View})
	name := mesh.Key{Kind: f.Kind, Namespace: f.Namespace, Name: f.Name}.String() // several origins may state it alike
	if err != nil || svc == nil || len(f.Value.(*mesh.Route).Rules) == 0 ||
		slices.ContainsFunc(svc.Routes, func(r ir.Route) bool { return strings.HasPrefix(r.Object, name+"@") }) {
		return "", ""
	}
	if svc.Routed {
		return "Conflicted", "a route of another kind stands before a " + string(f.Kind) + " at every port of " + at.String() + " that it names (GEP-1294)"
	}
	return "NoMatchingParent", "no port of " + at.String() + " that it names can take a " + string(f.Kind)
}

func (st *statuses) policy(it item, targets []mesh.TargetRef, invalid string) *PolicyStatus {
	out := &PolicyStatus{Origin: it.origin, Ancestors: []Attachment{}}
	dangling := st.server.dangling(st.world, it.fact)
	for i, t := range targets {
		field := fmt.Sprintf("spec.targetRefs[%d]", i)
		mine := slices.DeleteFunc(slices.Clone(dangling), func(d dangle) bool { return d.field != field })
		out.Ancestors = append(out.Ancestors, Attachment{AncestorRef: refTo(t.Kind, t.Namespace, t.Name, 0), ControllerName: controllerName,
			Conditions: st.conditions(it, mine, invalid, mesh.ServiceName{Namespace: t.Namespace, Name: t.Name})})
	}
	return out
}

// conditions are those of an object at one thing it attaches to.
func (st *statuses) conditions(it item, dangling []dangle, invalid string, at mesh.ServiceName) []Condition {
	accept, inForce, clash := st.accept(it)
	if invalid != "" {
		accept = Condition{Type: accepted, Status: isFalse, Reason: "Invalid", Message: "it cannot be understood, so it denies what it selects: " + invalid}
	}
	resolved := Condition{Type: resolvedRefs, Status: isTrue, Reason: resolvedRefs}
	if len(dangling) > 0 {
		resolved = Condition{Type: resolvedRefs, Status: isFalse, Reason: dangling[0].reason, Message: dangling[0].field + ": " + dangling[0].problem}
	}
	prog := Condition{Type: programmed, Status: isFalse, Reason: "NotInForce", Message: "see " + accepted}
	if inForce {
		prog = st.programmed(it, at)
	}
	out := []Condition{accept, resolved, prog}
	if clash != nil {
		out = append(out, *clash)
	}
	for i := range out {
		out[i].ObservedGeneration = it.meta.Generation
	}
	return out
}

// accept says whether the object is the one in force under its name.
func (st *statuses) accept(it item) (c Condition, inForce bool, clash *Condition) {
	var facts, rivals []*mesh.Fact
	for _, f := range stated(st.world, it.fact.Key) {
		if f.Origin == st.world.Self() || st.obeys(f) {
			facts = append(facts, f)
		}
		if f.Origin != it.origin && f.Digest != it.fact.Digest {
			rivals = append(rivals, f)
		}
	}
	if it.origin != st.world.Self() && !st.obeys(it.fact) {
		return Condition{Type: accepted, Status: isFalse, Reason: "OriginNotAccepted",
			Message: fmt.Sprintf("cluster %s accepts no %s of cluster %s (Cluster.spec.accepts)", st.world.Self(), it.fact.Kind, it.origin)}, false, nil
	}
	if len(facts) == 0 {
		return Condition{Type: accepted, Status: isUnknown, Reason: "Pending", Message: "the control plane has not seen it yet"}, false, nil
	}
	winner := compile.Winner(facts)
	inForce = winner.Digest == it.fact.Digest
	if len(rivals) > 0 {
		clash = &Condition{Type: conflict, Status: isTrue, Reason: "Wins", Message: "cluster " + string(rivals[0].Origin) + " states another object of this name; this one is in force because it was applied later"}
	}
	if !inForce {
		clash.Reason = "Superseded"
		clash.Message = "cluster " + string(winner.Origin) + " states another object of this name, applied later; that one is in force"
		return Condition{Type: accepted, Status: isFalse, Reason: "Conflicted", Message: clash.Message}, false, clash
	}
	return Condition{Type: accepted, Status: isTrue, Reason: accepted}, true, clash
}

// obeys reports whether this cluster lets another's object act; see core/compile.
func (st *statuses) obeys(f *mesh.Fact) bool {
	switch v := f.Value.(type) {
	case *mesh.ResidencyPolicy:
		return true
	case *mesh.AccessPolicy:
		if v.Action != mesh.Allow {
			return true
		}
	}
	own, ok := st.world.Get(mesh.Key{Kind: mesh.KindCluster, Origin: st.world.Self(), Name: string(st.world.Self())})
	return ok && compile.Accepts(own.Value.(*mesh.Cluster).Accepts, f.Key)
}

// programmed says what this cluster's proxies made of the configuration that the object
// shapes: delivery facts first, then what the streams report.
func (st *statuses) programmed(it item, at mesh.ServiceName) Condition {
	no := func(message string) Condition {
		return Condition{Type: programmed, Status: isFalse, Reason: "Refused", Message: message}
	}
	for _, d := range st.refused {
		if d.Resource == at.String() || strings.HasSuffix(d.Resource, "/"+at.String()) {
			return no(fmt.Sprintf("%d proxies refuse %s: %s", d.Nacked, d.Resource, d.Message))
		}
	}
	waiting := 0
	for i := range st.proxies {
		for _, t := range st.proxies[i].Types {
			for _, r := range t.Refused {
				if r.Name == at.String() {
					return no(fmt.Sprintf("proxy %s refuses it: %s", st.proxies[i].Node.ID, r.Message))
				}
			}
		}
		if !st.proxies[i].InSync() {
			waiting++
		}
	}
	known, ok := st.server.cfg.World().Get(it.fact.Key)
	switch {
	case !ok || known.Digest != it.fact.Digest:
		return Condition{Type: programmed, Status: isUnknown, Reason: "Pending", Message: "the control plane has not seen it yet"}
	case waiting > 0:
		return Condition{Type: programmed, Status: isUnknown, Reason: "Pending", Message: fmt.Sprintf("%d of %d proxies have not accepted everything yet", waiting, len(st.proxies))}
	}
	return Condition{Type: programmed, Status: isTrue, Reason: programmed, Message: fmt.Sprintf("accepted by the %d proxies connected to cluster %s", len(st.proxies), st.world.Self())}
}

// ClusterStatus is what this cluster sees of another.
type ClusterStatus struct {
	Reach    string           `json:"reach,omitempty"`
	RTT      string           `json:"rtt,omitempty"`
	Gateways []netip.AddrPort `json:"gateways,omitempty"`
	Sync     *Peer            `json:"sync,omitempty"`
	// Verdict is what the mesh says of it.
	Verdict *consistency.Verdict `json:"verdict,omitempty"`
	Roots   *roots.Roots         `json:"roots,omitempty"`
}

func (st *statuses) cluster(v *mesh.Cluster) *ClusterStatus {
	out := &ClusterStatus{Roots: roots.Of(st.world, v)}
	if c, err := derive.Eval(st.world, compile.ClusterOf, v.Name); err == nil && c != nil {
		out.Gateways = c.Gateways
		if v.Name != st.world.Self() {
			out.Reach, out.RTT = c.Reach.String(), c.RTT.String()
		}
	}
	peers := st.server.cfg.Peers()
	if i := slices.IndexFunc(peers, func(p PeerStatus) bool { return p.Cluster == v.Name }); i >= 0 {
		out.Sync = new(peerOf(peers[i]))
	}
	verdicts, _ := st.server.cfg.Verdicts()
	if i := slices.IndexFunc(verdicts, func(x consistency.Verdict) bool { return x.Cluster == v.Name }); i >= 0 {
		out.Verdict = &verdicts[i]
	}
	return out
}

// dangle is one reference that leads nowhere.
type dangle struct{ field, reason, problem string }

// dangling lists the references of a fact that lead nowhere.
func (s *Server) dangling(w *world.World, f *mesh.Fact) []dangle {
	switch v := f.Value.(type) {
	case *mesh.Route:
		return append(dangles(attachments.Parents(w, s.cfg.View, v)), s.backends(w, f, v)...)
	case *mesh.Gateway:
		return dangles(attachments.Certificates(w, s.cfg.View, v, s.cfg.Now()))
	case *mesh.TrafficPolicy:
		return append(s.targets(w, v.Targets), s.fallbacks(w, v)...)
	case *mesh.FaultPolicy:
		return s.targets(w, v.Targets)
	case *mesh.TelemetryPolicy:
		return s.targets(w, v.Targets)
	case *mesh.AccessPolicy:
		return s.targets(w, v.Targets)
	case *mesh.ResidencyPolicy:
		return s.targets(w, v.Targets)
	case *mesh.BackendTLSPolicy:
		return append(s.targets(w, v.Targets), s.sections(w, v)...)
	case *mesh.ServiceExport:
		if s.exists(w, v.ServiceName) == nil {
			return []dangle{{"metadata.name", "ServiceNotFound", "service " + v.ServiceName.String() + " does not exist in any cluster of the mesh"}}
		}
	}
	return nil
}

func (s *Server) exists(w *world.World, n mesh.ServiceName) *ir.Name {
	v, err := derive.Eval(w, compile.NameOf, compile.In{Service: n, View: s.cfg.View})
	if err != nil {
		return nil
	}
	return v
}

func dangles(all []attachments.Dangle) (out []dangle) {
	for _, d := range all {
		out = append(out, dangle{d.Field, d.Reason, d.Problem})
	}
	return out
}

// backends asks compile itself: it attaches the route to a service of its own making and
// reads which backends are missing. What the rule mirrors to stands there behind its backends.
func (s *Server) backends(w *world.World, f *mesh.Fact, v *mesh.Route) []dangle {
	const probe = "0-isthmus-probe" // no Service bears a name that begins with a digit (RFC 1035)
	name := mesh.ServiceName{Namespace: v.Namespace, Name: probe}
	copied := *v
	copied.Name, copied.Parents = probe, []mesh.ParentRef{{Kind: "Service", Namespace: v.Namespace, Name: probe}}
	var mirrors [][]string
	copied.Rules = slices.Clone(v.Rules)
	for i := range copied.Rules {
		rule := &copied.Rules[i]
		var fields []string
		for j, filter := range rule.Filters {
			if filter.Kind == mesh.FilterMirror && filter.Backend != nil {
				fields = append(fields, fmt.Sprintf("filters[%d].requestMirror.backendRef", j))
				rule.Backends = append(slices.Clip(rule.Backends), *filter.Backend)
			}
		}
		mirrors = append(mirrors, fields)
	}
	service := &mesh.Service{ServiceName: name, Ports: []mesh.ServicePort{{Port: 1, Protocol: mesh.ProtocolHTTP}}}
	w, _ = w.Edit([]world.Edit{
		world.Put(&mesh.Fact{Key: mesh.Key{Kind: mesh.KindService, Origin: w.Self(), Namespace: v.Namespace, Name: probe}, Value: service, Digest: ir.DigestOf(service)}),
		world.Put(&mesh.Fact{Key: mesh.Key{Kind: f.Kind, Origin: w.Self(), Namespace: v.Namespace, Name: probe}, Value: &copied, Digest: ir.DigestOf(&copied)}),
	})
	svc, err := derive.Eval(w, compile.ServiceOf, compile.In{Service: name, View: s.cfg.View})
	if err != nil || svc == nil {
		return nil
	}
	var out []dangle
	for rule := range v.Rules {
		at := slices.IndexFunc(svc.Routes, func(r ir.Route) bool { return r.Rule == rule })
		if at < 0 {
			continue
		}
		for i, b := range svc.Routes[at].Backends {
			if b.Missing == "" {
				continue
			}
			reason := "BackendNotFound"
			if strings.HasPrefix(b.Missing, "no ReferenceGrant") {
				reason = "RefNotPermitted"
			}
			field := fmt.Sprintf("backendRefs[%d]", i)
			if n := len(v.Rules[rule].Backends); i >= n {
				field = mirrors[rule][i-n]
			}
			out = append(out, dangle{fmt.Sprintf("spec.rules[%d].%s", rule, field), reason, b.Missing})
		}
	}
	return out
}

func (s *Server) targets(w *world.World, targets []mesh.TargetRef) []dangle {
	var out []dangle
	for i, t := range targets {
		found := true
		switch t.Kind {
		case "Mesh":
		case "Service", "ServiceImport":
			found = s.exists(w, mesh.ServiceName{Namespace: t.Namespace, Name: t.Name}) != nil
		case "Namespace":
			found = len(w.Members(world.Named(mesh.KindNamespace, "", t.Name))) > 0
		default:
			found = len(w.Members(world.Named(mesh.Kind(t.Kind), t.Namespace, t.Name))) > 0
		}
		if !found {
			what := t.Name
			if t.Namespace != "" && t.Kind != "Namespace" {
				what = t.Namespace + "/" + t.Name
			}
			out = append(out, dangle{fmt.Sprintf("spec.targetRefs[%d]", i), "TargetNotFound", strings.ToLower(t.Kind) + " " + what + " does not exist in any cluster of the mesh"})
		}
	}
	return out
}
