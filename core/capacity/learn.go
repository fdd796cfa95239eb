package capacity

import (
	"math"
	"time"
)

// The constants of learning, in one place. They were found by the models of the tests.
const (
	// least answers make a window, or windowMost; it is added up until then.
	least      = 20
	windowMost = 2 * time.Second
	// harmless is how much longer than usual requests take that wait for nothing, busy from where they do; grain is what
	// clocks, schedulers and networks add to either.
	harmless = 1.25
	busy     = 1.5
	grain    = 2 * time.Millisecond
	// doubts is how many standard errors of an average are taken for chance, where times vary as much as they last.
	doubts = 2.0
	// fineTau smooths throughput that was harmless, and fineLasts is how fast the most of it is forgotten.
	fineTau   = 4 * time.Second
	fineLasts = 5 * time.Minute
	// more is how much more than ever harmlessly has to be answered; grown is by how much the number of requests grows from
	// window to window, growing how often, where an application cannot keep up.
	more    = 1.05
	grown   = 1.2
	growing = 3
	// full is the least part of what it bears that an application answers that refuses, or cannot keep up.
	full = 0.97
	// again is the part of what it was thought to bear at which waits are still those of the same limit.
	again = 0.85
	// rateShare is the weight of a busy window of rateLeast answers in what is borne, once there were some, and sureShare that of
	// any in how sure that is.
	rateShare = 0.25
	rateLeast = 100
	sureShare = 0.25
	// raise is what a window without waits at raiseAt of what was thought the most adds to it.
	raise, raiseAt = 0.03, 0.9
	// slowTau is how fast what is slow becomes usual; slowShare what a window of it takes from how sure a limit is.
	slowTau   = 15 * time.Second
	slowShare = 0.3
	// A limit that is not met again is doubted: it is taken for greater, by as much again in doubtTau and by doubtMost of what it was
	// at most, so that it is met again by and by and not at once; sureLasts is how fast it is forgotten.
	doubtTau, doubtMost = 10 * time.Minute, 1.5
	sureLasts           = time.Hour
	// From heavy of what is borne on, time that is added counts for heavyShare of what it would in what is usual.
	heavy, heavyShare = 0.6, 0.05
	// usualShare is the weight of a window of least harmless answers in what is usual.
	usualShare = 0.1
	// Sure is from where an estimate counts: three busy windows in a row.
	Sure = 0.55
)

// Window is what an application did for a while.
type Window struct {
	Over time.Duration
	// Answered is how many requests it answered, and Took what those took together.
	Answered float64
	Took     time.Duration
	// There is how many it has at the end.
	There float64
	// Refused says that some were turned away since it had too much to do.
	Refused bool
}

// Estimate is what is thought of an application.
type Estimate struct {
	// Rate is how many requests a second it bears: as far as Sure says from 0 to 1. Where that is nothing it is what was
	// answered without harm, and it bears more.
	Rate, Sure float64
	// Time is what a request usually takes, 0 unknown; Wait what it waited lately beyond, negative unknown.
	Time, Wait time.Duration
}

// Learner learns from windows that follow each other. The zero Learner knows nothing. It has one caller.
type Learner struct {
	sum Window
	// usual is the time of a request that waits for nothing, in seconds; 0 unknown.
	usual, wait float64
	calm, fine  float64 // harmless throughput, smoothed, and the most of it
	lately      float64 // throughput, smoothed
	// met counts busy windows since nothing was known.
	rate, sure, met float64
	last            float64 // rate when it was last met
	there           float64 // requests at the end of the window before
	grows           int
}

// Look takes a window in, and says what is thought now.
func (l *Learner) Look(w Window) Estimate {
	l.sum.Over += w.Over
	l.sum.Answered += w.Answered
	l.sum.Took += w.Took
	l.sum.There, l.sum.Refused = w.There, l.sum.Refused || w.Refused
	if l.sum.Over > 0 && (l.sum.Answered >= least || l.sum.Over >= windowMost) {
		l.learn(&l.sum)
		l.sum = Window{}
	}
	return l.estimate()
}

func (l *Learner) estimate() Estimate {
	e := Estimate{Rate: l.rate, Sure: l.sure, Time: seconds(l.usual), Wait: -1}
	if l.sure < Sure {
		e.Rate, e.Sure = l.fine, 0
	}
	if l.usual > 0 && l.wait >= 0 {
		e.Wait = seconds(l.wait)
	}
	return e
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// kept is the part of something that is left of it after so long.
func kept(over, tau time.Duration) float64 { return math.Exp(-float64(over) / float64(tau)) }

func (l *Learner) learn(w *Window) {
	l.fine *= kept(w.Over, fineLasts)
	l.sure *= kept(w.Over, sureLasts)
	l.wait = -1
	grew := w.There > max(grown*l.there, 1)
	l.there = w.There
	if w.Answered == 0 { // a standstill says nothing; nor does rest
		l.grows = 0
		return
	}
	rate, took := w.Answered/w.Over.Seconds(), w.Took.Seconds()/w.Answered
	if l.usual == 0 {
		l.usual, l.lately, l.calm = took, rate, rate
	}
	l.lately += (1 - kept(w.Over, fineTau/4)) * (rate - l.lately)
	l.wait = max(0, took-l.usual)
	chance := doubts * l.usual / math.Sqrt(w.Answered)
	switch {
	case w.Refused: // whatever is usual: it may never have been seen without
		l.busy(w, rate)
	case took <= harmless*l.usual+grain.Seconds():
		l.harmless(w, rate, took)
	case took <= busy*l.usual+grain.Seconds()+chance:
		l.grows = 0
	default:
		if l.grows++; !grew {
			l.grows = 0
		}
		if l.isBusy(rate) {
			l.busy(w, rate)
		} else {
			l.slow(w, rate, took)
		}
	}
}

// harmless takes a window in which nobody waited.
func (l *Learner) harmless(w *Window, rate, took float64) {
	l.grows = 0
	share := usualShare * min(1, w.Answered/least)
	if took < l.usual/harmless { // it was never usual: it began busy
		share = max(share, 0.5*min(1, w.Answered/least))
	}
	if took > l.usual && l.sure > 0 && rate > heavy*l.rate { // near its limit some of it is waiting
		share *= heavyShare
	}
	l.usual += share * (took - l.usual)
	l.calm += (1 - kept(w.Over, fineTau)) * (rate - l.calm)
	l.fine = max(l.fine, l.calm)
	switch {
	case l.rate > 0 && l.lately > raiseAt*l.rate:
		l.rate *= 1 + raise*min(1, w.Over.Seconds()/0.5)
		l.last = max(l.last, l.rate)
	case l.rate < doubtMost*l.last:
		l.rate /= kept(w.Over, doubtTau)
	}
}

// isBusy reports whether requests that take longer do because there are so many.
func (l *Learner) isBusy(rate float64) bool {
	return l.grows >= growing || l.fine > 0 && l.lately > more*l.fine+doubts*l.few() || l.sure > sureShare && max(rate, l.lately) > again*l.rate
}

// few is how many a second more or less are answered lately by chance.
func (l *Learner) few() float64 { return math.Sqrt(l.lately / (fineTau / 4).Seconds()) }

func (l *Learner) busy(w *Window, rate float64) {
	part := near(rate*l.usual, l.wait/l.usual)
	if w.Refused || l.grows >= growing {
		part = max(part, full)
	}
	bears := rate / part
	if l.sure < slowShare {
		l.met = 0
	}
	l.met++
	l.rate += max(1/l.met, rateShare*min(1, w.Answered/rateLeast)) * (bears - l.rate)
	l.last = l.rate
	l.sure += sureShare * min(1, w.Answered/least) * (1 - l.sure)
}

// slow takes a window in which requests take longer, and not for their number.
func (l *Learner) slow(w *Window, rate, took float64) {
	l.usual += (1 - kept(w.Over, slowTau)) * (took - l.usual)
	if max(rate, l.lately)+l.few() <= again*l.rate { // fewer than it was thought to bear, and they take as long: that was no limit
		l.sure *= 1 - slowShare
	}
}

// The queue of core/split, as that of one application: so many lanes that together are asked for work, by Sakasegawa.
func near(work, waits float64) float64 {
	lo, hi := 0.02, 1.0
	for range 30 {
		rho := (lo + hi) / 2
		lanes := max(1, work/rho)
		if math.Pow(rho, math.Sqrt(2*(lanes+1))-1)/(lanes*(1-rho)) < waits {
			lo = rho
		} else {
			hi = rho
		}
	}
	return (lo + hi) / 2
}
