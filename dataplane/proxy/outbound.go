package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/core/balance"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Destination is an endpoint that was picked and how to verify it.
type Destination struct {
	Service    mesh.ServiceName
	Endpoint   *balance.Endpoint
	Cluster    *ir.Cluster
	Identities []mesh.Identity
	// Connect asks for a tunnel of bytes, which gets a connection of its own.
	Connect bool
	// Timeout bounds the making of a connection.
	Timeout time.Duration
}

// Open opens a stream to a server proxy. Its error wraps message.ErrNotExecuted when no
// application can have seen the request, and has a Reason() method where one is known.
type Open func(deadline time.Time, d *Destination) (message.Stream, error)

// Config is what a pipeline works with. State, Now and Done are required.
type Config struct {
	State func() *State
	// Demand asks for a service that the state does not have yet.
	Demand Demand
	Open   Open
	// App opens a stream to the proxy's own application (inbound).
	App func(ctx context.Context, target netip.AddrPort, connect bool) (message.Stream, error)
	// Outside opens a stream to a host outside the mesh, when the mesh allows it; nil never.
	Outside func(ctx context.Context, host string, connect bool) (message.Stream, error)
	// Namespace is home: short names resolve in it.
	Namespace string
	Now       func() time.Time
	Rand      func() uint64
	// Done is told of every request that ended.
	Done func(*Record)
}

// Proxy runs requests through the stages. It is safe for concurrent use.
type Proxy struct {
	cfg      Config
	requests sync.Pool
}

// New returns a proxy; it owns no goroutine.
func New(cfg Config) *Proxy {
	p := &Proxy{cfg: cfg}
	p.requests.New = func() any { return &request{proxy: p, buf: make([]byte, copyBuffer)} }
	return p
}

// copyBuffer is the size of the buffer by which bodies are copied, in bytes.
const copyBuffer = 16 << 10

// Via is how a request came in: Service and Port are set when it came on the address
// of a service, and zero on the explicit proxy.
type Via struct {
	Service mesh.ServiceName
	Port    uint16
}

// Outbound carries one request of the own application to its service. It returns when
// the exchange has ended.
func (p *Proxy) Outbound(ex message.Exchange, via Via) {
	r := p.begin(ex)
	r.via = via
	r.run(outbound[:])
}

// request is one request on its way. It is reused.
type request struct {
	proxy *Proxy
	ex    message.Exchange
	state *State
	rec   Record
	buf   []byte

	// Outbound.
	via      Via
	scope    mesh.Scope
	service  *Service
	matched  *route
	backend  *ir.Backend
	target   *Service // of the backend: the service itself unless routed
	port     uint16   // of the backend
	deadline time.Time
	answered bool
	head     message.Head // towards the server
	reply    message.Head
	tried    [8]*balance.Endpoint

	// Inbound.
	peer Peer
	in   *Inbound
	to   ir.InboundPort
}

func (p *Proxy) begin(ex message.Exchange) *request {
	r := p.requests.Get().(*request)
	r.ex, r.state = ex, p.cfg.State()
	h := ex.Request()
	r.rec = Record{Start: p.cfg.Now(), Method: string(h.Method), Host: string(h.Authority), Path: string(h.Path)}
	return r
}

// run passes the stages; the first refusal is answered, once and here.
func (r *request) run(stages []stage) {
	if !r.state.Ready {
		r.refuse(refuse(mesh.ReasonNotReady, "no complete configuration has arrived yet"))
	} else {
		for i := range stages {
			if ref := stages[i].run(r); ref != nil {
				r.refuse(ref)
				break
			}
			if r.answered {
				break
			}
		}
	}
	r.rec.Duration = r.proxy.cfg.Now().Sub(r.rec.Start)
	r.proxy.cfg.Done(&r.rec)
	r.end()
}

func (r *request) end() {
	p, buf := r.proxy, r.buf
	head, reply := r.head, r.reply
	head.Reset()
	reply.Reset()
	*r = request{proxy: p, buf: buf, head: head, reply: reply}
	p.requests.Put(r)
}

// refuse answers with the reason, unless an answer has begun: then it is broken off.
func (r *request) refuse(ref *refusal) {
	r.rec.Reason, r.rec.Detail = ref.reason, ref.detail
	if r.answered {
		r.ex.Abort(errors.New(ref.detail))
		return
	}
	r.answered = true
	r.rec.Status = ref.status
	if ref.reason == mesh.ReasonClientGone {
		r.rec.Status = 0
		r.ex.Abort(errors.New(ref.detail))
		return
	}
	h := &r.reply
	h.Reset()
	h.Status = ref.status
	h.Add(FieldReason, string(ref.reason))
	if ref.notExecuted {
		h.Add(FieldNotExecuted, string(ref.reason))
	}
	h.Add("content-type", "text/plain; charset=utf-8")
	text := string(ref.reason) + ": " + ref.detail + "\n"
	h.Length = int64(len(text))
	if r.ex.Respond(h, false) == nil {
		if r.rec.Method != "HEAD" {
			_, _ = r.ex.Write([]byte(text)) // a client that left needs no answer
		}
		_ = r.ex.Finish(nil)
	}
}

// identify finds the service that is asked for.
func (r *request) identify() *refusal {
	name, port := r.via.Service, r.via.Port
	if name.IsZero() {
		host, p, ref := authority(r.ex.Request())
		if ref != nil {
			return ref
		}
		port = p
		n, scope, err := mesh.ParseHost(host, r.proxy.cfg.Namespace)
		if err != nil {
			if addr, e := netip.ParseAddr(host); e == nil {
				n = r.state.ByAddress[addr]
			}
			if n.IsZero() {
				return r.outside(host)
			}
		}
		name, r.scope = n, scope
	}
	r.rec.Service, r.rec.Port = name, port
	r.deadline = r.proxy.cfg.Now().Add(mesh.DefaultRequestTimeout)
	s, ref := r.find(name)
	if ref != nil {
		return ref
	}
	r.service = s
	for _, p := range s.Ports {
		if p.Port == port {
			return nil
		}
	}
	return refuse(mesh.ReasonUnknownPort, fmt.Sprintf("service %s has no port %d", name, port))
}

// find returns a service of the state, asking for it on first use.
func (r *request) find(name mesh.ServiceName) (*Service, *refusal) {
	if s := r.state.Services[name]; s != nil {
		return s, nil
	}
	if _, known := r.state.Names[name]; !known {
		if len(r.state.Names) == 0 || !strings.Contains(r.rec.Host, ".") {
			return nil, r.outside(r.rec.Host)
		}
		return nil, refuse(mesh.ReasonUnknownHost, "no cluster of the mesh has a service "+name.String())
	}
	state, err := r.proxy.cfg.Demand(name, r.deadline.UnixNano())
	if err != nil {
		return nil, refuse(mesh.ReasonNotReady, "the configuration of service "+name.String()+" did not arrive: "+err.Error())
	}
	r.state = state
	if s := state.Services[name]; s != nil {
		return s, nil
	}
	return nil, refuse(mesh.ReasonUnknownHost, "no cluster of the mesh has a service "+name.String())
}

// outside refuses, or forwards, a request to a host that is not the mesh's.
func (r *request) outside(host string) *refusal {
	if r.state.Self == nil || !r.state.Self.OutboundAllowAny || r.proxy.cfg.Outside == nil {
		return refuse(mesh.ReasonOutsideMesh, fmt.Sprintf("%q is not a name of the mesh, and the mesh lets nothing out", host))
	}
	return r.leave()
}

// authority splits the host and port that a request asks for.
func authority(h *message.Head) (host string, port uint16, ref *refusal) {
	host = string(h.Authority)
	port = 80
	if string(h.Scheme) == "https" {
		port = 443
	}
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
		n, err := strconv.ParseUint(host[i+1:], 10, 16)
		if err != nil || n == 0 {
			return "", 0, refuse(mesh.ReasonMalformed, "the port of the host is not a number from 1 to 65535")
		}
		host, port = host[:i], uint16(n)
	}
	return strings.Trim(host, "[]"), port, nil
}

// complete strips reserved fields and adds what all tries share.
func (r *request) complete() *refusal {
	h := &r.head
	h.CopyFrom(r.ex.Request())
	strip(h)
	if id := h.Get("x-request-id"); id != nil {
		r.rec.RequestID = string(id)
	} else {
		r.rec.RequestID = requestID(r.proxy.cfg.Rand(), r.proxy.cfg.Rand())
		h.Add("x-request-id", r.rec.RequestID)
	}
	if len(h.Scheme) == 0 {
		h.Scheme = h.KeepString("http")
	}
	return nil
}

// requestID is a random UUID (RFC 9562 §5.4).
func requestID(a, b uint64) string {
	return fmt.Sprintf("%08x-%04x-4%03x-%04x-%012x", uint32(a>>32), uint16(a>>16), a&0xfff, b>>50|0x8000, b&0xffffffffffff)
}

// route finds the rule that takes the request.
func (r *request) route() *refusal {
	r.target, r.port = r.service, r.rec.Port
	if !r.service.Routed || r.head.IsConnect() && len(r.head.Upgrade) == 0 && !r.isTCP() {
		return nil
	}
	r.matched = r.service.match(&r.head, r.rec.Port, r.proxy.cfg.Namespace)
	if r.matched == nil {
		if r.onlyOthersRoutes() {
			return nil
		}
		return refuse(mesh.ReasonNoRoute, "routes are attached to service "+r.service.Name.String()+" and none matches")
	}
	r.rec.Route = r.matched.Object + " rule " + strconv.Itoa(r.matched.Rule)
	return nil
}

// onlyOthersRoutes reports whether every route is for callers of other namespaces: for
// ours it is as if none were attached.
func (r *request) onlyOthersRoutes() bool {
	for i := range r.service.routes {
		if c := r.service.routes[i].Consumer; c == "" || c == r.proxy.cfg.Namespace {
			return false
		}
	}
	return true
}

// isTCP reports whether the service's port carries connections, not requests.
func (r *request) isTCP() bool {
	for _, p := range r.service.Ports {
		if p.Port == r.rec.Port {
			return !p.Protocol.IsHTTP()
		}
	}
	return false
}

// filter applies the route's filters; a redirect answers.
func (r *request) filter() *refusal {
	if r.matched == nil {
		return nil
	}
	if redirect(&r.reply, &r.head, r.matched.Filters, &r.matched.Match) {
		r.answered = true
		r.rec.Status = r.reply.Status
		if err := r.ex.Respond(&r.reply, true); err != nil {
			r.rec.Reason = mesh.ReasonClientGone
		}
		return nil
	}
	filterRequest(&r.head, r.matched.Filters, &r.matched.Match)
	return nil
}

// draw picks one backend for the whole request.
func (r *request) draw() *refusal {
	r.rec.Backend = r.service.Name
	if r.matched == nil {
		return nil
	}
	b := r.matched.backend(uint32(r.proxy.cfg.Rand()))
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
	filterRequest(&r.head, b.Filters, &r.matched.Match)
	if b.Service == r.service.Name {
		return nil
	}
	s, ref := r.find(b.Service)
	if ref != nil {
		return refuse(mesh.ReasonNoBackend, r.rec.Route+": service "+b.Service.String()+" does not exist")
	}
	r.target = s
	return nil
}

// timedOut reports whether an error is that of a deadline.
func timedOut(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
}
