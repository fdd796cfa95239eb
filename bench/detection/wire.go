package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/isthmus-mesh/isthmus/localmesh/link"
)

// cell is one network that the rules are tried on.
type cell struct {
	shape link.Shape
	// burst, when set, makes the same mean loss come in bursts of this mean length, which
	// all connections share; else segments are lost independently.
	burst time.Duration
}

// fault is what ends a run.
type fault uint8

// The faults. Those that leave a direction whole look alike to a question that needs both,
// but for what was under way.
const (
	blackHole fault = iota
	cutThere
	cutBack
	gatewayStopped // SIGSTOP: its kernel still acknowledges, nobody answers
	faults
)

func (f fault) String() string {
	return [...]string{"black hole", "cut there", "cut back", "gateway stopped"}[f]
}

const (
	never      = time.Duration(math.MaxInt64)
	backoffMax = 6 // as localmesh/link
)

// network is the path between an observer and a gateway, with what all its connections
// share: when it breaks and when it is in a burst.
type network struct {
	cell
	fault  fault
	breaks time.Duration
	rand   *rand.Rand
	// bursts are the ends of alternating good and bad times, good first, in order.
	bursts []time.Duration
}

func newNetwork(c cell, f fault, breaks time.Duration, seed uint64) *network {
	n := &network{cell: c, fault: f, breaks: breaks, rand: rand.New(rand.NewPCG(seed, 0x1f83d9abfb41bd6b))}
	if c.burst > 0 {
		good := float64(c.burst) * (1 - c.shape.Loss) / c.shape.Loss
		for at := 0.0; at < float64(breaks); {
			at += n.rand.ExpFloat64() * good
			n.bursts = append(n.bursts, time.Duration(at))
			at += n.rand.ExpFloat64() * float64(c.burst)
			n.bursts = append(n.bursts, time.Duration(at))
		}
	}
	return n
}

// way is one direction of one connection. TCP delivers in order, so a lost segment holds
// back what follows; it is sent again after the RTO, doubled each time (RFC 6298 §5.5).
// That is worse than what Linux does with a stream that goes on (RACK and tail loss probes,
// RFC 8985, bring a segment back after about two round trips), so the figures are on
// the careful side. In contrast to link.Path, which draws a segment's fate when it is
// sent, each attempt is judged at its own instant, so bursts and cuts end.
type way struct {
	net  *network
	cut  bool // by the network's fault
	last time.Duration
	// burst is where the last look into net.bursts ended.
	burst int
}

// send returns when a segment that is sent at now arrives.
func (w *way) send(now time.Duration) time.Duration {
	timer := w.net.shape.RTO()
	for try := 0; ; try++ {
		arrives := now + w.latency()
		if w.cut && arrives >= w.net.breaks {
			w.last = never
			return never
		}
		if !w.lost(now) || try == backoffMax {
			w.last = max(w.last, arrives)
			return w.last
		}
		now += timer
		timer *= 2
	}
}

func (w *way) latency() time.Duration {
	s := w.net.shape
	d := s.RTT / 2
	if s.Jitter > 0 {
		d += time.Duration(w.net.rand.Int64N(int64(s.Jitter)+1)) - s.Jitter/2
	}
	return d
}

func (w *way) lost(at time.Duration) bool {
	if w.net.burst == 0 {
		return w.net.rand.Float64() < w.net.shape.Loss
	}
	b := w.net.bursts
	for w.burst > 0 && b[min(w.burst, len(b))-1] > at {
		w.burst-- // a retransmission looked ahead
	}
	for w.burst < len(b) && b[w.burst] <= at {
		w.burst++
	}
	return w.burst%2 == 1 && w.burst < len(b)
}

// connection asks and is answered.
type connection struct{ there, back way }

func (n *network) connection() *connection {
	return &connection{
		there: way{net: n, cut: n.fault == blackHole || n.fault == cutThere},
		back:  way{net: n, cut: n.fault == blackHole || n.fault == cutBack},
	}
}

// ask returns when the answer to a question asked at now arrives.
func (c *connection) ask(now time.Duration) time.Duration {
	at := c.there.send(now)
	n := c.there.net
	if at == never || n.fault == gatewayStopped && at >= n.breaks {
		return never
	}
	return c.back.send(at)
}

// dial returns when a TLS handshake begun at now is done at the client: SYN and SYN-ACK,
// whose timer is a second (RFC 6298 §2.1), then the hellos: one segment there, the
// server's certificate in three back, of which the last counts.
func (n *network) dial(now time.Duration) time.Duration {
	c := n.connection()
	for timer, try := time.Second, 0; ; try++ {
		there := now + c.there.latency()
		back := there + c.back.latency()
		if c.there.cut && there >= n.breaks || c.back.cut && back >= n.breaks {
			return never
		}
		if !c.there.lost(now) && !c.back.lost(there) || try == backoffMax {
			now = back
			break
		}
		now += timer
		timer *= 2
	}
	at := c.there.send(now)
	if at == never || n.fault == gatewayStopped && at >= n.breaks {
		return never
	}
	c.back.send(at)
	c.back.send(at)
	return c.back.send(at)
}

func (c cell) String() string {
	s := fmt.Sprintf("%v, %g %%", c.shape.RTT, 100*c.shape.Loss)
	if c.shape.Jitter > 0 {
		s += fmt.Sprintf(", jitter %v", c.shape.Jitter)
	}
	if c.burst > 0 {
		s += fmt.Sprintf(" in bursts of %v", c.burst)
	}
	return s
}
