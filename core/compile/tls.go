package compile

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/isthmus-mesh/isthmus/core/derive"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// ServicePort names a port of a service by its name, which is empty where it has none.
type ServicePort struct {
	Service mesh.ServiceName
	Port    string
}

// String is "namespace/name port".
func (p ServicePort) String() string { return p.Service.String() + " " + p.Port }

// BackendTLSOf is how this cluster's applications behind a port are spoken to; nil is in the clear.
var BackendTLSOf = fn("backend-tls", backendTLS)

// backendTLS finds the policy of a port: one that names it before one that is for the whole service (Gateway API,
// BackendTLSPolicySpec.targetRefs), of several the first by name. It never falls back to the clear: where the policy in
// force cannot verify anybody, it says so.
func backendTLS(c *derive.Ctx, p ServicePort) *ir.BackendTLS {
	var named, whole *mesh.Fact
	for _, f := range gather(c, world.Targeting(mesh.KindBackendTLSPolicy, "Service", p.Service.Namespace, p.Service.Name)) {
		for _, t := range f.Value.(*mesh.BackendTLSPolicy).Targets {
			switch {
			case t.Namespace != p.Service.Namespace || t.Name != p.Service.Name:
			case t.SectionName == "" && whole == nil:
				whole = f
			case t.SectionName != "" && t.SectionName == p.Port && named == nil:
				named = f
			}
		}
	}
	f := named
	if f == nil {
		f = whole
	}
	if f == nil {
		return nil
	}
	v := f.Value.(*mesh.BackendTLSPolicy)
	out := &ir.BackendTLS{Object: f.Key.String(), Hostname: v.Hostname, Names: slices.Clone(v.Names), System: v.System, Invalid: v.Invalid}
	var roots strings.Builder
	problem := ""
	for _, r := range v.Authorities {
		cm := own[mesh.ConfigMap](c, mesh.KindConfigMap, v.Namespace, r.Name)
		if _, why := AuthorityFault(r, cm); why == "" {
			roots.WriteString(cm.Authorities)
		} else if problem == "" {
			problem = r.String() + ": " + why
		}
	}
	out.Roots = roots.String()
	if out.Invalid == "" && out.Roots == "" && !out.System {
		out.Invalid = "no authority can verify the application: " + problem
	}
	return out
}

// inboundPort is a port that a workload serves at target. There is no TLS over UDP.
func inboundPort(c *derive.Ctx, s mesh.ServiceName, p mesh.ServicePort, target netip.AddrPort) ir.InboundPort {
	out := ir.InboundPort{Port: p.Port, Protocol: p.Protocol, Target: target}
	if p.Protocol != mesh.ProtocolUDP {
		out.TLS = BackendTLSOf.Get(c, ServicePort{s, p.Name})
	}
	return out
}

// AuthorityFault says why a reference gives no certificates of authorities, cm being the ConfigMap of that name or nil: with
// the reason of Gateway API's condition ResolvedRefs. It is empty if there are some.
func AuthorityFault(r mesh.ObjectRef, cm *mesh.ConfigMap) (reason, problem string) {
	switch {
	case r.Kind != string(mesh.KindConfigMap) || r.Group != "":
		return "InvalidKind", "certificates of authorities are read from a ConfigMap only"
	case cm == nil:
		return "InvalidCACertificateRef", "it does not exist"
	case cm.Problem != "":
		return "InvalidCACertificateRef", cm.Problem
	}
	return "", ""
}
