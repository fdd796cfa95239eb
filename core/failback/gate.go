// Package failback decides how much of its requests a cluster gets that was lost and is there again. Its one idea is that a way
// back is proved and not waited for: each Step is a larger part, and is left for the next when requests at this one went well.
//
// It sends nothing, reads no clock and weighs no cost: core/split makes a split of what it lets through, and proxies count
// how tries ended (Tally). What is lost, dead or forbidden is not asked here: gates only ever hold back. Read Gate, then Gates.
package failback

import (
	"time"

	"github.com/isthmus-mesh/isthmus/core/split"
)

// Steps are the parts of its requests that a cluster gets on its way back.
var steps = [...]float64{0.01, 0.05, 0.25, 0.5, 1}

// The constants of the way back.
const (
	// enough requests judge a step, and good of them must have gone well: of 100, one may fail. Where other clusters fail too,
	// leaning times their part of failures is allowed beside: what every cluster fails is no illness of this one.
	enough  = 100
	bad     = 0.01
	leaning = 1.5
	// patience is how long a step waits for enough requests. With fewer, time is the judge: the step is passed unless so many
	// failed that it cannot be any more.
	patience = 5 * time.Second
	// holdMin is how long a step takes at least. A step that fails doubles it, up to as long as the cluster has been ill, and so does
	// a cluster that is lost on its way back, or within calm after it; holdMax is the most.
	holdMin = time.Second
	holdMax = 10 * time.Minute
	calm    = 10 * time.Minute
	// settle is for how long after a step back nothing counts: what was sent before it still fails.
	settle = time.Second
)

// Phase is where a cluster stands.
type Phase uint8

// The phases.
const (
	// Unknown: it was never seen to serve. The first time it does it is trusted: it has not failed yet, and a start would wait.
	Unknown Phase = iota
	Open
	Lost
	Returning
)

// Gate is what is known of one cluster's way back, for one service and the callers of one cluster. It is a value; the zero Gate has
// seen nothing.
type Gate struct {
	Phase Phase
	// Step of Returning counts from 0; Since is when it, or the phase, began.
	Step  int
	Since time.Time
	// Hold is how long a step takes at least now.
	Hold time.Duration
	// Ill is when it was lost, the first time of those that follow each other within calm.
	Ill time.Time
	// Seen is how requests of this step ended, and Others how those to all other clusters did meanwhile.
	Seen, Others split.Result
	// Judged is how those of the step before did.
	Judged split.Result
	// Firm says that a step failed on this way back: it does not give way where others have no room.
	Firm bool

	// Tripped says that it was lost because proxies left it out by themselves, though the way there was open.
	Tripped bool

	deaf time.Time // until then nothing counts
}

// Look is what is seen of a cluster.
type Look struct {
	// Usable says that it may get requests now; Tripped, where not, that it could but for what proxies found (Poll).
	Usable, Tripped bool
	// Own is how requests to it ended since the look before, and Others how those to the others did.
	Own, Others split.Result
}

// Event is what became of a gate.
type Event uint8

// The events.
const (
	Nothing Event = iota
	// Gone: what was open, or on its way back, is lost.
	Gone
	// Began: what was lost may be used again, at the first step.
	Began
	// Passed: the next step; Waited is the same where there were too few requests to judge by.
	Passed
	Waited
	// Failed: the step before, or the first again.
	Failed
	// Ended: it gets all of its part.
	Ended
)

// Part is the part of its requests that it is let have, from 0 to 1.
func (g *Gate) Part() float64 {
	switch g.Phase {
	case Lost:
		return steps[0]
	case Returning:
		return steps[g.Step]
	}
	return 1
}

// Next is the gate after a look.
func (g Gate) Next(l *Look, now time.Time) (Gate, Event) {
	switch {
	case !l.Usable && (g.Phase == Open || g.Phase == Returning):
		return g.lost(l, now), Gone
	case !l.Usable:
		g.Tripped = g.Tripped && l.Tripped // both: what else is wrong outlasts a trip
	case g.Phase == Unknown:
		return Gate{Phase: Open, Since: now}, Nothing
	case g.Phase == Lost:
		return Gate{Phase: Returning, Since: now, Hold: g.Hold, Ill: g.Ill, Tripped: g.Tripped}, Began
	case g.Phase == Returning:
		return g.judge(l, now)
	}
	return g, Nothing
}

// lost is the gate of a cluster that is lost. One that was tripped, and is again before a request succeeded, was never back: a probe
// was answered that requests are not.
func (g Gate) lost(l *Look, now time.Time) Gate {
	out := Gate{Phase: Lost, Since: now, Hold: holdMin, Ill: now, Tripped: l.Tripped}
	if g.Phase != Returning && (g.Hold == 0 || now.Sub(g.Since) >= calm) {
		return out
	}
	ended, failed := g.Seen.Ended+l.Own.Ended, g.Seen.Failed+l.Own.Failed
	if out.Hold, out.Ill = min(2*g.Hold, holdMax), g.Ill; g.Phase == Returning && g.Step == 0 && g.Tripped && l.Tripped && ended == failed {
		out.Hold = g.longer(now)
	}
	return out
}

// longer is the hold after a step that failed: what was ill for a minute is not held back for ten.
func (g *Gate) longer(now time.Time) time.Duration {
	return min(2*g.Hold, holdMax, max(g.Hold, now.Sub(g.Ill)))
}

// judge counts, and says whether the step is over.
func (g Gate) judge(l *Look, now time.Time) (Gate, Event) {
	if now.Before(g.deaf) {
		return g, Nothing
	}
	g.Seen.Ended += l.Own.Ended
	g.Seen.Failed += l.Own.Failed
	g.Others.Ended += l.Others.Ended
	g.Others.Failed += l.Others.Failed
	seen, age := g.Seen.Ended, now.Sub(g.Since)
	switch {
	case float64(g.Seen.Failed) > g.allowed()*float64(max(seen, enough)):
		return Gate{Phase: Returning, Step: max(g.Step-1, 0), Since: now, Hold: g.longer(now), Ill: g.Ill, Firm: true, Judged: g.Seen, Tripped: g.Tripped, deaf: now.Add(settle)}, Failed
	case age < g.Hold || seen < enough && age < patience:
		return g, Nothing
	case g.Step == len(steps)-1:
		return Gate{Phase: Open, Since: now, Hold: g.Hold, Ill: g.Ill, Judged: g.Seen}, Ended
	}
	e := Passed
	if seen < enough {
		e = Waited
	}
	return Gate{Phase: Returning, Step: g.Step + 1, Since: now, Hold: g.Hold, Ill: g.Ill, Firm: g.Firm, Judged: g.Seen, Tripped: g.Tripped}, e
}

// allowed is the part of requests that may fail.
func (g *Gate) allowed() float64 {
	if g.Others.Ended < enough {
		return bad
	}
	return bad + leaning*float64(g.Others.Failed)/float64(g.Others.Ended)
}
