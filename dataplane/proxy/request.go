package proxy

import (
	"errors"
	"github.com/isthmus-mesh/isthmus/core/meter"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/core/balance"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/limit"
	"github.com/isthmus-mesh/isthmus/core/policy"
	"github.com/isthmus-mesh/isthmus/dataplane/fallback"
	"github.com/isthmus-mesh/isthmus/dataplane/intake"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/orca"
	"github.com/isthmus-mesh/isthmus/dataplane/route"
	"github.com/isthmus-mesh/isthmus/dataplane/tenancy"
	"github.com/isthmus-mesh/isthmus/dataplane/tunnel"
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
	// Pending counts who waits for a connection or for room on one; beyond PendingMost, unless
	// that is 0, Open fails as overloaded instead of waiting.
	Pending     *limit.Gauge
	PendingMost int
}

// Open opens a stream to a server proxy; it must not keep the Destination. Its error wraps
// message.ErrNotExecuted when no application can have seen the request, and has a Reason() method
// where one is known.
type Open func(deadline time.Time, d *Destination) (message.Stream, error)

// Config is what a pipeline works with. State, Demand, Open, App, Now, Rand and Done are
// required.
type Config struct {
	State func() *State
	// Demand asks for a service that the state does not have yet.
	Demand Demand
	Open   Open
	// App opens a stream to the proxy's own application at "address:port" (inbound), by the
	// protocol given: TCP is bytes. It bounds its own time.
	App func(target string, p mesh.Protocol) (message.Stream, error)
	// Places bounds the requests that an application of HTTP/1.1 has at once, each of which holds a
	// connection; its Now is set by the proxy.
	Places tenancy.Config
	// Outside opens a stream to "host:port" outside the mesh, when the mesh allows it; nil
	// never.
	Outside func(host string, p mesh.Protocol) (message.Stream, error)
	// Tag names the proxy as an endpoint to client proxies (ir.EndpointTag); "" nothing.
	Tag string
	// Namespace is home: short names resolve in it.
	Namespace string
	Now       func() time.Time
	Rand      func() uint64
	// Opened, if set, is told of every tunnel when it begins to carry bytes.
	Opened func(*Record)
	// Done is told of every request that ended.
	Done func(*Record)
	// Panicked, if set, is told of a fault of ours that a request met; the request is answered
	// or broken off and the proxy goes on.
	Panicked func(value any, stack []byte)
}

// Proxy runs requests through the stages. It is safe for concurrent use.
type Proxy struct {
	cfg      Config
	requests sync.Pool
	buffers  sync.Pool // *[]byte of copyBuffer
	bulk     sync.Pool // *[]byte of copyBulk
	dribbles sync.Pool // *[]byte of copyDribble
	mirrors  mirrors
	lives    lives
	stale    fallback.Cache
	meter    meter.Meter
	said     orca.Gatherer
	hosts    *route.Hosts
	// places are the *tenancy.Table of every application that speaks HTTP/1.1, by its target.
	places sync.Map
}

// New returns a proxy; the goroutines that it owns are those of Wait.
func New(cfg Config) *Proxy {
	p := &Proxy{cfg: cfg, hosts: route.NewHosts(cfg.Namespace)}
	p.cfg.Places.Now = cfg.Now
	p.mirrors.stages = copying[:]
	p.requests.New = func() any {
		r := &request{proxy: p, wake: make(chan struct{}, 1)}
		r.lost = [2]func(){func() { r.clientLeft(0) }, func() { r.clientLeft(1) }}
		r.tenant.Evict = r.evict
		return r
	}
	p.buffers.New = func() any { b := make([]byte, copyBuffer); return &b }
	p.dribbles.New = func() any { b := make([]byte, copyDribble); return &b }
	p.bulk.New = func() any { b := make([]byte, copyBulk); return &b }
	return p
}

// Meter is what the proxy measures of its own application.
func (p *Proxy) Meter() *meter.Meter { return &p.meter }

// Said is what its application says of its load beside answers.
func (p *Proxy) Said() *orca.Gatherer { return &p.said }

const (
	// copyBuffer is the size of the buffer by which bodies are copied, in bytes.
	copyBuffer = 16 << 10
	// copyBulk is that of the one for a tunnel that carries bulk, in bytes.
	copyBulk = 64 << 10
	// copyDribble is that of the one with which a body is waited for of which little comes at a time, or whose client does
	// not take what it is given, in bytes.
	copyDribble = 512
	// replayKeep is the largest body that a request keeps room for between uses, in bytes.
	replayKeep = 16 << 10
	// answerTime bounds the writing of our own answer to a client.
	answerTime = 5 * time.Second
	// demandTime bounds the wait for a configuration on first use: about what a client
	// bears, and well below its own timeouts.
	demandTime = 5 * time.Second
	// stall ends a body, either way, on which nothing has moved for so long.
	stall = 5 * time.Minute
)

// past is a deadline that cuts a call short, whatever the clock.
func past() time.Time { return time.Unix(1, 0) }

// Via is how a request came in: Service and Port are set when it came on the address
// of a service, and zero on the explicit proxy.
type Via struct {
	Service mesh.ServiceName
	Port    uint16
	// Datagrams says that the exchange is a session of UDP: see package datagram.
	Datagrams bool
}

// Outbound carries one request of the own application to its service. It returns when
// the exchange has ended.
func (p *Proxy) Outbound(ex message.Exchange, via Via) {
	r := p.begin(ex)
	r.via = via
	r.run(outbound[:])
}

// Inbound carries one request of a client proxy, or a connection of another mesh's, to the own application. It returns when
// the exchange has ended.
func (p *Proxy) Inbound(ex message.Exchange, peer Peer) {
	r := p.begin(ex)
	r.peer, r.rec.Inbound, r.rec.Caller = peer, true, peer.Identity
	if peer.HBONE {
		r.run(foreign[:])
		return
	}
	r.run(inbound[:])
}

// request is one request on its way. It is reused.
type request struct {
	proxy   *Proxy
	ex      message.Exchange
	state   *State
	rec     Record
	scratch []byte

	// What is sent on: a copy of the exchange's head, and what was answered.
	head  message.Head
	reply message.Head
	// deadline of the whole request, up to the final head of the answer; absolute says that it
	// bounds all of the exchange.
	deadline time.Time
	absolute bool
	answered bool
	// now is the clock as clock read it last: where nothing can have been waited for since, it is read
	// no second time. finished, unless zero, is when an answer had been passed on.
	now, finished time.Time
	// clean says that the exchange ended in order, both ways.
	clean bool
	body  body
	// far is what the other side speaks where it is an application or outside the mesh, and
	// empty where it is a proxy.
	far    mesh.Protocol
	socket message.Handshake
	// limits and idle are the service's; bandwidth, in bytes a second, a fault's, 0 for none.
	limits    *mesh.Limits
	idle      time.Duration
	bandwidth int64
	// entered is left when the request has ended, and visit at the latest then.
	entered *limit.Gauge
	visit   intake.Visit
	// copies are to be made of the request, with the body that was kept.
	copies []*mesh.RouteBackend
	kept   []byte

	// Outbound.
	via     Via
	scope   mesh.Scope
	service *Service
	matched *route.Route
	match   route.Ask
	backend *ir.Backend
	target  *Service // of the backend: the service itself unless routed
	port    uint16   // of the backend
	trusted bool     // what answers is a server proxy, whose reserved fields are believed
	leaves  bool     // it goes out of the mesh
	ask     balance.Ask
	tried   [8]*balance.Endpoint
	dest    Destination
	session route.Session
	// copy is of an answer that is kept for when there is none.
	copy *fallback.Copy

	// Inbound.
	peer Peer
	in   *Inbound
	to   inboundPort
	// asks is what was decided on, by judgedBy.
	asks     policy.Request
	judgedBy *Access
	// at, unless it is invalid, is the address that a connection by HBONE is to, and claims what is there.
	at     netip.AddrPort
	claims []claim
	// tenant is this request's place at the application, if places is where it has one.
	tenant tenancy.Tenant
	place  *tenancy.Table

	// The stream in use, which three goroutines may want to cut short: this request's, its
	// upload's, and the engine's when it tells that the client left.
	mu       sync.Mutex
	stream   message.Stream // nil: none
	pair     *tunnel.Pair   // what passes a tunnel's bytes from socket to socket; nil: none
	cut      error          // why nothing more can be said to or heard of the client
	ended    bool           // the upload is not wanted any more
	headed   bool           // the final head of the answer has come
	extended time.Time      // when deadlines were last moved
	upload   chan struct{}  // closed when the upload has ended; nil: none
	uses     uint8
	lost     [2]func()
	wake     chan struct{} // capacity 1: the request was cut short
}

// breaker is an exchange that tells when its client is gone (http2); others show it in the
// next read or write.
type breaker interface{ OnBreak(func()) }

func (p *Proxy) begin(ex message.Exchange) *request {
	r := p.requests.Get().(*request)
	r.ex, r.state = ex, p.cfg.State()
	r.head.CopyFrom(ex.Request())
	h := &r.head
	r.rec = Record{Start: p.cfg.Now(), Method: h.Method, Host: h.Authority, Path: h.Path}
	r.rec.Tunnel = r.tunnels()
	r.idle = stall
	if b, ok := ex.(breaker); ok {
		b.OnBreak(r.lost[r.uses&1])
	}
	return r
}

// run passes the stages; the first refusal is answered, once and here. A panic of ours
// costs this request only.
func (r *request) run(stages []stage) {
	defer r.end()
	defer r.recovered()
	if !r.state.Ready {
		ref := refuse(mesh.ReasonNotReady, "no complete configuration has arrived yet")
		ref.notExecuted = true
		r.refuse(ref)
		return
	}
	for i := range stages {
		if ref := stages[i].run(r); ref != nil {
			if !r.relieve(ref) {
				r.refuse(ref)
			}
			return
		}
		if r.answered {
			return
		}
	}
}

func (r *request) recovered() {
	v := recover()
	if v == nil {
		return
	}
	if f := r.proxy.cfg.Panicked; f != nil {
		f(v, debug.Stack())
	}
	r.drop()
	r.clean = false
	r.refuse(refuse(mesh.ReasonOwnFault, "this proxy met a fault of its own"))
	r.clean = false
}

// clock reads the clock. The request's own goroutine alone calls it.
func (r *request) clock() time.Time {
	r.now = r.proxy.cfg.Now()
	return r.now
}

// end reports the request and gives its storage back.
func (r *request) end() {
	p := r.proxy
	if r.finished.IsZero() {
		r.finished = p.cfg.Now()
	}
	r.rec.Duration = r.finished.Sub(r.rec.Start)
	b, breaks := r.ex.(breaker)
	if breaks {
		b.OnBreak(nil)
	}
	if r.entered != nil {
		r.entered.Leave()
	}
	r.visit.Leave(r.finished, false)
	r.copy.End()
	p.cfg.Done(&r.rec)
	r.mu.Lock()
	reuse := r.cut == nil && (!breaks || r.clean)
	r.uses++ // from now on a late call of lost is another request's
	r.mu.Unlock()
	if !reuse {
		return // its engine may be about to tell it that the client left
	}
	r.head.Reset()
	r.reply.Reset()
	r.ex, r.state, r.rec = nil, nil, Record{}
	r.now, r.finished = time.Time{}, time.Time{}
	r.deadline, r.absolute, r.answered, r.clean, r.body = time.Time{}, false, false, false, body{small: r.body.small[:0]}
	r.limits, r.idle, r.bandwidth, r.entered = nil, 0, 0, nil
	r.copies, r.kept = r.copies[:0], nil
	if cap(r.body.small) > replayKeep {
		r.body.small = nil
	}
	r.via, r.scope, r.service, r.matched, r.backend, r.target, r.port, r.trusted, r.leaves = Via{}, 0, nil, nil, nil, nil, 0, false, false
	r.ask, r.dest, r.session, r.copy = balance.Ask{}, Destination{}, route.Session{}, nil
	r.far, r.socket = "", message.Handshake{}
	clear(r.tried[:])
	r.peer, r.in, r.to, r.asks, r.judgedBy = Peer{}, nil, inboundPort{}, policy.Request{}, nil
	clear(r.claims)
	r.at, r.claims = netip.AddrPort{}, r.claims[:0]
	r.stream, r.pair, r.ended, r.headed, r.extended, r.upload = nil, nil, false, false, time.Time{}, nil
	p.requests.Put(r)
}

// refuse answers with the reason, unless an answer has begun: then it is broken off.
func (r *request) refuse(ref *refusal) {
	r.rec.Reason, r.rec.Detail = ref.reason, ref.detail
	switch {
	case r.answered:
		r.clean = false
		r.ex.Abort(errors.New(ref.detail))
		return
	case ref.reason == mesh.ReasonClientGone:
		r.answered = true
		r.ex.Abort(errors.New(ref.detail))
		return
	}
	r.answered = true
	r.rec.Status = ref.status
	r.number() // it may have been refused before that was done
	if r.grpcClient() {
		r.refuseGRPC(ref)
		return
	}
	h := &r.reply
	h.Reset()
	h.Status = ref.status
	if ref.reason != mesh.ReasonNone {
		h.Add(FieldReason, string(ref.reason))
	}
	addBytes(h, FieldRequestID, r.rec.RequestID)
	if ref.status == 405 {
		h.Add("allow", "CONNECT") // RFC 9110 §15.5.6
	}
	if ref.notExecuted && r.rec.Inbound && !r.peer.HBONE { // none but proxies are shown what is between them
		h.Add(FieldNotExecuted, string(ref.reason))
	}
	if ref.retryAfter > 0 {
		h.Add("retry-after", message.Seconds(ref.retryAfter))
	}
	h.Add("content-type", "text/plain; charset=utf-8")
	text := string(ref.reason) + ": " + ref.detail + "\n"
	h.Length = int64(len(text))
	if r.matched != nil && r.matched.CORS != nil { // else a page is not told why
		route.Share(h, r.ex.Request(), r.matched.CORS)
	}
	r.say([]byte(text))
}

// say answers with reply and a body of our own.
func (r *request) say(body []byte) {
	r.answered = true
	r.lighten()
	r.ex.SetDeadline(r.proxy.cfg.Now().Add(answerTime)) // the request's own may have passed
	if err := r.ex.Respond(&r.reply, false); err != nil {
		r.ex.Abort(err)
		return
	}
	if string(r.rec.Method) != "HEAD" {
		_, _ = r.ex.Write(body) // a client that left needs no answer
	}
	r.clean = r.ex.Finish(nil) == nil && r.body.read
}

// hold makes s the stream in use until drop.
func (r *request) hold(s message.Stream, deadline time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stream, r.ended, r.headed, r.extended = s, false, false, time.Time{}
	if r.cut != nil {
		deadline = past()
	}
	s.SetDeadline(deadline)
}

// bound moves the deadline of the stream in use, unless it was cut short.
func (r *request) bound(t time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cut == nil && r.stream != nil {
		r.stream.SetDeadline(t)
	}
}

// drop ends the upload and closes the stream in use. Nothing touches it afterwards.
func (r *request) drop() {
	r.mu.Lock()
	s, upload := r.stream, r.upload
	if s == nil {
		r.mu.Unlock()
		return
	}
	if upload != nil {
		select {
		case <-upload:
		default: // what the client still sends is of no use to anybody
			r.ended = true
			r.ex.SetDeadline(past())
			s.SetDeadline(past())
		}
	}
	r.mu.Unlock()
	if upload != nil {
		<-upload
	}
	r.mu.Lock()
	r.stream, r.upload = nil, nil
	r.mu.Unlock()
	s.Close()
}

// moving says that bytes move, one way or the other, or are about to: both sides get a
// stall's time from now on. It reports false when the request was cut short or its
// upload ended. It costs a reading of the clock.
func (r *request) moving() bool { return r.movingAt(r.proxy.cfg.Now()) }

func (r *request) movingAt(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cut != nil || r.ended || r.stream == nil {
		return false
	}
	if now.Sub(r.extended) > r.idle/8 {
		r.extended = now
		end := now.Add(r.idle)
		r.ex.SetDeadline(end)
		if r.absolute {
			end = earlier(end, r.deadline)
		}
		r.stream.SetDeadline(end)
	}
	return true
}
