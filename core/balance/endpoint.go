package balance

import (
	"math"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Key names an endpoint among all of a service: by tag where its address is known, by
// slot and the generation at which the slot last moved where it is not.
type Key struct {
	Cluster mesh.ClusterName
	Tag     string
	Slot    uint32
	Moved   uint64
}

// Endpoint is one place to send a request to, with what was measured of it. The
// measurements are atomics: any number of goroutines pick and report at once. An endpoint
// outlives a change of configuration that keeps its Key.
type Endpoint struct {
	Key
	// Proxy is the server proxy where it is reached directly; invalid behind gateways.
	Proxy  netip.AddrPort
	Zone   mesh.Zone
	Weight uint32

	inFlight atomic.Int64
	// service is the peak-sensitive EWMA of the service time, in nanoseconds, as float
	// bits, and the time of its last sample.
	service   atomic.Uint64
	sampledAt atomic.Int64
	// penalty ≥ 1 as float bits, as of penalizedAt.
	penalty     atomic.Uint64
	penalizedAt atomic.Int64
	// failures never executed in a row; ejections in a row; ejected until.
	failures     atomic.Int32
	ejections    atomic.Int32
	ejectedUntil atomic.Int64
	// trial is set while the one request that tests an ejected endpoint is out.
	trial atomic.Bool
	group *groupState
}

// groupState is what was learnt of a cluster as a whole for one service.
type groupState struct {
	failures     atomic.Int32 // never executed, in a row, over all endpoints
	trips        atomic.Int32
	trippedUntil atomic.Int64
}

// Outcome is how a try ended, as far as it tells of the endpoint.
type Outcome uint8

// The outcomes of a try.
const (
	// Served: an answer came that speaks for the endpoint.
	Served Outcome = iota
	// NeverExecuted: refused, unreachable, TLS, refused stream: counts towards ejection.
	NeverExecuted
	// Failed: executed, or perhaps, and failed: 5xx, reset. Costs a penalty, never an ejection.
	Failed
	// TimedOut: no answer in time while the path is alive: a penalty in latency.
	TimedOut
	// Shed: the server proxy declined for load. Overload must never look like death.
	Shed
	// Abandoned: the caller left; tells nothing.
	Abandoned
)

// Pick is one choice, to be ended by Done exactly once.
type Pick struct {
	Endpoint *Endpoint
	start    int64
	trial    bool
}

// Opened says that the way to the endpoint is open: the service time runs from here, so
// that the making of a connection is not taken for the endpoint's own slowness.
func (p *Pick) Opened(now int64) { p.start = now }

// Done reports how the try ended. ejectAfter is the service's own limit. now is Unix
// nanoseconds of the clock that Pick was given.
func (p *Pick) Done(o Outcome, now int64, ejectAfter int) {
	e := p.Endpoint
	e.inFlight.Add(-1)
	switch o {
	case Served, Shed:
		e.alive()
		if o == Served {
			e.observe(now-p.start, now)
		}
	case Failed:
		e.alive()
		e.punish(now)
	case TimedOut:
		e.observe(now-p.start, now)
		e.punish(now)
	case NeverExecuted:
		e.neverExecuted(now, ejectAfter)
	}
	if p.trial {
		e.trial.Store(false)
	}
}

// alive ends the runs of failures.
func (e *Endpoint) alive() {
	if e.failures.Load() != 0 || e.ejections.Load() != 0 {
		e.failures.Store(0)
		e.ejections.Store(0)
		e.ejectedUntil.Store(0)
	}
	if g := e.group; g.failures.Load() != 0 || g.trips.Load() != 0 {
		g.failures.Store(0)
		g.trips.Store(0)
		g.trippedUntil.Store(0)
	}
}

func (e *Endpoint) neverExecuted(now int64, ejectAfter int) {
	again := e.ejections.Load() > 0 // a failed trial ejects at once
	if n := e.failures.Add(1); int(n) >= ejectAfter || again {
		if e.ejectedUntil.Load() <= now {
			e.ejectedUntil.Store(now + int64(backoff(e.ejections.Add(1))))
		}
		e.failures.Store(0)
	}
	g := e.group
	if n := g.failures.Add(1); n >= tripAfter || g.trips.Load() > 0 && n > 1 {
		if g.trippedUntil.Load() <= now {
			g.trippedUntil.Store(now + int64(backoff(g.trips.Add(1))))
		}
		g.failures.Store(0)
	}
}

func backoff(n int32) time.Duration {
	return min(ejectFirst<<min(n-1, 10), ejectMax)
}

// observe folds a service time into the average: at once when it is longer, with
// ewmaTau when it is shorter (peak EWMA, as Finagle's).
func (e *Endpoint) observe(took, now int64) {
	sample := float64(max(took, 1))
	for {
		bits := e.service.Load()
		old, next := math.Float64frombits(bits), sample
		if old > sample {
			w := math.Exp(-float64(now-e.sampledAt.Load()) / float64(ewmaTau))
			next = old*w + sample*(1-w)
		}
		if e.service.CompareAndSwap(bits, math.Float64bits(next)) {
			e.sampledAt.Store(now)
			return
		}
	}
}

func (e *Endpoint) punish(now int64) {
	p := min(e.penaltyAt(now)*penaltyStep, penaltyMax)
	e.penalty.Store(math.Float64bits(p))
	e.penalizedAt.Store(now)
}

func (e *Endpoint) penaltyAt(now int64) float64 {
	bits := e.penalty.Load()
	if bits == 0 {
		return 1
	}
	age := float64(now - e.penalizedAt.Load())
	p := 1 + (math.Float64frombits(bits)-1)*math.Exp(-age/float64(penaltyTau))
	if p < 1.01 {
		return 1
	}
	return p
}

// score is what a request sent there would wait, in nanoseconds, weighted: the lower
// the better. typical stands for the service time of an endpoint that was never measured: taken for
// faster than the others, a new one would be flocked to.
func (e *Endpoint) score(now int64, typical float64) float64 {
	s := e.measured(now)
	if s == 0 {
		s = typical
	}
	return s * float64(e.inFlight.Load()+1) * e.penaltyAt(now) / float64(e.Weight)
}

// measured is the service time to reckon with, in nanoseconds; 0 is none. What is not
// chosen is not measured, and one slow answer would keep an endpoint out for ever: so a
// measurement fades while no other comes. It fades to a floor, and no endpoint counts as faster:
// below it the requests in flight tell more than the noise of short times.
func (e *Endpoint) measured(now int64) float64 {
	s := math.Float64frombits(e.service.Load())
	switch {
	case s == 0:
		return 0
	case s <= float64(floor):
		return float64(floor)
	}
	idle := float64(max(0, now-e.sampledAt.Load()))
	return max(s*math.Exp(-idle/float64(ewmaTau)), float64(floor))
}

// Stats is what was measured of an endpoint, for people.
type Stats struct {
	InFlight     int64
	Service      time.Duration
	Penalty      float64
	EjectedFor   time.Duration
	ScoreSeconds float64
}

// Stats reads the measurements as of now.
func (e *Endpoint) Stats(now int64) Stats {
	return Stats{InFlight: e.inFlight.Load(), Service: time.Duration(math.Float64frombits(e.service.Load())), Penalty: e.penaltyAt(now),
		EjectedFor: time.Duration(max(0, e.ejectedUntil.Load()-now)), ScoreSeconds: e.score(now, float64(unmeasured)) / 1e9}
}

func newEndpoint(k Key, e ir.Endpoint, g *groupState) *Endpoint {
	return &Endpoint{Key: k, Proxy: e.Proxy, Zone: e.Zone, Weight: max(e.Weight, 1), group: g}
}
