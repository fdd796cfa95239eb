// Package meter measures an application from beside it, for the proxies that call it and for its control plane: how many requests it
// has, what one takes in a lane, how many it answers and how long they wait inside. It decides nothing.
//
// A Meter counts, by any number of goroutines; a Gauge turns its counts into a Measurement twice a second.
package meter

import (
	"math"
	"strconv"
	"sync/atomic"
	"time"
)

// share is the weight of one answer in what callers are told: of all requests there are enough to be exact.
const share = 1.0 / 64

// Meter is what a server proxy measures of its own application, for the proxies that call it. The
// zero Meter is ready for use. It is safe for concurrent use.
type Meter struct {
	inFlight atomic.Int64
	service  average
	lanes    atomic.Int64
	served   served
	used     used
}

// SetLanes says how many requests the application serves at once; 0 is unknown.
func (m *Meter) SetLanes(n int) { m.lanes.Store(int64(n)) }

// Service is the usual service time.
func (m *Meter) Service() time.Duration { return m.service.read() }

// Begin counts a request in.
func (m *Meter) Begin() { m.inFlight.Add(1) }

// End counts it out.
func (m *Meter) End() { m.inFlight.Add(-1) }

// Asked says that the application is asked now.
func (m *Meter) Asked(now int64) { m.used.turn(1, now, m.lanes.Load()) }

// Begun is Asked, and returns now, for Ended.
func (m *Meter) Begun(now time.Time) time.Time {
	m.Asked(now.UnixNano())
	return now
}

// Served says that the application, which was Asked, answered after took.
func (m *Meter) Served(took time.Duration, now int64) {
	m.served.add(int64(took))
	m.Missed(now)
}

// Ended is Served where the answer speaks for the application's speed, else Missed.
func (m *Meter) Ended(began, now time.Time, speaks bool) {
	if speaks {
		m.Served(now.Sub(began), now.UnixNano())
		return
	}
	m.Missed(now.UnixNano())
}

// Missed says that the application, which was Asked, is done with it without an answer that speaks for its speed.
func (m *Meter) Missed(now int64) {
	m.used.turn(-1, now, m.lanes.Load())
	inLane, n := m.used.end()
	m.service.mean(inLane, max(share, 1/float64(n))) // the first few count alike
}

// InFlight is how many requests the application has.
func (m *Meter) InFlight() int64 { return m.inFlight.Load() }

// AppendReport appends the meter's report: the requests in flight beside the one that is being
// answered, the usual service time in microseconds and, where it is known, the number of lanes, with
// spaces between.
func (m *Meter) AppendReport(dst []byte) []byte {
	dst = appendUint(dst, uint64(max(0, m.inFlight.Load()-1)))
	dst = appendUint(append(dst, ' '), uint64(m.service.read()/time.Microsecond))
	if n := m.lanes.Load(); n > 0 {
		dst = appendUint(append(dst, ' '), uint64(n))
	}
	return dst
}

func appendUint(dst []byte, n uint64) []byte { return strconv.AppendUint(dst, n, 10) }

// average of times in nanoseconds, as float bits.
type average struct{ bits atomic.Uint64 }

// mean folds a sample in with a weight.
func (m *average) mean(took int64, weight float64) {
	for {
		bits := m.bits.Load()
		old := math.Float64frombits(bits)
		if m.bits.CompareAndSwap(bits, math.Float64bits(old+(float64(max(took, 1))-old)*weight)) {
			return
		}
	}
}

func (m *average) read() time.Duration { return time.Duration(math.Float64frombits(m.bits.Load())) }

// served counts what a Meter's application answered.
type served struct {
	count, time atomic.Int64 // nanoseconds
}

func (s *served) add(took int64) {
	s.count.Add(1)
	s.time.Add(took)
}

// used is for how long lanes were in use, so that the time of a request in a lane is known of an application that lets requests
// wait inside: lane time over requests that ended (the utilisation law; Denning and Buzen, Computing Surveys 10(3), 1978).
// Where nobody declares lanes every request has one, and waiting counts.
type used struct {
	under atomic.Int64 // how many are asked now
	at    atomic.Int64 // when that last changed
	time  atomic.Int64 // nanoseconds of lanes
	ended atomic.Int64
	// last is time when the one before ended.
	last atomic.Int64
}

// turn counts lanes up to now, and then one more asked, or one less. Callers that meet in a race each count a part that no
// other does.
func (u *used) turn(by, now, lanes int64) {
	since := now - u.at.Swap(now)
	n := u.under.Add(by) - by
	if lanes > 0 {
		n = min(n, lanes)
	}
	if n > 0 {
		u.time.Add(n * since)
	}
}

// end is the lane time since the one before ended, which is that of a request on average, and how many have ended.
func (u *used) end() (inLane, n int64) {
	t := u.time.Load()
	return t - u.last.Swap(t), u.ended.Add(1)
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

// gaugeKeeps is of how many requests a Gauge remembers the time: fewer than a Meter does, as the sum over endpoints is smoothed
// again.
const gaugeKeeps = 16

// Gauge turns a Meter's counts into measurements. It has one caller. The zero Gauge is ready.
type Gauge struct {
	last [4]int64
	// used is lane time in seconds and ended how many requests ended, of the last gaugeKeeps or so; of is how many ever did.
	used, ended, of float64
	idle            time.Duration // since something was answered
}

// Measure reads the meter at now, in Unix nanoseconds, after so long, and tells it the lanes that the application's owner
// declares. Without them nothing tells an application that is busy from one that is slow: waiting then counts as the usual time.
func (g *Gauge) Measure(m *Meter, lanes int, over time.Duration, now int64) Measurement {
	m.SetLanes(lanes)
	m.used.turn(0, now, int64(lanes))
	is := [4]int64{m.served.count.Load(), m.served.time.Load(), m.used.time.Load(), m.used.ended.Load()}
	n, took := float64(is[0]-g.last[0]), float64(is[1]-g.last[1])/1e9
	used, ended := float64(is[2]-g.last[2])/1e9, float64(is[3]-g.last[3])
	g.last = is
	out := Measurement{Rate: n / over.Seconds(), Lanes: lanes, Wait: -1, Took: time.Duration(took * 1e9)}
	if g.idle += over; used > 0 || ended > 0 {
		g.idle = 0
	}
	if g.idle >= gaugeLasts {
		g.used, g.ended, g.of = 0, 0, 0
	}
	keep := math.Exp(-ended / gaugeKeeps)
	g.used, g.ended, g.of = g.used*keep+used, g.ended*keep+ended, g.of+ended
	if g.ended < 0.5 {
		return out
	}
	service := g.used / g.ended
	if n > 0 {
		out.Wait = time.Duration(max(0, took/n-service) * 1e9)
	}
	// The time is divided by, and the mean of a reciprocal is above the reciprocal of the mean: by the square of the coefficient of
	// variation over the number of samples, in the first order. It is taken for 1, as of times that are exponential.
	out.Time = time.Duration(service * (1 + 1/min(max(g.of, 1), 2*gaugeKeeps)) * 1e9)
	return out
}
