package admission

import (
	"math"
	"time"
)

// learnt is what settling a window needs of those before. It belongs to who has the turn.
type learnt struct {
	service float64 // nanoseconds; 0 unknown
	// Of requests that met few others: how long all together were there, how many were answered, and the ages of those
	// that still are.
	spent, answers, ages float64
	fine                 float64 // requests with which nobody waited
	stood                float64 // how many there were at least, on average over refTau
	doubts               int     // windows in a row that look like an overload
	before               seen    // the window before

	rate float64 // of an overload, requests a nanosecond; 0 none
	calm int64   // nanoseconds since anybody was refused or waited
	// first and full are the most that was answered in the overload and how many there were then, most the most there were.
	first, full, most float64
	trial             trial
	leveled           int64 // when the level was last settled
}

// seen is a window, read.
type seen struct {
	over                   float64 // nanoseconds
	ended, answered, light float64
	took, lightTook        float64 // nanoseconds
	squares                float64 // square nanoseconds
	ages                   float64 // of light ones that are still there
	least, now             float64 // numbers of requests
	wait                   float64 // predicted, the sum of those let in
	refused                float64
}

// settle ends the window if it is time, and if nobody else does.
func (l *Limiter) settle(now int64) {
	if !l.turn.CompareAndSwap(false, true) {
		return
	}
	defer l.turn.Store(false)
	w, st := &l.window, &l.state
	if now < l.ends.Load() {
		return
	}
	began := w.began.Load()
	if began == 0 { // the first request
		w.began.Store(now)
		l.ends.Store(now + int64(look))
		return
	}
	if few := w.ended.Load() < int64(lookLeast/(1+st.doubts)); few && now-began < int64(lookMost) {
		return
	}
	s := w.read(now, l.inFlight.Load())
	s.ages = max(0, float64(l.light.Load()*now-l.lightCame.Load()))
	next := window
	if n := l.lanes.Load(); n > 0 {
		st.lanes(&s, float64(n))
	} else if st.learn(&s, l.budget(st.service)); st.rate == 0 {
		next = look / time.Duration(1+st.doubts)
	}
	l.service.Store(math.Float64bits(st.service))
	l.rate.Store(math.Float64bits(st.rate))
	l.harmless.Store(int64(st.fine))
	l.proving.Store(st.rate > 0 && st.trial.runs)
	l.settleLevel(&s, now)
	l.ends.Store(now + int64(next))
}

// read takes what was counted and begins the next window.
func (w *counts) read(now, inFlight int64) seen {
	s := seen{over: float64(now - w.began.Swap(now)), ended: float64(w.ended.Swap(0)), answered: float64(w.answered.Swap(0)), light: float64(w.light.Swap(0)),
		took: float64(w.took.Swap(0)), lightTook: float64(w.lightTook.Swap(0)), squares: float64(w.squares.Swap(0)) * 1e6, refused: float64(w.refused.Swap(0)), wait: float64(w.waits.Swap(0))}
	s.now, s.least = float64(inFlight), float64(w.least.Swap(inFlight))
	return s
}

// lanes learns what a request takes in a lane: of those that found one free, or, where every lane was busy all the
// time, of how many were answered (Little's law).
func (st *learnt) lanes(s *seen, lanes float64) {
	st.rate, st.fine = 0, 0
	mean, of := 0.0, s.light
	switch {
	case s.light > 0:
		mean = s.lightTook / s.light
	case s.answered > 0 && s.least >= lanes:
		mean, of = min(lanes*s.over/s.answered, s.took/max(s.ended, 1)), s.answered
	default:
		return
	}
	if st.service == 0 {
		st.service = mean
		return
	}
	st.service += min(1, of/laneLeast) * laneShare * (mean - st.service)
}

// learn tells an overload from an application that is slow, and from one that stood still for a moment, where nobody declared
// lanes. It is an overload when requests take longer than those do that meet few others, by more than they may
// wait, while there were never so few in the window that nobody had to wait, and their number has grown and goes on to: what
// is slow by itself is slow for the first as well, and after a standstill the queue empties.
func (st *learnt) learn(s *seen, budget float64) {
	st.unhindered(s)
	stood := st.stood
	st.stood += (1 - math.Exp(-s.over/float64(refTau))) * (s.least - st.stood)
	if st.service == 0 || s.ended == 0 {
		return
	}
	rate, was := s.answered/s.over, st.before
	mean, _ := took(s, &was)
	st.before = *s
	wait, standing := mean-st.service, s.least > max(st.fine, floorConcurrency)
	if st.rate > 0 {
		st.overloaded(s, wait, rate, budget, standing)
		return
	}
	if mean <= good*st.service+float64(time.Millisecond) {
		st.fine = max(st.fine, s.least, rate*mean)
	}
	st.fade(s.over)
	// A flood is known before those who met it have come to their end: they take longer by now, and what there is would take
	// much longer than it may.
	lately, doubt := took(s, s)
	flood := lately-doubt-st.service > max(st.service, float64(lightest)) && s.answered > 0 && s.now/rate-st.service > 2*budget
	_, doubt = took(s, &was)
	wait -= doubt
	if shrinks := s.now < was.now*drained; !standing || shrinks || wait <= budget && !flood || st.doubts == 0 && s.least < grown*stood {
		st.doubts = 0
		return
	}
	if st.doubts++; st.doubts > 1 && s.answered > 0 {
		st.doubts, st.calm = 0, 0
		st.rate, st.first, st.full, st.most, st.trial = rate, rate, s.least, s.now, trial{}
	}
}

// took is what the requests of two windows took on average, and three times its standard error: where some requests take
// a thousand times as long as others an average says little.
func took(a, b *seen) (mean, doubt float64) {
	n := a.ended + b.ended
	mean = (a.took + b.took) / n
	return mean, 3 * math.Sqrt(max(0, (a.squares+b.squares)/n-mean*mean)/n)
}

// overloaded follows an overload until it is over.
func (st *learnt) overloaded(s *seen, wait, rate, budget float64, standing bool) {
	st.most = max(st.most, s.now)
	switch {
	case standing:
		st.rate += rateShare * (rate - st.rate)
		if rate > st.first {
			st.first, st.full = rate, s.now
		}
		// What requests took beyond what the queue explains is what they take.
		predicted := max(0, s.least-max(st.fine, floorConcurrency)) / st.rate
		if rest := wait - predicted; rest > 0 || s.light == 0 {
			st.service = max(st.service+residueShare*rest, st.service/2)
		}
	case s.refused > 0:
		st.rate *= 1 + rateShare // it was refused, and lanes were free: it can do more than we think
	}
	st.fade(s.over)
	// Fewer requests that take as long, so that less are answered: it was no queue that they stood in.
	if s.now <= st.full/3 && st.rate*st.full < idle*st.first*s.now || st.trial.isSlow(s) {
		st.fine, st.service, st.rate = max(st.fine, st.most), max(st.service, s.took/s.ended), 0
		st.spent, st.answers, st.ages = st.service, 1, s.ages
		return
	}
	if st.calm += int64(s.over); s.refused > 0 || wait > budget/4 {
		st.calm = 0
	}
	if st.calm >= int64(calmAfter) {
		st.rate = 0
	}
}

// fade forgets how many were harmless.
func (st *learnt) fade(over float64) { st.fine *= math.Exp(-over / float64(fadeTau)) }

// unhindered learns what a request takes that meets few others: the time that those had been there, over how many of them were
// answered (Little's law). Those that are still there count: else what is quick would be believed before what is slow
// has come to its end.
func (st *learnt) unhindered(s *seen) {
	keep := math.Exp(-s.over / max(float64(lightTau), 4*st.service))
	st.spent, st.answers = max(0, st.spent*keep+s.lightTook+s.ages-st.ages), st.answers*keep+s.light
	st.ages = s.ages
	if st.answers >= 0.5 && s.light > 0 {
		st.service = st.spent / st.answers
	}
}

// settleLevel sets the level so that what is let in in the next window is what was answered in the last, a little less while
// requests wait for longer than half of what they may, a little more while they wait less.
//
// The most critical are meant only when those let in wait for twice as long as others may, and so are mostly such themselves. A window of an
// application with few lanes has seven answers, or by chance four, which is fewer than are asked for by the most critical; they have room all the same.
func (l *Limiter) settleLevel(s *seen, now int64) {
	st := &l.state
	if now-st.leveled < int64(window) {
		return
	}
	st.leveled = now
	var offered [positions]float64
	all := 0.0
	for i := range offered {
		offered[i] = float64(l.window.offered[i].Swap(0))
		all += offered[i]
	}
	budget := l.budget(st.service)
	wait := s.wait / max(1, all-s.refused)
	if none := st.rate == 0 && l.lanes.Load() == 0 || st.service == 0; none || all < lookLeast || l.level.Load() == 0 && s.refused == 0 && wait < budget/2 {
		l.level.Store(0)
		return
	}
	change := levelGain * (1 - wait/(budget/2))
	room := s.answered * (1 + max(-levelMost, min(levelMost, change)))
	at := positions
	for at > 0 && room >= offered[at-1] {
		at--
		room -= offered[at]
	}
	if wait <= 2*budget {
		at = min(at, positions-steps)
	}
	l.level.Store(int64(min(at, positions-1))) // the most critical are never all refused for their level
}
