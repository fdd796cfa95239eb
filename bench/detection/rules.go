package main

import (
	"cmp"
	"slices"
	"time"
)

// rule is one way to conclude that a path is silent. The margin is what a question may be
// late beyond a round trip; the rules are compared over a range of margins.
type rule struct {
	name        string
	connections int
	// fresh is how many more witnesses are called: connections dialled one after the
	// other, dialEvery apart, from when the first of those that stand is suspect. A
	// dial is against the path when it took its two round trips (SYN, TLS 1.3) and dialSlack. In
	// contrast to a retransmission it is not backed off.
	fresh int
}

const (
	dialSlack   = 100 * time.Millisecond
	dialEvery   = 150 * time.Millisecond
	suspectRTOs = 0.5
)

func rules() []rule {
	return []rule{
		{"one connection", 1, 0},
		{"one connection, one fresh dial", 1, 1},
		{"two connections", 2, 0},
		{"two connections, one fresh dial", 2, 1},
		{"two connections, two fresh dials", 2, 2},
	}
}

// late is a question that was answered late: asked and answered are instants.
type late struct{ asked, answered time.Duration }

// trace is what the connections of one run saw.
type trace struct {
	net    *network
	rto    time.Duration
	late   [][]late        // by connection, by time; answered is never after the fault
	first  []time.Duration // by connection, when the oldest question that the fault left unanswered was asked
	breaks time.Duration
}

// observe runs connections that each ask every period, evenly staggered, until the fault.
func observe(c cell, f fault, connections int, period, breaks time.Duration, seed uint64) *trace {
	n := newNetwork(c, f, breaks, seed)
	t := &trace{net: n, rto: c.shape.RTO(), breaks: breaks}
	phase := time.Duration(n.rand.Int64N(int64(period)))
	for i := range connections {
		conn := n.connection()
		var ls []late
		at := (phase + time.Duration(i)*period/time.Duration(connections)) % period
		for {
			answered := conn.ask(at)
			if answered == never {
				break
			}
			if answered-at > c.shape.RTT+t.rto/4 {
				ls = append(ls, late{at, answered})
			}
			at += period
		}
		t.late = append(t.late, ls)
		t.first = append(t.first, at)
	}
	return t
}

// silences are the times, before the fault, in which connection i had a question
// unanswered for bound: disjoint, in order.
func (t *trace) silences(i int, bound time.Duration) []late {
	var out []late
	for _, l := range t.late[i] {
		from := l.asked + bound
		if from >= l.answered || from >= t.breaks {
			continue
		}
		if n := len(out); n > 0 && from <= out[n-1].answered {
			out[n-1].answered = max(l.answered, out[n-1].answered)
		} else {
			out = append(out, late{from, l.answered})
		}
	}
	return out
}

// together are the times in which all connections were silent for bound.
func (t *trace) together(connections int, bound time.Duration) []late {
	all := t.silences(0, bound)
	for i := 1; i < connections; i++ {
		other := t.silences(i, bound)
		var both []late
		for j, k := 0, 0; j < len(all) && k < len(other); {
			a, b := all[j], other[k]
			if from, to := max(a.asked, b.asked), min(a.answered, b.answered); from < to {
				both = append(both, late{from, to})
			}
			if a.answered < b.answered {
				j++
			} else {
				k++
			}
		}
		all = both
	}
	return all
}

// any are the times in which a connection was silent for bound.
func (t *trace) any(connections int, bound time.Duration) []late {
	var all []late
	for i := range connections {
		all = append(all, t.silences(i, bound)...)
	}
	slices.SortFunc(all, func(a, b late) int { return cmp.Compare(a.asked, b.asked) })
	var out []late
	for _, l := range all {
		if n := len(out); n > 0 && l.asked <= out[n-1].answered {
			out[n-1].answered = max(out[n-1].answered, l.answered)
		} else {
			out = append(out, l)
		}
	}
	return out
}

// trips counts how often the rule would have called the path silent while it was not.
func (t *trace) trips(r rule, margin time.Duration) int {
	silent := t.together(r.connections, t.net.shape.RTT+margin)
	if r.fresh == 0 || len(silent) == 0 {
		return len(silent)
	}
	count := 0
	suspect := t.any(r.connections, t.suspectBound(margin))
	for _, s := range silent {
		i := slices.IndexFunc(suspect, func(u late) bool { return u.asked <= s.asked && s.asked < u.answered })
		from := max(s.asked, suspect[i].asked+t.dialsTake(r.fresh))
		to := s.answered
		for n := range r.fresh {
			to = min(to, t.net.dial(suspect[i].asked+time.Duration(n)*dialEvery))
		}
		if from < to {
			count++
		}
	}
	return count
}

// detected is how long after the fault the rule calls the path silent. What was late at
// the fault only makes it sooner.
func (t *trace) detected(r rule, margin time.Duration) time.Duration {
	last := slices.Max(t.first[:r.connections])
	at := last + t.net.shape.RTT + margin
	if r.fresh > 0 {
		at = max(at, slices.Min(t.first[:r.connections])+t.suspectBound(margin)+t.dialsTake(r.fresh))
	}
	return max(0, at-t.breaks)
}

func (t *trace) suspectBound(margin time.Duration) time.Duration {
	return t.net.shape.RTT + min(margin, time.Duration(suspectRTOs*float64(t.rto)))
}

// dialsTake is when n dials, the first begun at 0, are all against the path.
func (t *trace) dialsTake(n int) time.Duration {
	return time.Duration(n-1)*dialEvery + 2*t.net.shape.RTT + dialSlack
}
