package compile

import (
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/core/attach"
	"github.com/isthmus-mesh/isthmus/core/derive"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// CertificateReport is what became of a listener's reference to a certificate, for people.
type CertificateReport struct {
	// Listener and Reference are its indexes, among the listeners and among those of the listener.
	Listener, Reference int
	Object              string // "Secret shop/web"
	// Reason is that of Gateway API's condition ResolvedRefs where it cannot be used, and Problem says why.
	Reason, Problem string
	// NotBefore and NotAfter are of one that can.
	NotBefore, NotAfter time.Time
}

// certificatesOf says what became of the references of the listeners at which TLS ends.
func certificatesOf(c *derive.Ctx, g *mesh.Gateway) (out []CertificateReport) {
	for i := range g.Listeners {
		if !attach.Ends(&g.Listeners[i]) {
			continue
		}
		for j, r := range g.Listeners[i].Certificates {
			at := CertificateReport{Listener: i, Reference: j, Object: r.Kind + " " + r.Namespace + "/" + r.Name}
			v, reason, problem := certificateOf(c, g, r)
			if at.Reason, at.Problem = reason, problem; reason == "" {
				at.NotBefore, at.NotAfter = v.NotBefore, v.NotAfter
			}
			out = append(out, at)
		}
	}
	return out
}

// certificateOf finds what a Gateway refers to. It is this cluster's own: Secrets go nowhere.
func certificateOf(c *derive.Ctx, g *mesh.Gateway, r mesh.CertificateRef) (v *mesh.Certificate, reason, problem string) {
	if r.Kind != string(mesh.KindSecret) {
		return nil, attach.ReasonInvalidCertificateRef, "certificates are read from a Secret only"
	}
	from := mesh.GrantFrom{Group: gatewayGroup, Kind: string(mesh.KindGateway), Namespace: g.Namespace}
	if r.Namespace != g.Namespace && !permitted(c, from, r.Namespace, mesh.GrantTo{Kind: string(mesh.KindSecret), Name: r.Name}) {
		return nil, attach.ReasonRefNotPermitted, "no ReferenceGrant in namespace " + r.Namespace + " lets a Gateway of namespace " + g.Namespace + " refer to it"
	}
	switch v = own[mesh.Certificate](c, mesh.KindSecret, r.Namespace, r.Name); {
	case v == nil:
		return nil, attach.ReasonInvalidCertificateRef, "cluster " + string(world.Self.Get(c, struct{}{})) + " has no such Secret of type " + mesh.SecretTypeTLS
	case v.Problem != "":
		return nil, attach.ReasonInvalidCertificateRef, v.Problem
	}
	return v, "", ""
}

// termination is a listener at which TLS ends, as proxies serve it.
func termination(c *derive.Ctx, g *mesh.Gateway, l *mesh.Listener, as ir.Listener) ir.Termination {
	out := ir.Termination{Listener: as}
	for _, r := range l.Certificates {
		v, _, problem := certificateOf(c, g, r)
		switch object := r.Kind + " " + r.Namespace + "/" + r.Name; {
		case problem == "":
			out.Certificates = append(out.Certificates, ir.Certificate{Object: object, Chain: v.Chain, Key: v.Key})
		case out.Invalid == "":
			out.Invalid = object + ": " + problem
		}
	}
	switch {
	case len(out.Certificates) > 0:
		out.Invalid = ""
	case out.Invalid == "":
		out.Invalid = "it names no certificate"
	}
	return out
}

const gatewayGroup = "gateway.networking.k8s.io"

// permitted reports whether a reference to an object of another namespace is allowed (Gateway API ReferenceGrant).
func permitted(c *derive.Ctx, from mesh.GrantFrom, namespace string, to mesh.GrantTo) bool {
	for _, f := range gather(c, world.Granted(namespace)) {
		g := f.Value.(*mesh.ReferenceGrant)
		if slices.Contains(g.From, from) && slices.ContainsFunc(g.To, func(x mesh.GrantTo) bool {
			return x.Group == to.Group && x.Kind == to.Kind && (x.Name == "" || x.Name == to.Name)
		}) {
			return true
		}
	}
	return false
}
