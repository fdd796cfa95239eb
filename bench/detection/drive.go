package main

import (
	"container/heap"
	"math/rand/v2"
	"time"

	"github.com/isthmus-mesh/isthmus/core/liveness"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// observer says how the machine treats the one who watches.
type observer uint8

// The observers. What happens while one does not run is found afterwards, all at once,
// its own timers first: the order that is most likely to mislead.
const (
	running observer = iota
	stopped          // once in 20 s for 0.1 to 10 s: SIGSTOP, a suspended machine
	starved          // every wake-up late by 0 to 100 ms, one in 50 by up to 2 s
)

// outcome is what the product's own rule did in one run.
type outcome struct {
	trips, dials int
	// changes counts changes of Reach, both ways.
	changes  int
	detected time.Duration // after the fault; never, when it was not
}

// event is something that reaches the observer.
type event struct {
	at    time.Duration
	place int
	life  int // of the connection in that place
	// opened, else an answer.
	opened bool
}

type events []event

func (e events) Len() int           { return len(e) }
func (e events) Less(i, j int) bool { return e[i].at < e[j].at }
func (e events) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)        { *e = append(*e, x.(event)) }
func (e *events) Pop() any          { x := (*e)[len(*e)-1]; *e = (*e)[:len(*e)-1]; return x }

// driver runs liveness.Detector over a network in virtual time.
type driver struct {
	net   *network
	rand  *rand.Rand
	watch observer

	state    liveness.State
	detector liveness.Detector
	conns    [liveness.Places]*connection
	lives    [liveness.Places]int
	pending  events
	out      outcome
	stops    time.Duration // when the observer is stopped next
}

// patience is how long after the fault a run goes on.
const patience = 30 * time.Second

// drive runs the product's rule in a cell until it has found the fault.
func drive(c cell, f fault, watch observer, run time.Duration, seed uint64) outcome {
	d := &driver{net: newNetwork(c, f, run, seed), rand: rand.New(rand.NewPCG(seed, 7)), watch: watch}
	d.stops = never
	if watch == stopped {
		d.stops = time.Duration(d.rand.ExpFloat64() * float64(20*time.Second))
	}
	now := time.Duration(d.rand.Int64N(int64(time.Second)))
	for now < run+patience {
		due := now + d.tick(now)
		if now >= run && d.state.PathDown {
			d.out.detected = now - run
			return d.out
		}
		wakes := d.wakes(due)
		// Between now and due everything is heard at its time; a late wake-up comes before
		// what arrived since it was due.
		now = d.hear(now, due, wakes)
	}
	d.out.detected = never
	return d.out
}

func instant(d time.Duration) time.Time { return time.Unix(0, 0).Add(d) }

// tick does what the rule says and returns how long it wants to sleep.
func (d *driver) tick(now time.Duration) time.Duration {
	do := d.detector.Tick(d.state, instant(now))
	for i := range d.conns {
		if do.Close[i] || do.Dial[i] {
			d.lives[i]++
			d.conns[i] = nil
		}
		if do.Dial[i] {
			d.out.dials++
			d.push(event{at: d.net.dial(now), place: i, life: d.lives[i], opened: true})
		}
		if do.Ask[i] {
			d.push(event{at: d.conns[i].ask(now), place: i, life: d.lives[i]})
		}
	}
	if do.Silent {
		d.move(d.state.Failed(instant(now)), now)
	}
	return do.Next
}

func (d *driver) push(e event) {
	if e.at != never {
		heap.Push(&d.pending, e)
	}
}

func (d *driver) move(s liveness.State, now time.Duration) {
	if s.Reach() != d.state.Reach() {
		d.out.changes++
		if s.Reach() == mesh.Unreachable && now < d.net.breaks {
			d.out.trips++
		}
	}
	d.state = s
}

// wakes is when a timer for due really fires.
func (d *driver) wakes(due time.Duration) time.Duration {
	switch {
	case d.watch == starved && d.rand.IntN(50) == 0:
		return due + time.Duration(d.rand.Int64N(int64(2*time.Second)))
	case d.watch == starved:
		return due + time.Duration(d.rand.Int64N(int64(100*time.Millisecond)))
	case due >= d.stops:
		wakes := due + 100*time.Millisecond + time.Duration(d.rand.Int64N(int64(9900*time.Millisecond)))
		d.stops = wakes + time.Duration(d.rand.ExpFloat64()*float64(20*time.Second))
		return wakes
	}
	return due
}

// hear takes what arrives until due, and returns when to tick: at once after a
// connection has opened, else when the observer wakes.
func (d *driver) hear(now, due, wakes time.Duration) time.Duration {
	for len(d.pending) > 0 && d.pending[0].at <= due {
		e := heap.Pop(&d.pending).(event)
		at := max(e.at, now) // it arrived while the observer stood still
		if e.life != d.lives[e.place] {
			continue
		}
		if e.opened {
			d.conns[e.place] = d.net.connection()
			d.detector.Opened(e.place, instant(at))
			return at
		}
		d.move(d.state.Answered(d.detector.Heard(e.place, instant(at)), instant(at)), at)
	}
	return wakes
}
