package capacity

import (
	"container/heap"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// app is a model of an application under an open loop: so many lanes with one queue, first come first served; 0 lanes
// is as many as come. Times are exponential, or as vary says, and stretched by slow.
type app struct {
	lanes   int
	service float64 // seconds
	slow    func(at float64) float64
	rate    func(at float64) float64
	still   func(at float64) float64 // until when nothing moves, or at
	most    int                      // more are refused; 0 is none
	rand    *rand.Rand

	queue          []float64
	answered, took float64
	refused        bool
}

type doing struct{ came, ends float64 }

type running []doing

func (h running) Len() int           { return len(h) }
func (h running) Less(i, j int) bool { return h[i].ends < h[j].ends }
func (h running) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *running) Push(x any)        { *h = append(*h, x.(doing)) }
func (h *running) Pop() any {
	x := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return x
}

func always(v float64) func(float64) float64 { return func(float64) float64 { return v } }

// watch runs the model for so many seconds and hands the estimate after each window to see.
func (a *app) watch(seed uint64, lasts float64, see func(at float64, e Estimate)) {
	a.rand = rand.New(rand.NewPCG(seed, 3))
	if a.slow == nil {
		a.slow = always(1)
	}
	var l Learner
	var in running
	end, now, next := 0.5, 0.0, a.rand.ExpFloat64()/a.rate(0)
	begin := func(came float64) {
		at := now
		if a.still != nil {
			at = max(at, a.still(at))
		}
		heap.Push(&in, doing{came, at + a.service*a.slow(at)*a.rand.ExpFloat64()})
	}
	for end < lasts {
		if len(in) > 0 && in[0].ends <= min(next, end) {
			d := heap.Pop(&in).(doing)
			now = d.ends
			if a.still != nil && a.still(now) > now { // ends when it moves again
				heap.Push(&in, doing{d.came, a.still(now)})
				continue
			}
			a.answered++
			a.took += now - d.came
			if len(a.queue) > 0 {
				came := a.queue[0]
				a.queue = a.queue[1:]
				begin(came)
			}
			continue
		}
		if next <= end {
			now = next
			next += a.rand.ExpFloat64() / a.rate(now)
			switch {
			case a.lanes == 0 || len(in) < a.lanes:
				begin(now)
			case a.most > 0 && len(a.queue) >= a.most:
				a.refused = true
			default:
				a.queue = append(a.queue, now)
			}
			continue
		}
		now = end
		e := l.Look(Window{Over: 500 * time.Millisecond, Answered: a.answered, Took: time.Duration(a.took * 1e9), There: float64(len(in) + len(a.queue)), Refused: a.refused})
		a.answered, a.took, a.refused = 0, 0, false
		see(end, e)
		end += 0.5
	}
}

func (a *app) bears() float64 { return float64(a.lanes) / a.service }

// shapes are applications of many sizes.
func shapes() (out []app) {
	for _, lanes := range []int{1, 2, 4, 8, 32, 100} {
		for _, service := range []float64{0.004, 0.02, 0.1} {
			if bears := float64(lanes) / service; bears >= 40 && bears <= 6000 {
				out = append(out, app{lanes: lanes, service: service})
			}
		}
	}
	return out
}

// TestALimitThatIsMetIsLearnt: an application whose load grows beyond what it bears is known within some seconds, whether it
// queues without end or refuses.
func TestALimitThatIsMetIsLearnt(t *testing.T) {
	for _, most := range []int{0, 1} {
		for i, shape := range shapes() {
			for seed := range uint64(4) {
				a := shape
				if most > 0 {
					a.most = max(2, int(a.bears()*0.15))
				}
				t.Run(fmt.Sprintf("%d lanes of %gs, at most %d wait, seed %d", a.lanes, a.service, a.most, seed), func(t *testing.T) {
					bears := a.bears()
					a.rate = func(at float64) float64 {
						if at < 20 {
							return 0.5 * bears
						}
						return 1.3 * bears
					}
					known, last := math.Inf(1), Estimate{}
					a.watch(seed+uint64(i)*100, 32, func(at float64, e Estimate) {
						if e.Sure > 0 && known > at {
							known = at
						}
						last = e
						if at < 20 && e.Sure > 0 {
							t.Errorf("after %gs at half of its load: %+v", at, e)
						}
					})
					if known > 26 {
						t.Errorf("known after %gs, want 6s of an overload at most", known-20)
					}
					if got := last.Rate / bears; got < 0.85 || got > 1.15 {
						t.Errorf("bears %.2f of what it does: %+v", got, last)
					}
				})
			}
		}
	}
}

// TestWhatIsIdleSaysNothing: below half of its load an application is never known, whatever its size, and what is said is
// no more than it does.
func TestWhatIsIdleSaysNothing(t *testing.T) {
	for i, shape := range shapes() {
		for _, load := range []float64{0.05, 0.3, 0.5} {
			a := shape
			a.rate = always(load * a.bears())
			a.watch(uint64(i), 100, func(at float64, e Estimate) {
				if e.Sure > 0 || e.Rate > a.bears() {
					t.Fatalf("%d lanes of %gs at %g of its load, after %gs: %+v", a.lanes, a.service, load, at, e)
				}
			})
		}
	}
}

// TestSlownessIsNoLimit: an application without any limit that becomes slower, for a while or for good, is not taken for
// busy for long, and one that stands still for a moment not at all.
func TestSlownessIsNoLimit(t *testing.T) {
	for _, slow := range []float64{1.5, 2.5, 6} {
		for seed := range uint64(8) {
			a := app{service: 0.02, rate: always(200), slow: func(at float64) float64 {
				if at > 30 {
					return slow
				}
				return 1
			}}
			wrong := 0.0
			a.watch(seed, 120, func(_ float64, e Estimate) {
				if e.Sure > 0 {
					wrong += 0.5
				}
			})
			if wrong > 5 {
				t.Errorf("%g times slower: taken for busy for %gs", slow, wrong)
			}
		}
	}
	for _, lasts := range []float64{0.05, 0.3, 0.9} {
		for seed := range uint64(8) {
			a := app{lanes: 16, service: 0.02, rate: always(300), still: func(at float64) float64 {
				if k := math.Floor(at / 10); k > 0 && at-10*k < lasts {
					return 10*k + lasts
				}
				return at
			}}
			a.watch(seed, 120, func(at float64, e Estimate) {
				if e.Sure > 0 {
					t.Fatalf("still for %gs each 10s: taken for busy at %g: %+v", lasts, at, e)
				}
			})
		}
	}
}

// TestALimitThatIsGoneIsForgotten: an application that grew bears more than was learnt, and says so while it is asked for more.
func TestALimitThatIsGoneIsForgotten(t *testing.T) {
	for seed := range uint64(8) {
		a := app{lanes: 8, service: 0.02, most: 60, slow: func(at float64) float64 {
			if at > 40 {
				return 0.4
			}
			return 1
		}}
		a.rate = func(at float64) float64 {
			if at < 20 {
				return 200
			}
			return 480
		}
		var before, after Estimate
		a.watch(seed, 120, func(at float64, e Estimate) {
			if at <= 40 {
				before = e
			}
			after = e
		})
		if before.Sure == 0 || after.Sure > 0 && after.Rate < 480 {
			t.Errorf("seed %d: %+v, and when it bears 1,000: %+v", seed, before, after)
		}
	}
}

// TestWhoIsBornBusyIsKnownByRefusals: a proxy that never saw its application calm knows its limit when some are refused.
func TestWhoIsBornBusyIsKnownByRefusals(t *testing.T) {
	for i, shape := range shapes() {
		a := shape
		a.most = max(2, int(a.bears()*0.15))
		a.rate = always(1.3 * a.bears())
		known, last := math.Inf(1), Estimate{}
		a.watch(uint64(i), 20, func(at float64, e Estimate) {
			if e.Sure > 0 && known > at {
				known = at
			}
			last = e
		})
		if got := last.Rate / a.bears(); known > 8 || got < 0.85 || got > 1.15 {
			t.Errorf("%d lanes of %gs: known after %gs, bears %.2f of what it does", a.lanes, a.service, known, got)
		}
	}
}

// TestALimitIsDoubtedAndNotDropped: an application that is asked for four fifths of what it bears for a quarter of an hour, and mostly waits for nothing as it has many
// lanes, stays known, for not much more than it bears.
func TestALimitIsDoubtedAndNotDropped(t *testing.T) {
	a := app{lanes: 64, service: 0.1}
	a.rate = func(at float64) float64 {
		switch {
		case at < 20:
			return 0.5 * a.bears()
		case at < 30:
			return 1.2 * a.bears()
		}
		return 0.8 * a.bears()
	}
	a.watch(1, 930, func(at float64, e Estimate) {
		if at > 40 && (e.Sure == 0 || e.Rate < 0.85*a.bears() || e.Rate > 1.7*a.bears()) {
			t.Fatalf("after %gs: %+v", at, e)
		}
	})
}
