package telemetry

import (
	"bufio"
	"cmp"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// line is a series with its labels as text.
type line struct {
	labels string
	s      *series
}

// WriteTo shows every series in Prometheus' text format 0.0.4, in order of labels.
func (r *Requests) WriteTo(w io.Writer) (int64, error) {
	lines := r.lines()
	b := &counting{w: bufio.NewWriter(w)}
	counter(b, "isthmus_requests_total", "Requests that ended.", lines, func(s *series) uint64 { return s.count.Load() })
	histogram(b, lines)
	counter(b, "isthmus_request_bytes_total", "Bytes of request bodies and of connections towards the service.", lines, func(s *series) uint64 { return s.in.Load() })
	counter(b, "isthmus_response_bytes_total", "Bytes of response bodies and of connections from the service.", lines, func(s *series) uint64 { return s.out.Load() })
	counter(b, "isthmus_tcp_connections_total", "Connections and upgrades that carry or carried bytes.", lines, func(s *series) uint64 { return max(s.opened.Load(), s.closed.Load()) })
	counter(b, "isthmus_tcp_connections_opened_total", "Connections and upgrades that began to carry bytes.", lines, func(s *series) uint64 { return s.opened.Load() })
	counter(b, "isthmus_tcp_connections_closed_total", "Connections and upgrades that ended.", lines, func(s *series) uint64 { return s.closed.Load() })
	b.text("# HELP isthmus_telemetry_series Edges that requests are counted by.\n# TYPE isthmus_telemetry_series gauge\nisthmus_telemetry_series ")
	b.text(strconv.Itoa(r.Series()))
	b.text("\n")
	if b.err == nil {
		b.err = b.w.Flush()
	}
	return b.n, b.err
}

func (r *Requests) lines() []line {
	var out []line
	if known := r.series.Load(); known != nil {
		for e := range maps.Keys(*known) {
			out = append(out, line{labels(&e), (*known)[e]})
		}
	}
	for i, reporter := range [2]string{"source", "destination"} {
		if s := &r.rest[i]; s.count.Load()+s.opened.Load()+s.closed.Load() > 0 {
			e := Edge{Reporter: reporter, SourceWorkload: overflow, SourceNamespace: overflow, SourceCluster: overflow,
				DestinationService: overflow, DestinationNamespace: overflow, DestinationCluster: overflow, Protocol: overflow, Reason: overflow}
			out = append(out, line{labels(&e), s})
		}
	}
	slices.SortFunc(out, func(a, b line) int { return cmp.Compare(a.labels, b.labels) })
	return out
}

func labels(e *Edge) string {
	var b strings.Builder
	for i, l := range [...]struct{ name, value string }{
		{"reporter", e.Reporter},
		{"source_workload", e.SourceWorkload}, {"source_namespace", e.SourceNamespace}, {"source_cluster", string(e.SourceCluster)},
		{"destination_service", e.DestinationService}, {"destination_namespace", e.DestinationNamespace},
		{"destination_cluster", string(e.DestinationCluster)},
		{"protocol", string(e.Protocol)}, {"code", strconv.Itoa(e.Code)}, {"reason", string(e.Reason)},
	} {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(l.name)
		b.WriteString(`="`)
		escape(&b, l.value)
		b.WriteByte('"')
	}
	return b.String()
}

// escape writes a label's value: backslash, quote and line feed are escaped, bytes that are no
// UTF-8 replaced.
func escape(b *strings.Builder, v string) {
	for _, r := range v {
		switch r {
		case '\\':
			b.WriteString(`\\`)
		case '"':
			b.WriteString(`\"`)
		case '\n':
			b.WriteString(`\n`)
		default:
			b.WriteRune(r)
		}
	}
}

// counter shows one counter of every series that has it.
func counter(b *counting, name, help string, lines []line, value func(*series) uint64) {
	b.text("# HELP " + name + " " + help + "\n# TYPE " + name + " counter\n")
	for _, l := range lines {
		if v := value(l.s); v > 0 {
			b.text(name + "{" + l.labels + "} " + strconv.FormatUint(v, 10) + "\n")
		}
	}
}

func histogram(b *counting, lines []line) {
	const name = "isthmus_request_duration_seconds"
	b.text("# HELP " + name + " Time from a request's head to the end of its answer.\n# TYPE " + name + " histogram\n")
	for _, l := range lines {
		// The sum of the buckets may lag the count that another goroutine has just raised: the
		// infinite bucket must be no less than any other, so it is the larger of the two.
		count := l.s.count.Load()
		if count == 0 {
			continue
		}
		var sum uint64
		for i := range seconds {
			sum += l.s.buckets[i].Load()
			bucket(b, name, l.labels, i, sum)
		}
		count = max(count, sum)
		bucket(b, name, l.labels, len(seconds), count)
		b.text(name + "_sum{" + l.labels + "} " + number(float64(l.s.nanoseconds.Load())/1e9) + "\n")
		b.text(name + "_count{" + l.labels + "} " + strconv.FormatUint(count, 10) + "\n")
	}
}

func bucket(b *counting, name, labels string, i int, v uint64) {
	b.text(name + "_bucket{" + labels + `,le="` + number(le(i)) + `"} ` + strconv.FormatUint(v, 10) + "\n")
}

// number is a value as Prometheus writes it.
func number(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }

// counting remembers the first error and how much was written.
type counting struct {
	w   *bufio.Writer
	n   int64
	err error
}

func (c *counting) text(s string) {
	if c.err != nil {
		return
	}
	n, err := c.w.WriteString(s)
	c.n, c.err = c.n+int64(n), err
}
