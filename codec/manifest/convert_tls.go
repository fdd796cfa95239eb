package manifest

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// wellKnownSystem is the one set of authorities that has a name everywhere (Gateway API WellKnownCACertificatesType).
const wellKnownSystem = "System"

// backendTLSPolicy checks what the custom resource of Gateway API has rules in CEL for.
func (s *scope) backendTLSPolicy(in *backendTLSPolicy) *mesh.BackendTLSPolicy {
	v, at := &in.Spec.Validation, spec("validation")
	out := &mesh.BackendTLSPolicy{Namespace: s.namespace, Name: s.name, Hostname: strings.ToLower(v.Hostname), System: v.WellKnownCACertificates != nil}
	for i, r := range in.Spec.TargetRefs {
		p := spec("targetRefs").item(i)
		if r.Kind != "" && (r.Kind != "Service" || r.Group != "") {
			s.fault(p.field("kind"), quote(r.Kind)+" cannot be a target: it is applications that are spoken to by TLS", `write Service with group ""`)
			continue
		}
		t := mesh.TargetRef{Kind: r.Kind, Namespace: s.namespace, Name: r.Name, SectionName: text(r.SectionName, "")}
		if slices.Contains(out.Targets, t) {
			s.fault(p, "the target is there twice", "remove one of the two")
		}
		out.Targets = append(out.Targets, t)
	}
	switch {
	case out.System && len(v.CACertificateRefs) > 0:
		s.fault(at.field("wellKnownCACertificates"), "stands beside caCertificateRefs", "write one of the two")
	case !out.System && len(v.CACertificateRefs) == 0:
		s.fault(at.field("caCertificateRefs"), "missing", "name a ConfigMap that holds certificates of authorities under "+mesh.AuthoritiesKey+", or write wellKnownCACertificates: "+wellKnownSystem)
	case out.System && *v.WellKnownCACertificates != wellKnownSystem:
		s.fault(at.field("wellKnownCACertificates"), quote(*v.WellKnownCACertificates)+" is not a set of authorities that the mesh knows", "write "+wellKnownSystem)
	}
	for _, r := range v.CACertificateRefs {
		out.Authorities = append(out.Authorities, mesh.ObjectRef{Group: r.Group, Kind: r.Kind, Name: r.Name})
	}
	for i, n := range v.SubjectAltNames {
		p, name := at.field("subjectAltNames").item(i), mesh.SubjectName{Kind: mesh.SubjectKind(n.Type)}
		need, other, wants := "hostname", "uri", n.Hostname
		switch name.Kind {
		case mesh.SubjectHostname:
			name.Value = strings.ToLower(n.Hostname)
		case mesh.SubjectURI:
			need, other, wants = "uri", "hostname", n.URI
			name.Value = n.URI
		default: // reported
			continue
		}
		if wants == "" {
			s.fault(p.field(need), "missing", "write the name, or another type")
		}
		if n.Hostname != "" && n.URI != "" {
			s.fault(p.field(other), "is no "+n.Type, "remove it, or write a name of its own")
		}
		out.Names = append(out.Names, name)
	}
	if len(in.Spec.Options) > 0 {
		s.warn(spec("options"), "the mesh has no options of its own, ignored", "remove it")
	}
	return out
}

// configMap reads the one entry that the mesh looks at. Whatever else it holds is its owner's.
func (s *scope) configMap(in *configMap) *mesh.ConfigMap {
	out := &mesh.ConfigMap{Namespace: s.namespace, Name: s.name}
	text, ok := in.Data[mesh.AuthoritiesKey]
	if !ok {
		out.Problem = "it has no " + mesh.AuthoritiesKey
		return out
	}
	var err error
	if out.Authorities, err = authorities(text); err != nil {
		out.Problem = mesh.AuthoritiesKey + ": " + err.Error()
		s.warn((*path)(nil).field("data", mesh.AuthoritiesKey), err.Error()+": no application can be verified by it", "write certificates in PEM")
	}
	return out
}

// authorities returns the certificates of a text in PEM, as PEM and nothing else. One that cannot be read makes all of it
// unusable: what its author trusts is not known.
func authorities(text string) (string, error) {
	var out strings.Builder
	rest := []byte(text)
	for n := 1; ; n++ {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		if b.Type != "CERTIFICATE" {
			return "", fmt.Errorf("block %d is a %s and no certificate", n, b.Type)
		}
		if _, err := x509.ParseCertificate(b.Bytes); err != nil {
			return "", fmt.Errorf("certificate %d cannot be read: %w", n, err)
		}
		out.Write(pem.EncodeToMemory(&pem.Block{Type: b.Type, Bytes: b.Bytes}))
	}
	if out.Len() == 0 {
		return "", fmt.Errorf("holds no certificate in PEM")
	}
	return out.String(), nil
}
