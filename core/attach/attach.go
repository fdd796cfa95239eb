// Package attach says which listeners of Gateways are served and which routes attach to them, for which hosts (Gateway API
// v1.6). Its one idea is that an attachment is a function of one listener, one route and one reference, so that what proxies
// do and what a status says of it cannot differ.
//
// It reads no world and makes no configuration: core/compile does both. Read Judge first, then Route.
package attach

import (
	"slices"
	"strings"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// Reasons of conditions, as the Gateway API has them.
const (
	ReasonProtocolConflict    = "ProtocolConflict"
	ReasonHostnameConflict    = "HostnameConflict"
	ReasonUnsupportedProtocol = "UnsupportedProtocol"
	ReasonInvalidRouteKinds   = "InvalidRouteKinds"

	ReasonInvalidCertificateRef = "InvalidCertificateRef"
	ReasonRefNotPermitted       = "RefNotPermitted"

	ReasonNoMatchingParent           = "NoMatchingParent"
	ReasonNotAllowedByListeners      = "NotAllowedByListeners"
	ReasonNoMatchingListenerHostname = "NoMatchingListenerHostname"
)

// Verdict is why a listener is not served; the zero value is that it is.
type Verdict struct{ Reason, Message string }

// Conflicted reports whether another listener stands in the way.
func (v Verdict) Conflicted() bool {
	return v.Reason == ReasonProtocolConflict || v.Reason == ReasonHostnameConflict
}

// Judge decides on the listeners of all Gateways that one ingress serves, which are in order of precedence: out[i][j] is that
// of listener j of Gateway i. Listeners of one Gateway that cannot be told apart are all out (GatewaySpec.listeners: none of
// them may be picked as the winner); between Gateways the earlier keeps what it has.
func Judge(gateways []*mesh.Gateway) [][]Verdict {
	var served []owned
	out := make([][]Verdict, len(gateways))
	for i, g := range gateways {
		out[i] = make([]Verdict, len(g.Listeners))
		for j := range g.Listeners {
			l := &g.Listeners[j]
			if why := unserved(l); why != "" {
				out[i][j] = Verdict{ReasonUnsupportedProtocol, why}
				continue
			}
			for k := range g.Listeners {
				if o := &g.Listeners[k]; k != j && unserved(o) == "" && out[i][j].Reason == "" {
					out[i][j] = clash(l, o, "listener "+o.Name)
				}
			}
			for _, o := range served {
				if out[i][j].Reason == "" {
					out[i][j] = clash(l, o.listener, "listener "+o.listener.Name+" of Gateway "+o.gateway.Namespace+"/"+o.gateway.Name)
				}
			}
		}
		for j := range g.Listeners {
			if out[i][j].Reason == "" {
				served = append(served, owned{g, &g.Listeners[j]})
			}
		}
	}
	return out
}

type owned struct {
	gateway  *mesh.Gateway
	listener *mesh.Listener
}

// unserved says why ingress gateways do not serve a listener; empty if they do.
func unserved(l *mesh.Listener) string {
	switch l.Protocol {
	case mesh.ListenerHTTP, mesh.ListenerHTTPS, mesh.ListenerTLS, mesh.ListenerTCP, mesh.ListenerUDP:
		return ""
	}
	return "listeners of protocol " + string(l.Protocol) + " are not served yet"
}

// Ends reports whether TLS ends at a listener.
func Ends(l *mesh.Listener) bool {
	return l.Protocol == mesh.ListenerHTTPS || l.Protocol == mesh.ListenerTLS && !l.Passthrough
}

// clash says why l cannot be told from o: by port, then by what a client says first on a connection, then by the host. What
// says nothing has its port to itself.
func clash(l, o *mesh.Listener, name string) Verdict {
	switch {
	case l.Port != o.Port || (l.Protocol == mesh.ListenerUDP) != (o.Protocol == mesh.ListenerUDP):
		return Verdict{}
	case family(l.Protocol) != family(o.Protocol):
		return Verdict{ReasonProtocolConflict, name + " has the port for " + string(o.Protocol)}
	case l.Protocol == mesh.ListenerTCP || l.Protocol == mesh.ListenerUDP:
		return Verdict{ReasonProtocolConflict, name + " has the port, and of " + string(l.Protocol) + " a port has one listener"}
	case l.Hostname == o.Hostname:
		return Verdict{ReasonHostnameConflict, name + " has the port for the same host"}
	}
	return Verdict{}
}

// family joins protocols whose listeners share a port, told apart by the server name of TLS.
func family(p mesh.ListenerProtocol) mesh.ListenerProtocol {
	if p == mesh.ListenerTLS {
		return mesh.ListenerHTTPS
	}
	return p
}

// Kinds are the kinds of routes that may attach to a listener; invalid says that it names one that cannot.
func Kinds(l *mesh.Listener) (kinds []mesh.Kind, invalid bool) {
	fit := fits(l)
	if len(l.Kinds) == 0 {
		return fit, false
	}
	for _, k := range l.Kinds {
		if slices.Contains(fit, k) {
			kinds = append(kinds, k)
		} else {
			invalid = true
		}
	}
	return kinds, invalid
}

func fits(l *mesh.Listener) []mesh.Kind {
	switch l.Protocol {
	case mesh.ListenerHTTP, mesh.ListenerHTTPS:
		return []mesh.Kind{mesh.KindHTTPRoute, mesh.KindGRPCRoute}
	case mesh.ListenerTLS:
		if l.Passthrough {
			return []mesh.Kind{mesh.KindTLSRoute}
		}
		return []mesh.Kind{mesh.KindTCPRoute, mesh.KindTLSRoute}
	case mesh.ListenerTCP:
		return []mesh.Kind{mesh.KindTCPRoute}
	case mesh.ListenerUDP:
		return []mesh.Kind{mesh.KindUDPRoute}
	}
	return nil
}

// Route says for which hosts a route attaches to a listener of a Gateway by the reference p, or the reason why it does not.
// labels are those of the route's namespace. An empty host is every host.
func Route(g *mesh.Gateway, l *mesh.Listener, r *mesh.Route, p mesh.ParentRef, labels map[string]string) (hosts []string, reason string) {
	if p.SectionName != "" && p.SectionName != l.Name || p.Port != 0 && p.Port != l.Port {
		return nil, ReasonNoMatchingParent
	}
	kinds, _ := Kinds(l)
	if !slices.Contains(kinds, mesh.Kind(r.Kind)) || !allows(g, l, r.Namespace, labels) {
		return nil, ReasonNotAllowedByListeners
	}
	if r.Kind == string(mesh.KindTCPRoute) || r.Kind == string(mesh.KindUDPRoute) || len(r.Hostnames) == 0 {
		return []string{l.Hostname}, ""
	}
	for _, h := range r.Hostnames {
		if both, ok := Intersect(l.Hostname, strings.ToLower(h)); ok && !slices.Contains(hosts, both) {
			hosts = append(hosts, both)
		}
	}
	if len(hosts) == 0 {
		return nil, ReasonNoMatchingListenerHostname
	}
	return hosts, ""
}

func allows(g *mesh.Gateway, l *mesh.Listener, namespace string, labels map[string]string) bool {
	switch l.From {
	case mesh.FromAll:
		return true
	case mesh.FromSelector:
		return l.Selector.Matches(labels)
	case mesh.FromNone:
		return false
	}
	return namespace == g.Namespace
}

// Intersect is the narrower of two host patterns, if either covers the other.
func Intersect(a, b string) (string, bool) {
	switch {
	case Covers(a, b):
		return b, true
	case Covers(b, a):
		return a, true
	}
	return "", false
}

// Covers reports whether every host of pattern b is one of a. A wildcard stands for one or more labels (Gateway API Hostname).
func Covers(a, b string) bool {
	if a == "" || a == b {
		return true
	}
	suffix, wild := strings.CutPrefix(a, "*")
	return wild && len(b) > len(suffix) && strings.HasSuffix(b, suffix)
}

// CompareHosts orders patterns by precedence: the longest precise host first, then the longest wildcard, then every host
// (HTTPRouteSpec.hostnames).
func CompareHosts(a, b string) int {
	weigh := func(h string) int {
		if h == "" || h[0] == '*' {
			return len(h)
		}
		return 1000 + len(h) // a host has at most 253 characters
	}
	if d := weigh(b) - weigh(a); d != 0 {
		return d
	}
	return strings.Compare(a, b)
}
