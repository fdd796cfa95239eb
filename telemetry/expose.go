package telemetry

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/isthmus-mesh/isthmus/telemetry/exposition"
)

// Expose says every series, in order of its labels.
func (r *Requests) Expose(w *exposition.Writer) {
	lines := r.lines()
	counter(w, "isthmus_requests_total", "Requests that ended.", lines, func(s *series) uint64 { return s.count.Load() })
	histogram(w, lines)
	counter(w, "isthmus_request_bytes_total", "Bytes of request bodies and of connections towards the service.", lines, func(s *series) uint64 { return s.in.Load() })
	counter(w, "isthmus_response_bytes_total", "Bytes of response bodies and of connections from the service.", lines, func(s *series) uint64 { return s.out.Load() })
	counter(w, "isthmus_tcp_connections_total", "Connections and upgrades that carry or carried bytes.", lines, func(s *series) uint64 { return max(s.opened.Load(), s.closed.Load()) })
	counter(w, "isthmus_tcp_connections_opened_total", "Connections and upgrades that began to carry bytes.", lines, func(s *series) uint64 { return s.opened.Load() })
	counter(w, "isthmus_tcp_connections_closed_total", "Connections and upgrades that ended.", lines, func(s *series) uint64 { return s.closed.Load() })
	w.Family("isthmus_telemetry_series", exposition.Gauge, "Edges that requests are counted by.")
	w.Value(float64(r.Series()))
}

// line is a series with its labels.
type line struct {
	labels []exposition.Label
	s      *series
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
	slices.SortFunc(out, func(a, b line) int {
		return slices.CompareFunc(a.labels, b.labels, func(x, y exposition.Label) int { return strings.Compare(x.Value, y.Value) })
	})
	return out
}

func labels(e *Edge) []exposition.Label {
	return []exposition.Label{
		{Name: "reporter", Value: e.Reporter},
		{Name: "source_workload", Value: e.SourceWorkload}, {Name: "source_namespace", Value: e.SourceNamespace},
		{Name: "source_cluster", Value: string(e.SourceCluster)},
		{Name: "destination_service", Value: e.DestinationService}, {Name: "destination_namespace", Value: e.DestinationNamespace},
		{Name: "destination_cluster", Value: string(e.DestinationCluster)},
		{Name: "protocol", Value: string(e.Protocol)}, {Name: "code", Value: strconv.Itoa(e.Code)}, {Name: "reason", Value: string(e.Reason)},
	}
}

// counter says one counter of every series that has it.
func counter(w *exposition.Writer, name, help string, lines []line, value func(*series) uint64) {
	w.Family(name, exposition.Counter, help)
	for _, l := range lines {
		if v := value(l.s); v > 0 {
			w.Value(float64(v), l.labels...)
		}
	}
}

func histogram(w *exposition.Writer, lines []line) {
	w.Family("isthmus_request_duration_seconds", exposition.Histogram, "Time from a request's head to the end of its answer.")
	b := exposition.Buckets{Bounds: seconds[:], Counts: make([]uint64, len(seconds))}
	for _, l := range lines {
		if b.Count = l.s.count.Load(); b.Count == 0 {
			continue
		}
		b.Sum = float64(l.s.nanoseconds.Load()) / 1e9
		for i := range seconds {
			b.Counts[i] = l.s.buckets[i].Load()
		}
		l.s.native.fill(&b)
		w.Histogram(&b, l.labels...)
	}
}
