// Package orca takes what an application says of its own load beside its answers, by the form of Open Request Cost Aggregation: the field
// endpoint-load-metrics of a head or a trailer, or endpoint-load-metrics-bin. Its one idea is that this is a word between an
// application and its own proxy: it is read there, strictly and within bounds, counts for what the application can serve (core/capacity),
// and goes to no one else. The binary form goes on beside: it is gRPC's own, whose clients may balance by it (gRFC A51).
//
// It decides nothing, and reads no stream of reports that an application would have to be asked for. Read Gatherer, then Parse.
package orca

import (
	"math"
	"slices"
	"sync/atomic"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/telemetry/exposition"
)

// The fields.
const (
	Field       = "endpoint-load-metrics"
	FieldBinary = "endpoint-load-metrics-bin"
)

// Gatherer takes reports off answers and adds them up. The zero Gatherer is ready. It is safe for concurrent use, takes no lock, and
// allocates nothing unless there is a report in JSON, or one in a trailer.
type Gatherer struct {
	// busy is the sum of utilisations, rate and failing those of rates, as float bits, of so many reports; rated had a rate.
	busy, rate, failing     atomic.Uint64
	count, rated            atomic.Uint64
	taken, ignored, without atomic.Uint64
}

// Window is what was said since the last one.
type Window struct {
	// Reports is how many there were.
	Reports int
	// Utilisation is the mean of them, 1 being all there is. RPS is that of how many requests a second the application serves, and EPS
	// fails at; 0 where it does not say.
	Utilisation, RPS, EPS float64
}

// mine is whether a field is one of the two.
func mine(name []byte) bool {
	return len(name) >= len(Field) && (string(name) == Field || string(name) == FieldBinary)
}

// Head takes what an application says in the head of an answer, off it where it is text.
func (g *Gatherer) Head(h *message.Head) {
	for i := range h.Fields {
		if mine(h.Fields[i].Name) {
			g.take(h.Fields)
			h.Del(Field)
			return
		}
	}
}

// Trailers is trailers without the text that an application says in them, which it takes if they are of one. Those that it was given
// belong to an engine, and stay as they are.
func (g *Gatherer) Trailers(fields []message.Field, ofApplication bool) []message.Field {
	if !ofApplication {
		return fields
	}
	for i := range fields {
		if mine(fields[i].Name) {
			g.take(fields)
			return without(fields)
		}
	}
	return fields
}

// without is fields without the report that is for proxies; the binary one is gRPC's own, and goes on.
func without(fields []message.Field) []message.Field {
	if !slices.ContainsFunc(fields, isText) {
		return fields
	}
	return slices.DeleteFunc(slices.Clone(fields), isText)
}

func isText(f message.Field) bool { return string(f.Name) == Field }

// take counts the one report that is among fields. Of two that contradict each other none is believed.
func (g *Gatherer) take(fields []message.Field) {
	var found *message.Field
	for i := range fields {
		if !mine(fields[i].Name) {
			continue
		}
		if found != nil {
			g.ignored.Add(1)
			return
		}
		found = &fields[i]
	}
	parse := Parse
	if string(found.Name) == FieldBinary {
		parse = ParseBinary
	}
	r, err := parse(found.Value)
	if err != nil {
		g.ignored.Add(1)
		return
	}
	u := r.Utilisation()
	if u == 0 { // it says other things
		g.without.Add(1)
		return
	}
	g.taken.Add(1)
	add(&g.busy, u)
	add(&g.failing, r.EPS)
	if r.RPS > 0 {
		add(&g.rate, r.RPS)
		g.rated.Add(1)
	}
	g.count.Add(1)
}

// add adds to a sum of floats.
func add(sum *atomic.Uint64, v float64) {
	for v != 0 {
		old := sum.Load()
		if sum.CompareAndSwap(old, math.Float64bits(math.Float64frombits(old)+v)) {
			return
		}
	}
}

// Take reads what was said since the last call. It has one caller; a report that comes meanwhile may be counted in parts, as one of many.
func (g *Gatherer) Take() Window {
	n := g.count.Swap(0)
	busy, failing, rate, rated := drain(&g.busy), drain(&g.failing), drain(&g.rate), g.rated.Swap(0)
	if n == 0 {
		return Window{}
	}
	w := Window{Reports: int(n), Utilisation: busy / float64(n), EPS: failing / float64(n)}
	if rated > 0 {
		w.RPS = rate / float64(rated)
	}
	return w
}

func drain(sum *atomic.Uint64) float64 { return math.Float64frombits(sum.Swap(0)) }

// Expose says how many reports there were; nothing where there was none ever.
func (g *Gatherer) Expose(w *exposition.Writer) {
	taken, ignored, without := g.taken.Load(), g.ignored.Load(), g.without.Load()
	if taken+ignored+without == 0 {
		return
	}
	w.Family("isthmus_application_load_reports_total", exposition.Counter, "Reports of its load that the application sent beside answers: taken, ignored as malformed or absurd, or without a utilisation (docs/guides/capacity.md).")
	for _, v := range []struct {
		word string
		n    uint64
	}{{"taken", taken}, {"ignored", ignored}, {"without", without}} {
		w.Value(float64(v.n), exposition.Label{Name: "verdict", Value: v.word})
	}
}
