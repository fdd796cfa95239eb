//house:exempt a parser: the fields of Gateway

package manifest

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// routesOfListener are the kinds of routes that fit a protocol (Gateway API, ListenerSpec.protocol and TLSRoute).
var routesOfListener = map[mesh.ListenerProtocol][]string{
	mesh.ListenerHTTP:  {"HTTPRoute", "GRPCRoute"},
	mesh.ListenerHTTPS: {"HTTPRoute", "GRPCRoute"},
	mesh.ListenerTLS:   {"TLSRoute", "TCPRoute"},
	mesh.ListenerTCP:   {"TCPRoute"},
	mesh.ListenerUDP:   {"UDPRoute"},
}

func (s *scope) gateway(in *gateway) *mesh.Gateway {
	out := &mesh.Gateway{Namespace: s.namespace, Name: s.name, Class: in.Spec.GatewayClassName}
	if out.Class != mesh.GatewayClass {
		s.warn(spec("gatewayClassName"), "a Gateway of class "+quote(out.Class)+" is left to others", "write "+mesh.GatewayClass+" for the mesh to serve it")
	}
	for i, l := range in.Spec.Listeners {
		out.Listeners = append(out.Listeners, s.listener(&l, spec("listeners").item(i)))
	}
	if len(in.Spec.Addresses) > 0 {
		s.warn(spec("addresses"), "ignored: a Gateway is served at the addresses of the clusters' ingress gateways", "remove it")
	}
	at := (*path)(nil).field("metadata", "annotations", mesh.TrustedHopsAnnotation)
	if a := s.root.get("metadata").get("annotations").get(mesh.TrustedHopsAnnotation); a != nil {
		n, err := strconv.Atoi(a.text)
		if err != nil || n < 0 || n > mesh.TrustedHopsMax {
			s.fault(at, quote(a.text)+" is not a number of proxies", "write a number from 0 to "+strconv.Itoa(mesh.TrustedHopsMax))
		}
		out.TrustedHops = n
	}
	return out
}

func (s *scope) listener(in *listener, at *path) mesh.Listener {
	out := mesh.Listener{Name: in.Name, Hostname: strings.ToLower(text(in.Hostname, "")), Port: uint16(in.Port), Protocol: mesh.ListenerProtocol(in.Protocol), From: mesh.FromSame}
	fits, known := routesOfListener[out.Protocol]
	switch {
	case !known:
		s.warn(at.field("protocol"), quote(in.Protocol)+" is not served", "write HTTP, HTTPS, TLS, TCP or UDP")
	case in.Hostname != nil && (out.Protocol == mesh.ListenerTCP || out.Protocol == mesh.ListenerUDP):
		s.fault(at.field("hostname"), "a listener of "+in.Protocol+" has no host name", "remove it")
	}
	if t := in.TLS; t != nil {
		out.Passthrough = text(t.Mode, "Terminate") == "Passthrough"
		if out.Protocol != mesh.ListenerHTTPS && out.Protocol != mesh.ListenerTLS && known {
			s.fault(at.field("tls"), "does not belong to a listener of "+in.Protocol, "remove it, or write protocol HTTPS or TLS")
		}
		for i, c := range t.CertificateRefs {
			out.Certificates = append(out.Certificates, mesh.CertificateRef{Namespace: text(c.Namespace, s.namespace), Name: c.Name,
				Kind: s.reference(text(c.Group, ""), text(c.Kind, "Secret"), at.field("tls", "certificateRefs").item(i), "Secret")})
		}
	}
	switch {
	case out.Protocol != mesh.ListenerHTTPS && out.Protocol != mesh.ListenerTLS:
	case out.Protocol == mesh.ListenerHTTPS && out.Passthrough:
		s.fault(at.field("tls", "mode"), "a listener of HTTPS ends TLS itself", "write Terminate, or protocol TLS")
	case !out.Passthrough && len(out.Certificates) == 0:
		s.fault(at.field("tls", "certificateRefs"), "missing", "name a Secret of type kubernetes.io/tls")
	}
	if a := in.AllowedRoutes; a != nil {
		s.allowed(&out, a.Namespaces, at.field("allowedRoutes"))
		for i, k := range a.Kinds {
			kind := k.Kind
			if g := text(k.Group, gatewayGroup); g != gatewayGroup || !contains(fits, kind) {
				s.warn(at.field("allowedRoutes", "kinds").item(i), "a "+kind+" of group "+quote(g)+" cannot attach to a listener of "+in.Protocol, "write "+enumerate(fits))
				kind = g + "/" + kind
			}
			out.Kinds = append(out.Kinds, mesh.Kind(kind))
		}
	}
	return out
}

// allowed reads from which namespaces routes may attach.
func (s *scope) allowed(out *mesh.Listener, in *namespacesFrom, at *path) {
	if in == nil {
		return
	}
	out.From = mesh.RoutesFrom(text(in.From, string(mesh.FromSame)))
	if (in.Selector != nil) != (out.From == mesh.FromSelector) {
		s.fault(at.field("namespaces", "selector"), "belongs to from: Selector, and that to it", "write both or none")
		return
	}
	if in.Selector == nil {
		return
	}
	out.Selector = selectorOf(in.Selector.MatchLabels)
	for i, e := range in.Selector.MatchExpressions {
		at := at.field("namespaces", "selector", "matchExpressions").item(i)
		if valued := e.Operator == "In" || e.Operator == "NotIn"; valued != (len(e.Values) > 0) {
			s.fault(at.field("values"), "does not fit operator "+e.Operator, "write values for In and NotIn, and none for Exists and DoesNotExist")
		}
		out.Selector = append(out.Selector, mesh.LabelRequirement{Key: e.Key, Values: e.Values, Not: e.Operator == "NotIn" || e.Operator == "DoesNotExist"})
	}
}

func selectorOf(labels map[string]string) mesh.LabelSelector {
	var out mesh.LabelSelector
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		out = append(out, mesh.LabelRequirement{Key: k, Values: []string{labels[k]}})
	}
	return out
}
