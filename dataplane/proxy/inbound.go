package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/isthmus-mesh/isthmus/core/health"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/limit"
	"github.com/isthmus-mesh/isthmus/core/policy"
	"github.com/isthmus-mesh/isthmus/dataplane/http2"
	"github.com/isthmus-mesh/isthmus/dataplane/intake"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/quota"
	"github.com/isthmus-mesh/isthmus/dataplane/route"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Peer is who is at the other end of an inter-proxy connection, as its TLS handshake
// proved, and the name it asked for.
type Peer struct {
	Identity mesh.Identity
	SNI      mesh.SNI
	// HBONE says that it is a proxy of another mesh (tunnel.Peer).
	HBONE bool
}

// Access decides who may call a service. Make one with NewAccess; it is immutable.
type Access struct{ *policy.Checker }

// NewAccess compiles the rules of a service for a proxy of the cluster home.
func NewAccess(a *ir.Access, home mesh.ClusterName) *Access {
	return &Access{policy.Compile(a, home)}
}

// NewInbound prepares a service that the proxy's workload serves. access is nil until the
// rules have arrived, and so is traffic, its policy. prev, nil for none, lends what it counts. The
// error names the rate limit that cannot be understood.
func NewInbound(in *ir.Inbound, access *Access, traffic *ir.Traffic, prev *Inbound) (*Inbound, error) {
	out := &Inbound{Service: in.Service, Access: access, Health: &health.Sign{}, ports: make(map[portKey]inboundPort, len(in.Ports)), Traffic: traffic, concurrency: &limit.Gauge{}}
	if traffic == nil {
		out.Traffic = noTraffic
	}
	var counted *quota.Limits
	var learnt *intake.Gate
	if prev != nil {
		out.concurrency, counted, learnt = prev.concurrency, prev.rates, prev.Gate
		if out.Traffic.Health != nil {
			out.Health = prev.Health
		}
	}
	out.Gate = intake.New(out.Traffic.Admission, learnt)
	var err error
	if out.rates, err = quota.New(out.Traffic.RateLimits, counted); err != nil {
		return nil, fmt.Errorf("traffic policy of service %s: %w", in.Service, err)
	}
	for _, p := range in.Ports {
		out.ports[portKey{p.Port, p.Protocol == mesh.ProtocolUDP}] = newInboundPort(p)
	}
	return out, nil
}

// asked finds the service and port that the client proxy wants, and holds them against
// the name that the connection was made for.
func (r *request) asked() *refusal {
	r.rec.RequestID = r.head.Get(FieldRequestID)
	service := r.peer.SNI.Service
	r.rec.Service = service
	to, once := r.head.Only(FieldTo)
	if !once {
		return refuse(mesh.ReasonMalformed, "the field "+FieldTo+" is there twice")
	}
	// "namespace/service:port", held against the name of the connection piece by piece.
	rest, ok := bytes.CutPrefix(to, []byte(service.Namespace))
	if ok {
		rest, ok = bytes.CutPrefix(rest, []byte("/"))
	}
	if ok {
		rest, ok = bytes.CutPrefix(rest, []byte(service.Name))
	}
	if ok {
		rest, ok = bytes.CutPrefix(rest, []byte(":"))
	}
	if !ok {
		return r.misdirected(string(to))
	}
	rest, datagrams := bytes.CutSuffix(rest, udpSuffix)
	n, err := strconv.ParseUint(view(rest), 10, 16)
	if err != nil || n == 0 || datagrams && !r.carriesBytes() {
		return refuse(mesh.ReasonMalformed, fmt.Sprintf("the field %s of a request of %s is %q: want namespace/service:port, or CONNECT to namespace/service:port/udp",
			FieldTo, r.head.Method, to))
	}
	r.rec.Port = uint16(n)
	in := r.state.Inbound[service]
	if in == nil { // the endpoint moved; another may serve
		return notExecuted(mesh.ReasonMisdirected, "service "+service.String()+" is not served here")
	}
	r.in = in
	if r.to, ok = in.ports[portKey{r.rec.Port, datagrams}]; !ok {
		return refuse(mesh.ReasonUnknownPort, noPort(service, r.rec.Port, datagrams))
	}
	if r.to.Protocol == mesh.ProtocolAuto {
		r.to.Protocol = r.spoken(r.to.Protocol, r.head.Has(FieldHTTP2))
	}
	r.rec.Protocol = r.to.Protocol
	return nil
}

func (r *request) misdirected(to string) *refusal {
	name, _, _ := strings.Cut(to, ":")
	if _, err := mesh.ParseServiceName(name); err != nil {
		return refuse(mesh.ReasonMalformed, fmt.Sprintf("the field %s is %q: want namespace/service:port", FieldTo, to))
	}
	return refuse(mesh.ReasonMisdirected, "the connection is for service "+r.peer.SNI.Service.String()+" and the request for "+to)
}

// authorise asks policy.Decide, about the method and path that the application will get.
// Without rules nothing is allowed.
func (r *request) authorise() *refusal {
	if r.in.Access == nil {
		return notExecuted(mesh.ReasonNotReady, "the access rules of service "+r.in.Service.String()+" have not arrived")
	}
	h := &r.head
	r.asks, r.judgedBy = policy.Request{Caller: r.peer.Identity, Port: r.rec.Port}, r.in.Access
	if !r.carriesBytes() {
		path, _, _ := bytes.Cut(h.Path, []byte("?"))
		r.asks.Method, r.asks.Path = view(h.Method), view(path) // Decide keeps neither
	}
	object, ref := r.in.Access.admits(&r.asks, r.carriesBytes())
	r.rec.Policy = object
	return ref
}

// checkHealth refuses while the application does not say that it can serve.
func (r *request) checkHealth() *refusal {
	if why, unhealthy := r.in.Health.Unhealthy(); unhealthy {
		return notExecuted(mesh.ReasonAppUnreachable, "the application fails its health check: "+why)
	}
	return nil
}

// introduce tells the application who calls, and hides what is between proxies.
func (r *request) introduce() *refusal {
	route.StripRequest(&r.head)
	r.in.Gate.Tell(&r.head)
	r.scratch = append(r.scratch[:0], "URI=spiffe://"...)
	r.scratch = append(r.scratch, r.peer.Identity.TrustDomain...)
	r.scratch = append(append(r.scratch, "/ns/"...), r.peer.Identity.Namespace...)
	r.scratch = append(append(r.scratch, "/sa/"...), r.peer.Identity.ServiceAccount...)
	addBytes(&r.head, FieldCaller, r.scratch)
	return nil
}

// staleTries bounds how many pooled connections are found closed for one request.
const staleTries = 3

// deliverAgain reports whether a request that failed may go to the application once more: on
// another connection because this one had been closed or was just closing, or in HTTP/1.1
// because the application does not take a WebSocket in HTTP/2 (RFC 8441 §3), as few do.
func (r *request) deliverAgain(err error) bool {
	r.stopUpload()
	if r.isSpent() {
		return false
	}
	if errors.Is(err, http2.ErrNoConnectProtocol) {
		r.far = mesh.ProtocolHTTP
		return true
	}
	return errors.Is(err, message.ErrNotExecuted) || errors.Is(err, message.ErrStale) && r.head.Idempotent()
}

// deliver forwards to the application. What it cannot have seen is said to be so. How long it may
// take is the client proxy's to say, by FieldDeadline and by resetting the stream.
func (r *request) deliver() *refusal {
	if ref := r.takeBody(); ref != nil {
		return ref
	}
	r.far = r.to.Spoken(r.carriesBytes())
	r.proxy.meter.Begin()
	defer r.proxy.meter.End()
	defer r.leaveApp()
	for try := 1; ; try++ {
		s, ref := r.openApp()
		if ref != nil {
			return ref
		}
		r.socket.Prepare(&r.head, r.far.IsHTTP2(), r.proxy.cfg.Rand)
		r.hold(s, r.deadline)
		began := r.proxy.meter.Begun(r.clock())
		end, err := r.exchange(s)
		r.proxy.meter.Ended(began, r.clock(), err == nil && !r.tunnels())
		switch {
		case err != nil && r.deliverAgain(err) && try < staleTries:
			r.drop()
			continue
		case err != nil:
			r.drop()
			return r.failed(err, mesh.ReasonReset).refusal
		}
		r.visit.Leave(r.now, true)
		if !r.tunnels() {
			r.proxy.said.Head(&r.reply)
		}
		if most := r.limits.ResponseHead; most > 0 && r.reply.Size() > most {
			r.drop()
			return oversized(mesh.ReasonHeadTooLarge, "head", int64(most))
		}
		_, ref = r.handOn(end)
		r.drop()
		return ref
	}
}
