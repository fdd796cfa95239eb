package agent_test

import (
	"context"
	"encoding/hex"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/mesh"
	logspb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	tracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	logpb "go.opentelemetry.io/proto/otlp/logs/v1"
	spanpb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
)

// collector is an OTLP receiver by the protocol's own generated service.
type collector struct {
	tracepb.UnimplementedTraceServiceServer
	logs collectorLogs

	mu    sync.Mutex
	spans []span
}

// span is one with the service.name of its resource.
type span struct {
	*spanpb.Span
	service string
}

type collectorLogs struct {
	logspb.UnimplementedLogsServiceServer
	mu      sync.Mutex
	records []*logpb.LogRecord
}

func text(attributes []*commonpb.KeyValue, key string) string {
	for _, a := range attributes {
		if a.Key == key {
			return a.Value.GetStringValue()
		}
	}
	return ""
}

func (c *collector) Export(_ context.Context, r *tracepb.ExportTraceServiceRequest) (*tracepb.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, rs := range r.ResourceSpans {
		for _, ss := range rs.ScopeSpans {
			for _, s := range ss.Spans {
				c.spans = append(c.spans, span{s, text(rs.Resource.GetAttributes(), "service.name")})
			}
		}
	}
	return &tracepb.ExportTraceServiceResponse{}, nil
}

func (c *collectorLogs) Export(_ context.Context, r *logspb.ExportLogsServiceRequest) (*logspb.ExportLogsServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, rl := range r.ResourceLogs {
		for _, sl := range rl.ScopeLogs {
			c.records = append(c.records, sl.LogRecords...)
		}
	}
	return &logspb.ExportLogsServiceResponse{}, nil
}

func newCollector(t *testing.T) (*collector, string) {
	t.Helper()
	ln, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	c, srv := &collector{}, grpc.NewServer()
	tracepb.RegisterTraceServiceServer(srv, c)
	logspb.RegisterLogsServiceServer(srv, &c.logs)
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(ln) }()
	t.Cleanup(func() { srv.Stop(); <-done })
	return c, ln.Addr().String()
}

// of are the spans of a trace.
func (c *collector) of(trace string) []span {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []span
	for _, s := range c.spans {
		if hex.EncodeToString(s.TraceId) == trace {
			out = append(out, s)
		}
	}
	return out
}

// hop finds a server span among spans whose parent is there too; nil without one.
func hop(spans []span) (byID map[string]span, near, far *span) {
	byID = map[string]span{}
	for _, s := range spans {
		byID[hex.EncodeToString(s.SpanId)] = s
	}
	for i := range spans {
		if p, ok := byID[hex.EncodeToString(spans[i].ParentSpanId)]; ok && spans[i].Kind == spanpb.Span_SPAN_KIND_SERVER {
			near, far = &p, &spans[i]
		}
	}
	return byID, near, far
}

// TestARequestIsOneTreeOfSpansAcrossTwoSidecars: the application's span is the parent of the client
// proxy's, that of the server proxy's, and that is what the application behind it is told.
func TestARequestIsOneTreeOfSpansAcrossTwoSidecars(t *testing.T) {
	w := newWorld(t)
	client, server := w.pair(0)
	c, address := newCollector(t)
	told := mesh.Telemetry{OTLP: address, AccessLog: "JSON", LogSampleMilliPercent: 100_000, TraceSampleMilliPercent: 100_000}
	got := make(chan string, 4096) // more than there are requests
	srv := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got <- r.Header.Get("traceparent") })}
	ln, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() { srv.Close() })
	w.script.set("shop/frontend", &ir.Proxy{ID: "shop/frontend", Telemetry: told})
	w.script.set("shop/catalog-0", &ir.Proxy{ID: "shop/catalog-0", Telemetry: told, Inbound: []ir.Inbound{{Service: catalog, Ports: []ir.InboundPort{
		{Port: 80, Protocol: mesh.ProtocolHTTP, Target: ln.Addr().(*net.TCPAddr).AddrPort()}}}}})
	h := via(t, client)
	const trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	var byID map[string]span
	var near, far *span
	eventually(t, "both proxies tell of one request", func() bool {
		r, err := http.NewRequest("GET", catalogURL+"item?secret=1", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("traceparent", "00-"+trace+"-"+parent+"-01")
		a, err := h.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		a.Body.Close()
		byID, near, far = hop(c.of(trace))
		return far != nil
	})
	if hex.EncodeToString(near.ParentSpanId) != parent || near.Kind != spanpb.Span_SPAN_KIND_CLIENT || near.service != "frontend" || far.service != "catalog" {
		t.Errorf("client span %v of %s, server span %v of %s", near, near.service, far, far.service)
	}
	if far.StartTimeUnixNano < near.StartTimeUnixNano || far.EndTimeUnixNano > near.EndTimeUnixNano+1e9 {
		t.Errorf("the server's span is not within the client's")
	}
	for _, s := range []*span{near, far} {
		for key, want := range map[string]string{"isthmus.source.workload": "frontend", "isthmus.destination.service": "catalog",
			"isthmus.destination.cluster": "eu-west", "http.request.method": "GET", "isthmus.reason": ""} {
			if v := text(s.Attributes, key); v != want {
				t.Errorf("%s: %s=%q, want %q", s.service, key, v, want)
			}
		}
		if text(s.Attributes, "isthmus.request_id") == "" {
			t.Errorf("%s: no request id", s.service)
		}
	}
	told2 := false
	for len(got) > 0 {
		if tp := <-got; strings.HasPrefix(tp, "00-"+trace+"-") && byID[strings.Split(tp, "-")[2]].Span != nil {
			told2 = true
		}
	}
	if !told2 {
		t.Error("the application was never told a span of its proxy as its parent")
	}
	// What failed bears its reason, in span and log record alike.
	if err := server.end(); err == nil || !strings.Contains(err.Error(), "context canceled") {
		t.Errorf("the server ended with %v", err)
	}
	if status, reason, _ := ask(t, h, catalogURL); status != 503 || reason == "" {
		t.Errorf("%d %s without a server", status, reason)
	}
	eventually(t, "the failure is told", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.logs.mu.Lock()
		defer c.logs.mu.Unlock()
		for _, s := range c.spans {
			if s.Status.GetCode() == spanpb.Status_STATUS_CODE_ERROR && text(s.Attributes, "isthmus.reason") != "" {
				for _, r := range c.logs.records {
					if text(r.Attributes, "isthmus.reason") != "" && r.SeverityText == "WARN" && string(r.TraceId) == string(s.TraceId) {
						return true
					}
				}
			}
		}
		return false
	})
}
