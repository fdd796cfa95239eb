package liveness

import "time"

// A tally covers the last lossWindow, in steps: what falls out does so a step at a time.
const (
	lossWindow = time.Minute
	lossSteps  = 6
	lossStep   = lossWindow / lossSteps
)

// Tally counts the questions of the last minute that were answered in time, and those that were not: an answer later than
// the retransmission timer was carried by a retransmission, so a segment was lost (RFC 6298 §3), and one that never came
// was lost with its connection. The zero Tally is empty. Not safe for concurrent use.
type Tally struct {
	steps [lossSteps]struct{ at, asked, lost int64 }
}

// Count adds questions that have ended, some of which were lost.
func (t *Tally) Count(asked, lost int, now time.Time) {
	at := now.UnixNano() / int64(lossStep)
	s := &t.steps[uint64(at)%lossSteps]
	if s.at != at {
		s.at, s.asked, s.lost = at, 0, 0
	}
	s.asked += int64(asked)
	s.lost += int64(lost)
}

// Loss is the share that was lost, from 0 to 1, and of how many questions.
func (t *Tally) Loss(now time.Time) (ratio float64, of int) {
	at := now.UnixNano() / int64(lossStep)
	var asked, lost int64
	for _, s := range t.steps {
		if s.at > at-lossSteps && s.at <= at {
			asked, lost = asked+s.asked, lost+s.lost
		}
	}
	if asked == 0 {
		return 0, 0
	}
	return float64(lost) / float64(asked), int(asked)
}

// Late reports whether an answer after rtt says that a segment was lost.
func (s State) Late(rtt time.Duration) bool { return s.RTT != 0 && rtt > s.rto() }

// Unanswered is how many questions of place i have no answer.
func (d *Detector) Unanswered(i int) int { return d.places[i].asking }

// Overdue is how many questions, by place, have had no answer for so long that their connections are witnesses against
// the path. To be asked before Tick, which gives such connections up.
func (d *Detector) Overdue(s State, now time.Time) (n [Places]int) {
	if d.gap(now) {
		return n
	}
	t := d.at(now)
	for i := range d.places {
		p := &d.places[i]
		for _, asked := range p.asked[:p.asking] {
			if t-asked >= s.ProbeTimeout() {
				n[i]++
			}
		}
	}
	return n
}
