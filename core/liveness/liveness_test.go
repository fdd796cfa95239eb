package liveness

import (
	"fmt"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
	"pgregory.net/rapid"
)

var epoch = time.Unix(100, 0)

func after(d time.Duration) time.Time { return epoch.Add(d) }

func TestLeaseAndPathDecide(t *testing.T) {
	for _, c := range []struct {
		lease, path bool
		want        mesh.Reachability
	}{
		{true, true, mesh.Alive},
		{false, true, mesh.StaleServing},
		{true, false, mesh.Unreachable}, // a lease carries no requests
		{false, false, mesh.Unreachable},
	} {
		t.Run(fmt.Sprintf("lease=%t path=%t", c.lease, c.path), func(t *testing.T) {
			var s State
			if s.Reach() != mesh.Alive {
				t.Fatal("a peer of whom nothing was heard begins as an outage")
			}
			s = s.Lease(c.lease, epoch)
			if !c.path {
				s = s.Failed(epoch)
			}
			if s.Reach() != c.want {
				t.Errorf("%v, want %v", s.Reach(), c.want)
			}
		})
	}
}

func TestAPathIsBackAfterItsHold(t *testing.T) {
	s := State{}.Answered(0, epoch).Failed(epoch)
	for i, want := range []bool{true, true, false} { // three answers over half a second
		s = s.Answered(time.Millisecond, after(time.Duration(i)*ProbeEvery))
		if s.PathDown != want {
			t.Errorf("after %d answers: down %t, want %t", i+1, s.PathDown, want)
		}
	}
	if want := after(2 * ProbeEvery); !s.Since.Equal(want) {
		t.Errorf("since %v, want %v", s.Since, want)
	}
	s = s.Failed(after(time.Second))
	for i := range 4 {
		if s = s.Answered(time.Millisecond, after(time.Second+time.Duration(i)*ProbeEvery)); !s.PathDown {
			t.Fatalf("a path lost twice is back after %v, before its doubled hold", time.Duration(i)*ProbeEvery)
		}
	}
	if s = s.Answered(time.Millisecond, after(2*time.Second)); s.PathDown {
		t.Error("not back after the doubled hold")
	}
	s = s.Failed(after(2*time.Second + calmAfter))
	if s.hold != holdMin {
		t.Errorf("after a calm %v the hold is %v, want %v", calmAfter, s.hold, holdMin)
	}
}

func TestAPathThatNeverAnsweredIsUsedFromItsFirstAnswer(t *testing.T) {
	s := State{}.Failed(epoch).Failed(after(time.Minute)).Answered(time.Millisecond, after(time.Minute+ProbeEvery))
	if s.Reach() != mesh.Alive {
		t.Fatalf("%v after the first answer ever", s.Reach())
	}
	if s = s.Failed(after(time.Minute+2*ProbeEvery)).Answered(time.Millisecond, after(time.Minute+3*ProbeEvery)); s.Reach() != mesh.Unreachable {
		t.Errorf("%v after it was lost and answered once", s.Reach())
	}
}

func TestNoSequenceOfEventsFlaps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s State
		changes, before := 0, s.Reach()
		for now := time.Duration(0); now < time.Hour; {
			now += time.Duration(rapid.IntRange(1, 3000).Draw(t, "ms")) * time.Millisecond
			if rapid.IntRange(0, 9).Draw(t, "event") == 0 {
				s = s.Failed(after(now))
			} else {
				s = s.Answered(0, after(now))
			}
			if s.Reach() != before {
				changes, before = changes+1, s.Reach()
			}
		}
		if changes > 150 {
			t.Fatalf("%d changes in an hour", changes)
		}
	})
}

func TestAdversariesGet150ChangesAnHour(t *testing.T) {
	for name, patience := range map[string]time.Duration{"at once": 0, "when calm": calmAfter} {
		t.Run(name, func(t *testing.T) {
			var s State
			changes, before := 0, s.Reach()
			for now := time.Duration(0); now < time.Hour; now += 10 * time.Millisecond {
				if s.PathDown {
					s = s.Answered(0, after(now))
				} else if after(now).Sub(s.Since) >= patience {
					s = s.Failed(after(now))
				}
				if s.Reach() != before {
					changes, before = changes+1, s.Reach()
				}
			}
			if changes < 100 || changes > 150 {
				t.Errorf("%d changes in an hour, want about 130", changes)
			}
		})
	}
}

func TestLateAnswersSayNothingOfTheRoundTripUnlessAllAre(t *testing.T) {
	var s State
	for range 50 {
		s = s.Answered(20*time.Millisecond, epoch)
	}
	steady := s.RTT
	for range 100 { // every second one was retransmitted
		s = s.Answered(300*time.Millisecond, epoch).Answered(20*time.Millisecond, epoch)
	}
	if s.RTT != steady {
		t.Errorf("retransmissions moved the RTT from %v to %v", steady, s.RTT)
	}
	for range rttMoved {
		s = s.Answered(300*time.Millisecond, epoch)
	}
	if s.RTT != 300*time.Millisecond {
		t.Errorf("a path that became longer has RTT %v, want 300ms", s.RTT)
	}
}

func TestNoiseMakesNoNews(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := time.Duration(rapid.IntRange(5, 300).Draw(t, "rtt")) * time.Millisecond
		var s State
		held := time.Duration(0)
		changes := 0
		for range 200 {
			jitter := time.Duration(rapid.IntRange(-100, 100).Draw(t, "jitter")) * base / 1000
			s = s.Answered(base+jitter, time.Time{})
			if f := s.Fact("us", held); f.RTT != held {
				held, changes = f.RTT, changes+1
			}
			if s.ProbeTimeout() < s.RTT+rtoVarianceMin {
				t.Fatalf("timeout %v leaves no margin over %v", s.ProbeTimeout(), s.RTT)
			}
		}
		if changes > 1 {
			t.Fatalf("%d changes of the coarse RTT for jitter of a tenth around %v", changes, base)
		}
	})
}
