package admission

import "time"

// The constants of a trial.
const (
	// trialAfter into an overload it begins, once trialAnswers have been counted or trialMost is over; as much is then
	// counted in it.
	trialAfter   = time.Second
	trialMost    = 5 * time.Second
	trialAnswers = 60
	// In it requests may wait trialPart of what they may otherwise; unless there are less than trialFewer of those before it
	// says nothing.
	trialPart  = 0.25
	trialFewer = 0.75
)

// trial tells once in each overload that had to be learnt whether it is one: for a while less is let in. Where
// requests stood in a queue as much is answered as before; where they take long by themselves, less is, as they are
// fewer (Little's law).
type trial struct {
	runs, over bool
	lasts      float64 // since the overload was seen, or since the trial began, nanoseconds
	took       float64 // what requests took before it
	many, few  throughput
}

// throughput is what was answered while so many requests were there.
type throughput struct{ answered, over, there float64 }

func (t *throughput) add(s *seen) {
	t.answered, t.over, t.there = t.answered+s.answered, t.over+s.over, t.there+s.least*s.over
}

// isSlow takes a window of an overload, and reports whether the trial says that it is none.
func (t *trial) isSlow(s *seen) bool {
	if t.over {
		return false
	}
	t.lasts += s.over
	if !t.runs {
		t.many.add(s)
		t.took = max(t.took, s.took/max(1, s.ended))
		if enough := t.many.answered >= trialAnswers || t.lasts > float64(trialMost); enough && t.lasts > float64(trialAfter) {
			t.runs, t.lasts = true, 0
		}
		return false
	}
	if t.lasts < 1.5*t.took+float64(window) {
		return false // what was let in before is still being answered
	}
	t.few.add(s)
	if t.few.answered < trialAnswers && t.few.over < float64(trialMost) {
		return false
	}
	t.runs, t.over = false, true
	if t.many.there == 0 || t.many.answered == 0 {
		return false
	}
	fewer := t.few.there / t.few.over / (t.many.there / t.many.over)
	less := t.few.answered / t.few.over / (t.many.answered / t.many.over)
	return fewer < trialFewer && less < (1+fewer)/2
}
