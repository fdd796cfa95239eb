// Package attachments says what becomes of Gateways and of the routes that name them, as the Gateway API words it. Its one idea
// is that a status asks the functions that configure proxies, so that it cannot say otherwise than they do.
//
// It stores nothing and serves nothing (package api does). Read Gateway first.
package attachments

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/core/attach"
	"github.com/isthmus-mesh/isthmus/core/compile"
	"github.com/isthmus-mesh/isthmus/core/derive"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/xds"
)

// Condition is one of an object's, as Kubernetes has them.
type Condition struct {
	Type               string `json:"type"`
	Status             string `json:"status"` // "True", "False", "Unknown"
	Reason             string `json:"reason"`
	Message            string `json:"message,omitempty"`
	ObservedGeneration int64  `json:"observedGeneration,omitempty"`
}

func (c Condition) String() string { return fmt.Sprintf("%s=%s (%s)", c.Type, c.Status, c.Reason) }

// IngressMode is the mode of proxies that serve Gateways.
const IngressMode = "ingress"

// GatewayStatus is Gateway API's, with the origin of the object.
type GatewayStatus struct {
	Origin     mesh.ClusterName `json:"origin,omitempty"`
	Addresses  []Address        `json:"addresses,omitempty"`
	Conditions []Condition      `json:"conditions"`
	Listeners  []Listener       `json:"listeners"`
}

// Address is where the Gateway is served.
type Address struct {
	Type  string `json:"type"`
	Value string `json:"value"`
}

// Listener is the state of one.
type Listener struct {
	Name           string      `json:"name"`
	SupportedKinds []RouteKind `json:"supportedKinds"`
	AttachedRoutes int         `json:"attachedRoutes"`
	Conditions     []Condition `json:"conditions"`
}

// RouteKind is a kind of routes.
type RouteKind struct {
	Group string `json:"group"`
	Kind  string `json:"kind"`
}

const (
	isTrue, isFalse = "True", "False"
	group           = "gateway.networking.k8s.io"
)

// Gateway is the status of a Gateway. accepted and programmed are what holds for every object: whether it is the one in force
// under its name, and what proxies made of it.
func Gateway(w *world.World, view ir.View, f *mesh.Fact, accepted, programmed Condition, proxies []xds.ClientStatus, now time.Time) *GatewayStatus {
	g, out := f.Value.(*mesh.Gateway), &GatewayStatus{Origin: f.Origin, Listeners: []Listener{}}
	report, err := derive.Eval(w, compile.GatewayReportOf, compile.GatewayKey{Namespace: f.Namespace, Name: f.Name, View: view})
	switch {
	case g.Class != mesh.GatewayClass:
		out.Conditions = []Condition{{"Accepted", "Unknown", "Pending", "Gateways of class " + g.Class + " are left to others", accepted.ObservedGeneration}}
		return out
	case err != nil || report == nil || len(report.Verdicts) != len(g.Listeners) || accepted.Status != isTrue:
		out.Conditions = []Condition{accepted, programmed}
		return out
	}
	if own, ok := w.Get(mesh.Key{Kind: mesh.KindCluster, Origin: w.Self(), Name: string(w.Self())}); ok {
		for _, a := range own.Value.(*mesh.Cluster).Ingresses {
			out.Addresses = append(out.Addresses, Address{"IPAddress", a.String()})
		}
	}
	if !slices.ContainsFunc(proxies, func(p xds.ClientStatus) bool { return p.Node.Mode == IngressMode }) {
		programmed.Status, programmed.Reason, programmed.Message = isFalse, "AddressNotAssigned", "no ingress gateway is connected to cluster "+string(w.Self())
	}
	served := 0
	for i := range g.Listeners {
		l := listener(&g.Listeners[i], report.Verdicts[i], ofListener(report.Certificates, i), now, programmed)
		for _, r := range report.Routes {
			if len(r.Hosts[i]) > 0 {
				l.AttachedRoutes++
			}
		}
		if report.Verdicts[i].Reason == "" {
			served++
		}
		out.Listeners = append(out.Listeners, l)
	}
	if served < len(g.Listeners) {
		accepted.Reason, accepted.Message = "ListenersNotValid", fmt.Sprintf("%d of %d listeners are served; see their conditions", served, len(g.Listeners))
		if served == 0 {
			accepted.Status = isFalse
			programmed.Status, programmed.Reason, programmed.Message = isFalse, "Invalid", "see Accepted"
		}
	}
	out.Conditions = []Condition{accepted, programmed}
	return out
}

func listener(l *mesh.Listener, v attach.Verdict, certificates []compile.CertificateReport, now time.Time, programmed Condition) Listener {
	kinds, invalid := attach.Kinds(l)
	out := Listener{Name: l.Name, SupportedKinds: []RouteKind{}}
	for _, k := range kinds {
		out.SupportedKinds = append(out.SupportedKinds, RouteKind{group, string(k)})
	}
	accepted := Condition{Type: "Accepted", Status: isTrue, Reason: "Accepted"}
	conflicted := Condition{Type: "Conflicted", Status: isFalse, Reason: "NoConflicts"}
	resolved := Condition{Type: "ResolvedRefs", Status: isTrue, Reason: "ResolvedRefs"}
	if v.Reason != "" {
		accepted.Status, accepted.Reason, accepted.Message = isFalse, v.Reason, v.Message
		programmed.Status, programmed.Reason, programmed.Message = isFalse, "Invalid", "see Accepted"
	}
	if v.Conflicted() {
		conflicted.Status, conflicted.Reason, conflicted.Message = isTrue, v.Reason, v.Message
	}
	if why := unresolved(certificates, now); why.reason != "" {
		resolved.Status, resolved.Reason, resolved.Message = isFalse, why.reason, why.message
		if v.Reason == "" && !why.usable {
			programmed.Status, programmed.Reason, programmed.Message = isFalse, "Invalid", "handshakes are refused: "+why.message
		}
	}
	if invalid {
		resolved.Status, resolved.Reason, resolved.Message = isFalse, attach.ReasonInvalidRouteKinds, "allowedRoutes.kinds names kinds that cannot attach to a listener of "+string(l.Protocol)
	}
	out.Conditions = []Condition{accepted, conflicted, resolved, programmed}
	for i := range out.Conditions {
		out.Conditions[i].ObservedGeneration = programmed.ObservedGeneration
	}
	return out
}

// unresolution is what is wrong with the certificates of a listener, and whether one is left that can be used.
type unresolution struct {
	reason, message string
	usable          bool
}

// unresolved names every certificate that cannot be used, and every one that clients refuse now: those are shown to them all the
// same, for it is theirs to judge, and by another clock than the proxy's.
func unresolved(all []compile.CertificateReport, now time.Time) (out unresolution) {
	var parts []string
	for _, c := range all {
		problem, reason := c.Problem, c.Reason
		if problem == "" {
			out.usable, reason = true, attach.ReasonInvalidCertificateRef
			problem = (&mesh.Certificate{NotBefore: c.NotBefore, NotAfter: c.NotAfter}).Dated(now)
		}
		if problem == "" {
			continue
		}
		if out.reason == "" || reason == attach.ReasonRefNotPermitted {
			out.reason = reason
		}
		parts = append(parts, c.Object+": "+problem)
	}
	out.message = strings.Join(parts, "; ")
	return out
}

// Certificates are the references of a Gateway's listeners to certificates that lead nowhere, or to what clients refuse.
func Certificates(w *world.World, view ir.View, g *mesh.Gateway, now time.Time) (out []Dangle) {
	report, err := derive.Eval(w, compile.GatewayReportOf, compile.GatewayKey{Namespace: g.Namespace, Name: g.Name, View: view})
	if err != nil || report == nil {
		return nil
	}
	for i, c := range report.Certificates {
		if why := unresolved(report.Certificates[i:i+1], now); why.reason != "" {
			out = append(out, Dangle{fmt.Sprintf("spec.listeners[%d].tls.certificateRefs[%d]", c.Listener, c.Reference), why.reason, why.message})
		}
	}
	return out
}

// ofListener are those of one listener.
func ofListener(all []compile.CertificateReport, listener int) (out []compile.CertificateReport) {
	for _, c := range all {
		if c.Listener == listener {
			out = append(out, c)
		}
	}
	return out
}

// Unattached says why a route that is in force takes no request of the Gateway that one of its references names; empty if it
// takes some.
func Unattached(w *world.World, view ir.View, f *mesh.Fact, parent int) (reason, message string) {
	p := f.Value.(*mesh.Route).Parents[parent]
	report, err := derive.Eval(w, compile.GatewayReportOf, compile.GatewayKey{Namespace: p.Namespace, Name: p.Name, View: view})
	if err != nil || report == nil {
		return "", "" // said by Parents
	}
	name := mesh.Key{Kind: f.Kind, Namespace: f.Namespace, Name: f.Name}.String()
	at := slices.IndexFunc(report.Routes, func(r compile.RouteReport) bool {
		return r.Parent == parent && strings.HasPrefix(r.Key.String(), name+"@")
	})
	if at < 0 {
		return "", ""
	}
	r := &report.Routes[at]
	dead := ""
	for i := range r.Hosts {
		if len(r.Hosts[i]) > 0 && report.Verdicts[i].Reason == "" {
			return "", ""
		}
		if len(r.Hosts[i]) > 0 {
			dead = report.Verdicts[i].Message
		}
	}
	if dead != "" {
		return attach.ReasonNoMatchingParent, "the listener is not served: " + dead
	}
	// The reason that got furthest says most: a host that fits no listener before a namespace that may not attach.
	for _, c := range [...]struct{ reason, message string }{
		{attach.ReasonNoMatchingListenerHostname, "no host of the route is one of a listener"},
		{attach.ReasonNotAllowedByListeners, "no listener that the reference names lets a " + string(f.Kind) + " of namespace " + f.Namespace + " attach"},
	} {
		if slices.Contains(r.Reasons, c.reason) {
			return c.reason, c.message
		}
	}
	return attach.ReasonNoMatchingParent, "the Gateway has no listener of that name and port"
}

// Dangle is a reference that leads nowhere.
type Dangle struct{ Field, Reason, Problem string }

// Parents lists the references of a route to what it attaches to that lead nowhere.
func Parents(w *world.World, view ir.View, r *mesh.Route) []Dangle {
	var out []Dangle
	for i, p := range r.Parents {
		field, at := fmt.Sprintf("spec.parentRefs[%d]", i), mesh.ServiceName{Namespace: p.Namespace, Name: p.Name}
		switch p.Kind {
		case string(mesh.KindGateway):
			if len(w.Members(world.Named(mesh.KindGateway, p.Namespace, p.Name))) == 0 {
				out = append(out, Dangle{field, "ParentNotFound", "gateway " + at.String() + " does not exist"})
			}
		case "Service", "ServiceImport":
			n, err := derive.Eval(w, compile.NameOf, compile.In{Service: at, View: view})
			switch {
			case err != nil || n == nil:
				out = append(out, Dangle{field, "ParentNotFound", "service " + at.String() + " does not exist in any cluster of the mesh"})
			case p.Port != 0 && !slices.ContainsFunc(n.Ports, func(x ir.Port) bool { return x.Port == p.Port }):
				out = append(out, Dangle{field, "ParentNotFound", fmt.Sprintf("service %s has no port %d", at, p.Port)})
			}
		default:
			out = append(out, Dangle{field, "InvalidKind", "the mesh attaches no routes to " + p.Kind})
		}
	}
	return out
}
