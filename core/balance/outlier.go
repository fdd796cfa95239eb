package balance

import (
	"math"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/core/failback"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// health is whether an endpoint may be drawn. One that is out comes back by one trial: a single
// request, once its time is over and it has answered a probe, and its outcome decides.
type health struct {
	out    atomic.Uint32 // isIn, outRefused, outRate
	until  atomic.Int64
	proved proof
	// trial is set while the one request that tests an endpoint is out.
	trial atomic.Bool
	// failures never executed in a row, and ejections for it in a row.
	failures, ejections atomic.Int32
	// rated is the level of ejections for the success rate: it falls with each good window.
	rated atomic.Int32
	// good of all answers in the window.
	good, all atomic.Uint32
	// times counts how often it went out, and last is why it last did.
	times, last atomic.Uint32
}

// Why an endpoint is out.
const (
	isIn uint32 = iota
	// outRefused: what it was sent was never executed. Any sign of life brings it back.
	outRefused
	// outRate: it answers, with failures that the others do not have. Only success brings it back.
	outRate
)

func (h *health) why() string {
	switch h.out.Load() {
	case outRefused:
		return "failures in a row, never executed"
	case outRate:
		return "success rate below the others'"
	}
	return ""
}

// groupState is what was learnt of a cluster as a whole for one service.
type groupState struct {
	frame        atomic.Pointer[frame]
	failures     atomic.Int32 // never executed, in a row, over all endpoints
	trips        atomic.Int32
	tripTimes    atomic.Uint32 // since it was known
	trippedUntil atomic.Int64
	proved       proof
	// typical is the service time that is usual in the cluster.
	typical ewma
	// lean is the service time that server proxies of the cluster report: without the way there. busy is
	// their utilisation, in busyUnit.
	lean, busy ewma
	// windowEnd is when success rates are next compared.
	windowEnd atomic.Int64
	// changes counts ejections and returns, from 1.
	changes atomic.Uint32
	// turn is the round robin's.
	turn atomic.Uint64
	// ended counts how tries ended.
	ended failback.Tally
}

// frame is what the newest view says of a group.
type frame struct {
	balancing mesh.Balancing
	outlier   mesh.Outlier
	endpoints []*Endpoint
	ejected   func() // of Config
}

// usual is the service time to assume of an endpoint that was never measured, in nanoseconds.
func (g *groupState) usual(now int64) float64 {
	if at := g.lean.at.Load(); at != 0 && now-at < int64(reportFresh) {
		return max(float64(g.lean.read()), float64(floor))
	}
	if s := g.typical.faded(now); s > 0 {
		return s
	}
	return float64(unmeasured)
}

// withDefaults fills in what a policy leaves out.
func withDefaults(o mesh.Outlier) mesh.Outlier {
	fill := func(to *int, with int) {
		if *to == 0 {
			*to = with
		}
	}
	fill(&o.ConsecutiveFailures, mesh.DefaultEjectAfter)
	fill(&o.MaxEjectedPercent, mesh.DefaultMaxEjectedPercent)
	fill(&o.SuccessRateStdev, mesh.DefaultSuccessRateStdev)
	if o.BaseEjection <= 0 {
		o.BaseEjection = mesh.DefaultBaseEjection
	}
	if o.MaxEjection <= 0 {
		o.MaxEjection = max(mesh.DefaultMaxEjection, o.BaseEjection)
	}
	return o
}

// alive ends the runs of failures. good is false for an answer that was a failure.
func (e *Endpoint) alive(now int64, good bool) {
	h := &e.health
	if h.failures.Load() != 0 {
		h.failures.Store(0)
	}
	switch out := h.out.Load(); {
	case out == outRate && h.until.Load() > now: // what was under way, or sent in panic, is no trial
	case out == outRate && !good:
		e.eject(now, outRate, &h.rated)
	case out != isIn:
		if h.out.CompareAndSwap(out, isIn) {
			h.ejections.Store(0)
			h.until.Store(0)
			e.since.Store(now)
			e.group.changes.Add(1)
		}
	}
	if g := e.group; g.failures.Load() != 0 || g.trips.Load() != 0 {
		g.failures.Store(0)
		g.trips.Store(0)
		g.trippedUntil.Store(0)
	}
}

func (e *Endpoint) neverExecuted(now int64) {
	h := &e.health
	o := &e.group.frame.Load().outlier
	again := h.out.Load() != isIn // a failed trial ejects at once
	if n := h.failures.Add(1); int(n) >= o.ConsecutiveFailures || again {
		if h.until.Load() <= now {
			e.eject(now, outRefused, &h.ejections)
		}
		h.failures.Store(0)
	}
	g := e.group
	if n := g.failures.Add(1); n >= tripAfter || g.trips.Load() > 0 && n > 1 {
		if g.trippedUntil.Load() <= now {
			g.trip(now)
		}
		g.failures.Store(0)
	}
}

// eject takes an endpoint out for as long as its level says.
func (e *Endpoint) eject(now int64, why uint32, level *atomic.Int32) {
	o := &e.group.frame.Load().outlier
	e.health.proved.Store(false)
	e.health.until.Store(now + int64(backoff(o.BaseEjection, o.MaxEjection, level.Add(1))))
	e.health.last.Store(why)
	if e.health.out.Swap(why) == isIn {
		e.health.times.Add(1)
	}
	e.group.changes.Add(1)
	e.group.tell()
}

func backoff(first, longest time.Duration, n int32) time.Duration {
	d := first
	for ; n > 1 && d < longest; n-- {
		d *= 2
	}
	return min(d, longest)
}

// count notes an answer for the success rate. The first one after a window's end compares.
func (e *Endpoint) count(good bool, now int64) {
	g, h := e.group, &e.health
	end := g.windowEnd.Load()
	if now >= end && g.windowEnd.CompareAndSwap(end, now+int64(rateWindow)) && end != 0 {
		g.compare(now)
	}
	h.all.Add(1)
	if good {
		h.good.Add(1)
	}
}

// compare ejects endpoints whose success rate lies too far below the mean of their cluster's, as
// long as not too many are out. When all fail alike nobody does: that is the service's illness,
// or load, and never death.
func (g *groupState) compare(now int64) {
	f := g.frame.Load()
	n, sum, squares := 0.0, 0.0, 0.0
	for _, e := range f.endpoints {
		if all := e.health.all.Load(); all >= rateRequests {
			r := float64(e.health.good.Load()) / float64(all)
			n, sum, squares = n+1, sum+r, squares+r*r
		}
	}
	limit := math.Inf(-1)
	if n >= rateEndpoints && f.outlier.SuccessRateStdev > 0 {
		mean := sum / n
		stdev := math.Sqrt(max(0, squares/n-mean*mean))
		if stdev > 1e-9 {
			limit = mean - stdev*float64(f.outlier.SuccessRateStdev)/1000
		}
	}
	out := 0
	for _, e := range f.endpoints {
		if e.health.out.Load() != isIn {
			out++
		}
	}
	for _, e := range f.endpoints {
		h := &e.health
		all, good := h.all.Swap(0), h.good.Swap(0)
		switch {
		case h.out.Load() != isIn:
		case all >= rateRequests && float64(good)/float64(all) < limit:
			if (out+1)*100 <= f.outlier.MaxEjectedPercent*len(f.endpoints) {
				out++
				e.eject(now, outRate, &h.rated)
			}
		case all > 0 && h.rated.Load() > 0:
			h.rated.Add(-1)
		}
	}
}
