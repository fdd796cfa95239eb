package liveness

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// world runs a Detector in virtual time against a gateway that answers after rtt, unless a
// field says otherwise.
type world struct {
	now     time.Duration
	rtt     time.Duration
	dead    bool // nothing arrives any more
	refuses bool
	// mute are places whose present connection is never answered: a firewall forgot it.
	mute [Places]bool
	// extra is added to an answer: what retransmissions cost.
	extra func() time.Duration
	// late is how much later than asked the observer wakes.
	late func() time.Duration

	d     Detector
	s     State
	life  [Places]int
	due   []arrival
	trips int
	dials int
}

type arrival struct {
	at          time.Duration
	place, life int
	opened      bool
	refused     bool
}

// run lets the observer work for a time, or until the path is down where stop says so.
func (w *world) run(d time.Duration, stop bool) {
	for end := w.now + d; w.now < end && !(stop && w.s.PathDown); {
		due := w.now + w.tick()
		wakes := due
		if w.late != nil {
			wakes += w.late()
		}
		w.now = w.hear(due, wakes)
	}
}

func (w *world) tick() time.Duration {
	do := w.d.Tick(w.s, after(w.now))
	for i := range Places {
		if do.Close[i] || do.Dial[i] {
			w.life[i]++
		}
		if do.Dial[i] {
			w.dials++
			w.mute[i] = false
			if !w.dead {
				w.due = append(w.due, arrival{w.now + 2*w.rtt, i, w.life[i], true, w.refuses})
			}
		}
		if do.Ask[i] && !w.dead && !w.mute[i] {
			at := w.now + w.rtt
			if w.extra != nil {
				at += w.extra()
			}
			for _, a := range w.due { // in order, as TCP delivers
				if a.place == i && a.life == w.life[i] {
					at = max(at, a.at)
				}
			}
			w.due = append(w.due, arrival{at, i, w.life[i], false, false})
		}
	}
	slices.SortStableFunc(w.due, func(a, b arrival) int { return int(a.at - b.at) })
	if do.Silent {
		if !w.s.PathDown {
			w.trips++
		}
		w.s = w.s.Failed(after(w.now))
	}
	return do.Next
}

// hear takes what arrives until due and returns when to tick. The observer's timers come
// before what arrived while it slept too long.
func (w *world) hear(due, wakes time.Duration) time.Duration {
	for len(w.due) > 0 && w.due[0].at <= due {
		a := w.due[0]
		w.due = w.due[1:]
		if a.life != w.life[a.place] || w.dead {
			continue
		}
		at := max(a.at, w.now)
		switch {
		case a.refused:
			w.d.Broke(a.place, after(at))
			return at
		case a.opened:
			w.d.Opened(a.place, after(at))
			return at
		}
		w.s = w.s.Answered(w.d.Heard(a.place, after(at)), after(at))
	}
	return wakes
}

func healthyWorld(rtt time.Duration) *world {
	w := &world{rtt: rtt}
	w.run(30*time.Second, false)
	return w
}

func TestAHealthyPathIsTwoConnectionsAskedInTurn(t *testing.T) {
	w := healthyWorld(60 * time.Millisecond)
	if w.dials != standing || w.trips != 0 {
		t.Errorf("%d dials and %d trips, want %d and none", w.dials, w.trips, standing)
	}
	if w.s.RTT != 60*time.Millisecond {
		t.Errorf("RTT %v, want 60ms", w.s.RTT)
	}
	apart := (w.d.places[0].askNext - w.d.places[1].askNext).Abs()
	if apart < ProbeEvery/4 {
		t.Errorf("the connections are asked %v apart, want about %v", apart, ProbeEvery/2)
	}
}

func TestABlackHoleIsFoundInTime(t *testing.T) {
	for _, rtt := range []time.Duration{time.Millisecond, 20 * time.Millisecond, 60 * time.Millisecond, 250 * time.Millisecond, 600 * time.Millisecond} {
		rapid.Check(t, func(t *rapid.T) {
			w := healthyWorld(rtt)
			w.run(time.Duration(rapid.IntRange(0, 1000).Draw(t, "phase"))*time.Millisecond, false)
			w.dead = true
			cut := w.now
			w.run(10*time.Second, true)
			if took, most := w.now-cut, 700*time.Millisecond+3*rtt; !w.s.PathDown || took > most {
				t.Fatalf("rtt %v: found after %v (down %t), want at most %v", rtt, took, w.s.PathDown, most)
			}
		})
	}
}

func TestAPathThatNeverAnsweredIsFound(t *testing.T) {
	w := &world{rtt: time.Millisecond, dead: true}
	w.run(10*time.Second, true)
	if !w.s.PathDown || w.now > 3*time.Second {
		t.Errorf("down %t after %v", w.s.PathDown, w.now)
	}
}

func TestRefusalsAreFoundInASecond(t *testing.T) {
	w := healthyWorld(20 * time.Millisecond)
	w.refuses = true
	cut := w.now
	for i := range standing {
		w.life[i]++
		w.d.Broke(i, after(w.now))
	}
	w.run(10*time.Second, true)
	if took := w.now - cut; !w.s.PathDown || took > time.Second {
		t.Errorf("down %t after %v, want at most 1s", w.s.PathDown, took)
	}
}

func TestARestartOfTheGatewayIsNoOutage(t *testing.T) {
	w := healthyWorld(20 * time.Millisecond)
	for i := range standing {
		w.life[i]++
		w.d.Broke(i, after(w.now))
	}
	w.run(time.Minute, false)
	if w.trips != 0 {
		t.Errorf("%d trips for connections that were reset and could be made anew", w.trips)
	}
}

func TestForgottenConnectionsAreReplaced(t *testing.T) {
	w := healthyWorld(20 * time.Millisecond)
	w.mute = [Places]bool{true, true, true, true} // until dialled anew
	w.run(time.Minute, false)
	if w.trips != 0 || w.dials > 2*Places {
		t.Errorf("%d trips and %d dials, want none and at most %d", w.trips, w.dials, 2*Places)
	}
}

func TestAHealedPathIsBackInThreeSeconds(t *testing.T) {
	w := healthyWorld(60 * time.Millisecond)
	w.dead = true
	w.run(time.Minute, false)
	if !w.s.PathDown {
		t.Fatal("a dead path is not down")
	}
	w.dead = false
	healed := w.now
	for w.s.PathDown && w.now < healed+10*time.Second {
		w.run(time.Millisecond, false)
	}
	if took := w.now - healed; took > 3*time.Second {
		t.Errorf("back after %v", took)
	}
	w.run(10*time.Second, false)
	open := 0
	for i := range w.d.places {
		if w.d.places[i].inUse() {
			open++
		}
	}
	if open != standing {
		t.Errorf("%d connections are kept, want %d", open, standing)
	}
}

// TestLossMakesNoFlap: each question in twenty is retransmitted, and one in four of those
// twice, both ways counted, which is 2.5 % of segments each way.
func TestLossMakesNoFlap(t *testing.T) {
	trips := 0
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		w := healthyWorld(60 * time.Millisecond)
		w.extra = func() (d time.Duration) {
			for timer := w.rtt + rtoVarianceMin; r.Float64() < 0.05; timer *= 2 {
				d += timer
			}
			return d
		}
		w.run(10*time.Minute, false)
		trips += w.trips
	}
	if trips > 2 { // bench/detection: 0.1 in these 3.3 hours
		t.Errorf("%d trips in 20 times 10 minutes", trips)
	}
}

func TestTheObserversOwnStallIsNobodysDeath(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := healthyWorld(time.Duration(rapid.IntRange(1, 250).Draw(t, "rtt")) * time.Millisecond)
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		most := rapid.IntRange(10, 20_000).Draw(t, "stallMax")
		every := rapid.IntRange(1, 200).Draw(t, "every")
		w.late = func() time.Duration {
			if r.IntN(every) != 0 {
				return 0
			}
			return time.Duration(r.IntN(most)) * time.Millisecond
		}
		w.run(5*time.Minute, false)
		if w.trips != 0 {
			t.Fatalf("%d trips, though only the observer stood still", w.trips)
		}
	})
}

func TestAnObserverThatIsAlwaysLateStillDetects(t *testing.T) {
	w := healthyWorld(20 * time.Millisecond)
	w.late = func() time.Duration { return 2 * lateMax }
	w.dead = true
	cut := w.now
	w.run(30*time.Second, true)
	if took := w.now - cut; !w.s.PathDown || took > 6*time.Second {
		t.Errorf("down %t after %v, want at most 6s", w.s.PathDown, took)
	}
}

func TestDialsAreBounded(t *testing.T) {
	w := healthyWorld(20 * time.Millisecond)
	before := w.dials
	w.dead = true
	w.run(10*time.Minute, false)
	if perSecond := float64(w.dials-before) / 600; perSecond > Places+0.5 {
		t.Errorf("%.1f dials a second at a dead path, want at most %d", perSecond, Places)
	}
}

// TestClustersThatStartTogetherMeetAtOnce: a gateway that begins to listen after 3 s is found within half a second and
// two round trips; one that stays away costs a dial a second and place in the long run.
func TestClustersThatStartTogetherMeetAtOnce(t *testing.T) {
	w := world{rtt: 20 * time.Millisecond, refuses: true}
	w.run(3*time.Second, false)
	if !w.s.PathDown {
		t.Fatal("refusals were not taken for an outage")
	}
	w.refuses = false
	w.run(500*time.Millisecond+3*w.rtt, false)
	if w.s.PathDown {
		t.Error("not reached 0.5 s after its gateway listens")
	}
	w = world{rtt: 20 * time.Millisecond, refuses: true}
	w.run(greeting+2*redialEvery, false)
	before := w.dials
	w.run(20*time.Second, false)
	if most := Places * 20; w.dials-before > most {
		t.Errorf("%d dials in 20 s to a path that was never there, want %d at most", w.dials-before, most)
	}
}
