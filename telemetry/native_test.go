package telemetry_test

import (
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/isthmus-mesh/isthmus/telemetry"
	"github.com/isthmus-mesh/isthmus/telemetry/exposition"
)

// families reads an exposition in the protobuf format with Prometheus' own decoder.
func families(t *testing.T, text string) map[string]*dto.MetricFamily {
	t.Helper()
	out := map[string]*dto.MetricFamily{}
	d := expfmt.NewDecoder(strings.NewReader(text), expfmt.NewFormat(expfmt.TypeProtoDelim))
	for {
		f := &dto.MetricFamily{}
		if err := d.Decode(f); err == io.EOF {
			return out
		} else if err != nil {
			t.Fatal(err)
		}
		if len(f.Metric) == 0 || out[f.GetName()] != nil {
			t.Fatalf("family %q: %d metrics, said before: %v", f.GetName(), len(f.Metric), out[f.GetName()] != nil)
		}
		out[f.GetName()] = f
	}
}

// counts is a native histogram, span by span, as index → count.
func counts(h *dto.Histogram) map[int32]int64 {
	out := map[int32]int64{}
	var at int32
	var count int64
	deltas := h.GetPositiveDelta()
	for _, s := range h.GetPositiveSpan() {
		at += s.GetOffset()
		for range s.GetLength() {
			count += deltas[0]
			deltas = deltas[1:]
			if count != 0 {
				out[at] = count
			}
			at++
		}
	}
	return out
}

// TestNativeHistogramIsAsPrometheusOwnLibraryCounts feeds the same durations to Prometheus' client
// library, bounds of buckets and their neighbours among them.
func TestNativeHistogramIsAsPrometheusOwnLibraryCounts(t *testing.T) {
	const schema = 3
	rng := rand.New(rand.NewPCG(1, 2))
	// A span of nanoseconds to hours; the bounds of octaves that are whole in nanoseconds.
	durations := []time.Duration{0, -1, 1, 953, 954, time.Microsecond, time.Second, time.Second / 2, time.Second / 512, time.Second - 1, time.Second + 1, 64 * time.Second}
	for range 5000 {
		durations = append(durations, time.Duration(math.Exp2(rng.Float64()*43)))
	}
	theirs := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "h", Buckets: []float64{1}, NativeHistogramBucketFactor: 1.1, NativeHistogramZeroThreshold: 1.0 / (1 << 20)})
	var ours telemetry.Requests
	e := edge("catalog", 200)
	for _, d := range durations {
		theirs.Observe(max(d, 0).Seconds())
		ours.Observe(e, &telemetry.Request{Duration: d})
	}
	var m dto.Metric
	if err := theirs.Write(&m); err != nil {
		t.Fatal(err)
	}
	want := m.GetHistogram()
	got := families(t, exposed(t, &ours, exposition.Protobuf))["isthmus_request_duration_seconds"].Metric[0].GetHistogram()
	if got.GetSchema() != schema || want.GetSchema() != schema || got.GetZeroThreshold() != want.GetZeroThreshold() {
		t.Errorf("schema %d, zero threshold %v; want %d, %v", got.GetSchema(), got.GetZeroThreshold(), want.GetSchema(), want.GetZeroThreshold())
	}
	if got.GetSampleCount() != want.GetSampleCount() || got.GetZeroCount() != want.GetZeroCount() || math.Abs(got.GetSampleSum()/want.GetSampleSum()-1) > 1e-9 {
		t.Errorf("count %d, zero %d, sum %v; want %d, %d, %v", got.GetSampleCount(), got.GetZeroCount(), got.GetSampleSum(),
			want.GetSampleCount(), want.GetZeroCount(), want.GetSampleSum())
	}
	if diff := cmp.Diff(counts(want), counts(got)); diff != "" {
		t.Errorf("buckets (- theirs, + ours):\n%s", diff)
	}
	if n := len(got.GetBucket()); n != 15 {
		t.Errorf("%d classic buckets beside the native ones, want 15", n)
	}
}

func TestBothFormatsSayTheSame(t *testing.T) {
	var r telemetry.Requests
	r.Observe(edge("catalog", 200), &telemetry.Request{Duration: 3 * time.Millisecond, RequestBytes: 10, ResponseBytes: 100})
	bad := edge("catalog", 503)
	bad.Reason = "a\"b\\c\nd\xff"
	r.Observe(bad, &telemetry.Request{Duration: time.Millisecond})
	r.Opened(edge("db", 200))
	binary := families(t, exposed(t, &r, exposition.Protobuf))
	text := parsed(t, exposed(t, &r, exposition.Text))
	for name, f := range binary {
		for _, m := range f.Metric { // what only one of the formats can say
			if h := m.Histogram; h != nil {
				h.Schema, h.ZeroThreshold, h.ZeroCount, h.PositiveSpan, h.PositiveDelta = nil, nil, nil, nil, nil
			}
		}
		g := text[name]
		if g == nil {
			t.Errorf("%s is missing in the text format", name)
			continue
		}
		for _, m := range g.Metric {
			if h := m.Histogram; h != nil {
				h.Bucket = slices.DeleteFunc(h.Bucket, func(b *dto.Bucket) bool { return math.IsInf(b.GetUpperBound(), 1) })
			}
		}
		if f.String() != g.String() {
			t.Errorf("%s:\n protobuf %v\n text     %v", name, f, g)
		}
		delete(text, name)
	}
	for name, f := range text {
		if len(f.Metric) > 0 {
			t.Errorf("%s is missing in the protobuf format", name)
		}
	}
}

func TestCountingAllocatesNothingInAnyOctaveOnceSeen(t *testing.T) {
	var r telemetry.Requests
	e := edge("catalog", 200)
	q := &telemetry.Request{}
	all := func() {
		for d := time.Nanosecond; d < 100*time.Hour; d *= 2 {
			q.Duration = d
			r.Observe(e, q)
		}
	}
	all()
	if n := testing.AllocsPerRun(100, all); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

// parsed reads an exposition in the text format with Prometheus' own parser.
func parsed(t *testing.T, text string) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	out, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return out
}
