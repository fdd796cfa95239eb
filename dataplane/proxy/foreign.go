package proxy

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/isthmus-mesh/isthmus/core/policy"
	"github.com/isthmus-mesh/isthmus/dataplane/hbone"
	"github.com/isthmus-mesh/isthmus/dataplane/route"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// claim is a port of a service that a connection by address is to, and the rules that let it in.
type claim struct {
	hbone.Claim
	judgedBy *Access
}

// disbelieve takes away what a proxy of another mesh says under our own names: where to, for how long, how urgent, for whom.
func (r *request) disbelieve() *refusal {
	route.Strip(&r.head)
	r.rec.Protocol, r.rec.RequestID = mesh.ProtocolTCP, r.head.Get(FieldRequestID)
	return nil
}

// connectsOnly refuses requests: what a proxy of another mesh has, it carries in connections.
func (r *request) connectsOnly() *refusal {
	if r.carriesBytes() {
		return nil
	}
	ref := refuse(mesh.ReasonMalformed, "HBONE carries connections: the method is CONNECT, with nothing but an authority, and not "+string(r.head.Method))
	ref.status = 405
	return ref
}

// named finds the service that a connection is to, by the authority: its name, or the workload's address and the port of the
// application. Where several services are there, the first by name stands for them; all are asked for leave.
func (r *request) named() *refusal {
	ask, problem := hbone.Parse(r.head.Authority)
	if problem != "" {
		return refuse(mesh.ReasonMalformed, fmt.Sprintf("the authority %q of a connection: %s; want ADDRESS:PORT of the workload, or SERVICE.NAMESPACE:PORT", r.head.Authority, problem))
	}
	only := r.peer.SNI.Service
	if ask.At.IsValid() {
		return r.atAddress(ask.At, only)
	}
	r.rec.Service, r.rec.Port = ask.Service, ask.Port
	if !only.IsZero() && only != ask.Service {
		return refuse(mesh.ReasonMisdirected, "the connection is for service "+only.String()+" and the stream for "+ask.Service.String())
	}
	in := r.state.Inbound[ask.Service]
	if in == nil {
		return refuse(mesh.ReasonMisdirected, "service "+ask.Service.String()+" is not served here")
	}
	var ok bool
	if r.to, ok = in.ports[portKey{ask.Port, false}]; !ok {
		return refuse(mesh.ReasonUnknownPort, noPort(ask.Service, ask.Port, false))
	}
	r.in = in
	return nil
}

// atAddress is named for an address.
func (r *request) atAddress(at netip.AddrPort, only mesh.ServiceName) *refusal {
	r.rec.Service, r.rec.Port = only, at.Port()
	r.at = at
	r.claims = r.state.claimed(r.claims[:0], at, only)
	if len(r.claims) == 0 {
		return refuse(hbone.Nothing(r.state.Self, at, only))
	}
	for i := range r.claims {
		c := &r.claims[i]
		in := r.state.Inbound[c.Service]
		to := in.ports[portKey{c.Port, false}]
		if i == 0 {
			r.in, r.to = in, to
			r.rec.Service, r.rec.Port = c.Service, c.Port
			continue
		}
		if to.target != r.to.target {
			return refuse(mesh.ReasonMisdirected, fmt.Sprintf("what listens at %s is spoken to in one way for service %s and in another for %s: connect to one of them by its name",
				at, r.claims[0].Service, c.Service))
		}
	}
	return nil
}

// claimed appends what a connection to an address is to.
func (s *State) claimed(claims []claim, at netip.AddrPort, only mesh.ServiceName) []claim {
	if s.Self == nil {
		return claims
	}
	var few [4]hbone.Claim
	for _, c := range hbone.Find(few[:0], s.Self.Inbound, at, only) {
		if in := s.Inbound[c.Service]; in != nil {
			if _, ok := in.ports[portKey{c.Port, false}]; ok {
				claims = append(claims, claim{Claim: c})
			}
		}
	}
	return claims
}

// authoriseAll is authorise, for each service that the connection is to.
func (r *request) authoriseAll() *refusal {
	if ref := r.authorise(); ref != nil || len(r.claims) == 0 {
		return ref
	}
	r.claims[0].judgedBy = r.judgedBy
	for i := range r.claims[1:] {
		c := &r.claims[i+1]
		rules := r.state.Inbound[c.Service].Access
		if rules == nil {
			return notExecuted(mesh.ReasonNotReady, "the access rules of service "+c.Service.String()+", which listens there too, have not arrived")
		}
		object, ref := r.admitted(c, rules)
		if ref != nil {
			r.rec.Policy = object
			return ref
		}
	}
	return nil
}

// admitted asks the rules of a service for leave, and notes that they were asked.
func (r *request) admitted(c *claim, rules *Access) (object string, ref *refusal) {
	c.judgedBy = rules
	if object, ref = rules.admits(&policy.Request{Caller: r.asks.Caller, Port: c.Port}, true); ref != nil {
		ref.detail = "service " + c.Service.String() + ", which listens there: " + ref.detail
	}
	return object, ref
}

// judgeClaims is judge for a connection by address: to the services that are there now, whichever were when it was let in.
func (r *request) judgeClaims(s *State) {
	now := s.claimed(nil, r.at, r.peer.SNI.Service)
	for i := range now {
		c := &now[i]
		rules := s.Inbound[c.Service].Access
		if was := slices.IndexFunc(r.claims, func(o claim) bool { return o.Claim == c.Claim }); was >= 0 {
			c.judgedBy = r.claims[was].judgedBy
		}
		if rules == nil || rules == c.judgedBy {
			continue
		}
		if object, ref := r.admitted(c, rules); ref != nil {
			r.expel(&verdict{*ref, object})
			return
		}
	}
	if len(now) > 0 {
		r.claims = now
	}
}
