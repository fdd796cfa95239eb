// Package health decides whether an application may be sent requests, from its answers to a
// question that its own proxy asks it again and again. Its one idea is that a single answer says
// little: only several in a row that contradict what is believed change it.
//
// It asks nobody and has no clock (dataplane/agent asks), and it does not judge other proxies'
// endpoints by how requests went: that is core/balance. Read State first.
package health

import (
	"sync/atomic"
	"time"
)

// State is what the answers have shown so far. The zero State is an application that was never
// asked: it counts as healthy.
//
// The first answer has no more weight than any other. A proxy starts before its application, so a
// first answer is often that nobody listens yet; were it to decide at once, each start would be
// followed by Thresholds.Healthy intervals in which a working application is refused its
// requests. What waiting costs is small: a request to an application that does not listen is not
// executed, and tried elsewhere in any case.
type State struct {
	// Unhealthy says that requests are to be refused.
	Unhealthy bool
	// Since is when Unhealthy last changed, or the first answer came; zero before.
	Since time.Time
	// Asked is when the last answer came.
	Asked time.Time

	against int // answers in a row that contradict Unhealthy
}

// Thresholds are how many answers in a row change the state. Less than one counts as one.
type Thresholds struct {
	Healthy   int // good ones bring it back
	Unhealthy int // bad ones take it out
}

// Answered is the state after an answer.
func (s State) Answered(good bool, t Thresholds, now time.Time) State {
	if s.Since.IsZero() {
		s.Since = now
	}
	s.Asked = now
	if good != s.Unhealthy { // as was believed
		s.against = 0
		return s
	}
	need := t.Unhealthy
	if s.Unhealthy {
		need = t.Healthy
	}
	if s.against++; s.against >= need {
		s.Unhealthy, s.Since, s.against = !s.Unhealthy, now, 0
	}
	return s
}

// Renewed is the state where another question is asked from now on: what was believed stands until
// answers to the new one contradict it, and answers to the old one no longer count.
func (s State) Renewed() State {
	s.against = 0
	return s
}

// jitter is the share of an interval by which questions are moved, to either side.
const jitter = 0.1

// firstMax bounds how long the first question waits.
const firstMax = time.Second

// First is how long the first question waits, for a chance in [0, 1). A policy reaches the proxies
// of all replicas in the same moment; what the applications lean on to answer is not to be asked by all at
// once.
func First(interval time.Duration, chance float64) time.Duration {
	return time.Duration(chance * float64(min(interval, firstMax)))
}

// Next is the time from one question to the next, for a chance in [0, 1): interval on average, moved so
// that proxies which began together drift apart.
func Next(interval time.Duration, chance float64) time.Duration {
	return time.Duration(float64(interval) * (1 - jitter + 2*jitter*chance))
}

// Sign is what who asks tells those who pass requests on. The zero Sign says healthy. It is safe for
// concurrent use.
type Sign struct{ why atomic.Pointer[string] }

// Refuse says that the application is unhealthy, and why.
func (g *Sign) Refuse(why string) { g.why.Store(&why) }

// Admit says that the application is healthy.
func (g *Sign) Admit() { g.why.Store(nil) }

// Unhealthy reports whether requests are to be refused, and why.
func (g *Sign) Unhealthy() (why string, unhealthy bool) {
	if p := g.why.Load(); p != nil {
		return *p, true
	}
	return "", false
}
