package balance

import (
	"container/heap"
	"math/rand/v2"
	"testing"
	"time"
)

// times are when lanes are free.
type times []float64

func (h times) Len() int           { return len(h) }
func (h times) Less(i, j int) bool { return h[i] < h[j] }
func (h times) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *times) Push(x any)        { *h = append(*h, x.(float64)) }
func (h *times) Pop() any {
	x := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return x
}

// application is one with lanes and a queue, under an open loop of requests; time is virtual.
type application struct {
	rand    *rand.Rand
	free    times
	ends    times
	now     float64
	service float64 // seconds, exponential
}

func newApplication(lanes int, service float64) *application {
	return &application{rand: rand.New(rand.NewPCG(1, 2)), free: make(times, lanes), service: service}
}

// serve runs rate requests a second for half a second and measures.
func (a *application) serve(m *Meter, g *Gauge, rate float64) Measurement {
	end := a.now + 0.5
	for {
		next := a.now + a.rand.ExpFloat64()/rate
		for len(a.ends) > 0 && a.ends[0] <= min(next, end) {
			heap.Pop(&a.ends)
			m.End()
		}
		if next > end {
			break
		}
		a.now = next
		begins := max(a.now, heap.Pop(&a.free).(float64))
		done := begins + a.service*a.rand.ExpFloat64()
		heap.Push(&a.free, done)
		heap.Push(&a.ends, done)
		m.Begin()
		m.Served(time.Duration((done-a.now)*1e9), 0)
	}
	a.now = end
	return g.Measure(m, 8, 500*time.Millisecond)
}

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
	if got := g.Measure(&m, 3, time.Second); got != (Measurement{Lanes: 3, Wait: -1}) {
		t.Errorf("%+v of an application that served nothing", got)
	}
}

// TestASlowBeginningIsForgotten: an application that was overloaded from its first request is known by its throughput, and
// one that is not asked any more is not taken for slow for ever.
func TestASlowBeginningIsForgotten(t *testing.T) {
	var m Meter
	var g Gauge
	m.SetLanes(8)
	for range 40 { // of the first window, all waited for a second
		m.Begin()
	}
	for range 40 {
		m.Served(time.Second, 0)
	}
	if got := g.Measure(&m, 8, 500*time.Millisecond); got.Time != 100*time.Millisecond || got.Wait != 900*time.Millisecond {
		t.Errorf("%+v of 8 lanes that answered 40 in half a second, want 100ms in a lane and 900ms before", got)
	}
	for range 40 {
		m.End()
	}
	if got := g.Measure(&m, 8, gaugeLasts-time.Second); got.Time == 0 {
		t.Error("what was measured is forgotten at once")
	}
	if got := g.Measure(&m, 8, time.Second); got.Time != 0 {
		t.Errorf("%+v: what nobody asked for %v is still believed", got, gaugeLasts)
	}
}
