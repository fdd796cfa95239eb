package agent

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"

	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/telemetry"
	"github.com/isthmus-mesh/isthmus/telemetry/exposition"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
)

// reporting is what one proxy tells of requests one by one: the configuration's word for it, and the
// exporter that it asks for, nil if none. It is immutable.
type reporting struct {
	mesh.Telemetry
	exporter *telemetry.Exporter
}

// milliPercent is all, in thousandths of a percent.
const milliPercent = 100_000

// entry is a record as telemetry tells it; its byte slices are the record's.
func (o *observer) entry(e *telemetry.Edge, r *proxy.Record) telemetry.Entry {
	return telemetry.Entry{Edge: *e, Start: r.Start, Duration: r.Duration, Proxy: o.cfg.ID, Method: r.Method, Host: r.Host, Path: r.Path,
		RequestID: r.RequestID, Port: r.Port, Route: r.Route, Endpoint: r.Endpoint, Policy: r.Policy, Fallback: r.Fallback, Detail: r.Detail, Tries: r.Tries,
		RequestBytes: r.RequestBytes, ResponseBytes: r.ResponseBytes, Tunnel: r.Tunnel, TraceID: r.TraceID, SpanID: r.SpanID, ParentID: r.ParentID}
}

// tell logs a request and hands its span on. All that failed is logged, so many lines a second at
// most; of what went well the share that the configuration asks for.
func (o *observer) tell(e *telemetry.Edge, r *proxy.Record) {
	t := o.reporting.Load()
	log := r.Reason != mesh.ReasonNone && r.Reason != mesh.ReasonClientGone && o.room(r.Start.Add(r.Duration)) ||
		t.LogSampleMilliPercent > 0 && o.rand()%milliPercent < uint64(t.LogSampleMilliPercent)
	log = log && t.AccessLog != "Off"
	span := r.Sampled && t.exporter != nil
	if !log && !span {
		return
	}
	n := o.entry(e, r)
	if span {
		t.exporter.Span(&n)
	}
	if !log {
		return
	}
	if t.exporter != nil {
		t.exporter.Log(&n)
	}
	b := o.buffers.Get().(*[]byte)
	if t.AccessLog == "Text" {
		*b = n.AppendText((*b)[:0])
	} else {
		*b = n.AppendJSON((*b)[:0])
	}
	o.lines.Add(*b)
	o.buffers.Put(b)
}

// drops shows what was dropped rather than waited for.
func (o *observer) drops(w *exposition.Writer) {
	w.Family("isthmus_access_log_dropped_total", exposition.Counter, "Lines of the access log that found its buffer full.")
	w.Value(float64(o.lines.Dropped()))
	w.Family("isthmus_datagrams_dropped_total", exposition.Counter, "Datagrams of UDP that found no room: in a queue, among the sessions, or in the system.")
	w.Value(float64(o.datagrams.Load()))
	if e := o.reporting.Load().exporter; e != nil {
		w.Family("isthmus_otlp_dropped_total", exposition.Counter, "Spans and log records that no collector took.")
		w.Value(float64(e.Dropped()))
	}
}

// report keeps what is told in step with the configuration until ctx ends: an exporter and its
// connection exist while a collector is named.
func (a *Agent) report(ctx context.Context) error {
	end := func() {}
	defer func() { end() }()
	var now mesh.Telemetry
	for {
		a.store.mu.Lock()
		changed := a.store.changed
		a.store.mu.Unlock()
		var next mesh.Telemetry
		if self := a.store.state.Load().Self; self != nil {
			next = self.Telemetry
		}
		if next.OTLP != now.OTLP {
			a.seen.reporting.Store(&reporting{Telemetry: next})
			end()
			end = a.export(ctx, next)
		} else if next != now {
			a.seen.reporting.Store(&reporting{next, a.seen.reporting.Load().exporter})
		}
		now = next
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// export starts an exporter to the collector that t names, and returns how to end it.
func (a *Agent) export(ctx context.Context, t mesh.Telemetry) (end func()) {
	if t.OTLP == "" {
		return func() {}
	}
	dialer := &net.Dialer{}
	if a.cfg.Local.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(a.cfg.Local, 0))
	}
	conn, err := grpc.NewClient("passthrough:///"+t.OTLP, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, target string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", target)
		}),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(encoded{})))
	if err != nil {
		a.log.Error("spans and logs go to no collector", "collector", t.OTLP, "error", err)
		return func() {}
	}
	var failing atomic.Bool
	e := telemetry.NewExporter(telemetry.ExporterConfig{Now: a.clock.Now,
		Resource: [][2]string{{"service.name", a.cfg.ServiceAccount}, {"service.namespace", a.cfg.Identity().Namespace}, {"service.instance.id", a.cfg.ID},
			{"service.version", a.version}, {"isthmus.cluster", string(a.cfg.Cluster)}, {"isthmus.zone", string(a.cfg.Zone)},
			{"telemetry.sdk.name", "isthmus"}, {"telemetry.sdk.language", "go"}},
		Send: func(ctx context.Context, method string, request []byte) error {
			var reply []byte
			err := conn.Invoke(ctx, method, request, &reply)
			if was := failing.Swap(err != nil); err != nil && !was { // once an outage: the counter tells the rest
				a.log.Warn("the collector takes nothing; spans and logs are dropped meanwhile", "collector", t.OTLP, "error", err)
			}
			return err
		}})
	exporting, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = e.Run(exporting)
	}()
	a.seen.reporting.Store(&reporting{t, e})
	return func() {
		stop()
		<-done
		conn.Close()
	}
}

// encoded is a codec of messages that are bytes already. Its name is that of protobuf's, which they are.
type encoded struct{}

func (encoded) Name() string { return "proto" }

func (encoded) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("a message of type %T: want bytes", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

func (encoded) Unmarshal(b mem.BufferSlice, v any) error {
	p, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("a message of type %T: want bytes", v)
	}
	*p = b.Materialize()
	return nil
}
