package liveness

import "time"

// Places is how many connections a Detector works with at most: two that stand, and two
// more that are dialled while an answer is missing.
const Places = standing + fresh

const (
	standing = 2
	fresh    = 2
	// dialEvery is between the first fresh connection and the second. A new SYN is not
	// backed off as a retransmission is.
	dialEvery = 100 * time.Millisecond
	// redialEvery is how long a dial is left alone, and how long a refusal is respected
	// once it was repeated; refusedAgain, before.
	redialEvery  = time.Second
	refusedAgain = 250 * time.Millisecond
	// greeting is how long refusals by a path that has never answered are repeated as fast as the first:
	// clusters that start together wait for each other's gateways.
	greeting = 10 * time.Second
	// replaceAfter is how long a silent connection is kept. Its kernel's timer has backed off
	// by then, so that a new one would be answered sooner.
	replaceAfter = 3 * time.Second
	// dialsBurst dials may be made at once, and one a second in the long run: what a
	// bad path may cost both sides in handshakes. Redials are not counted.
	dialsBurst = 8

	// lateMax is how late a Tick may come. Beyond, the observer was not running (stopped,
	// starved, suspended) and knows nothing of what happened meanwhile.
	lateMax = 50 * time.Millisecond
	// muteAfter is how long nothing is concluded after such a gap, so that answers that
	// wait in sockets are read first; mutesMax bounds how many gaps in a row count, so that
	// an observer that is always late still detects.
	muteAfter = 100 * time.Millisecond
	mutesMax  = 20

	questionsMax = 16 // unanswered ones of a connection
)

// Detector is the rule by which a path is silent: two connections each have a question
// unanswered for ProbeTimeout, and two fresh ones, dialled when the first answer was missed,
// are not there after DialTimeout. One connection proves nothing: a segment that TCP lost
// twice is as late as a dead gateway's; and what two connections suffer together, a firewall
// that forgot them or a path of a bundle, a fresh one need not. A refusal is evidence as
// well, when repeated.
//
// Time is the observer's own: while it does not run, nobody is silent.
//
// The caller reports what happens in a place (a connection's index below Places) and does what
// Tick says. Not safe for concurrent use. The zero Detector is ready, with nothing dialled.
type Detector struct {
	places [Places]place

	started bool
	last    time.Time     // the last Tick
	next    time.Duration // from there to when the following is due
	awake   time.Duration // time in which the observer ran
	stalled time.Duration // awake time of the last gap
	mutes   int

	suspicious bool
	suspected  time.Duration // since when
	budget     time.Duration // awake time by which all dials made would have been allowed
}

type phase uint8

const (
	vacant phase = iota
	dialling
	open
)

// place is one connection, or the lack of one. Instants are awake time.
type place struct {
	phase phase
	since time.Duration // in this phase
	// against is what speaks against the path from earlier attempts: 1 a refusal or a
	// break, 2 a silence.
	against int
	// askNext is when to ask; asked are the questions without an answer, oldest first.
	askNext time.Duration
	asked   [questionsMax]time.Duration
	asking  int
}

// Do is what is to be done after a Tick.
type Do struct {
	// Ask, Dial and Close speak of places. What is dialled replaces what was there. What is
	// asked is reported before the Tick returns: Asked need not be called.
	Ask, Dial, Close [Places]bool
	// Silent says that the path is dead for all that is known: State.Failed.
	Silent bool
	// Next is when to call Tick again, if nothing happens before.
	Next time.Duration
}

// Opened says that the dial of place i succeeded, up to TLS.
func (d *Detector) Opened(i int, now time.Time) {
	t := d.at(now)
	d.places[i] = place{phase: open, since: t, askNext: t}
}

// Broke says that the dial or connection of place i ended by an error other than silence:
// refused, reset, closed.
func (d *Detector) Broke(i int, now time.Time) {
	d.places[i] = place{since: d.at(now), against: min(d.places[i].against+1, 2)}
}

// Heard says that the oldest question of place i was answered, and returns the round-trip
// time, or 0 where the observer stood still meanwhile.
func (d *Detector) Heard(i int, now time.Time) time.Duration {
	p := &d.places[i]
	if p.asking == 0 {
		return 0 // an answer to nothing
	}
	asked := p.asked[0]
	copy(p.asked[:], p.asked[1:p.asking])
	p.asking--
	if asked < d.stalled || d.gap(now) {
		return 0
	}
	return d.at(now) - asked
}

// at is the observer's own time. Between two Ticks it runs until the next is overdue.
func (d *Detector) at(now time.Time) time.Duration {
	return d.awake + max(0, min(now.Sub(d.last), d.next+lateMax))
}

// gap says that the observer missed a Tick.
func (d *Detector) gap(now time.Time) bool { return d.started && now.Sub(d.last) > d.next+lateMax }

// Tick says what to do, for a path of which s is known. It may be called early.
func (d *Detector) Tick(s State, now time.Time) Do {
	t := d.advance(now)
	var do Do
	healthy := 0
	suspicious := false
	for i := range d.places {
		p := &d.places[i]
		if p.phase == open && p.lateness(t) < s.suspectAfter() {
			healthy++
		} else if p.inUse() && p.suspect(s, t) {
			suspicious = true
		}
	}
	if healthy >= standing {
		suspicious = false
		d.settle(s, t, &do)
	}
	if suspicious && !d.suspicious {
		d.suspected = t
	}
	d.suspicious = suspicious
	d.dial(s, t, healthy, &do)
	d.ask(t, &do)
	do.Silent = d.silent(s, t)
	d.next = d.due(s, t)
	do.Next = d.next
	return do
}

// advance moves the observer's time to now.
func (d *Detector) advance(now time.Time) time.Duration {
	switch {
	case !d.started:
		d.started = true
		d.stalled = -muteAfter
	case d.gap(now):
		if d.mutes < mutesMax {
			d.mutes++
			d.stalled = d.awake
		} else {
			d.awake = d.at(now)
		}
	default:
		d.awake = d.at(now)
		if d.awake-d.stalled >= muteAfter {
			d.mutes = 0
		}
	}
	d.last = now
	return d.awake
}

func (d *Detector) muted(t time.Duration) bool { return t-d.stalled < muteAfter }

func (p *place) inUse() bool { return p.phase != vacant || p.against > 0 }

// lateness is how long the oldest question is unanswered.
func (p *place) lateness(t time.Duration) time.Duration {
	if p.asking == 0 {
		return 0
	}
	return t - p.asked[0]
}

// suspect says that this place is no witness for the path now.
func (p *place) suspect(s State, t time.Duration) bool {
	switch p.phase {
	case open:
		return p.lateness(t) >= s.suspectAfter()
	case dialling:
		return p.against > 0 || t-p.since >= s.DialTimeout()
	}
	return p.against > 0
}

// accuses says that this place is a witness against the path.
func (p *place) accuses(s State, t time.Duration) bool {
	switch p.phase {
	case open:
		return p.lateness(t) >= s.ProbeTimeout()
	case dialling:
		return p.against > 1 || t-p.since >= s.DialTimeout()
	}
	return p.against > 1
}

// settle closes what is not needed when enough connections are answered: those that are
// late, dials, and the youngest of the rest.
func (d *Detector) settle(s State, t time.Duration, do *Do) {
	kept := 0
	for i := range d.places {
		p := &d.places[i]
		if p.phase == open && p.lateness(t) < s.suspectAfter() && kept < standing {
			kept++
			continue
		}
		do.Close[i] = p.phase != vacant
		d.places[i] = place{since: t}
	}
}

// dial fills the places that are wanted and renews what is hopeless.
func (d *Detector) dial(s State, t time.Duration, healthy int, do *Do) {
	want := standing
	if d.suspicious && !d.muted(t) {
		want++
		if healthy == 0 && t-d.suspected >= dialEvery {
			want++
		}
	}
	used := 0
	for i := range d.places {
		p := &d.places[i]
		if p.inUse() {
			used++
		}
		if at, ok := p.renewAt(s); ok && t >= at {
			against := p.against
			if p.phase != vacant {
				against = 2
			}
			*p = place{phase: dialling, since: t, against: against}
			do.Dial[i] = true
		}
	}
	for i := range d.places {
		p := &d.places[i]
		if used >= want || p.inUse() {
			continue
		}
		if d.budget-t > (dialsBurst-1)*time.Second {
			return
		}
		d.budget = max(d.budget, t) + time.Second
		*p = place{phase: dialling, since: t}
		do.Dial[i] = true
		used++
	}
}

// renewAt is when a place is dialled anew whatever the others say.
func (p *place) renewAt(s State) (time.Duration, bool) {
	switch {
	case p.phase == open && p.asking > 0:
		return p.asked[0] + max(replaceAfter, 2*s.ProbeTimeout()), true
	case p.phase == dialling:
		return p.since + max(redialEvery, 2*s.DialTimeout()), true
	case p.phase == vacant && (p.against == 1 || p.against > 1 && !s.met && p.since < greeting):
		return p.since + refusedAgain, true
	case p.phase == vacant && p.against > 1:
		return p.since + redialEvery, true
	}
	return 0, false
}

// ask asks what is due, half a period apart where two connections stand.
func (d *Detector) ask(t time.Duration, do *Do) {
	for i := range d.places {
		p := &d.places[i]
		if p.phase != open || t < p.askNext {
			continue
		}
		p.askNext = t + ProbeEvery
		for j := range d.places {
			q := &d.places[j]
			if j == i || q.phase != open || q.askNext <= t {
				continue
			}
			if gap := (p.askNext - q.askNext).Abs(); gap < ProbeEvery/4 || gap > ProbeEvery*3/4 {
				p.askNext = q.askNext + ProbeEvery/2
				if p.askNext > t+ProbeEvery {
					p.askNext -= ProbeEvery
				}
			}
			break
		}
		if p.asking < questionsMax {
			p.asked[p.asking] = t
			p.asking++
			do.Ask[i] = true
		}
	}
}

// silent is the rule.
func (d *Detector) silent(s State, t time.Duration) bool {
	if d.muted(t) {
		return false
	}
	for i := range d.places {
		if !d.places[i].inUse() || !d.places[i].accuses(s, t) {
			return false
		}
	}
	return true
}

// due is how long until something may change by time alone.
func (d *Detector) due(s State, t time.Duration) time.Duration {
	next := ProbeEvery
	by := func(at time.Duration) {
		if at > t {
			next = min(next, at-t)
		}
	}
	by(d.stalled + muteAfter)
	if d.suspicious {
		by(d.suspected + dialEvery)
	}
	for i := range d.places {
		p := &d.places[i]
		if at, ok := p.renewAt(s); ok {
			by(at)
		}
		switch p.phase {
		case open:
			by(p.askNext)
			if p.asking > 0 {
				by(p.asked[0] + s.suspectAfter())
				by(p.asked[0] + s.ProbeTimeout())
			}
		case dialling:
			by(p.since + s.DialTimeout())
		}
	}
	return next
}
