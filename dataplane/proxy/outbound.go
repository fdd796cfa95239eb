package proxy

import (
	"fmt"
	"net/netip"
	"unsafe"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/ingress"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/route"
	"github.com/isthmus-mesh/isthmus/dataplane/trace"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// identify finds the service that is asked for.
func (r *request) identify() *refusal {
	name, port := r.via.Service, r.via.Port
	qualified := true
	if name.IsZero() {
		hostname, p, problem := route.Authority(&r.head)
		if problem != "" {
			return refuse(mesh.ReasonMalformed, problem)
		}
		h := r.proxy.hosts.Parse(hostname)
		name, r.scope, qualified, port = h.Service, h.Scope, h.Qualified, p
		if !h.Mesh {
			if addr, err := netip.ParseAddr(view(hostname)); err == nil {
				name = r.state.ByAddress[addr]
			}
			if name.IsZero() {
				return r.outside(hostname, port)
			}
		}
	}
	if name == ingress.Misdirected {
		return refuse(mesh.ReasonMisdirected, "the connection was made for a host of another listener")
	}
	s, ref := r.find(name)
	if ref != nil {
		if ref.reason == mesh.ReasonUnknownHost && !qualified {
			host, p, _ := route.Authority(&r.head)
			return r.outside(host, p)
		}
		r.rec.Service, r.rec.Port = name, port
		return ref
	}
	r.service = s
	r.rec.Service, r.rec.Port = s.Name, port
	for i := range s.Ports {
		if s.Ports[i].Port == port && (s.Ports[i].Protocol == mesh.ProtocolUDP) == r.via.Datagrams {
			r.rec.Protocol = r.spoken(s.Ports[i].Protocol, r.head.HTTP2)
			return nil
		}
	}
	return refuse(mesh.ReasonUnknownPort, noPort(name, port, r.via.Datagrams))
}

// spoken is the protocol of a request to a port: what was declared, else as it came.
func (r *request) spoken(declared mesh.Protocol, http2 bool) mesh.Protocol {
	switch {
	case declared != mesh.ProtocolAuto:
		return declared
	case r.carriesBytes():
		return mesh.ProtocolTCP
	case http2:
		return mesh.ProtocolHTTP2
	}
	return mesh.ProtocolHTTP
}

// find returns a service of the state, asking for it on first use.
func (r *request) find(name mesh.ServiceName) (*Service, *refusal) {
	if s := r.state.Services[name]; s != nil {
		return s, nil
	}
	if _, known := r.state.Names[name]; known {
		state, err := r.proxy.cfg.Demand(name, r.proxy.cfg.Now().Add(demandTime).UnixNano())
		if err != nil {
			return nil, refuse(mesh.ReasonNotReady, "the configuration of service "+name.String()+" did not arrive: "+err.Error())
		}
		r.state = state
		if s := state.Services[name]; s != nil {
			return s, nil
		}
	}
	return nil, refuse(mesh.ReasonUnknownHost, "no cluster of the mesh has a service "+name.String())
}

// outside refuses, or forwards, a request to a host that is not the mesh's.
func (r *request) outside(host []byte, port uint16) *refusal {
	r.rec.Port = port
	if r.state.Self == nil || !r.state.Self.OutboundAllowAny || r.proxy.cfg.Outside == nil {
		return refuse(mesh.ReasonOutsideMesh, fmt.Sprintf("%q is not a name of the mesh, and the mesh lets nothing out", host))
	}
	if len(host) == 0 {
		return refuse(mesh.ReasonMalformed, "the request names no host")
	}
	return r.leave(string(host), port)
}

// complete strips reserved fields and adds what all tries share.
func (r *request) complete() *refusal {
	h := &r.head
	route.StripRequest(h)
	r.number()
	if len(h.Scheme) == 0 {
		h.Scheme = h.KeepString("http")
	}
	r.dropUpgrade()
	return nil
}

// number gives the request an ID, unless it bears one.
func (r *request) number() {
	if r.rec.RequestID != nil {
		return
	}
	if r.rec.RequestID = r.head.Get(FieldRequestID); r.rec.RequestID == nil {
		r.scratch = trace.AppendRequestID(r.scratch[:0], r.proxy.cfg.Rand(), r.proxy.cfg.Rand())
		r.rec.RequestID = addBytes(&r.head, FieldRequestID, r.scratch)
	}
}

// dropUpgrade makes a plain request of one whose upgrade the mesh does not carry, as RFC
// 9110 §7.8 lets any recipient: to HTTP/2 in the clear, which RFC 9113 §3.1 has given up,
// and of a method that could not come out as it went in (RFC 8441 §5).
func (r *request) dropUpgrade() {
	h := &r.head
	if len(h.Upgrade) == 0 || string(h.Method) == "GET" && string(h.Upgrade) != "h2c" {
		return
	}
	if h.IsConnect() {
		return
	}
	h.Upgrade = nil
	h.Del("http2-settings")
	r.rec.Tunnel = false
}

// normalise puts the path into the one form that decisions see and that is forwarded.
func (r *request) normalise() *refusal {
	h := &r.head
	if h.IsConnect() && len(h.Upgrade) > 0 {
		h.Method = h.KeepString("GET") // RFC 8441 §5: as it would be in HTTP/1.1, for routes and rules
		r.rec.Method = h.Method
	}
	if len(h.Path) == 0 && h.IsConnect() && len(h.Upgrade) == 0 {
		return nil // a tunnel has no path
	}
	path, problem := route.NormalPath(h.Path)
	if problem != "" {
		return refuse(mesh.ReasonMalformed, "the path is refused: "+problem)
	}
	if len(path) != len(h.Path) {
		r.rec.Path = path // its bytes were moved in place
	}
	h.Path = path
	return nil
}

// addBytes is Head.Add for a value of bytes; it returns the copy.
func addBytes(h *message.Head, name string, value []byte) []byte {
	v := h.Keep(value)
	h.Fields = append(h.Fields, message.Field{Name: h.KeepString(name), Value: v})
	return v
}

// choose finds the rule that takes the request.
func (r *request) choose() *refusal {
	r.target, r.port = r.service, r.rec.Port
	if !r.service.Routed || r.carriesBytes() && !r.via.Datagrams && r.service.routes.OfRequests(r.rec.Port, r.proxy.cfg.Namespace) {
		return nil
	}
	r.match.Head, r.match.Port, r.match.Datagrams, r.match.Namespace = &r.head, r.rec.Port, r.via.Datagrams, r.proxy.cfg.Namespace
	r.matched = r.service.routes.Match(&r.match)
	if r.matched == nil {
		if !r.service.routes.Attached(r.rec.Port, r.via.Datagrams, r.proxy.cfg.Namespace) {
			return nil // all are for other callers or other ports
		}
		return refuse(mesh.ReasonNoRoute, "routes are attached to service "+r.service.Name.String()+" and none matches")
	}
	r.rec.Route = r.matched.Label
	return nil
}

// preflight answers what a browser asks before the request it wants to make.
func (r *request) preflight() *refusal {
	if r.matched == nil || r.matched.CORS == nil || route.PreflightMethod(&r.head) == nil {
		return nil
	}
	route.Preflight(&r.reply, &r.head, r.matched.CORS)
	r.answerHere()
	return nil
}

// answerHere sends reply, which has no body: no server is asked.
func (r *request) answerHere() {
	r.answered = true
	r.rec.Status = r.reply.Status
	r.ex.SetDeadline(r.proxy.cfg.Now().Add(answerTime))
	if err := r.ex.Respond(&r.reply, true); err != nil {
		r.rec.Reason = mesh.ReasonClientGone
	}
}

// filter applies the route's filters; a redirect answers.
func (r *request) filter() *refusal {
	if r.matched == nil {
		return nil
	}
	if route.Redirect(&r.reply, &r.head, r.matched.Route, r.rec.Port) {
		if r.matched.CORS != nil {
			route.Share(&r.reply, r.ex.Request(), r.matched.CORS)
		}
		r.answerHere()
		return nil
	}
	route.FilterRequest(&r.head, r.matched.Filters, &r.matched.Match)
	return nil
}

// draw picks one backend for the whole request.
func (r *request) draw() *refusal {
	r.rec.Backend = r.service.Name
	if r.matched == nil {
		return nil
	}
	var b *ir.Backend
	if i := r.stayingBackend(); i >= 0 {
		b = &r.matched.Backends[i]
	} else {
		b = r.matched.Backend(uint32(r.proxy.cfg.Rand()))
	}
	if b == nil {
		return refuse(mesh.ReasonNoBackend, r.rec.Route+" has no backend with a weight")
	}
	r.backend, r.rec.Backend = b, b.Service
	if b.Missing != "" {
		return refuse(mesh.ReasonNoBackend, r.rec.Route+": "+b.Missing)
	}
	if b.Port != 0 {
		r.port = b.Port
	}
	route.FilterRequest(&r.head, b.Filters, &r.matched.Match)
	if b.Service == r.service.Name {
		return nil
	}
	s, ref := r.find(b.Service)
	switch {
	case ref != nil && ref.reason == mesh.ReasonUnknownHost:
		return refuse(mesh.ReasonNoBackend, r.rec.Route+": service "+b.Service.String()+" does not exist")
	case ref != nil:
		return ref
	}
	r.target = s
	return nil
}

// view is b as a string without a copy: for a call that does not keep it, while nothing
// writes to b.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
