package telemetry_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-mesh/isthmus/telemetry"
	tracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	spanpb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// TestACollectorThatIsAwayCostsCountedDrops: who tells never waits, and what is kept is bounded.
func TestACollectorThatIsAwayCostsCountedDrops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls, largest := 0, 0
		e := telemetry.NewExporter(telemetry.ExporterConfig{Now: time.Now, Resource: [][2]string{{"service.name", "a"}},
			Send: func(ctx context.Context, _ string, request []byte) error {
				calls++
				largest = max(largest, len(request))
				<-ctx.Done() // it hangs
				return ctx.Err()
			}})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- e.Run(ctx) }()
		const told = 20_000
		began := time.Now()
		for range told {
			e.Span(entry())
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("who tells waited %v", took)
		}
		stop()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if e.Dropped() != told || calls == 0 || largest > 2<<20 {
			t.Errorf("%d of %d dropped, %d calls, the largest of %d bytes", e.Dropped(), told, calls, largest)
		}
	})
}

func TestASpanIsWhatOTLPMeans(t *testing.T) {
	var got tracepb.ExportTraceServiceRequest
	e := telemetry.NewExporter(telemetry.ExporterConfig{Now: time.Now, Resource: [][2]string{{"service.name", "frontend"}},
		Send: func(_ context.Context, method string, request []byte) error {
			if method != telemetry.OTLPTraces {
				t.Errorf("method %s", method)
			}
			return proto.Unmarshal(request, &got)
		}})
	n := entry()
	n.ParentID = [8]byte{9}
	e.Span(n)
	e.Span(n)
	over, end := context.WithCancel(t.Context())
	end()
	_ = e.Run(over)
	if len(got.ResourceSpans) != 1 || len(got.ResourceSpans[0].ScopeSpans) != 1 || len(got.ResourceSpans[0].ScopeSpans[0].Spans) != 2 {
		t.Fatalf("%v", &got)
	}
	s := got.ResourceSpans[0].ScopeSpans[0].Spans[1]
	if s.Name != "GET catalog.shop" || s.Kind != spanpb.Span_SPAN_KIND_CLIENT || s.StartTimeUnixNano != 1000e9 || s.EndTimeUnixNano != 1000e9+1500e3 ||
		string(s.ParentSpanId) != "\x09\x00\x00\x00\x00\x00\x00\x00" || s.Status.GetCode() != spanpb.Status_STATUS_CODE_ERROR || s.Status.GetMessage() != "upstream_reset" {
		t.Errorf("%v", s)
	}
	if u := s.ProtoReflect().GetUnknown(); len(u) > 0 || e.Dropped() != 0 {
		t.Errorf("%d unknown bytes, %d dropped", len(u), e.Dropped())
	}
}

func BenchmarkSpan(b *testing.B) {
	e := telemetry.NewExporter(telemetry.ExporterConfig{Now: time.Now})
	n := entry()
	b.ReportAllocs()
	for b.Loop() {
		e.Span(n) // the buffer fills and then drops: encoding is what costs
	}
}
