// Package admission decides at a server proxy whether a request is let into its application. Its one idea is
// that a request which would wait for longer than it is worth is better refused at once: what an
// application can do, and so how long one more would wait, is learnt from how long requests took and how many
// there were, and how long one may wait is said by its criticality and by its deadline.
//
// It knows of no service, reads no clock, answers nobody and keeps nobody waiting: the queue is the
// application's own. Read Limiter first, then learn for what is taken for an overload, and level for
// what is done about it where a part of the requests must go.
package admission

import "time"

// The constants of admission, in one place.
const (
	// window is over what the admitted level is settled (Zhou et al., "Overload control for scaling WeChat
	// microservices", SoCC 2018, §4.1: a fourth of theirs, as the level follows what was answered and not a fixed step).
	window = 250 * time.Millisecond
	// look is the same while no overload is known: what comes meanwhile is let in.
	look = 100 * time.Millisecond
	// lookMost ends a window in which less than lookLeast requests ended, too few to judge by.
	lookMost  = time.Second
	lookLeast = 12
	// DefaultMaxWait is how long a request may wait in an application where no policy says.
	DefaultMaxWait = 150 * time.Millisecond
	// floorConcurrency is what is always let in where nobody declared lanes: below it, an application that is
	// slow cannot be told from one that has too much to do.
	floorConcurrency = 8
	// lightTau is how fast what requests took that met no queue is forgotten; at least four times as long as they take.
	lightTau = time.Second
	// laneShare is the weight of a window of laneLeast such requests where lanes are declared.
	laneShare = 0.5
	laneLeast = 20
	// rateShare is the weight of a window in what an application can do; residueShare that of what the queue does not
	// explain in what a request takes.
	rateShare    = 0.3
	residueShare = 0.15
	// good is how much longer than usual requests may take while their number still counts as harmless.
	good = 1.25
	// A queue is one that grew: by grown over what stood there on average over the last refTau.
	grown  = 1.2
	refTau = 5 * time.Second
	// lightest is the least that counts as having waited.
	lightest = 10 * time.Millisecond
	// idle is by how much more than in proportion fewer requests are answered when no queue was cut; see overloaded.
	idle = 1.5
	// drained is what a queue that is worked off falls below from one window to the next.
	drained = 0.8
	// calmAfter without a refusal or a wait, an overload is over.
	calmAfter = 5 * time.Second
	// fadeTau is how fast it is forgotten how many requests were harmless.
	fadeTau = 30 * time.Second
)

// The level: each criticality has steps, and a request's key says on which of its own it stands, so that all that is
// done for one cause meets the same fate (DAGOR's user priority).
const (
	steps     = 32
	positions = steps * classes
	classes   = 4
	// levelGain is how strongly the part that is let in follows the wait; levelMost bounds the change.
	levelGain = 0.3
	levelMost = 0.25
)
