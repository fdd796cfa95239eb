// Package liveness decides what this cluster can reach, from two signals about each
// peer: the lease on the control stream and the path to its gateways. Its one idea is that two
// witnesses of different kinds must agree before traffic moves: a control plane that dies says nothing
// about the path, and a path that dies says nothing about the control plane.
//
// It is a state machine without a clock: probes and leases come as events with a time.
// It declares nobody dead: that is a verdict of the mesh, taken elsewhere. Read State
// first.
package liveness

import (
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// Thresholds of the path. A probe that fails has waited for a round trip and its
// margin already (ProbeTimeout), so two in a row are silence, and two answers in a row
// bring a path back.
const (
	downAfter = 2
	upAfter   = 2
	// ProbeEvery is how often a path is asked.
	ProbeEvery = 250 * time.Millisecond
	// probeMargin is what a probe waits beyond the round trips it expects.
	probeMargin = 300 * time.Millisecond
	// rttUnknown is assumed of a path that was never measured.
	rttUnknown = 500 * time.Millisecond
)

// State is what is known of one peer. The zero State is a peer of whom nothing has been
// heard; it counts as alive until a path has failed, so that a start does not begin with an
// outage.
type State struct {
	// LeaseLost says that the control stream has been silent for too long.
	LeaseLost bool
	// PathDown says that probes failed in a row.
	PathDown bool
	// RTT is the smoothed round-trip time; 0 until measured.
	RTT time.Duration
	// Since is when Reach last changed.
	Since time.Time

	failures, answers int
	rttvar            time.Duration
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

// ProbeTimeout is how long a probe may take: the round trip expected, twice its
// variation, and the margin (the form of RFC 6298's RTO).
func (s State) ProbeTimeout() time.Duration {
	if s.RTT == 0 {
		return rttUnknown + probeMargin
	}
	return s.RTT + max(4*s.rttvar, probeMargin)
}

// Answered is the state after a probe was answered after rtt.
func (s State) Answered(rtt time.Duration, now time.Time) State {
	before := s.Reach()
	if s.RTT == 0 { // RFC 6298 §2.2
		s.RTT, s.rttvar = rtt, rtt/2
	} else { // RFC 6298 §2.3
		s.rttvar += ((s.RTT - rtt).Abs() - s.rttvar) / 4
		s.RTT += (rtt - s.RTT) / 8
	}
	s.failures = 0
	s.answers++
	if s.answers >= upAfter {
		s.PathDown = false
	}
	return s.moved(before, now)
}

// Failed is the state after a probe was not answered in ProbeTimeout, or was refused.
func (s State) Failed(now time.Time) State {
	before := s.Reach()
	s.answers = 0
	s.failures++
	if s.failures >= downAfter {
		s.PathDown = true
	}
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
	return mesh.Reach{Cluster: cluster, State: s.Reach(), RTT: rtt}
}
