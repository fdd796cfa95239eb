package parallel

import (
	"runtime/metrics"
	"time"
)

// waits reads how long goroutines that could run have waited for a thread.
type waits struct {
	sample [1]metrics.Sample
	before []uint64
}

// newWaits begins with now. The metric is in every runtime since Go 1.17, which samples one in eight
// of a goroutine's waits.
func newWaits() *waits {
	w := &waits{}
	w.sample[0].Name = "/sched/latencies:seconds"
	w.upper()
	return w
}

// upper is what a quarter of the waits since the last call exceeded, as a histogram's bucket tells it
// (from below, within a quarter of an octave); 0 if there were none.
func (w *waits) upper() time.Duration {
	metrics.Read(w.sample[:])
	if w.sample[0].Value.Kind() != metrics.KindFloat64Histogram {
		return 0
	}
	h := w.sample[0].Value.Float64Histogram()
	if w.before == nil {
		w.before = make([]uint64, len(h.Counts))
	}
	var all uint64
	for i, c := range h.Counts {
		all += c - w.before[i]
	}
	quarter, above := time.Duration(0), uint64(0)
	for i := len(h.Counts) - 1; i >= 0 && above <= all/4; i-- {
		above += h.Counts[i] - w.before[i]
		if bound := h.Buckets[i]; bound > 0 { // the first begins at minus infinity
			quarter = time.Duration(bound * float64(time.Second))
		} else {
			quarter = 0
		}
	}
	copy(w.before, h.Counts)
	if all == 0 {
		return 0
	}
	return quarter
}
