package agent

import (
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/dns"
	"github.com/isthmus-mesh/isthmus/dataplane/http1"
	"github.com/isthmus-mesh/isthmus/dataplane/load"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
	"github.com/isthmus-mesh/isthmus/dataplane/route"
	"github.com/isthmus-mesh/isthmus/dataplane/trace"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/telemetry"
)

// observer turns what the pipeline says of requests into metrics and the access log.
type observer struct {
	cfg     *Config
	log     *slog.Logger
	metrics telemetry.Requests
	bytes   load.Bytes
	// also is told of each request that ended.
	also func(*proxy.Record)
	// second is the Unix second of the last line of a failure, and told how many it has had.
	second, told atomic.Int64
	reporting    atomic.Pointer[reporting]
	lines        *telemetry.Lines
	rand         func() uint64
	buffers      sync.Pool     // *[]byte, of a line
	datagrams    atomic.Uint64 // that found no room
}

func newObserver(cfg *Config, log *slog.Logger, o *Options) *observer {
	out := &observer{cfg: cfg, log: log, also: o.Done, rand: rand.Uint64}
	if out.also == nil {
		out.also = func(*proxy.Record) {}
	}
	w := o.AccessLog
	if w == nil {
		w = io.Discard
	}
	out.lines = telemetry.NewLines(w)
	out.reporting.Store(&reporting{})
	out.buffers.New = func() any { b := make([]byte, 0, 1024); return &b }
	return out
}

// linesMax bounds the access log's lines a second: a storm of failures is told by the metrics
// in full and by the log in part.
const linesMax = 100

// room reports whether the access log takes another line in the second of now. Two
// goroutines that begin a second together may give it a few lines more.
func (o *observer) room(now time.Time) bool {
	if s := now.Unix(); o.second.Swap(s) != s {
		o.told.Store(0)
	}
	return o.told.Add(1) <= linesMax
}

// edge is the series of a request.
func (o *observer) edge(r *proxy.Record) telemetry.Edge {
	e := telemetry.Edge{Reporter: "source", DestinationService: r.Service.Name, DestinationNamespace: r.Service.Namespace,
		DestinationCluster: r.Cluster, Protocol: r.Protocol, Code: r.Status, Reason: r.Reason}
	if !r.Backend.IsZero() { // what a route chose is where it went
		e.DestinationService, e.DestinationNamespace = r.Backend.Name, r.Backend.Namespace
	}
	self := o.cfg.Identity()
	if r.Inbound {
		self = r.Caller
		e.Reporter, e.DestinationCluster = "destination", o.cfg.Cluster
	}
	e.SourceWorkload, e.SourceNamespace, e.SourceCluster = self.ServiceAccount, self.Namespace, self.TrustDomain.Cluster()
	return e
}

func (o *observer) opened(r *proxy.Record) {
	e := o.edge(r)
	o.metrics.Opened(&e)
}

// done counts a request and tells of it. A tunnel counts as a connection.
func (o *observer) done(r *proxy.Record) {
	e := o.edge(r)
	q := telemetry.Request{Duration: r.Duration, RequestBytes: r.RequestBytes, ResponseBytes: r.ResponseBytes}
	if carried := r.Tunnel && (r.Status/100 == 2 || r.Status == 101); carried {
		reason := e.Reason
		e.Reason = mesh.ReasonNone // the series that it was opened in
		o.metrics.Closed(&e, &q)
		e.Reason = reason
	} else {
		o.metrics.Observe(&e, &q)
	}
	if !r.Inbound && r.Cluster != "" {
		o.bytes.Add(mesh.ServiceName{Namespace: e.DestinationNamespace, Name: e.DestinationService}, r.RequestBytes, r.ResponseBytes, r.Duration)
	}
	o.tell(&e, r)
	o.also(r)
}

// number gives the answer to what was no request an ID, by which it is found in the log.
func (o *observer) number(e *http1.ParseError, h *message.Head) {
	e.RequestID = string(trace.AppendRequestID(nil, o.rand(), o.rand()))
	h.Add(proxy.FieldRequestID, e.RequestID)
}

// refused counts what was no request.
func (o *observer) refused(e *http1.ParseError) {
	r := proxy.Record{Status: e.Status, Reason: e.Reason, Detail: e.Detail, Protocol: mesh.ProtocolHTTP, RequestID: []byte(e.RequestID)}
	o.done(&r)
}

// malformed is number and refused for HTTP/2.
func (o *observer) malformed(fault string, h *message.Head) {
	e := &http1.ParseError{Status: h.Status, Reason: mesh.ReasonMalformed, Detail: fault}
	o.number(e, h)
	o.refused(e)
}

// panicked says that a request met a fault of ours.
func (o *observer) panicked(v any, stack []byte) {
	o.log.Error("a request met a fault of this proxy", "panic", v, "stack", string(stack))
}

// addressOf is where this workload reaches a service. While two state one address, the other one has none:
// what is meant for it must not go to the first.
func (c *Config) addressOf(s *proxy.State, n *ir.Name) (netip.Addr, bool) {
	addr, ok := c.ServiceAddress(n.Address)
	return addr, ok && s.ByAddress[n.Address] == n.Service
}

// resolve answers a name as listeners are placed: see Config.ServiceAddress.
func (a *Agent) resolve(host string) (netip.Addr, dns.Answer) {
	name, _, err := mesh.ParseHost(host, a.cfg.Identity().Namespace)
	if err != nil {
		if route.Qualified(host) {
			return netip.Addr{}, dns.Absent // below a domain of the mesh, and of no form that a service has
		}
		return netip.Addr{}, dns.Foreign
	}
	s := a.store.state.Load()
	if n := s.Names[name]; n != nil {
		if addr, ok := a.cfg.addressOf(s, n); ok {
			return addr, dns.Found
		}
		return netip.Addr{}, dns.NoAddress
	}
	switch {
	case !route.Qualified(host):
		return netip.Addr{}, dns.Foreign // "example.com" has the form SVC.NS
	case !s.Ready:
		return netip.Addr{}, dns.Unknown
	}
	return netip.Addr{}, dns.Absent
}
