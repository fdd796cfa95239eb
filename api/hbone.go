package api

import (
	"net/netip"

	"github.com/isthmus-mesh/isthmus/core/compile"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/policy"
	"github.com/isthmus-mesh/isthmus/dataplane/hbone"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// otherMesh reports whether a source is of a cluster of which nothing is known but its trust domain: its workloads call by HBONE, at
// a workload of this cluster.
func (x *explainer) otherMesh(id mesh.Identity) bool {
	c := eval(x, compile.ClusterOf, id.TrustDomain.Cluster())
	return c != nil && c.Name != x.view.Cluster && c.TrustDomain == id.TrustDomain && len(c.Gateways) == 0
}

// byHBONE follows a connection of another mesh's proxy: there is no route and no choice, and each service that listens
// where it is to go is asked for leave.
func (x *explainer) byHBONE() Outcome {
	x.head.Method = x.head.KeepString("CONNECT")
	x.out.Request.Method, x.out.Request.Path = "CONNECT", ""
	claims, o := x.claims()
	if claims == nil {
		return o
	}
	at := x.view.Cluster
	o = Outcome{Answer: Forwarded, Detail: "to an application of cluster " + string(at) + ", as bytes"}
	for _, claim := range claims {
		c := BackendChoice{Service: claim.Service.String(), Port: claim.Port, Share: 1, Outcome: o}
		access := x.access(claim.Service, at)
		svc := eval(x, compile.ServiceOf, compile.In{Service: claim.Service, View: x.view})
		if access == nil || svc == nil {
			return refused(mesh.ReasonMisdirected, "service %s is not served in cluster %s", claim.Service, at)
		}
		x.service = svc
		x.verdictOf(&c, policy.Compile(access, at).Admit(policy.Request{Caller: x.out.Source.id, Port: claim.Port}, true), at)
		x.lastHop(&c, claim.Service, svc, at)
		if o.Answer == Forwarded {
			o = c.Outcome // the first that refuses has the word
		}
		if x.out.Backends = append(x.out.Backends, c); way(&c) != way(&x.out.Backends[0]) {
			return refused(mesh.ReasonMisdirected, "the application is spoken to in one way for service %s and in another for %s: connect to one of them by its name",
				x.out.Backends[0].Service, c.Service)
		}
	}
	return o
}

// way tells whether two services have their application spoken to alike.
func way(c *BackendChoice) string {
	if c.Application == nil || c.Application.TLS == nil {
		return ""
	}
	return c.Application.TLS.Object
}

// claims are the services that the connection is to, or why there is none.
func (x *explainer) claims() ([]hbone.Claim, Outcome) {
	req := &x.out.Request
	addr, err := netip.ParseAddr(req.Host)
	if err != nil {
		name, _, err := mesh.ParseHost(req.Host, "")
		if err != nil {
			return nil, refused(mesh.ReasonMalformed, "%q is neither an address nor a name of a service with its namespace", req.Host)
		}
		if svc := eval(x, compile.ServiceOf, compile.In{Service: name, View: x.view}); svc != nil {
			if x.service = svc; x.bare && len(svc.Ports) > 0 {
				req.Port = svc.Ports[0].Port
			}
			if x.portIndex(req.Port) < 0 {
				return nil, refused(mesh.ReasonUnknownPort, "service %s has no port %d", name, req.Port)
			}
		}
		return []hbone.Claim{{Service: name, Port: req.Port}}, Outcome{}
	}
	at := netip.AddrPortFrom(addr.Unmap(), req.Port)
	var p *ir.Proxy
	for f := range x.world.All() {
		if w, ok := f.Value.(*mesh.Workload); ok && f.Origin == x.world.Self() && w.Address == at.Addr() {
			p = eval(x, compile.ProxyOf, compile.ProxyKey{ID: w.Namespace + "/" + w.Name, View: x.view,
				Identity: mesh.Identity{TrustDomain: x.domain(), Namespace: w.Namespace, ServiceAccount: w.ServiceAccount}})
			break
		}
	}
	if p != nil {
		if claims := hbone.Find(nil, p.Inbound, at, mesh.ServiceName{}); len(claims) > 0 {
			return claims, Outcome{}
		}
	}
	reason, why := hbone.Nothing(p, at, mesh.ServiceName{})
	return nil, refused(reason, "%s", why)
}

// domain is the trust domain of the cluster that is asked.
func (x *explainer) domain() mesh.TrustDomain {
	if c := eval(x, compile.ClusterOf, x.view.Cluster); c != nil && c.TrustDomain != "" {
		return c.TrustDomain
	}
	return mesh.TrustDomainOf(x.view.Cluster, mesh.DefaultDomain)
}

// verdictOf notes what the policies of a cluster answer.
func (x *explainer) verdictOf(c *BackendChoice, d policy.Decision, at mesh.ClusterName) {
	c.Authorisations = append(c.Authorisations, Authorisation{Cluster: at, Allowed: d.Allowed, Reason: d.Reason, Object: d.Object, Rule: d.Rule,
		Why: d.Why, Audited: d.Audited, Guess: at != x.view.Cluster})
	if c.Outcome = (Outcome{Answer: Forwarded, Detail: "to cluster " + string(at)}); !d.Allowed {
		c.Outcome = refused(d.Reason, "cluster %s: %s", at, d.Why)
		if d.Object != "" {
			c.Outcome = refused(d.Reason, "cluster %s by %s: %s", at, d.Object, d.Why)
		}
	}
}
