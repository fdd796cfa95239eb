package agent

import (
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/dns"
	"github.com/isthmus-mesh/isthmus/dataplane/http1"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
	"github.com/isthmus-mesh/isthmus/dataplane/route"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/telemetry"
)

// observer turns what the pipeline says of requests into metrics and the access log.
type observer struct {
	cfg     *Config
	log     *slog.Logger
	metrics telemetry.Requests
	// also is told of each request that ended.
	also func(*proxy.Record)
	// second is the Unix second of the last line, and lines how many it has had.
	second, lines atomic.Int64
}

// linesMax bounds the access log's lines a second: a storm of failures is told by the metrics
// in full and by the log in part.
const linesMax = 100

// room reports whether the access log takes another line in the second of now. Two
// goroutines that begin a second together may give it a few lines more.
func (o *observer) room(now time.Time) bool {
	if s := now.Unix(); o.second.Swap(s) != s {
		o.lines.Store(0)
	}
	return o.lines.Add(1) <= linesMax
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

// done counts a request and writes a line for one that was refused or failed: what works
// is in the metrics. A tunnel counts as a connection.
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
	if r.Reason != mesh.ReasonNone && r.Reason != mesh.ReasonClientGone && o.room(r.Start.Add(r.Duration)) {
		o.line(r)
	}
	o.also(r)
}

// line is one access log line, for a request that was refused or failed.
func (o *observer) line(r *proxy.Record) {
	side := "outbound"
	if r.Inbound {
		side = "inbound"
	}
	o.log.Info("a request was refused or failed", "reason", string(r.Reason), "status", r.Status, "side", side,
		"method", string(r.Method), "host", string(r.Host), "path", string(r.Path), "service", r.Service.String(), "port", r.Port,
		"route", r.Route, "cluster", string(r.Cluster), "endpoint", r.Endpoint, "caller", r.Caller.String(), "policy", r.Policy,
		"tries", r.Tries, "duration", r.Duration, "request_id", string(r.RequestID), "error", r.Detail)
}

// refused counts what was no request.
func (o *observer) refused(e *http1.ParseError) {
	r := proxy.Record{Status: e.Status, Reason: e.Reason, Detail: e.Detail, Protocol: mesh.ProtocolHTTP}
	o.done(&r)
}

// panicked says that a request met a fault of ours.
func (o *observer) panicked(v any, stack []byte) {
	o.log.Error("a request met a fault of this proxy", "panic", v, "stack", string(stack))
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
		if addr, ok := a.cfg.ServiceAddress(n.Address); ok {
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
