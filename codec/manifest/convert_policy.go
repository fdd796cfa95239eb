package manifest

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"net/netip"
	"slices"
	"strings"

	"github.com/isthmus-mesh/isthmus/mesh"
)

func (s *scope) settings(in *meshObject) *mesh.Settings {
	out := &mesh.Settings{Domain: in.Spec.Domain, OutboundAllowAny: in.Spec.Outbound == "AllowAny", Strict: in.Spec.Strict}
	if out.Domain == "" {
		out.Domain = mesh.DefaultDomain
	}
	return out
}

func (s *scope) cluster(in *cluster) *mesh.Cluster {
	c := &in.Spec
	out := &mesh.Cluster{
		Name: mesh.ClusterName(s.name), Region: mesh.Region(c.Region), Zones: convert[mesh.Zone](c.Zones), Network: mesh.Network(c.Network),
		Provider: mesh.Provider(c.Provider), Jurisdiction: mesh.Jurisdiction(c.Jurisdiction), Role: mesh.Role(c.Role),
		Primaries: convert[mesh.ClusterName](c.Primaries), TrustDomain: mesh.TrustDomain(c.TrustDomain),
		RTT: duration(c.RTT), EgressPerGiB: egress(c.EgressPerGiB), NoTransit: c.Transit == "Deny",
	}
	if out.Role == "" {
		out.Role = mesh.RolePrimary
	}
	if out.Role == mesh.RoleRemote && len(c.Primaries) == 0 {
		s.fault(spec("primaries"), "missing", "name the clusters that serve this remote one")
	}
	if out.TrustDomain != "" && out.TrustDomain.Cluster() != out.Name {
		s.fault(spec("trustDomain"), quote(c.TrustDomain)+" is not a trust domain of this cluster", "write "+s.name+".MESH-DOMAIN")
	}
	out.Gateways, out.ControlPlanes = addrPorts(c.Gateways), addrPorts(c.ControlPlanes)
	for _, t := range c.Ingresses {
		if a, err := netip.ParseAddr(t); err == nil {
			out.Ingresses = append(out.Ingresses, a)
		}
	}
	out.Roots = s.roots(c.TrustBundle)
	for _, a := range c.Accepts {
		out.Accepts = append(out.Accepts, mesh.Accept{Origin: mesh.ClusterName(a.Origin), Kind: orAny(a.Kind), Namespace: orAny(a.Namespace)})
	}
	return out
}

// roots reads a PEM bundle of CA certificates.
func (s *scope) roots(text string) [][]byte {
	var out [][]byte
	rest := []byte(text)
	for len(bytes.TrimSpace(rest)) > 0 {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil || block.Type != "CERTIFICATE" {
			s.fault(spec("trustBundle"), "not a list of PEM certificates", "write blocks of BEGIN CERTIFICATE … END CERTIFICATE and nothing else")
			return nil
		}
		if c, err := x509.ParseCertificate(block.Bytes); err != nil || !c.IsCA {
			s.fault(spec("trustBundle"), "a block is not the certificate of a CA", "write the roots of the cluster's trust domain")
			return nil
		}
		out = append(out, block.Bytes)
	}
	slices.SortFunc(out, bytes.Compare)
	return out
}

func orAny(s string) string {
	if s == "" {
		return "*"
	}
	return s
}

func addrPorts(list []string) []netip.AddrPort {
	var out []netip.AddrPort
	for _, t := range list {
		if a, err := netip.ParseAddrPort(t); err == nil {
			out = append(out, a)
		}
	}
	return out
}

// convert changes the type of texts.
func convert[T ~string](list []string) []T {
	if len(list) == 0 {
		return nil
	}
	out := make([]T, len(list))
	for i, t := range list {
		out[i] = T(t)
	}
	return out
}

func (s *scope) workload(in *workload) *mesh.Workload {
	w := &in.Spec
	out := &mesh.Workload{Namespace: s.namespace, Name: s.name, ServiceAccount: w.ServiceAccount, Zone: mesh.Zone(w.Locality.Zone),
		Lanes: w.Capacity.Lanes, Weight: 1, Unready: w.Unready}
	if out.ServiceAccount == "" {
		out.ServiceAccount = "default"
	}
	if w.Capacity.Weight != nil {
		out.Weight = *w.Capacity.Weight
	}
	out.Address, _ = netip.ParseAddr(w.Address)
	out.Proxy, _ = netip.ParseAddrPort(w.Proxy)
	if l := s.root.get("metadata").get("labels"); l != nil && len(l.fields) > 0 {
		out.Labels = make(map[string]string, len(l.fields))
		for _, f := range l.fields {
			out.Labels[f.key] = f.value.text
		}
	}
	if len(w.Ports) > 0 {
		out.Ports = make(map[string]uint16, len(w.Ports))
	}
	for _, p := range w.Ports {
		out.Ports[p.Name] = uint16(p.Port)
	}
	return out
}

// targets reads what a policy attaches to. A policy reaches its own namespace or the
// whole mesh, never another's. What nothing acts on yet is a warning, and a fault in a
// security policy, which would otherwise protect nothing and say so nowhere.
func (s *scope) targets(refs []targetRef) []mesh.TargetRef {
	var out []mesh.TargetRef
	for i, r := range refs {
		at := spec("targetRefs").item(i)
		group, known, acted := targetKind(r.Kind)
		switch {
		case r.Kind == "": // reported
			continue
		case !known:
			s.fault(at.field("kind"), quote(r.Kind)+" cannot be a target", "write Service, ServiceImport, Namespace or Mesh")
			continue
		case r.Group != nil && *r.Group != group:
			s.fault(at.field("group"), quote(*r.Group)+" has no "+r.Kind, "write "+quote(group))
		case !acted:
			s.later(at.field("kind"), r.Kind+" as a target is not acted on yet", "write Service, ServiceImport, Namespace or Mesh")
		case r.SectionName != "":
			s.later(at.field("sectionName"), "a section as a target is not acted on yet", "remove it to target the whole "+r.Kind)
		}
		t := mesh.TargetRef{Kind: r.Kind, Namespace: s.namespace, Name: r.Name, SectionName: r.SectionName}
		switch {
		case r.Kind == "Mesh":
			t.Namespace = ""
		case r.Namespace != "" && r.Namespace != s.namespace, r.Kind == "Namespace" && r.Name != "" && r.Name != s.namespace:
			s.fault(at, "the target is in another namespace", "put the policy into the namespace of its target")
		case r.Kind == "Namespace":
			t.Name = s.namespace
		case r.Name == "":
			s.fault(at.field("name"), "missing", "write the name of the "+r.Kind)
		}
		out = append(out, t)
	}
	return out
}

// targetKind tells the group of a kind of target, and whether the mesh acts on policies
// there.
func targetKind(kind string) (group string, known, acted bool) {
	switch kind {
	case "Service", "Namespace":
		return "", true, true
	case "ServiceImport":
		return mcsGroup, true, true
	case "Mesh":
		return isthmusGroup, true, true
	case "Workload":
		return isthmusGroup, true, false
	case "HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "UDPRoute":
		return gatewayGroup, true, false
	}
	return "", false, false
}

// later reports what a later version will act on.
func (s *scope) later(p *path, problem, remedy string) {
	if s.kind.isSecurity() {
		s.fault(p, problem, remedy)
		return
	}
	s.warn(p, problem, remedy)
}

func (s *scope) accessPolicy(in *accessPolicy) *mesh.AccessPolicy {
	out := &mesh.AccessPolicy{Namespace: s.namespace, Name: s.name, Targets: s.targets(in.Spec.TargetRefs), Action: mesh.Action(in.Spec.Action)}
	if out.Action == "" {
		out.Action = mesh.Allow
	}
	for i, r := range in.Spec.Rules {
		at := spec("rules").item(i)
		rule := mesh.AccessRule{When: r.When}
		if r.When != "" {
			s.warn(at.field("when"), "conditions are not evaluated yet, the policy denies whatever it selects", "remove it, or keep it and be safe")
		}
		for j, f := range r.From {
			rule.From = append(rule.From, s.accessSource(f, at.field("from").item(j)))
		}
		for j, t := range r.To {
			s.paths(t.Paths, at.field("to").item(j).field("paths"))
			rule.To = append(rule.To, mesh.AccessOperation{Methods: t.Methods, Paths: t.Paths, Ports: t.Ports})
		}
		out.Rules = append(out.Rules, rule)
	}
	return out
}

func (s *scope) accessSource(f accessSource, at *path) mesh.AccessSource {
	for i, id := range f.Identities {
		p := at.field("identities").item(i)
		s.wildcard(id, p)
		if strings.HasSuffix(id, "*") {
			if id != "*" && !strings.HasPrefix(id, "spiffe://") {
				s.fault(p, quote(id)+" is not an identity", "write spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT, or its beginning and a *")
			}
		} else if _, err := mesh.ParseIdentity(id); err != nil {
			s.fault(p, quote(id)+" is not an identity", "write spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT, or its beginning and a *")
		}
	}
	if f.Not && len(f.Identities)+len(f.Namespaces)+len(f.ServiceAccounts)+len(f.Clusters)+len(f.TrustDomains)+len(f.Jurisdictions) == 0 {
		s.fault(at.field("not"), "excludes everybody", "name whom to exclude beside it")
	}
	return mesh.AccessSource{Identities: f.Identities, Namespaces: f.Namespaces, ServiceAccounts: f.ServiceAccounts,
		Clusters: convert[mesh.ClusterName](f.Clusters), TrustDomains: convert[mesh.TrustDomain](f.TrustDomains),
		Jurisdictions: convert[mesh.Jurisdiction](f.Jurisdictions), Not: f.Not}
}

// wildcard refuses a * anywhere but at the end: it would be compared as it stands and
// a Deny would silently match nothing.
func (s *scope) wildcard(pattern string, at *path) {
	if i := strings.IndexByte(pattern, '*'); i >= 0 && i != len(pattern)-1 {
		s.fault(at, quote(pattern)+" has a * that is not at the end", "write the beginning and one *")
	}
}

func (s *scope) residencyPolicy(in *residencyPolicy) *mesh.ResidencyPolicy {
	return &mesh.ResidencyPolicy{Namespace: s.namespace, Name: s.name, Targets: s.targets(in.Spec.TargetRefs),
		Allowed: convert[mesh.Jurisdiction](in.Spec.Jurisdictions)}
}

// egress is a price, negative where it is stated to be nothing.
func egress(p *decimal) float64 {
	switch {
	case p == nil:
		return 0
	case *p == 0:
		return -1
	}
	return float64(*p)
}
