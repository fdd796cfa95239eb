package telemetry

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
	"google.golang.org/protobuf/encoding/protowire"
)

// The methods of OTLP that an Exporter calls.
const (
	OTLPTraces = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
	OTLPLogs   = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
)

// ExporterConfig is what an Exporter works with; all fields are required.
type ExporterConfig struct {
	// Send calls a method of OTLP with an encoded request.
	Send func(ctx context.Context, method string, request []byte) error
	// Resource is who tells: attributes of everything that is sent.
	Resource [][2]string
	Now      func() time.Time
}

const (
	// exportBytes bounds what waits to be sent, spans and logs each; exportDelay gathers what comes together;
	// exportTime bounds one call, and exportPause is how long a collector that failed is left alone.
	exportBytes = 1 << 20
	exportDelay = 500 * time.Millisecond
	exportTime  = 5 * time.Second
	exportPause = 2 * time.Second
)

// Exporter sends spans and log records to a collector by OTLP. They are encoded where they arise, into
// a bounded buffer, by hand: the generated messages would cost thirty allocations a span. A collector
// that is away or slow costs drops, which are counted, and nothing else. It is safe for concurrent use.
type Exporter struct {
	cfg     ExporterConfig
	prefix  []byte // the Resource and scope of a request
	scope   []byte
	wake    chan struct{}
	dropped atomic.Uint64

	mu           sync.Mutex
	spans, logs  pending
	scratch, sub []byte
}

// pending is a buffer of encoded elements, each with its tag.
type pending struct {
	b []byte
	n uint64
}

// NewExporter returns an exporter with nothing to send.
func NewExporter(cfg ExporterConfig) *Exporter {
	e := &Exporter{cfg: cfg, wake: make(chan struct{}, 1)}
	var resource []byte
	for _, kv := range cfg.Resource {
		resource = attribute(resource, 1, kv[0], kv[1])
	}
	e.prefix = element(nil, 1, resource)                          // ResourceSpans.resource
	e.scope = element(nil, 1, element(nil, 1, []byte("isthmus"))) // ScopeSpans.scope.name
	return e
}

// Dropped counts spans and log records that were not delivered.
func (e *Exporter) Dropped() uint64 { return e.dropped.Load() }

// Span takes a request as a span (opentelemetry.proto.trace.v1.Span).
func (e *Exporter) Span(n *Entry) { e.add(&e.spans, n, appendSpan) }

// Log takes a request as a log record (opentelemetry.proto.logs.v1.LogRecord).
func (e *Exporter) Log(n *Entry) { e.add(&e.logs, n, appendRecord) }

func (e *Exporter) add(to *pending, n *Entry, encode func(b, sub []byte, n *Entry) (_, _ []byte)) {
	e.mu.Lock()
	e.scratch, e.sub = encode(e.scratch[:0], e.sub, n)
	full := len(to.b)+len(e.scratch) > exportBytes
	if !full {
		to.b = element(to.b, 2, e.scratch) // ScopeSpans.spans and ScopeLogs.log_records alike
		to.n++
	}
	e.mu.Unlock()
	if full {
		e.dropped.Add(1)
		return
	}
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// Run sends until ctx ends, and what is left then.
func (e *Exporter) Run(ctx context.Context) error {
	for {
		select {
		case <-e.wake:
		case <-ctx.Done():
			_ = e.flush(context.WithoutCancel(ctx))
			return ctx.Err()
		}
		wait(ctx, exportDelay)
		if e.flush(ctx) != nil {
			wait(ctx, exportPause)
		}
	}
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// flush sends what waits; what fails is dropped, because what comes meanwhile needs the room.
func (e *Exporter) flush(ctx context.Context) error {
	var failed error
	for _, q := range []struct {
		p      *pending
		method string
	}{{&e.spans, OTLPTraces}, {&e.logs, OTLPLogs}} {
		e.mu.Lock()
		p := *q.p
		*q.p = pending{}
		e.mu.Unlock()
		if p.n == 0 {
			continue
		}
		scoped := append(append(make([]byte, 0, len(e.scope)+len(p.b)), e.scope...), p.b...)
		request := element(nil, 1, element(e.prefix[:len(e.prefix):len(e.prefix)], 2, scoped))
		calling, done := context.WithTimeout(ctx, exportTime)
		err := e.cfg.Send(calling, q.method, request)
		done()
		if err != nil {
			e.dropped.Add(p.n)
			failed = err
		}
	}
	return failed
}

func element(b []byte, field protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), v)
}

// attribute appends a KeyValue with a string: its sizes are known before it is written.
func attribute[T string | []byte](b []byte, field protowire.Number, key string, v T) []byte {
	value := 1 + protowire.SizeBytes(len(v))
	b = protowire.AppendTag(b, field, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(1+protowire.SizeBytes(len(key))+1+protowire.SizeBytes(value)))
	b = protowire.AppendString(protowire.AppendTag(b, 1, protowire.BytesType), key)
	b = protowire.AppendVarint(protowire.AppendTag(b, 2, protowire.BytesType), uint64(value))
	b = protowire.AppendVarint(protowire.AppendTag(b, 1, protowire.BytesType), uint64(len(v))) // AnyValue.string_value
	return append(b, v...)
}

// attributeInt is attribute for a number.
func attributeInt(b []byte, field protowire.Number, key string, v int64) []byte {
	value := 1 + protowire.SizeVarint(uint64(v))
	b = protowire.AppendTag(b, field, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(1+protowire.SizeBytes(len(key))+1+protowire.SizeBytes(value)))
	b = protowire.AppendString(protowire.AppendTag(b, 1, protowire.BytesType), key)
	b = protowire.AppendVarint(protowire.AppendTag(b, 2, protowire.BytesType), uint64(value))
	return protowire.AppendVarint(protowire.AppendTag(b, 3, protowire.VarintType), uint64(v)) // AnyValue.int_value
}

// text is what protobuf takes in a string: what a client wrote may be anything.
func text(b, v []byte) []byte {
	for _, c := range v {
		if c < 0x20 || c > 0x7e {
			c = '?'
		}
		b = append(b, c)
	}
	return b
}

// appendAttributes appends what spans and log records have in common, as repeated KeyValue.
func appendAttributes(b, sub []byte, field protowire.Number, n *Entry) (_, _ []byte) {
	sub = text(sub[:0], n.Method)
	b = attribute(b, field, "http.request.method", sub)
	sub = text(sub[:0], n.Host)
	b = attribute(b, field, "server.address", sub)
	sub = text(sub[:0], n.Path)
	b = attribute(b, field, "url.path", sub)
	b = attributeInt(b, field, "http.response.status_code", int64(n.Code))
	b = attribute(b, field, "isthmus.reason", string(n.Reason))
	b = attribute(b, field, "isthmus.protocol", string(n.Protocol))
	b = attribute(b, field, "isthmus.source.workload", n.SourceWorkload)
	b = attribute(b, field, "isthmus.source.namespace", n.SourceNamespace)
	b = attribute(b, field, "isthmus.source.cluster", string(n.SourceCluster))
	b = attribute(b, field, "isthmus.destination.service", n.DestinationService)
	b = attribute(b, field, "isthmus.destination.namespace", n.DestinationNamespace)
	b = attribute(b, field, "isthmus.destination.cluster", string(n.DestinationCluster))
	b = attribute(b, field, "isthmus.endpoint", n.Endpoint)
	b = attribute(b, field, "isthmus.route", n.Route)
	b = attribute(b, field, "isthmus.policy", n.Policy)
	b = attributeInt(b, field, "isthmus.tries", int64(n.Tries))
	b = attributeInt(b, field, "http.request.body.size", n.RequestBytes)
	b = attributeInt(b, field, "http.response.body.size", n.ResponseBytes)
	sub = text(sub[:0], n.RequestID)
	return attribute(b, field, "isthmus.request_id", sub), sub
}

// Numbers of opentelemetry.proto.trace.v1 and logs.v1.
const (
	kindServer, kindClient = 2, 3
	statusError            = 2
	severityInfo           = 9
	severityWarn           = 13
)

func appendSpan(b, sub []byte, n *Entry) (_, _ []byte) {
	b = element(b, 1, n.TraceID[:])
	b = element(b, 2, n.SpanID[:])
	if n.ParentID != [8]byte{} {
		b = element(b, 4, n.ParentID[:])
	}
	// The name is of low cardinality: a path is not (OpenTelemetry, HTTP spans).
	sub = append(append(append(text(sub[:0], n.Method), ' '), n.DestinationService...), '.')
	sub = append(sub, n.DestinationNamespace...)
	b = element(b, 5, sub)
	kind := uint64(kindClient)
	if n.Reporter == "destination" {
		kind = kindServer
	}
	b = protowire.AppendVarint(protowire.AppendTag(b, 6, protowire.VarintType), kind)
	b = protowire.AppendFixed64(protowire.AppendTag(b, 7, protowire.Fixed64Type), uint64(n.Start.UnixNano()))
	b = protowire.AppendFixed64(protowire.AppendTag(b, 8, protowire.Fixed64Type), uint64(n.Start.Add(n.Duration).UnixNano()))
	b, sub = appendAttributes(b, sub, 9, n)
	// A server's span is no error for what its client did wrong (OpenTelemetry, HTTP spans).
	if n.Reason != mesh.ReasonNone || n.Code >= 500 || n.Code >= 400 && kind == kindClient {
		sub = text(sub[:0], []byte(n.Reason))
		status := element(make([]byte, 0, 64), 2, sub)
		b = element(b, 15, protowire.AppendVarint(protowire.AppendTag(status, 3, protowire.VarintType), statusError))
	}
	return b, sub
}

func appendRecord(b, sub []byte, n *Entry) (_, _ []byte) {
	at := uint64(n.Start.Add(n.Duration).UnixNano())
	b = protowire.AppendFixed64(protowire.AppendTag(b, 1, protowire.Fixed64Type), at)
	severity, name := uint64(severityInfo), "INFO"
	if n.Reason != mesh.ReasonNone {
		severity, name = severityWarn, "WARN"
	}
	b = protowire.AppendVarint(protowire.AppendTag(b, 2, protowire.VarintType), severity)
	b = protowire.AppendString(protowire.AppendTag(b, 3, protowire.BytesType), name)
	sub = n.AppendText(sub[:0])
	sub = text(sub[len(sub):], sub[:len(sub)-1])
	b = element(b, 5, element(nil, 1, sub))
	b, sub = appendAttributes(b, sub, 6, n)
	if n.TraceID != [16]byte{} {
		b = element(element(b, 9, n.TraceID[:]), 10, n.SpanID[:])
	}
	return protowire.AppendFixed64(protowire.AppendTag(b, 11, protowire.Fixed64Type), at), sub
}
