package traffic

import (
	"math"
	"time"
)

// histogram counts times in buckets a fifth of a percent wide, from histLeast on.
type histogram struct {
	counts []uint32
	n      int
	sum    float64 // seconds
}

const (
	histWidth   = 0.002
	histLeast   = 100e-6 // seconds
	histBuckets = 6000   // to 16 s
)

func (h *histogram) add(d int64) {
	if h.counts == nil {
		h.counts = make([]uint32, histBuckets)
	}
	s := float64(d) / 1e9
	at := 0
	if s > histLeast {
		at = min(int(math.Log(s/histLeast)/histWidth), histBuckets-1)
	}
	h.counts[at]++
	h.n++
	h.sum += s
}

func (h *histogram) merge(o *histogram) {
	if o.counts == nil {
		return
	}
	if h.counts == nil {
		h.counts = make([]uint32, histBuckets)
	}
	for i, c := range o.counts {
		h.counts[i] += c
	}
	h.n += o.n
	h.sum += o.sum
}

// quantile is in seconds, NaN of nothing.
func (h *histogram) quantile(q float64) float64 {
	if h.n == 0 {
		return math.NaN()
	}
	left := int(math.Ceil(q * float64(h.n)))
	for i, c := range h.counts {
		if left -= int(c); left <= 0 {
			return histLeast * math.Exp((float64(i)+0.5)*histWidth)
		}
	}
	return math.NaN()
}

func (h *histogram) mean() float64 { return h.sum / float64(h.n) }

// Second is what became of the requests that arrived in one second of a run.
type Second struct {
	Requests, Errors, Crossed int
	SumMillis                 float64
	slowest                   histogram
	P99Millis                 float64
}

// Measured is what one run of a policy measured, of the requests that arrived in the scenario's window.
type Measured struct {
	Requests, Errors int
	// Critical of them, and their errors.
	Critical, CriticalErrors int
	// Crossed is how many of the answers came from another region than the request's; Tries how often
	// anything was sent; Unlawful how often against the law.
	Crossed, Tries, Unlawful int
	// Goodput is answers in time, a second.
	Goodput float64
	// Price is the sum of what crossing cost, in the scenario's unit.
	Price float64
	// Turned is the mean over sources of Σ|Δx| a minute in the window, for policies with a split.
	Turned float64
	// Shed, TimedOut and Refused say how tries failed.
	Shed, TimedOut, Refused int
	latency                 histogram
	Seconds                 []Second
	// Events are what control planes did.
	Events []Event
}

// Event is one automatic action with its cause.
type Event struct {
	At             time.Duration
	Region, Action string
}

// P99 and Mean are of answers, in milliseconds.
func (m *Measured) P99() float64  { return m.latency.quantile(0.99) * 1e3 }
func (m *Measured) P50() float64  { return m.latency.quantile(0.5) * 1e3 }
func (m *Measured) Mean() float64 { return m.latency.mean() * 1e3 }

// ErrorRate is the part of requests without an answer in time.
func (m *Measured) ErrorRate() float64 { return part(m.Errors, m.Requests) }

func part(a, b int) float64 {
	if b == 0 {
		return 0
	}
	return float64(a) / float64(b)
}

// pool puts several runs together.
func pool(runs []*Measured) *Measured {
	var out Measured
	for _, r := range runs {
		out.Requests, out.Errors = out.Requests+r.Requests, out.Errors+r.Errors
		out.Critical, out.CriticalErrors = out.Critical+r.Critical, out.CriticalErrors+r.CriticalErrors
		out.Crossed, out.Tries, out.Unlawful = out.Crossed+r.Crossed, out.Tries+r.Tries, out.Unlawful+r.Unlawful
		out.Shed, out.TimedOut, out.Refused = out.Shed+r.Shed, out.TimedOut+r.TimedOut, out.Refused+r.Refused
		out.Goodput += r.Goodput / float64(len(runs))
		out.Turned += r.Turned / float64(len(runs))
		out.Price += r.Price
		out.latency.merge(&r.latency)
		for i := range r.Seconds {
			if i == len(out.Seconds) {
				out.Seconds = append(out.Seconds, Second{})
			}
			s, t := &out.Seconds[i], &r.Seconds[i]
			s.Requests, s.Errors, s.Crossed, s.SumMillis = s.Requests+t.Requests, s.Errors+t.Errors, s.Crossed+t.Crossed, s.SumMillis+t.SumMillis
			s.slowest.merge(&t.slowest)
		}
	}
	for i := range out.Seconds {
		out.Seconds[i].P99Millis = out.Seconds[i].slowest.quantile(0.99) * 1e3
	}
	return &out
}
