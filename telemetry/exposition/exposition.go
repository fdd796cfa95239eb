// Package exposition writes metrics as a Prometheus scraper asks for them: in the text
// format 0.0.4, or in the protobuf format (io.prometheus.client.MetricFamily, each with its
// length in front), which alone carries native histograms. Its one idea is that who has a
// metric says it once, family by family, and does not know in which of the two.
//
// It keeps no values, registers nothing and opens no port. Read Writer first.
//
// Source: the exposition formats of Prometheus' documentation, and metrics.proto of
// prometheus/client_model.
package exposition

import (
	"bufio"
	"io"
	"math"
	"mime"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// Kind is a family's type; the number is the one of MetricType in metrics.proto.
type Kind int

const (
	Counter   Kind = 0
	Gauge     Kind = 1
	Histogram Kind = 4
)

// Format is one of the two forms.
type Format int

const (
	Text Format = iota
	Protobuf
)

const messageType = "application/vnd.google.protobuf"

// ContentType is what an answer in the format is declared as.
func (f Format) ContentType() string {
	if f == Protobuf {
		return messageType + "; proto=io.prometheus.client.MetricFamily; encoding=delimited"
	}
	return "text/plain; version=0.0.4; charset=utf-8"
}

// Accepted is the format that an Accept field asks for: protobuf where it is named with a
// weight no less than that of the text format, which everybody else gets.
//
// Source: RFC 9110 §12.5.1; Prometheus names the protobuf format only where it is told to scrape
// native histograms.
func Accepted(accept string) Format {
	message, text := 0.0, 0.0
	for part := range strings.SplitSeq(accept, ",") {
		kind, params, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		weight := 1.0
		if q, given := params["q"]; given {
			if weight, err = strconv.ParseFloat(q, 64); err != nil || math.IsNaN(weight) {
				continue
			}
		}
		switch {
		case kind == messageType && params["proto"] == "io.prometheus.client.MetricFamily" && params["encoding"] == "delimited":
			message = max(message, weight)
		case kind == "text/plain":
			text = max(text, weight)
		}
	}
	if message > 0 && message >= text {
		return Protobuf
	}
	return Text
}

// Label is a name and a value. A value that is no UTF-8 is written with U+FFFD in the place of
// what is not.
type Label struct{ Name, Value string }

// Buckets are what a histogram counted, in both of Prometheus' forms.
type Buckets struct {
	Sum   float64
	Count uint64
	// Bounds are the upper bounds of the classic buckets, rising, without the infinite one;
	// Counts how much fell into each (not cumulative).
	Bounds []float64
	Counts []uint64
	// Schema is the native resolution: the bounds grow by 2^(2^-Schema). Zero is the number of
	// values up to ZeroThreshold; Native are the other buckets in rising order of their index.
	Schema        int32
	ZeroThreshold float64
	Zero          uint64
	Native        []NativeBucket
}

// NativeBucket counts the values in (b^(Index-1), b^Index], b being 2^(2^-Schema).
type NativeBucket struct {
	Index int32
	Count uint64
}

// Writer writes families in one format. It is for one goroutine. The first error of the
// destination ends the writing, and Close tells it.
type Writer struct {
	out    *bufio.Writer
	format Format
	n      int64
	err    error

	family string // the name of the family that is open
	kind   Kind
	open   []byte // its message, in the protobuf format
	holds  bool   // it has a value
}

// New writes to w.
func New(w io.Writer, f Format) *Writer { return &Writer{out: bufio.NewWriter(w), format: f} }

// Family begins a family; what follows belongs to it. A family without values is written in the
// text format only, which shows that it exists.
func (w *Writer) Family(name string, k Kind, help string) {
	w.end()
	w.family, w.kind = name, k
	if w.format == Protobuf {
		w.open = beginFamily(w.open[:0], name, help, k)
		return
	}
	w.text("# HELP ", name, " ", escape(help, false), "\n# TYPE ", name, " ", k.String(), "\n")
}

// Value is one value of a counter or gauge of the family.
func (w *Writer) Value(v float64, labels ...Label) {
	if w.format == Protobuf {
		w.open, w.holds = appendValue(w.open, labels, w.kind, v), true
		return
	}
	w.sample("", labels, nil, v)
}

// Histogram is one histogram of the family.
func (w *Writer) Histogram(b *Buckets, labels ...Label) {
	if w.format == Protobuf {
		w.open, w.holds = appendHistogram(w.open, labels, b), true
		return
	}
	var sum uint64
	for i, bound := range b.Bounds {
		sum += b.Counts[i]
		w.sample("_bucket", labels, &bound, float64(sum))
	}
	infinite := math.Inf(1)
	w.sample("_bucket", labels, &infinite, float64(max(b.Count, sum)))
	w.sample("_sum", labels, nil, b.Sum)
	w.sample("_count", labels, nil, float64(max(b.Count, sum)))
}

// Close ends the last family, and tells how many bytes were written and what kept the rest back.
// It does not close the destination.
func (w *Writer) Close() (int64, error) {
	w.end()
	if w.err == nil {
		w.err = w.out.Flush()
	}
	return w.n, w.err
}

// end writes the open family's message: none for a family without values, which a scraper refuses.
func (w *Writer) end() {
	if w.holds {
		w.bytes(protowire.AppendVarint(nil, uint64(len(w.open))))
		w.bytes(w.open)
	}
	w.open, w.holds = w.open[:0], false
}

// sample is a line of the text format; le is the label of a bucket.
func (w *Writer) sample(suffix string, labels []Label, le *float64, v float64) {
	w.text(w.family, suffix)
	between := "{"
	for _, l := range labels {
		w.text(between, l.Name, `="`, escape(l.Value, true), `"`)
		between = ","
	}
	if le != nil {
		w.text(between, `le="`, number(*le), `"`)
		between = ","
	}
	if between == "," {
		w.text("}")
	}
	w.text(" ", number(v), "\n")
}

// number is a value as Prometheus writes it: whole numbers of counters without an exponent.
func number(v float64) string {
	if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
		return strconv.FormatInt(int64(v), 10)
	}
	return strconv.FormatFloat(v, 'g', -1, 64)
}

// escape writes backslash and line feed, and in a label's value the quote, with a backslash.
func escape(s string, quotes bool) string {
	if !strings.ContainsAny(s, "\\\n\"") {
		return strings.ToValidUTF8(s, "\uFFFD")
	}
	var b strings.Builder
	for _, r := range s { // bytes that are no UTF-8 come as U+FFFD
		switch {
		case r == '\\':
			b.WriteString(`\\`)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '"' && quotes:
			b.WriteString(`\"`)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func (w *Writer) text(parts ...string) {
	for _, s := range parts {
		w.count(w.out.WriteString(s))
	}
}

func (w *Writer) bytes(b []byte) { w.count(w.out.Write(b)) }

// count remembers how much was written, and the first error: a bufio.Writer that failed writes
// nothing more.
func (w *Writer) count(n int, err error) {
	w.n += int64(n)
	if w.err == nil {
		w.err = err
	}
}

// String is the kind in the text format.
func (k Kind) String() string {
	switch k {
	case Counter:
		return "counter"
	case Gauge:
		return "gauge"
	default:
		return "histogram"
	}
}
