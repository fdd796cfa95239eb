package health_test

import (
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/health"
	"pgregory.net/rapid"
)

// TestSeveralInARow: answers as a word of + (good) and -, and what is believed after each as H or U.
func TestSeveralInARow(t *testing.T) {
	for _, c := range []struct {
		name, answers, want string
		of                  health.Thresholds
	}{
		{"the first answer alone decides nothing", "-", "H", health.Thresholds{Healthy: 2, Unhealthy: 3}},
		{"three bad ones take out", "---", "HHU", health.Thresholds{Healthy: 2, Unhealthy: 3}},
		{"a good one between begins anew", "--+--+---", "HHHHHHHHU", health.Thresholds{Healthy: 2, Unhealthy: 3}},
		{"two good ones bring back", "---++", "HHUUH", health.Thresholds{Healthy: 2, Unhealthy: 3}},
		{"a bad one between begins anew", "---+-+-++", "HHUUUUUUH", health.Thresholds{Healthy: 2, Unhealthy: 3}},
		{"one each", "-+-+", "UHUH", health.Thresholds{Healthy: 1, Unhealthy: 1}},
		{"none given counts as one", "-+", "UH", health.Thresholds{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s health.State
			got, now := "", time.Unix(0, 0)
			for _, a := range c.answers {
				now = now.Add(time.Second)
				s = s.Answered(a == '+', c.of, now)
				got += map[bool]string{true: "U", false: "H"}[s.Unhealthy]
			}
			if got != c.want {
				t.Errorf("%s: %s, want %s", c.answers, got, c.want)
			}
			if !s.Asked.Equal(now) {
				t.Errorf("asked at %v, want %v", s.Asked, now)
			}
		})
	}
}

// TestLastAnswersDecide is the law: the state changes with an answer exactly when that one and those
// before it, as many as the threshold says and none older than the last change, all contradict it.
func TestLastAnswersDecide(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		of := health.Thresholds{Healthy: rapid.IntRange(1, 4).Draw(t, "healthy"), Unhealthy: rapid.IntRange(1, 4).Draw(t, "unhealthy")}
		var s health.State
		var since []bool // answers since the last change
		now, changed := time.Unix(100, 0), time.Time{}
		for _, good := range rapid.SliceOfN(rapid.Bool(), 1, 60).Draw(t, "answers") {
			now = now.Add(time.Second)
			if changed.IsZero() {
				changed = now
			}
			before := s.Unhealthy
			s = s.Answered(good, of, now)
			since = append(since, good)
			need := of.Unhealthy
			if before {
				need = of.Healthy
			}
			all := len(since) >= need
			for i := max(len(since)-need, 0); i < len(since); i++ {
				all = all && since[i] == before
			}
			if all != (s.Unhealthy != before) {
				t.Fatalf("after %v from unhealthy=%v with %+v: unhealthy=%v", since, before, of, s.Unhealthy)
			}
			if all {
				since, changed = nil, now
			}
			if !s.Since.Equal(changed) {
				t.Fatalf("since %v, want %v", s.Since, changed)
			}
		}
	})
}

func TestAnotherQuestionKeepsTheVerdict(t *testing.T) {
	of, now := health.Thresholds{Healthy: 2, Unhealthy: 2}, time.Unix(1, 0)
	s := health.State{}.Answered(false, of, now).Renewed().Answered(false, of, now)
	if s.Unhealthy {
		t.Error("an answer to another question took the application out")
	}
	if s = s.Answered(false, of, now); !s.Unhealthy {
		t.Fatal("two bad answers to one question did not")
	}
	if s = s.Answered(true, of, now).Renewed(); !s.Unhealthy {
		t.Error("another question brought it back")
	}
	if s = s.Answered(true, of, now); !s.Unhealthy {
		t.Error("a good answer to another question counted")
	}
}

func TestQuestionsAreSpread(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		interval := time.Duration(rapid.Int64Range(1, int64(time.Hour)).Draw(t, "interval"))
		chance := rapid.Float64Range(0, 0.999999).Draw(t, "chance")
		if d := health.First(interval, chance); d < 0 || d > min(interval, time.Second) {
			t.Fatalf("the first after %v", d)
		}
		if d := health.Next(interval, chance); float64(d) < 0.899*float64(interval)-1 || float64(d) > 1.101*float64(interval) {
			t.Fatalf("the next after %v of %v", d, interval)
		}
	})
	if health.Next(time.Second, 0) == health.Next(time.Second, 0.9) || health.First(time.Second, 0) == health.First(time.Second, 0.9) {
		t.Error("chance moves nothing")
	}
}

func TestSign(t *testing.T) {
	var g health.Sign
	if why, out := g.Unhealthy(); out || why != "" {
		t.Error("the zero sign refuses")
	}
	g.Refuse("status 503")
	if why, out := g.Unhealthy(); !out || why != "status 503" {
		t.Errorf("%q %v", why, out)
	}
	g.Admit()
	if _, out := g.Unhealthy(); out {
		t.Error("it refuses still")
	}
	if n := testing.AllocsPerRun(100, func() { g.Unhealthy() }); n != 0 {
		t.Errorf("%v allocations to ask", n)
	}
}
