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
	// cuts counts those of each direction: one that ends leaves the others. They are of one age, which Heal ends.
	cuts map[Direction]int
	age  int
	// Slow is added to each message's delay, and up to Jitter at random.
	Slow, Jitter map[Direction]time.Duration
}

// NewNetwork is a network without faults.
func NewNetwork(c *Clock, r *rand.Rand) Network {
	return Network{Clock: c, Rand: r, cuts: map[Direction]int{}, Slow: map[Direction]time.Duration{}, Jitter: map[Direction]time.Duration{}}
}

// Sever cuts directions until mend is called, whatever else cuts them and is mended meanwhile.
func (n *Network) Sever(all ...Direction) (mend func()) {
	age := n.age
	for _, d := range all {
		n.cuts[d]++
	}
	return func() {
		if n.age != age {
			return // it is mended already, and what is cut since is another's
		}
		age-- // once
		for _, d := range all {
			n.cuts[d]--
		}
	}
}

// Isolate severs all links between a cluster and some others.
func (n *Network) Isolate(c mesh.ClusterName, others ...mesh.ClusterName) (mend func()) {
	var all []Direction
	for _, o := range others {
		if o != c {
			all = append(all, Way(c, o), Way(o, c))
		}
	}
	return n.Sever(all...)
}

// Cut reports whether a direction is.
func (n *Network) Cut(d Direction) bool { return n.cuts[d] > 0 }

// Heal ends all faults.
func (n *Network) Heal() {
	n.age++
	clear(n.cuts)
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
	return slices.ContainsFunc(r, n.Cut)
}

// Pipe is one direction of a stream: a queue in order.
type Pipe struct {
	net    *Network
	way    Route
	queue  []message
	last   time.Time
	closed bool
	// blocked while the kernel waits to send again; rto is for how long the next time, since when the first was.
	blocked bool
	rto     time.Duration
	since   time.Time
	// lost is called when the kernel gives up.
	lost func()
}

// message is on its way until at.
type message struct {
	at      time.Time
	deliver func()
}

// rtoFirst is how long a kernel waits at first to send again; the time doubles (RFC 6298 §5.5).
const rtoFirst = 200 * time.Millisecond

// userTimeout is for how long a kernel tries to send (RFC 5482), as control/peer asks of it.
const userTimeout = 4 * time.Second

// NewPipe is an empty one. When nothing came through for so long that a kernel gives up, it calls lost.
func (n *Network) NewPipe(way Route, lost func()) Pipe { return Pipe{net: n, way: way, lost: lost} }

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

// pump delivers what is due; while the way is cut it waits, ever longer, as retransmission does, and in the end no more.
func (p *Pipe) pump() {
	for !p.closed && !p.blocked && len(p.queue) > 0 && !p.queue[0].at.After(p.net.Clock.Now) {
		if p.net.Broken(p.way) {
			if p.rto == 0 {
				p.since = p.net.Clock.Now
			}
			left := userTimeout - p.net.Clock.Now.Sub(p.since)
			if left <= 0 {
				p.lost()
				return
			}
			p.rto = max(rtoFirst, 2*p.rto)
			p.blocked = true
			p.net.Clock.After(min(p.rto, left), func() { p.blocked = false; p.pump() })
			return
		}
		p.rto = 0
		head := p.queue[0]
		p.queue = p.queue[1:]
		head.deliver()
	}
}
