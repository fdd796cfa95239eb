package admission

import (
	"math"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// Limiter lets requests into one application. The zero Limiter is ready: it lets in everything until it has
// seen an overload, or is told lanes. It is safe for concurrent use, takes no lock and allocates nothing.
type Limiter struct {
	inFlight atomic.Int64
	// light are those in flight that came when nobody waited, and lightCame the sum of when they came, modulo 2^64.
	light, lightCame atomic.Int64
	lanes            atomic.Int64 // declared; 0 is unknown
	maxWait          atomic.Int64 // nanoseconds; 0 is the default
	// service is what a request takes that waits for nothing, in nanoseconds as float bits; 0 is unknown.
	service atomic.Uint64
	// rate is what an application without lanes can do, in requests a nanosecond as float bits; 0 is unknown, or that it
	// has not too much to do.
	rate atomic.Uint64
	// harmless is with how many requests nobody was seen to wait.
	harmless atomic.Int64
	level    atomic.Int64 // positions below are refused
	// proving says that a trial runs.
	proving atomic.Bool

	window counts
	ends   atomic.Int64 // when the window may be settled
	turn   atomic.Bool  // somebody settles it
	state  learnt       // his who has the turn

	refused [classes]atomic.Int64
}

// counts are of one window.
type counts struct {
	began            atomic.Int64
	ended, took      atomic.Int64 // requests that ended, and the sum of what they took
	squares          atomic.Int64 // of what they took, in square microseconds
	answered         atomic.Int64
	light, lightTook atomic.Int64 // that came when nobody waited
	least            atomic.Int64 // the fewest there were at a time
	waits            atomic.Int64 // the sum of what was predicted
	refused          atomic.Int64
	offered          [positions]atomic.Int64
}

// Ask is a request that would be let in.
type Ask struct {
	// Now is nanoseconds of any clock that does not go back.
	Now int64
	// Left is the time until nobody wants its answer, in nanoseconds; 0 is without end.
	Left        int64
	Criticality mesh.Criticality
	// Key is any hash that requests have in common that are worth nothing without each other.
	Key uint64
}

// Ticket is what was let in, to be given back by Done exactly once.
type Ticket struct {
	at    int64
	light bool // few were there
}

// Verdict says whether a request is let in, and if not why.
type Verdict uint8

// The verdicts.
const (
	// Admitted is let in.
	Admitted Verdict = iota
	// Late would be answered when nobody waits for it any more.
	Late
	// Full would wait for longer than its criticality may.
	Full
	// Below is less critical than what is let in just now.
	Below
)

// String is the verdict in words, as the detail of a refusal has it.
func (v Verdict) String() string {
	switch v {
	case Late:
		return "its time would be up before its turn came"
	case Full:
		return "it would wait longer than it may"
	case Below:
		return "only what is more critical is let in"
	}
	return "admitted"
}

// SetLanes says how many requests the application serves at once; 0 is unknown, and then learnt.
func (l *Limiter) SetLanes(n int) { l.lanes.Store(int64(max(n, 0))) }

// SetMaxWait says how long a request of usual criticality may wait; 0 is DefaultMaxWait, or as long as a request takes if
// that is longer.
func (l *Limiter) SetMaxWait(d time.Duration) { l.maxWait.Store(int64(max(d, 0))) }

// Enter lets a request in, or says why not. What was let in counts until Done.
func (l *Limiter) Enter(a *Ask) (Ticket, Verdict) {
	if a.Now >= l.ends.Load() {
		l.settle(a.Now)
	}
	class := classOf(a.Criticality)
	at := class*steps + int(a.Key%steps)
	l.window.offered[at].Add(1)
	n := l.inFlight.Add(1) - 1
	service := math.Float64frombits(l.service.Load())
	wait, floor := l.wait(n, service)
	if v := l.judge(a, class, at, n >= floor, wait, service); v != Admitted {
		l.inFlight.Add(-1)
		l.refused[class].Add(1)
		l.window.refused.Add(1)
		return Ticket{}, v
	}
	if wait > 0 {
		l.window.waits.Add(int64(wait))
	}
	t := Ticket{at: a.Now, light: n < max(l.harmless.Load(), floor)}
	if t.light {
		l.light.Add(1)
		l.lightCame.Add(a.Now)
	}
	return t, Admitted
}

// judge holds what a request would wait against what it may.
func (l *Limiter) judge(a *Ask, class, at int, above bool, wait, service float64) Verdict {
	if !above || wait <= 0 {
		return Admitted // a lane is free, or so few are there that waiting cannot be told from work
	}
	switch may := l.budget(service) * patience[class]; {
	case a.Left > 0 && wait > float64(a.Left)-service:
		return Late
	case wait > may:
		return Full
	case int64(at) < l.level.Load():
		return Below
	}
	return Admitted
}

// patience is by criticality for how much of the budget a request may wait: what is more critical finds room where
// others have been turned away, and is itself turned away when nobody else is left to make room.
var patience = [classes]float64{0.5, 0.75, 1, 4}

// classOf is a criticality's place, the least first. What says nothing is critical, as what serves users is.
func classOf(c mesh.Criticality) int {
	switch c {
	case mesh.Sheddable:
		return 0
	case mesh.SheddablePlus:
		return 1
	case mesh.CriticalPlus:
		return 3
	}
	return 2
}

// wait predicts what one more than n would wait, in nanoseconds, and below how many nobody is refused.
func (l *Limiter) wait(n int64, service float64) (wait float64, floor int64) {
	if lanes := l.lanes.Load(); lanes > 0 {
		return max(0, float64(n+1-lanes)) * service / float64(lanes), lanes
	}
	rate := math.Float64frombits(l.rate.Load())
	if rate == 0 {
		return 0, floorConcurrency
	}
	return max(0, float64(n+1-max(l.harmless.Load(), floorConcurrency))) / rate, floorConcurrency
}

// budget is how long a request of usual criticality may wait, in nanoseconds. For an application that takes long it is
// no hardship to wait as long again; below that, waiting and work cannot be told apart.
func (l *Limiter) budget(service float64) float64 {
	may := max(float64(DefaultMaxWait), service)
	if d := l.maxWait.Load(); d > 0 {
		may = float64(d)
	}
	if l.proving.Load() {
		may *= trialPart
	}
	return may
}

// Done ends what Enter let in. answered is whether the application answered; one whose client left before says only
// that it waited.
func (l *Limiter) Done(t Ticket, now int64, answered bool) {
	n := l.inFlight.Add(-1)
	w := &l.window
	for {
		least := w.least.Load()
		if n >= least || w.least.CompareAndSwap(least, n) {
			break
		}
	}
	took := max(now-t.at, 0)
	w.ended.Add(1)
	w.took.Add(took)
	micros := min(took/int64(time.Microsecond), squareMost)
	w.squares.Add(micros * micros)
	if t.light {
		l.light.Add(-1)
		l.lightCame.Add(-t.at)
		w.lightTook.Add(took)
	}
	if !answered {
		return
	}
	w.answered.Add(1)
	if t.light {
		w.light.Add(1)
	}
}

// squareMost bounds what is squared, in microseconds: a minute.
const squareMost = 60e6

// Stats is what a Limiter does now, for people.
type Stats struct {
	InFlight int64
	// Limit is how many requests of usual criticality are let in at a time; 0 is as many as come.
	Limit int64
	// Level is the least criticality of which everything is let in; "" if nothing is refused for it.
	Level mesh.Criticality `json:",omitempty"`
	// Service is what a request takes that does not wait, and Wait what one more would wait.
	Service, Wait time.Duration
	// Refused by criticality since the beginning, the least critical first (mesh.Criticalities).
	Refused [classes]int64
}

// Stats reads the state.
func (l *Limiter) Stats() Stats {
	service := math.Float64frombits(l.service.Load())
	n := l.inFlight.Load()
	wait, _ := l.wait(n, service)
	s := Stats{InFlight: n, Service: time.Duration(service), Wait: time.Duration(wait), Limit: l.limit(service)}
	if at := l.level.Load(); at > 0 {
		s.Level = mesh.Criticalities[min((at+steps-1)/steps, classes-1)]
	}
	for i := range s.Refused {
		s.Refused[i] = l.refused[i].Load()
	}
	return s
}

// Wait is what one more request would wait.
func (l *Limiter) Wait() time.Duration {
	wait, _ := l.wait(l.inFlight.Load(), math.Float64frombits(l.service.Load()))
	return time.Duration(wait)
}

// Refuses is the most critical of what is turned away just now, if only in part; "" is nothing.
func (l *Limiter) Refuses() mesh.Criticality {
	service := math.Float64frombits(l.service.Load())
	n := l.inFlight.Load()
	wait, floor := l.wait(n, service)
	if n < floor || wait <= 0 {
		return ""
	}
	may, level := l.budget(service), l.level.Load()
	for class := classes - 1; class >= 0; class-- {
		if wait > may*patience[class] || level > int64(class*steps) {
			return mesh.Criticalities[class]
		}
	}
	return ""
}

// limit is how many requests of usual criticality are let in at a time; 0 is as many as come.
func (l *Limiter) limit(service float64) int64 {
	rate, free := math.Float64frombits(l.rate.Load()), max(l.harmless.Load(), floorConcurrency)
	if lanes := l.lanes.Load(); lanes > 0 {
		if service == 0 {
			return 0
		}
		rate, free = float64(lanes)/service, lanes
	}
	if rate == 0 {
		return 0
	}
	return free + int64(rate*l.budget(service))
}
