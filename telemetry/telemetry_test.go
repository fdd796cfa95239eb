package telemetry_test

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/telemetry"
	"github.com/isthmus-mesh/isthmus/telemetry/exposition"
)

func edge(service string, code int) *telemetry.Edge {
	return &telemetry.Edge{Reporter: "source", SourceWorkload: "frontend", SourceNamespace: "shop", SourceCluster: "eu-west",
		DestinationService: service, DestinationNamespace: "shop", DestinationCluster: "us-east", Protocol: mesh.ProtocolHTTP, Code: code}
}

func exposed(t *testing.T, r *telemetry.Requests, f exposition.Format) string {
	t.Helper()
	var b bytes.Buffer
	w := exposition.New(&b, f)
	r.Expose(w)
	if n, err := w.Close(); err != nil || n != int64(b.Len()) {
		t.Fatalf("Expose: %d of %d bytes, %v", n, b.Len(), err)
	}
	return b.String()
}

func shown(t *testing.T, r *telemetry.Requests) string {
	t.Helper()
	return exposed(t, r, exposition.Text)
}

func TestExpositionIsReadByPrometheusOwnParser(t *testing.T) {
	var r telemetry.Requests
	r.Observe(edge("catalog", 200), &telemetry.Request{Duration: 3 * time.Millisecond, RequestBytes: 10, ResponseBytes: 100})
	r.Observe(edge("catalog", 200), &telemetry.Request{Duration: time.Hour, ResponseBytes: 1})
	bad := edge("catalog", 503)
	bad.Reason = "a\"b\\c\nd\xff"
	r.Observe(bad, &telemetry.Request{Duration: time.Millisecond})
	r.Opened(edge("db", 200))
	r.Closed(edge("db", 200), &telemetry.Request{RequestBytes: 7})
	families := parsed(t, shown(t, &r))
	h := families["isthmus_request_duration_seconds"]
	if h == nil || len(h.Metric) != 2 {
		t.Fatalf("histogram: %v", h)
	}
	for _, m := range h.Metric {
		last, count := uint64(0), m.GetHistogram().GetSampleCount()
		for _, b := range m.GetHistogram().GetBucket() {
			if b.GetCumulativeCount() < last {
				t.Errorf("bucket %v falls to %d after %d", b.GetUpperBound(), b.GetCumulativeCount(), last)
			}
			last = b.GetCumulativeCount()
		}
		if last != count {
			t.Errorf("the infinite bucket is %d, the count %d", last, count)
		}
	}
	if got := families["isthmus_response_bytes_total"].Metric[0].GetCounter().GetValue(); got != 101 {
		t.Errorf("response bytes: %v, want 101", got)
	}
	for _, name := range []string{"isthmus_tcp_connections_total", "isthmus_tcp_connections_opened_total", "isthmus_tcp_connections_closed_total"} {
		if f := families[name]; f == nil || len(f.Metric) != 1 || f.Metric[0].GetCounter().GetValue() != 1 {
			t.Errorf("%s: %v, want one series of 1", name, f)
		}
	}
}

func TestEdgesBeyondTheBoundAreCountedTogether(t *testing.T) {
	r := telemetry.Requests{Max: 3}
	for i := range 10 {
		r.Observe(edge(fmt.Sprint("s", i), 200), &telemetry.Request{})
	}
	r.Observe(edge("s0", 200), &telemetry.Request{})
	if got := r.Series(); got != 3 {
		t.Errorf("%d series, want 3", got)
	}
	text := shown(t, &r)
	var total int
	for l := range strings.Lines(text) {
		var n int
		if name, rest, ok := strings.Cut(l, "{"); ok && name == "isthmus_requests_total" {
			if _, err := fmt.Sscan(rest[strings.LastIndexByte(rest, ' ')+1:], &n); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(l, "_overflow") && n != 7 {
				t.Errorf("overflow holds %d, want 7", n)
			}
			total += n
		}
	}
	if total != 11 {
		t.Errorf("%d requests shown, want 11: none may be lost", total)
	}
}

func TestCountingAllocatesNothing(t *testing.T) {
	var r telemetry.Requests
	e, q := edge("catalog", 200), &telemetry.Request{Duration: time.Millisecond}
	r.Observe(e, q)
	if n := testing.AllocsPerRun(100, func() { r.Observe(e, q) }); n != 0 {
		t.Errorf("%v allocations a request, want 0", n)
	}
}

func TestConcurrentCountsAreExact(t *testing.T) {
	var r telemetry.Requests
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 500 {
				r.Observe(edge(fmt.Sprint("s", (i+j)%20), 200), &telemetry.Request{Duration: time.Millisecond})
			}
		})
	}
	wg.Wait()
	if got := strings.Count(shown(t, &r), "isthmus_requests_total{"); got != 20 {
		t.Fatalf("%d series, want 20", got)
	}
	for l := range strings.Lines(shown(t, &r)) {
		if strings.HasPrefix(l, "isthmus_requests_total{") && !strings.HasSuffix(l, " 200\n") {
			t.Errorf("%s: want 200", l)
		}
	}
}

func BenchmarkObserve(b *testing.B) {
	var r telemetry.Requests
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		e, q := edge("catalog", 200), &telemetry.Request{Duration: time.Millisecond}
		for pb.Next() {
			r.Observe(e, q)
		}
	})
}
