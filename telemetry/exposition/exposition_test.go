package exposition_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/telemetry/exposition"
)

func TestAccepted(t *testing.T) {
	const proto = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
	for accept, want := range map[string]exposition.Format{
		"":                                 exposition.Text,
		"*/*":                              exposition.Text,
		"text/plain":                       exposition.Text,
		proto:                              exposition.Protobuf,
		proto + ";q=0":                     exposition.Text,
		proto + ";q=0.3, text/plain;q=0.4": exposition.Text,
		// Prometheus 3 with native histograms, and without.
		proto + ";q=0.6,application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1": exposition.Protobuf,
		"application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1": exposition.Text,
		"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=text":     exposition.Text,
		"application/vnd.google.protobuf":          exposition.Text,
		proto + ";q=NaN":                           exposition.Text,
		proto + ";q=x," + proto + ";q=0.2":         exposition.Protobuf,
		";;;,/,\x00," + strings.Repeat(",", 10000): exposition.Text,
	} {
		if got := exposition.Accepted(accept); got != want {
			t.Errorf("Accept: %.80s: %v, want %v", accept, got.ContentType(), want.ContentType())
		}
	}
}

// full takes so many bytes.
type full int

func (f *full) Write(b []byte) (int, error) {
	if len(b) > int(*f) {
		n := int(*f)
		*f = 0
		return n, errors.New("full")
	}
	*f -= full(len(b))
	return len(b), nil
}

func TestTheFirstErrorIsTold(t *testing.T) {
	for _, f := range []exposition.Format{exposition.Text, exposition.Protobuf} {
		dest := full(10_000)
		w := exposition.New(&dest, f)
		w.Family("a", exposition.Counter, "Help.")
		for range 1000 {
			w.Value(1, exposition.Label{Name: "l", Value: "some value"})
		}
		if _, err := w.Close(); err == nil {
			t.Errorf("%s: no error of a destination that is full", f.ContentType())
		}
	}
}

func TestText(t *testing.T) {
	var b bytes.Buffer
	w := exposition.New(&b, exposition.Text)
	w.Family("a_total", exposition.Counter, "One\\two\nthree \"four\".")
	w.Value(1<<40, exposition.Label{Name: "x", Value: "a\"b\\c\nd\xff"}, exposition.Label{Name: "y"})
	w.Family("g", exposition.Gauge, "Plain.")
	w.Value(0.25)
	w.Family("h", exposition.Histogram, "Times.")
	w.Histogram(&exposition.Buckets{Sum: 3.5, Count: 3, Bounds: []float64{0.5, 1}, Counts: []uint64{1, 1}}, exposition.Label{Name: "x", Value: "1"})
	if _, err := w.Close(); err != nil {
		t.Fatal(err)
	}
	const want = `# HELP a_total One\\two\nthree "four".
# TYPE a_total counter
a_total{x="a\"b\\c\nd` + "\uFFFD" + `",y=""} 1099511627776
# HELP g Plain.
# TYPE g gauge
g 0.25
# HELP h Times.
# TYPE h histogram
h_bucket{x="1",le="0.5"} 1
h_bucket{x="1",le="1"} 2
h_bucket{x="1",le="+Inf"} 3
h_sum{x="1"} 3.5
h_count{x="1"} 3
`
	if got := b.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
