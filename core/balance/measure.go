package balance

import (
	"math"
	"sync/atomic"
	"time"
)

// ewma is an average of service times in nanoseconds, as float bits, with the time of its last
// sample.
type ewma struct {
	value atomic.Uint64
	at    atomic.Int64
	// doubts is how often in a row a sample that came after a pause was as long as those before.
	doubts atomic.Int64
}

// peak folds a sample in: at once when it is longer, with ewmaTau when it is shorter (peak
// EWMA, as Finagle's).
func (m *ewma) peak(took, now int64) {
	sample := float64(max(took, 1))
	if idle := now - m.at.Load(); idle > int64(ewmaTau) {
		if sample*2 >= math.Float64frombits(m.value.Load()) {
			m.doubts.Store(min(m.doubts.Load()+1, ewmaDoubts))
		} else {
			m.doubts.Store(0)
		}
	}
	for {
		bits := m.value.Load()
		old, next := math.Float64frombits(bits), sample
		if old > sample {
			w := math.Exp(-float64(max(0, now-m.at.Load())) / float64(ewmaTau))
			next = old*w + sample*(1-w)
		}
		if m.value.CompareAndSwap(bits, math.Float64bits(next)) {
			m.at.Store(now)
			return
		}
	}
}

// mean folds a sample in as one of many.
func (m *ewma) mean(took, now int64, share float64) {
	sample := float64(max(took, 1))
	for {
		bits := m.value.Load()
		old, next := math.Float64frombits(bits), sample
		if bits != 0 {
			next = old + (sample-old)*share
		}
		if m.value.CompareAndSwap(bits, math.Float64bits(next)) {
			m.at.Store(now)
			return
		}
	}
}

// faded is the average to reckon with, in nanoseconds; 0 is none. What is not chosen is not
// measured, and one slow answer would keep an endpoint out for ever: so a measurement fades while
// no other comes. It fades to a floor, and no endpoint counts as faster: below it the requests in
// flight tell more than the noise of short times.
func (m *ewma) faded(now int64) float64 {
	s := math.Float64frombits(m.value.Load())
	switch {
	case s == 0:
		return 0
	case s <= float64(floor):
		return float64(floor)
	}
	idle := now - m.at.Load()
	if idle <= 0 {
		return s
	}
	return max(s*math.Exp(-float64(idle)/float64(int64(ewmaTau)<<m.doubts.Load())), float64(floor))
}

// read is the average as it stands.
func (m *ewma) read() time.Duration { return time.Duration(math.Float64frombits(m.value.Load())) }

// parseUint reads digits up to a space or the end, and what follows; ok is false for anything
// else, and for more than nine digits.
func parseUint(b []byte) (n uint64, rest []byte, ok bool) {
	i := 0
	for i < len(b) && b[i] >= '0' && b[i] <= '9' {
		n = n*10 + uint64(b[i]-'0')
		i++
	}
	if i == 0 || i > 9 {
		return 0, nil, false
	}
	if i == len(b) {
		return n, nil, true
	}
	return n, b[i+1:], b[i] == ' '
}

// busyUnit is a utilisation of 1 in an average that was made for times.
const busyUnit = 1 << 20

// load is what an endpoint's server proxy last said of it.
type load struct {
	others  atomic.Int64 // in flight, of other proxies
	service atomic.Int64 // nanoseconds
	lanes   atomic.Int64 // 0: it did not say
	at      atomic.Int64
}

// Report takes a server proxy's report in. What cannot be read is left out: it comes from another
// process, and is a hint.
func (e *Endpoint) Report(b []byte, now int64) {
	inFlight, rest, ok := parseUint(b)
	if !ok {
		return
	}
	micros, rest, ok := parseUint(rest)
	if !ok {
		return
	}
	e.reported.service.Store(int64(micros) * int64(time.Microsecond))
	if micros > 0 {
		e.group.lean.mean(int64(micros)*int64(time.Microsecond), now, typicalShare)
	}
	if lanes, _, ok := parseUint(rest); ok && lanes > 0 {
		e.reported.lanes.Store(int64(lanes))
		e.group.busy.mean(int64(inFlight*busyUnit/lanes), now, typicalShare)
	}
	own := e.inFlight.Load() - 1 // the one that is answered is in neither
	e.reported.others.Store(max(0, int64(inFlight)-max(own, 0)))
	e.reported.at.Store(now)
}

// load is how many requests the endpoint has, as far as this proxy knows: its own, and those of
// others as they were reported, less the older the report is.
func (e *Endpoint) load(now int64) float64 {
	own := float64(e.inFlight.Load())
	others := e.reported.others.Load()
	if others == 0 {
		return own
	}
	age := now - e.reported.at.Load()
	if age >= int64(10*reportTau) {
		return own
	}
	return own + float64(others)*math.Exp(-float64(max(age, 0))/float64(reportTau))
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

// warmth is the part of its share that an endpoint gets: it grows from warmLeast to 1 over
// warmup, as caches, compilers and pools of connections do.
func (e *Endpoint) warmth(now int64, warmup time.Duration) float64 {
	since := e.since.Load()
	if since == 0 || warmup <= 0 {
		return 1
	}
	age := now - since
	if age >= int64(warmup) {
		return 1
	}
	return warmLeast + (1-warmLeast)*float64(max(age, 0))/float64(warmup)
}
