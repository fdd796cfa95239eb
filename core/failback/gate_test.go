package failback

import (
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/split"
	"pgregory.net/rapid"
)

var noon = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

// way is a gate under test, that is looked at twice a second.
type way struct {
	t *testing.T
	Gate
	now time.Time
}

// newWay is one of a cluster that served and was lost.
func newWay(t *testing.T) *way {
	w := &way{t: t, now: noon}
	w.look(Look{Usable: true})
	w.now = w.now.Add(time.Hour)
	if e := w.look(Look{}); e != Gone || w.Part() != steps[0] {
		t.Fatalf("lost: event %d, part %g", e, w.Part())
	}
	return w
}

func (w *way) look(l Look) (e Event) {
	w.now = w.now.Add(500 * time.Millisecond)
	w.Gate, e = w.Gate.Next(&l, w.now)
	return e
}

// serves looks with so many results each time until something happens, and returns that and how long it took.
func (w *way) serves(ended, failed uint64) (Event, time.Duration) {
	w.t.Helper()
	begun := w.now
	for range 10_000 {
		if e := w.look(Look{Usable: true, Own: split.Result{Ended: ended, Failed: failed}}); e != Nothing {
			return e, w.now.Sub(begun)
		}
	}
	w.t.Fatalf("nothing happens at step %d", w.Step)
	return 0, 0
}

// TestAWayBackIsProvedStepByStep: 1, 5, 25, 50 and 100 %, each after 100 requests of which 99 succeeded, and none before.
func TestAWayBackIsProvedStepByStep(t *testing.T) {
	w := newWay(t)
	if e := w.look(Look{Usable: true}); e != Began {
		t.Fatalf("event %d", e)
	}
	for i, want := range []float64{0.01, 0.05, 0.25, 0.5, 1} {
		if w.Part() != want {
			t.Fatalf("step %d is %g, want %g", i, w.Part(), want)
		}
		e, took := w.serves(25, 0)
		if last := i == len(steps)-1; last != (e == Ended) || !last && e != Passed || took != 2*time.Second {
			t.Errorf("step %d: event %d after %v, want it after 100 requests", i, e, took)
		}
	}
	if w.Phase != Open || w.Part() != 1 {
		t.Errorf("%+v", w.Gate)
	}
}

// TestAStepFails as soon as it cannot be passed any more: it goes one back, and takes twice as long.
func TestAStepFails(t *testing.T) {
	w := newWay(t)
	w.look(Look{Usable: true})
	w.serves(100, 1)
	w.serves(1000, 10)
	if w.Step != 2 {
		t.Fatalf("99 of 100 is enough, and it stands at step %d", w.Step)
	}
	if e, took := w.serves(2, 1); e != Failed || took != time.Second || w.Step != 1 || w.Hold != 2*holdMin || !w.Firm {
		t.Errorf("event %d after %v: %+v", e, took, w.Gate)
	}
	if e := w.look(Look{Usable: true, Own: split.Result{Ended: 50, Failed: 50}}); e != Nothing {
		t.Errorf("what was under way failed a second step")
	}
	w.look(Look{Usable: true})
	if e, took := w.serves(1000, 0); e != Passed || took < holdMin {
		t.Errorf("event %d after %v", e, took)
	}
	for range 20 {
		w.serves(100, 100)
	}
	if ill := w.now.Sub(w.Ill); w.Step != 0 || w.Hold > ill || w.Hold < ill/4 {
		t.Errorf("of what goes on failing, and is ill for %v: %+v", ill, w.Gate)
	}
	for range 2000 {
		w.serves(100, 100)
	}
	if w.Hold != holdMax {
		t.Errorf("of what is ill for %v: %+v", w.now.Sub(w.Ill), w.Gate)
	}
}

// TestAnOutageIsOneOutage: while an application is down whose proxies answer probes, a cluster is tripped, tried and tripped again, for as long as that
// lasts. It is held back no longer than it was ill; one that serves in between flaps.
func TestAnOutageIsOneOutage(t *testing.T) {
	for _, serves := range []bool{false, true} {
		w := newWay(t)
		w.Tripped, w.Hold = true, holdMin
		for range 20 { // 30 s
			w.look(Look{Usable: true})
			own := split.Result{Ended: 2, Failed: 2}
			if serves {
				own.Ended++
			}
			w.look(Look{Tripped: true, Own: own})
			w.look(Look{Tripped: true})
		}
		ill := w.now.Sub(w.Ill)
		if flaps := w.Hold == holdMax; flaps != serves || !flaps && w.Hold > ill {
			t.Errorf("serves in between: %v; ill for %v, and held back for %v a step", serves, ill, w.Hold)
		}
	}
}

// TestTooFewRequestsToJudge: five seconds pass a step, unless two fail: two of a hundred would be too many.
func TestTooFewRequestsToJudge(t *testing.T) {
	w := newWay(t)
	w.look(Look{Usable: true})
	if e, took := w.serves(1, 0); e != Waited || took != patience {
		t.Errorf("event %d after %v", e, took)
	}
	if e, _ := w.serves(0, 0); e != Waited {
		t.Errorf("without any request: event %d", e)
	}
	w.look(Look{Usable: true, Own: split.Result{Ended: 1, Failed: 1}})
	if e := w.look(Look{Usable: true, Own: split.Result{Ended: 1, Failed: 1}}); e != Failed {
		t.Errorf("two failed: event %d", e)
	}
}

// TestWhatEveryClusterFails is no illness of the one that comes back; what it alone fails is.
func TestWhatEveryClusterFails(t *testing.T) {
	for failed, want := range map[uint64]Event{5: Passed, 30: Failed} {
		w := newWay(t)
		w.look(Look{Usable: true})
		e := Nothing
		for range 3 {
			if e == Nothing {
				e = w.look(Look{Usable: true, Own: split.Result{Ended: 100, Failed: failed}, Others: split.Result{Ended: 1000, Failed: 50}})
			}
		}
		if e != want {
			t.Errorf("%d of 100 fail where 5 of 100 do elsewhere: event %d, want %d", failed, e, want)
		}
	}
}

// TestFlappingDoublesTheHold up to ten minutes; ten calm minutes end that.
func TestFlappingDoublesTheHold(t *testing.T) {
	w := newWay(t)
	for range 12 {
		w.look(Look{Usable: true})
		w.look(Look{})
	}
	if w.Hold != holdMax {
		t.Fatalf("hold %v after 12 times", w.Hold)
	}
	w.look(Look{Usable: true})
	if e, took := w.serves(1000, 0); e != Passed || took != holdMax {
		t.Errorf("event %d after %v", e, took)
	}
	for w.Phase == Returning {
		w.serves(1000, 0)
	}
	w.look(Look{})
	if w.Hold != holdMax {
		t.Errorf("lost at once again: hold %v", w.Hold)
	}
	w.look(Look{Usable: true})
	for w.Phase == Returning {
		w.serves(1000, 0)
	}
	w.now = w.now.Add(calm)
	w.look(Look{})
	if w.Hold != holdMin {
		t.Errorf("after a calm time: hold %v", w.Hold)
	}
}

// TestAGateIsLawful whatever comes: a larger part only by one step, after enough time, and of a step in which more failed than may
// never; the hold within its bounds.
func TestAGateIsLawful(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var g Gate
		now := noon
		for range rapid.IntRange(1, 200).Draw(t, "looks") {
			now = now.Add(time.Duration(rapid.IntRange(1, 8000).Draw(t, "ms")) * time.Millisecond)
			l := Look{Usable: rapid.IntRange(0, 20).Draw(t, "usable") > 0, Own: split.Result{Ended: rapid.Uint64Range(0, 300).Draw(t, "ended")}}
			l.Own.Failed = rapid.Uint64Range(0, min(4, l.Own.Ended)).Draw(t, "failed")
			before := g
			var e Event
			g, e = g.Next(&l, now)
			switch {
			case g.Phase == Returning && before.Phase == Returning && g.Part() > before.Part() || e == Ended:
				if g.Phase == Returning && g.Step != before.Step+1 || now.Sub(before.Since) < before.Hold {
					t.Fatalf("from %+v to %+v", before, g)
				}
				if j := g.Judged; float64(j.Failed) > 0.01*float64(max(j.Ended, 100)) || j.Ended < 100 && now.Sub(before.Since) < patience {
					t.Fatalf("%+v passed", j)
				}
			case before.Phase == Lost && g.Phase == Open:
				t.Fatal("it came back at once")
			case !l.Usable && g.Phase != Lost && g.Phase != Unknown:
				t.Fatalf("it is lost and stands at %+v", g)
			}
			if g.Phase > Open && (g.Hold < holdMin || g.Hold > holdMax) {
				t.Fatalf("hold %v", g.Hold)
			}
		}
	})
}
