package liveness_test

import (
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/liveness"
)

// TestLossIsOfTheLastMinute: what is older falls out, step by step, also over a pause and a clock that was set back.
func TestLossIsOfTheLastMinute(t *testing.T) {
	var tally liveness.Tally
	now := time.Unix(1_000_000, 0)
	if r, n := tally.Loss(now); r != 0 || n != 0 {
		t.Errorf("of nothing: %v of %d", r, n)
	}
	for range 60 { // a tenth is lost
		tally.Count(9, 0, now)
		tally.Count(1, 1, now)
		now = now.Add(time.Second)
	}
	if r, n := tally.Loss(now); r < 0.099 || r > 0.101 || n < 500 || n > 600 {
		t.Errorf("a tenth lost: %v of %d", r, n)
	}
	for range 61 {
		tally.Count(4, 0, now)
		now = now.Add(time.Second)
	}
	if r, n := tally.Loss(now); r != 0 || n < 200 {
		t.Errorf("a minute later: %v of %d, want nothing lost", r, n)
	}
	if _, n := tally.Loss(now.Add(time.Hour)); n != 0 {
		t.Errorf("an hour later %d questions count", n)
	}
	if _, n := tally.Loss(now.Add(-time.Hour)); n != 0 {
		t.Errorf("an hour before %d questions count", n)
	}
}

// TestLateAnswersAreLosses: an answer within the retransmission timer is in time, one beyond it came by a retransmission.
func TestLateAnswersAreLosses(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	s := liveness.State{}
	if s.Late(time.Hour) {
		t.Error("of a path that was never measured nothing is late")
	}
	for range 20 {
		s = s.Answered(80*time.Millisecond, now)
	}
	if s.Late(100*time.Millisecond) || !s.Late(400*time.Millisecond) {
		t.Errorf("with a round trip of %v, 100 ms late: %v, 400 ms late: %v", s.RTT, s.Late(100*time.Millisecond), s.Late(400*time.Millisecond))
	}
}

// TestOverdueQuestionsAreCounted: a silent path shows as loss before its connections end.
func TestOverdueQuestionsAreCounted(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	var d liveness.Detector
	s := liveness.State{}
	run := func(during time.Duration) {
		for end := now.Add(during); now.Before(end); {
			now = now.Add(d.Tick(s, now).Next)
		}
	}
	run(time.Second)
	d.Opened(0, now)
	run(time.Second)
	if n := d.Unanswered(0); n < 3 {
		t.Errorf("%d questions are unanswered, want some", n)
	}
	if n := d.Overdue(s, now)[0]; n > 2 {
		t.Errorf("%d are overdue after a second, with %v of patience", n, s.ProbeTimeout())
	}
	run(time.Second)
	if n := d.Overdue(s, now)[0]; n < 3 {
		t.Errorf("%d are overdue after two", n)
	}
}
