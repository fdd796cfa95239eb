package liveness

import (
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
	"pgregory.net/rapid"
)

func TestBothWitnessesDecide(t *testing.T) {
	at := time.Unix(100, 0)
	var s State
	if s.Reach() != mesh.Alive {
		t.Fatal("a peer of whom nothing was heard begins as an outage")
	}
	s = s.Lease(false, at)
	if s.Reach() != mesh.StaleServing {
		t.Errorf("lease lost alone: %v, want StaleServing", s.Reach())
	}
	s = s.Failed(at)
	if s.Reach() != mesh.StaleServing {
		t.Errorf("one lost probe is no outage: %v", s.Reach())
	}
	s = s.Failed(at)
	if s.Reach() != mesh.Unreachable {
		t.Errorf("two lost probes: %v, want Unreachable", s.Reach())
	}
	s = s.Lease(true, at)
	if s.Reach() != mesh.Unreachable {
		t.Errorf("a lease does not carry requests: %v, want Unreachable", s.Reach())
	}
	s = s.Answered(time.Millisecond, at)
	if s.Reach() != mesh.Unreachable {
		t.Error("one answer brings the path back")
	}
	if s = s.Answered(time.Millisecond, at); s.Reach() != mesh.Alive {
		t.Errorf("two answers and a lease: %v, want Alive", s.Reach())
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
			if s.ProbeTimeout() < s.RTT+probeMargin {
				t.Fatalf("timeout %v leaves no margin over %v", s.ProbeTimeout(), s.RTT)
			}
		}
		if changes > 1 {
			t.Fatalf("%d changes of the coarse RTT for jitter of a tenth around %v", changes, base)
		}
	})
}
