package proxy

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/isthmus-mesh/isthmus/core/policy"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Peer is who is at the other end of an inter-proxy connection, as its TLS handshake
// proved, and the name it asked for.
type Peer struct {
	Identity mesh.Identity
	SNI      mesh.SNI
}

// Inbound carries one request of a client proxy to the own application. It returns when
// the exchange has ended.
func (p *Proxy) Inbound(ex message.Exchange, peer Peer) {
	r := p.begin(ex)
	r.peer, r.rec.Inbound, r.rec.Caller = peer, true, peer.Identity
	r.run(inbound[:])
}

// asked finds the service and port that the client proxy wants, and holds them against
// the name that the connection was made for.
func (r *request) asked() *refusal {
	to := string(r.ex.Request().Get(FieldTo))
	name, port, ok := strings.Cut(to, ":")
	service, err := mesh.ParseServiceName(name)
	n, err2 := strconv.ParseUint(port, 10, 16)
	if !ok || err != nil || err2 != nil {
		return refuse(mesh.ReasonMalformed, fmt.Sprintf("the field %s is %q: want namespace/service:port", FieldTo, to))
	}
	r.rec.Service, r.rec.Port = service, uint16(n)
	if service != r.peer.SNI.Service {
		return refuse(mesh.ReasonMisdirected, "the connection is for service "+r.peer.SNI.Service.String()+" and the request for "+to)
	}
	in := r.state.Inbound[service]
	if in == nil {
		ref := refuse(mesh.ReasonMisdirected, "service "+service.String()+" is not served here")
		ref.notExecuted = true // the endpoint moved; another may serve
		return ref
	}
	r.in = in
	if r.to, ok = in.Ports[r.rec.Port]; !ok {
		return refuse(mesh.ReasonUnknownPort, "service "+service.String()+" has no port "+port)
	}
	return nil
}

// authorise asks policy.Decide. Without rules nothing is allowed.
func (r *request) authorise() *refusal {
	if r.in.Access == nil {
		ref := refuse(mesh.ReasonNotReady, "the access rules of service "+r.in.Service.String()+" have not arrived")
		ref.notExecuted = true
		return ref
	}
	h := r.ex.Request()
	path, _, _ := strings.Cut(string(h.Path), "?")
	method := string(h.Method)
	if h.IsConnect() && len(h.Upgrade) == 0 {
		method, path = "", "" // a connection, not a request
	}
	d := r.in.Access.Decide(policy.Request{Caller: r.peer.Identity, Port: r.rec.Port, Method: method, Path: path})
	r.rec.Policy = d.Object
	if !d.Allowed {
		return refuse(d.Reason, d.Why)
	}
	return nil
}

// introduce tells the application who calls, and hides what is between proxies.
func (r *request) introduce() *refusal {
	h := &r.head
	h.CopyFrom(r.ex.Request())
	strip(h)
	h.Add(FieldCaller, "URI="+r.peer.Identity.String())
	r.rec.RequestID = string(h.Get("x-request-id"))
	return nil
}

// deliver forwards to the application. What it cannot have seen is said to be so.
func (r *request) deliver() *refusal {
	ctx, stop := context.WithTimeout(context.Background(), mesh.DefaultConnectTimeout)
	defer stop()
	connect := r.head.IsConnect() && len(r.head.Upgrade) == 0
	for again := 0; ; again++ {
		s, err := r.proxy.cfg.App(ctx, r.to.Target, connect)
		if err != nil {
			ref := refuse(mesh.ReasonAppUnreachable, "the application at "+r.to.Target.String()+": "+err.Error())
			ref.notExecuted = true
			return ref
		}
		ref, stale := r.deliverOn(s)
		s.Close()
		if !stale || again > 2 {
			return ref
		}
	}
}

// deliverOn uses one stream; stale says that it was a pooled connection that the application
// had closed, and that another may be tried.
func (r *request) deliverOn(s message.Stream) (ref *refusal, stale bool) {
	if r.tunnels() {
		_, ref = r.tunnel(s)
		return ref, false
	}
	if r.ex.Request().Length == 0 {
		r.head.Length = 0
		if err := s.Send(&r.head, true); err != nil {
			return r.undelivered(err)
		}
		end, err := r.receive(s)
		if err != nil {
			return r.undelivered(err)
		}
		_, ref = r.pass(s, end)
		return ref, false
	}
	_, ref = r.relay(s)
	return ref, false
}

func (r *request) undelivered(err error) (*refusal, bool) {
	if errors.Is(err, message.ErrStale) && r.head.Idempotent() {
		return refuse(mesh.ReasonAppUnreachable, err.Error()), true
	}
	_, ref := r.failed(err, mesh.ReasonReset)
	return ref, false
}
