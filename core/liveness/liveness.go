// Package liveness decides what this cluster can reach, from two signals about each
// peer: the lease on the control stream and the path to its gateways. Its one idea is that two
// witnesses of different kinds must agree before traffic moves: a control plane that dies says nothing
// about the path, and a path that dies says nothing about the control plane. Of the path,
// too, several witnesses must agree: see Detector.
//
// Both are state machines without a clock: probes and leases come as events with a time.
// They declare nobody dead: that is a verdict of the mesh, taken elsewhere. Read State
// first, then Detector.
package liveness

import (
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// The constants of the path. They were read off the curves of docs/detection.svg, made by
// bench/detection; ADR 9 says why these. Change one only with a new curve.
const (
	// ProbeEvery is how often each connection is asked. At 100 ms detection is 100 ms
	// sooner, and false trips at 5 % loss are five to ten times as many.
	ProbeEvery = 250 * time.Millisecond
	// silentRTOs is how many retransmission timers beyond its round trip an answer may be
	// late. Beyond 1 a question must have been lost twice; the next step of the curve is at
	// 2 and costs one timer more; a quarter is for jitter.
	silentRTOs = 1.25
	// suspectRTOs is when the next witness is called. Sooner saves detection time, and
	// costs handshakes where the round trip varies.
	suspectRTOs = 0.25
	// dialSlack is what a fresh connection may take beyond its round trips.
	dialSlack = 100 * time.Millisecond
	// dialRoundTrips are TCP's and that of TLS 1.3 (RFC 8446 §2).
	dialRoundTrips = 2

	// rtoVarianceMin is Linux's floor of the variance term of RFC 6298 §2.3, for it is the
	// kernels' timers that make answers late; rtoVarianceMax bounds what a path that
	// varies wildly can add to the time of detection.
	rtoVarianceMin = 200 * time.Millisecond
	rtoVarianceMax = time.Second
	// rttUnknown is assumed of a path that was never measured.
	rttUnknown = 300 * time.Millisecond
	// rttMoved is after how many late answers in a row the path itself has become longer.
	rttMoved = 4
)

// The constants of the way back. A path that was lost is used again when it has answered
// upAfter questions over the hold, which doubles when it is lost again within calmAfter and is
// holdMin otherwise; one that has never answered is used from its first answer, for it has not shown that it
// wavers, and a start would wait. With calmAfter as long as holdMax, no sequence of events changes the state more often than 150
// times an hour, and that needs an adversary.
const (
	upAfter   = 3
	holdMin   = 500 * time.Millisecond
	holdMax   = time.Minute
	calmAfter = time.Minute
)

// State is what is known of one peer. The zero State is a peer of whom nothing has been
// heard; it counts as alive until a path has failed, so that a start does not begin with an
// outage.
type State struct {
	// LeaseLost says that the control stream has been silent for too long.
	LeaseLost bool
	// StaleSince is when the peer's control plane was last heard, while it is not; zero while it is, and where that
	// is not known.
	StaleSince time.Time
	// PathDown says that the path was found silent or refusing, and is not back.
	PathDown bool
	// RTT is the smoothed round-trip time; 0 until measured.
	RTT time.Duration
	// Since is when Reach last changed.
	Since time.Time

	rttvar time.Duration
	late   int // answers in a row that say nothing of the RTT

	met       bool      // a question was answered, ever
	answers   int       // since the last failure
	answering time.Time // when the first of them came
	upAt      time.Time // when the path was last found good again
	hold      time.Duration
}

// Reach is the reachability that follows.
func (s State) Reach() mesh.Reachability {
	switch {
	case s.PathDown:
		return mesh.Unreachable
	case s.LeaseLost:
		return mesh.StaleServing
	}
	return mesh.Alive
}

// rtt is the round trip that is expected.
func (s State) rtt() time.Duration {
	if s.RTT == 0 {
		return rttUnknown
	}
	return s.RTT
}

// rto is the retransmission timer that a kernel has on this path (RFC 6298 §2.3).
func (s State) rto() time.Duration {
	return s.rtt() + min(max(4*s.rttvar, rtoVarianceMin), rtoVarianceMax)
}

// ProbeTimeout is how long a question may go without an answer before its connection is
// a witness against the path.
func (s State) ProbeTimeout() time.Duration {
	return s.rtt() + time.Duration(silentRTOs*float64(s.rto()))
}

// suspectAfter is how long a question may go unanswered before more witnesses are called.
func (s State) suspectAfter() time.Duration {
	return s.rtt() + time.Duration(suspectRTOs*float64(s.rto()))
}

// DialTimeout is how long a fresh connection may take, up to the end of TLS's handshake,
// before it is a witness against the path.
func (s State) DialTimeout() time.Duration { return dialRoundTrips*s.rtt() + dialSlack }

// Answered is the state after a question was answered after rtt, which is not measured
// where it is 0.
func (s State) Answered(rtt time.Duration, now time.Time) State {
	before := s.Reach()
	if rtt > 0 {
		s = s.measured(rtt)
	}
	if s.answers == 0 {
		s.answering = now
	}
	s.answers = min(s.answers+1, upAfter)
	if s.PathDown && (!s.met || s.answers >= upAfter && now.Sub(s.answering) >= s.hold) {
		s.PathDown, s.upAt = false, now
	}
	s.met = true
	return s.moved(before, now)
}

// measured takes a sample of the round-trip time. An answer that is later than the
// retransmission timer was carried by a retransmission and says nothing of the path
// (Karn's algorithm, RFC 6298 §3), unless all are.
func (s State) measured(rtt time.Duration) State {
	if s.RTT != 0 && rtt > s.rto() {
		if s.late++; s.late < rttMoved {
			return s
		}
		s.RTT = 0
	}
	s.late = 0
	if s.RTT == 0 { // RFC 6298 §2.2
		s.RTT, s.rttvar = rtt, rtt/2
	} else { // RFC 6298 §2.3
		s.rttvar += ((s.RTT - rtt).Abs() - s.rttvar) / 4
		s.RTT += (rtt - s.RTT) / 8
	}
	return s
}

// Failed is the state after the path was found silent or refusing, as Detector says. It may
// be told again and again while that lasts.
func (s State) Failed(now time.Time) State {
	before := s.Reach()
	if !s.PathDown {
		s.PathDown = true
		if s.hold == 0 || now.Sub(s.upAt) >= calmAfter {
			s.hold = holdMin
		} else {
			s.hold = min(2*s.hold, holdMax)
		}
	}
	s.answers = 0
	return s.moved(before, now)
}

// Lease is the state after the control stream was said to be fresh or not.
func (s State) Lease(fresh bool, now time.Time) State {
	before := s.Reach()
	s.LeaseLost = !fresh
	return s.moved(before, now)
}

func (s State) moved(before mesh.Reachability, now time.Time) State {
	if s.Reach() != before || s.Since.IsZero() {
		s.Since = now
	}
	return s
}

// Fact is what the world is told. The RTT is in steps of a quarter, so that noise makes
// no news: held is the one told last, kept while it is near enough.
func (s State) Fact(cluster mesh.ClusterName, held time.Duration) mesh.Reach {
	rtt := s.RTT.Round(time.Millisecond)
	if held > 0 && (rtt-held).Abs() <= held/4 {
		rtt = held
	}
	out := mesh.Reach{Cluster: cluster, State: s.Reach(), RTT: rtt}
	if !s.StaleSince.IsZero() {
		out.StaleSinceMillis = s.StaleSince.UnixMilli()
	}
	return out
}
