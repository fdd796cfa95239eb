package meter

import (
	"container/heap"
	"math/rand/v2"
	"testing"
	"time"
)

// ending is when a request that came then ends, or a lane is free.
type ending struct{ at, came float64 }

type times []ending

func (h times) Len() int           { return len(h) }
func (h times) Less(i, j int) bool { return h[i].at < h[j].at }
func (h times) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *times) Push(x any)        { *h = append(*h, x.(ending)) }
func (h *times) Pop() any {
	x := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return x
}

// application is one with lanes and a queue, under an open loop of requests; time is virtual.
type application struct {
	rand       *rand.Rand
	free, ends times
	now        float64
	service    float64 // seconds, exponential
}

func newApplication(lanes int, service float64) *application {
	return &application{rand: rand.New(rand.NewPCG(1, 2)), free: make(times, lanes), service: service}
}

// serve runs rate requests a second for half a second and measures.
func (a *application) serve(m *Meter, g *Gauge, rate float64) Measurement {
	end := a.now + 0.5
	for {
		next := a.now + a.rand.ExpFloat64()/rate
		for len(a.ends) > 0 && a.ends[0].at <= min(next, end) {
			e := heap.Pop(&a.ends).(ending)
			m.Served(time.Duration((e.at-e.came)*1e9), nanos(e.at))
			m.End()
		}
		if next > end {
			break
		}
		a.now = next
		begins := max(a.now, heap.Pop(&a.free).(ending).at)
		done := begins + a.service*a.rand.ExpFloat64()
		heap.Push(&a.free, ending{at: done})
		heap.Push(&a.ends, ending{at: done, came: a.now})
		m.Begin()
		m.Asked(nanos(a.now))
	}
	a.now = end
	return g.Measure(m, len(a.free), 500*time.Millisecond, nanos(end))
}

func nanos(seconds float64) int64 { return 1 + int64(seconds*1e9) }

func TestDeclaredLanesTellServiceFromWaiting(t *testing.T) {
	var m Meter
	var g Gauge
	a := newApplication(8, 0.02) // 400 a second
	var got Measurement
	for range 40 {
		got = a.serve(&m, &g, 200)
	}
	if got.Lanes != 8 || got.Time < 15*time.Millisecond || got.Time > 25*time.Millisecond || got.Rate < 120 || got.Rate > 280 {
		t.Errorf("at half load: %+v, want 8 lanes, 20ms, 200 a second", got)
	}
	for range 8 {
		got = a.serve(&m, &g, 600)
	}
	if got.Time > 30*time.Millisecond || got.Wait < 200*time.Millisecond {
		t.Errorf("overloaded for four seconds: %+v, want a time of 20ms and a wait of half a second or more", got)
	}
}

func TestAnIdleApplicationHasNoWait(t *testing.T) {
	var m Meter
	var g Gauge
	if got := g.Measure(&m, 3, time.Second, 1); got != (Measurement{Lanes: 3, Wait: -1}) {
		t.Errorf("%+v of an application that served nothing", got)
	}
}

// TestASlowBeginningIsForgotten: an application that was overloaded from its first request is known by the time in its lanes,
// and one that is not asked any more is not taken for slow for ever.
func TestASlowBeginningIsForgotten(t *testing.T) {
	var m Meter
	var g Gauge
	m.SetLanes(8)
	for range 40 { // of the first window, all waited for their turn
		m.Begin()
		m.Asked(1)
	}
	for k := range 40 {
		m.Served(time.Second, 1+int64(k/8+1)*int64(100*time.Millisecond))
		m.End()
	}
	now := int64(time.Second)
	if got := g.Measure(&m, 8, 500*time.Millisecond, now); got.Time < 100*time.Millisecond || got.Time > 104*time.Millisecond || got.Wait != 900*time.Millisecond {
		t.Errorf("%+v of 8 lanes that answered 40 in half a second, want 100ms in a lane and 900ms before", got)
	}
	if s := m.Service(); s < 80*time.Millisecond || s > 120*time.Millisecond {
		t.Errorf("what proxies are told is %v, with the queue in it", s)
	}
	if got := g.Measure(&m, 8, gaugeLasts-time.Second, now+int64(gaugeLasts)); got.Time == 0 {
		t.Error("what was measured is forgotten at once")
	}
	if got := g.Measure(&m, 8, time.Second, now+2*int64(gaugeLasts)); got.Time != 0 {
		t.Errorf("%+v: what nobody asked for %v is still believed", got, gaugeLasts)
	}
}

// TestAStuckApplicationIsSlow: one that answers nothing while it is asked becomes slower by the second.
func TestAStuckApplicationIsSlow(t *testing.T) {
	var m Meter
	var g Gauge
	a := newApplication(8, 0.02)
	for range 20 {
		a.serve(&m, &g, 200)
	}
	for range 8 {
		m.Asked(nanos(a.now))
	}
	got := g.Measure(&m, 8, time.Second, nanos(a.now+1))
	if got.Time < 80*time.Millisecond || got.Wait != -1 {
		t.Errorf("%+v of an application of 20ms that has had 8 requests for a second", got)
	}
}

// TestFewAnswersAreNotTakenForQuick: what many endpoints can serve together is known after a few answers of each, though the
// reciprocal of a short mean is too large.
func TestFewAnswersAreNotTakenForQuick(t *testing.T) {
	sum, n := 0.0, 400
	for seed := range n {
		var m Meter
		var g Gauge
		a := newApplication(4, 0.1)
		a.rand = rand.New(rand.NewPCG(uint64(seed), 1))
		var got Measurement
		for range 2 {
			got = a.serve(&m, &g, 8)
		}
		if got.Time > 0 {
			sum += 1 / got.Time.Seconds()
		} else {
			n--
		}
	}
	if mean := sum / float64(n); mean < 8 || mean > 12 {
		t.Errorf("lanes of 100ms, asked 8 times each: %.1f a second are expected of one, want 10", mean)
	}
}
