package link

import (
	"math"
	"math/rand/v2"
	"time"
)

const (
	// segmentBytes is what one Ethernet frame carries of a TCP stream.
	segmentBytes = 1460
	// initialWindowBytes is what a sender may send before it has heard of the path (RFC 6928, section 2).
	initialWindowBytes = 10 * segmentBytes
	// windowMinBytes and windowMaxBytes bound Shape.Window.
	windowMinBytes = 64 << 10
	windowMaxBytes = 16 << 20
	// rtoMin is the floor that Linux gives the variance term of RFC 6298's formula; the RFC's own floor of one second
	// (section 2.4) is a SHOULD that no data-centre stack follows.
	rtoMin = 200 * time.Millisecond
	// rtoInitial is the timer of a SYN, before any RTT is known (RFC 6298, section 2.1).
	rtoInitial = time.Second
	// backoffMax bounds the doublings of a retransmission timer (RFC 6298, sections 5.5 and 2.5: at least 60 s).
	backoffMax = 6
	// schedulingSlack is added to the RTT where a window is computed: timers and the scheduler are late by a little,
	// and a window of exactly the path's product would idle the bottleneck meanwhile.
	schedulingSlack = 5 * time.Millisecond
	// never is later than every instant of a schedule.
	never = time.Duration(math.MaxInt64)
)

// Window returns how many bytes of one direction of a connection may be sent and not yet acknowledged: twice the
// bandwidth-delay product, so that one connection can fill the link, between 64 KiB and 16 MiB. (16 MiB is 1 Gbit/s at
// 134 ms; a longer fat path is limited by it, as by Linux's default tcp_rmem.) On a lossy path congestion control would
// not let a sender have that much, so a lossy path's window is at most what Reno keeps on average, sqrt(3/2p) segments
// (Mathis et al., "The Macroscopic Behavior of the TCP Congestion Avoidance Algorithm", 1997), but still 64 KiB.
func (s Shape) Window() int64 {
	window := float64(windowMaxBytes)
	if s.Bandwidth > 0 {
		window = 2 * float64(s.Bandwidth) / 8 * (s.RTT + s.Jitter + schedulingSlack).Seconds()
	}
	if s.Loss > 0 {
		window = min(window, segmentBytes*math.Sqrt(1.5/s.Loss))
	}
	return int64(min(max(window, windowMinBytes), windowMaxBytes))
}

// RTO returns how long a sender on this path waits for an acknowledgement before it sends again: SRTT + max(200 ms,
// 4 × RTTVAR) (RFC 6298, section 2.3), taking the configured RTT and jitter for the measured ones.
func (s Shape) RTO() time.Duration {
	return s.RTT + max(rtoMin, 4*s.Jitter)
}

// Flow is one connection's place in one [Path]: what keeps its bytes in order. Its zero value is a flow that sent
// nothing yet.
type Flow struct {
	last time.Duration // arrival of what was sent last
}

// After returns a flow whose bytes arrive at instant at or later.
func After(at time.Duration) Flow { return Flow{last: at} }

// Path is one direction of a link as a pure model: given when bytes are sent, when do they arrive. Instants are
// durations since any origin that its callers share; they must not decrease from call to call. Equal seeds and equal
// calls give equal schedules. It is not safe for concurrent use.
type Path struct {
	shape Shape
	free  time.Duration // when the bottleneck has sent all that it was given
	rand  *rand.Rand
	clean int64 // segments that cross before the next lost one
}

// NewPath returns a path of the given shape, which must be valid.
func NewPath(shape Shape, seed uint64) *Path {
	p := &Path{shape: shape, rand: rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15))}
	p.clean = p.untilLoss()
	return p
}

// Shape returns the path's shape.
func (p *Path) Shape() Shape { return p.shape }

// Reshape changes the path for all that is sent from now on. The bottleneck starts empty: what it still held is sent
// again by its owners, who know it (a link that was slow and is fast again must not drain at the slow pace).
func (p *Path) Reshape(now time.Duration, shape Shape) {
	p.shape, p.free = shape, now
	p.clean = p.untilLoss()
}

// Backlog returns how long the bottleneck needs for what it already has.
func (p *Path) Backlog(now time.Duration) time.Duration { return max(0, p.free-now) }

// Send returns when the last of n bytes of a flow, sent now, arrives, and how many of their segments were lost on the
// way. n = 0 is a bare FIN, one segment.
//
// The bottleneck is a token bucket without depth: bytes leave it at Bandwidth, in the order of the calls, whatever
// their flow. Then half the RTT passes, plus or minus half the jitter, uniformly.
//
// Loss is what a sender makes of it, since the relay ends TCP and can drop nothing. Each segment is lost with
// probability Loss, independently. When at least three segments of the same piece follow the lost one, their duplicate
// acknowledgements bring it back one RTT later (fast retransmit, RFC 5681, section 3.2); otherwise, as with every short
// request, the sender learns of it from its timer, [Shape.RTO] later, doubled for each retransmission that is lost
// as well (RFC 6298, section 5.5). What follows in the flow waits, for TCP delivers in order; other flows do not.
func (p *Path) Send(f *Flow, now time.Duration, n int) (arrival time.Duration, lost int) {
	p.free = max(p.free, now) + p.transmission(n)
	penalty, lost := p.lose(max(1, (n+segmentBytes-1)/segmentBytes))
	f.last = max(f.last, p.free+p.latency()+penalty)
	return f.last, lost
}

// Reset returns when an RST of the flow arrives: after all before it, and never lost, since TCP would not send it again.
func (p *Path) Reset(f *Flow, now time.Duration) time.Duration {
	f.last = max(f.last, p.free, now+p.latency())
	return f.last
}

// Handshake returns when a SYN or SYN-ACK that is sent now arrives. A lost one is sent again after one second, then two,
// four and so on (RFC 6298, sections 2.1 and 5.7).
func (p *Path) Handshake(now time.Duration) (arrival time.Duration, lost int) {
	arrival = max(p.free, now) + p.latency()
	for wait := rtoInitial; p.rand.Float64() < p.shape.Loss && lost < backoffMax; wait *= 2 {
		arrival += wait
		lost++
	}
	return arrival, lost
}

// Acknowledgement returns when the acknowledgement of bytes that came over the opposite path arrives. It weighs nothing
// and is never missed: the next one repeats it (RFC 9293, section 3.4: acknowledgements are cumulative).
func (p *Path) Acknowledgement(now time.Duration) time.Duration { return now + p.shape.RTT/2 }

// transmission returns how long the bottleneck needs for n bytes.
func (p *Path) transmission(n int) time.Duration {
	if p.shape.Bandwidth == 0 {
		return 0
	}
	return time.Duration(float64(n) * 8 / float64(p.shape.Bandwidth) * float64(time.Second))
}

// latency draws one way's delay.
func (p *Path) latency() time.Duration {
	d := p.shape.RTT / 2
	if p.shape.Jitter > 0 {
		d += time.Duration(p.rand.Int64N(int64(p.shape.Jitter)+1)) - p.shape.Jitter/2
	}
	return max(0, d)
}

// lose decides which of the next segments are lost and returns the longest time that a retransmission adds.
func (p *Path) lose(segments int) (penalty time.Duration, lost int) {
	left := int64(segments)
	for p.clean < left {
		left -= p.clean + 1
		lost++
		wait, timer := p.shape.RTO(), 2*p.shape.RTO()
		if left >= 3 {
			wait, timer = p.shape.RTT, p.shape.RTO()
		}
		for i := 0; i < backoffMax && p.rand.Float64() < p.shape.Loss; i++ {
			wait += timer
			timer *= 2
			lost++
		}
		penalty = max(penalty, wait)
		p.clean = p.untilLoss()
	}
	p.clean -= left
	return penalty, lost
}

// untilLoss draws how many segments cross before one is lost: the geometric distribution, so that a long stream costs a
// draw per loss and not per segment.
func (p *Path) untilLoss() int64 {
	if p.shape.Loss == 0 {
		return math.MaxInt64
	}
	return int64(math.Log(1-p.rand.Float64()) / math.Log1p(-p.shape.Loss))
}
