package balance

import (
	"sync/atomic"
	"time"
)

const (
	// laneRate is the weight of a measurement of laneLeast requests or more in the time of a request in a lane.
	laneRate  = 0.3
	laneLeast = 20
)

// served counts what a Meter's application answered.
type served struct {
	count, time atomic.Int64 // nanoseconds
	// free are those that ended with no more in flight than there are lanes: what they took was no waiting.
	free, freeTime atomic.Int64
}

func (s *served) add(took, inFlight, lanes int64) {
	s.count.Add(1)
	s.time.Add(took)
	if lanes <= 0 || inFlight <= lanes {
		s.free.Add(1)
		s.freeTime.Add(took)
	}
}

// Measurement is what an application did since the last one.
type Measurement struct {
	// Rate is requests answered a second; Lanes how many the application serves at once, 0 unknown.
	Rate  float64
	Lanes int
	// Time is that of a request in a lane, 0 unknown; Wait that before it, negative where nothing was answered; Took that of all.
	Time, Wait, Took time.Duration
}

// gaugeLasts is how long the time of an application that answers nothing is believed: what is not asked is not
// measured, and one slow beginning would keep it out for ever.
const gaugeLasts = 5 * time.Second

// Gauge turns a Meter's counts into measurements. It has one caller. The zero Gauge is ready.
type Gauge struct {
	last    [4]int64
	service float64       // seconds
	idle    time.Duration // since something was answered
}

// Measure reads the meter after so long, and tells it the lanes that the application's owner declares. Without them
// nothing tells an application that is busy from one that is slow: waiting then counts as the usual time. Where every
// lane was busy all the time, the time in one is what the throughput makes it (Little's law).
func (g *Gauge) Measure(m *Meter, lanes int, over time.Duration) Measurement {
	m.SetLanes(lanes)
	now := [4]int64{m.served.count.Load(), m.served.time.Load(), m.served.free.Load(), m.served.freeTime.Load()}
	n, took := float64(now[0]-g.last[0]), float64(now[1]-g.last[1])/1e9
	free, freeTook := float64(now[2]-g.last[2]), float64(now[3]-g.last[3])/1e9
	g.last = now
	out := Measurement{Rate: n / over.Seconds(), Lanes: lanes, Wait: -1, Took: time.Duration(took * 1e9)}
	if n == 0 {
		if g.idle += over; g.idle >= gaugeLasts {
			g.service = 0
		}
		out.Time = time.Duration(g.service * 1e9)
		return out
	}
	g.idle = 0
	switch {
	case free > 0:
		g.follow(freeTook/free, free)
	case lanes > 0:
		g.follow(min(float64(lanes)/out.Rate, took/n), n)
	default:
		g.follow(took/n, n)
	}
	out.Wait = time.Duration(max(0, took/n-g.service) * 1e9)
	out.Time = time.Duration(g.service * 1e9)
	return out
}

// follow folds a mean of so many requests in.
func (g *Gauge) follow(mean, of float64) {
	if g.service == 0 {
		g.service = mean
		return
	}
	g.service += min(1, of/laneLeast) * laneRate * (mean - g.service)
}
