package api

import (
	"fmt"
	"slices"

	"github.com/isthmus-mesh/isthmus/core/compile"
	"github.com/isthmus-mesh/isthmus/core/derive"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/dataplane/application"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// backendTLS is the status of a BackendTLSPolicy: beside what every policy has, whether it verifies anybody, and whether
// another stands before it at what it targets (Gateway API, BackendTLSPolicy conditions).
func (st *statuses) backendTLS(it item, v *mesh.BackendTLSPolicy) *PolicyStatus {
	out := st.policy(it, v.Targets, v.Invalid)
	refs := st.server.authorities(st.world, v)
	for i, t := range v.Targets {
		conds := out.Ancestors[i].Conditions
		if r := &conds[1]; r.Status == isTrue && len(refs) > 0 {
			r.Status, r.Reason, r.Message = isFalse, refs[0].reason, refs[0].field+": "+refs[0].problem
		}
		a := &conds[0]
		if a.Status != isTrue {
			continue
		}
		if len(v.Authorities) > 0 && len(refs) == len(v.Authorities) {
			a.Status, a.Reason, a.Message = isFalse, "NoValidCACertificate", "no authority can verify the application, so it is not spoken to: "+refs[0].problem
			continue
		}
		if other := st.before(it.fact, t); other != "" {
			a.Status, a.Reason, a.Message = isFalse, "Conflicted", other+" is in force there: of several for one target the first by name is"
		}
	}
	return out
}

// before names the policy that takes the place of a fact at one of its targets; empty if none does.
func (st *statuses) before(f *mesh.Fact, t mesh.TargetRef) string {
	n := st.server.exists(st.world, mesh.ServiceName{Namespace: t.Namespace, Name: t.Name})
	if n == nil {
		return ""
	}
	other := ""
	for _, p := range n.Ports {
		if t.SectionName != "" && p.Name != t.SectionName || p.Protocol == mesh.ProtocolUDP {
			continue
		}
		in, err := derive.Eval(st.world, compile.BackendTLSOf, compile.ServicePort{Service: n.Service, Port: p.Name})
		if err != nil || in == nil {
			continue
		}
		if in.Object == f.Key.String() {
			return ""
		}
		other = in.Object
	}
	return other
}

// authorities lists what a policy names as certificates of authorities and is none.
func (s *Server) authorities(w *world.World, v *mesh.BackendTLSPolicy) []dangle {
	var out []dangle
	for i, r := range v.Authorities {
		var cm *mesh.ConfigMap
		if f, ok := w.Get(mesh.Key{Kind: mesh.KindConfigMap, Origin: w.Self(), Namespace: v.Namespace, Name: r.Name}); ok {
			cm = f.Value.(*mesh.ConfigMap)
		}
		if reason, why := compile.AuthorityFault(r, cm); why != "" {
			out = append(out, dangle{fmt.Sprintf("spec.validation.caCertificateRefs[%d]", i), reason, r.Kind + " " + v.Namespace + "/" + r.Name + ": " + why})
		}
	}
	return out
}

// sections lists ports that a policy names and the service does not have, and authorities that are none.
func (s *Server) sections(w *world.World, v *mesh.BackendTLSPolicy) []dangle {
	var out []dangle
	for i, t := range v.Targets {
		n := s.exists(w, mesh.ServiceName{Namespace: t.Namespace, Name: t.Name})
		if n == nil || t.SectionName == "" || slices.ContainsFunc(n.Ports, func(p ir.Port) bool { return p.Name == t.SectionName }) {
			continue
		}
		out = append(out, dangle{fmt.Sprintf("spec.targetRefs[%d]", i), "TargetNotFound", fmt.Sprintf("service %s has no port named %s", n.Service, t.SectionName)})
	}
	return append(out, s.authorities(w, v)...)
}

// lastHop says how the application's own proxy speaks to it, if that is this cluster's to know.
func (x *explainer) lastHop(c *BackendChoice, s mesh.ServiceName, svc *ir.Service, at mesh.ClusterName) {
	i := slices.IndexFunc(svc.Ports, func(p ir.Port) bool { return p.Port == c.Port && (p.Protocol == mesh.ProtocolUDP) == x.udp })
	if i < 0 || at != x.view.Cluster {
		return
	}
	port := ir.InboundPort{Port: c.Port, Protocol: svc.Ports[i].Protocol}
	if !x.udp {
		port.TLS = eval(x, compile.BackendTLSOf, compile.ServicePort{Service: s, Port: svc.Ports[i].Name})
	}
	spoken := port.Spoken(x.carriesBytes(c.Port))
	c.Application = &LastHop{Protocol: string(spoken)}
	terms, ok := application.TermsOf(port, spoken)
	if !ok {
		return
	}
	t := &LastHopTLS{Object: port.TLS.Object, ServerName: terms.ServerName, ALPN: terms.ALPN, Refused: terms.Refused}
	for _, n := range terms.MustBe {
		t.MustBe = append(t.MustBe, string(n.Kind)+" "+n.Value)
	}
	if port.TLS.Roots != "" {
		t.Authorities = append(t.Authorities, "the policy's")
	}
	if port.TLS.System {
		t.Authorities = append(t.Authorities, "the host's")
	}
	c.Application.TLS = t
	if t.Refused != "" && c.Outcome.Answer == Forwarded {
		c.Outcome = refused(mesh.ReasonTLS, "the application is not spoken to, as %s says: %s", t.Object, t.Refused)
	}
}

// carriesBytes reports whether a connection is made to a port, and not a request.
func (x *explainer) carriesBytes(port uint16) bool {
	if x.head.IsConnect() {
		return true
	}
	if x.verdict != nil {
		return false
	}
	i := x.portIndex(port)
	return i >= 0 && !x.service.Ports[i].Protocol.MayBeHTTP()
}
