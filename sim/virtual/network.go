package virtual

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// Direction is one way of a link between two clusters.
type Direction struct{ From, To mesh.ClusterName }

// Way is the direction from one cluster to another.
func Way(from, to mesh.ClusterName) Direction { return Direction{from, to} }

// Back is the other way.
func (d Direction) Back() Direction { return Direction{d.To, d.From} }

// Route is the links that a stream passes, one way; an empty one stays inside a cluster.
type Route []Direction

// Back is the other way.
func (r Route) Back() Route {
	out := make(Route, len(r))
	for i, d := range r {
		out[len(r)-1-i] = d.Back()
	}
	return out
}

// Network is what lies between clusters. Within a stream order is kept, as TCP
// keeps it; between streams it is not.
type Network struct {
	Clock *Clock
	Rand  *rand.Rand
	Cut   map[Direction]bool
	// Slow is added to each message's delay, and up to Jitter at random.
	Slow, Jitter map[Direction]time.Duration
}

// NewNetwork is a network without faults.
func NewNetwork(c *Clock, r *rand.Rand) Network {
	return Network{c, r, map[Direction]bool{}, map[Direction]time.Duration{}, map[Direction]time.Duration{}}
}

// Between cuts all links between a cluster and some others, or heals them.
func (n *Network) Between(c mesh.ClusterName, others []mesh.ClusterName, cut bool) {
	for _, o := range others {
		if o == c {
			continue
		}
		for _, d := range []Direction{Way(c, o), Way(o, c)} {
			if n.Cut[d] = true; !cut {
				delete(n.Cut, d)
			}
		}
	}
}

// Heal ends all faults.
func (n *Network) Heal() {
	clear(n.Cut)
	clear(n.Slow)
	clear(n.Jitter)
}

// Delay is one message's: 40 ms and up to a quarter more for each link.
func (n *Network) Delay(r Route) time.Duration {
	if len(r) == 0 {
		return time.Millisecond + time.Duration(n.Rand.IntN(250))*time.Microsecond
	}
	var sum time.Duration
	for _, d := range r {
		base := 40*time.Millisecond + n.Slow[d]
		if j := n.Jitter[d]; j > 0 {
			base += time.Duration(n.Rand.Int64N(int64(j)))
		}
		sum += base + time.Duration(n.Rand.Int64N(int64(base/4)+1))
	}
	return sum
}

// Broken reports whether a link on the way is cut.
func (n *Network) Broken(r Route) bool {
	return slices.ContainsFunc(r, func(d Direction) bool { return n.Cut[d] })
}

// Pipe is one direction of a stream: a queue in order.
type Pipe struct {
	net    *Network
	way    Route
	queue  []message
	last   time.Time
	closed bool
	// blocked while the kernel waits to send again; rto is for how long the next time.
	blocked bool
	rto     time.Duration
}

// message is on its way until at.
type message struct {
	at      time.Time
	deliver func()
}

// rtoFirst is how long a kernel waits at first to send again; the time doubles (RFC 6298 §5.5).
const rtoFirst = 200 * time.Millisecond

// NewPipe is an empty one.
func (n *Network) NewPipe(way Route) Pipe { return Pipe{net: n, way: way} }

// Len is how many messages are on their way.
func (p *Pipe) Len() int { return len(p.queue) }

// Close ends it; what is on its way never arrives.
func (p *Pipe) Close() { p.closed = true }

// Push queues a delivery behind all before it.
func (p *Pipe) Push(deliver func()) {
	at := p.net.Clock.Now.Add(p.net.Delay(p.way))
	if at.Before(p.last) {
		at = p.last
	}
	p.last = at
	p.queue = append(p.queue, message{at, deliver})
	p.net.Clock.After(at.Sub(p.net.Clock.Now), p.pump)
}

// pump delivers what is due; while the way is cut it waits, ever longer, as retransmission does.
func (p *Pipe) pump() {
	for !p.closed && !p.blocked && len(p.queue) > 0 && !p.queue[0].at.After(p.net.Clock.Now) {
		if p.net.Broken(p.way) {
			p.rto = max(rtoFirst, 2*p.rto)
			p.blocked = true
			p.net.Clock.After(p.rto, func() { p.blocked = false; p.pump() })
			return
		}
		p.rto = 0
		head := p.queue[0]
		p.queue = p.queue[1:]
		head.deliver()
	}
}
