package sim

import (
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/sim/defence"
	"github.com/isthmus-mesh/isthmus/sim/virtual"
)

// redial is when the next attempt at an owner begins, and how long the wait before the one after is.
type redial struct {
	trying bool
	wait   time.Duration
}

// Pacing of redials, as control/peer has it: an attempt may take two seconds, the wait between doubles up to half a
// second, and after a refusal it is longer.
const (
	redialMin   = 100 * time.Millisecond
	redialMax   = 500 * time.Millisecond
	dialTimeout = 2 * time.Second
	refusedWait = 5 * time.Second
	steady      = 5 * time.Second
	silentMax   = 4 * time.Second // without one octet a connection is dead
	askAgain    = dialTimeout / 5 // after which another socket sends its SYN
)

// way is how a stream from n to another node runs, and which primaries pass it on; false where there is none.
func (n *node) way(to *node) (r virtual.Route, via []*node, ok bool) {
	at := n.cluster
	hop := func(next mesh.ClusterName) {
		if next != at {
			r, at = append(r, virtual.Way(at, next)), next
		}
	}
	for _, end := range []*node{n, to} {
		if end.relay && n.cluster != to.cluster {
			p := end.attach()
			if p == nil {
				return nil, nil, false
			}
			via = append(via, p)
			hop(p.cluster)
		}
	}
	hop(to.cluster)
	return r, via, true
}

// attach is the primary that a relay is connected to: another one when that is gone or cut off.
func (n *node) attach() *node {
	usable := func(p *node) bool {
		out := virtual.Way(n.cluster, p.cluster)
		return p.up && !p.relay && !n.m.net.Cut(out) && !n.m.net.Cut(out.Back())
	}
	if n.attached != nil && usable(n.attached) {
		return n.attached
	}
	var to []*node
	for _, p := range n.m.nodes {
		if usable(p) {
			to = append(to, p)
		}
	}
	if n.attached = nil; len(to) > 0 {
		n.attached = to[n.m.rng.IntN(len(to))]
		n.m.count("relay-attached")
	}
	return n.attached
}

// dial opens a stream for a partition: to the first sibling of those that rank before this one for the owner and hold
// it, as control/sibling does, or else to the owner. One in eight goes to the owner all the same: two holders are harmless.
func (n *node) dial(owner mesh.ClusterName) {
	rd := n.redial[owner]
	if rd.trying {
		return
	}
	rd.trying = true
	n.redial[owner] = rd
	owners, siblings := n.m.of(owner), n.m.of(n.cluster)
	server := owners[n.m.rng.IntN(len(owners))]
	if n.m.rng.IntN(8) > 0 {
		for i := range siblings {
			s := siblings[(i+int(owner[len(owner)-1]))%len(siblings)]
			if p, _ := s.holds(owner); s == n || s.up && p != nil {
				if s != n {
					server = s
				}
				break
			}
		}
	}
	n.connect(owner, server, n.m.clock.Now)
}

// connect makes a connection: three round trips, or a SYN of another socket, or a refusal. Of a way through primaries
// all but one hop is connected already.
func (n *node) connect(owner mesh.ClusterName, server *node, began time.Time) {
	out, via, ok := n.way(server)
	last := out[max(0, len(out)-1):]
	round := n.m.net.Delay(last) + n.m.net.Delay(last.Back())
	switch {
	case !ok || !server.up:
		n.later(round, func() { n.failed(owner) })
	case !n.m.net.Broken(out) && !n.m.net.Broken(out.Back()):
		opening := n.m.net.Delay(out[:len(out)-len(last)]) + n.m.net.Delay(out[:len(out)-len(last)].Back())
		n.later(min(opening+3*round, dialTimeout), func() {
			if opening+3*round >= dialTimeout || !server.up || n.m.net.Broken(out) || n.m.net.Broken(out.Back()) {
				n.failed(owner)
				return
			}
			n.open(owner, server, out, via)
		})
	case n.m.clock.Now.Sub(began)+askAgain < dialTimeout:
		n.later(askAgain, func() { n.connect(owner, server, began) })
	default:
		n.later(dialTimeout-n.m.clock.Now.Sub(began), func() { n.failed(owner) })
	}
}

// failed is an attempt that came to nothing.
func (n *node) failed(owner mesh.ClusterName) {
	rd := n.redial[owner]
	rd.trying = false
	n.redial[owner] = rd
	n.redialSoon(owner, false, false)
}

// redialSoon dials again after a wait, which begins anew after a session that lasted.
func (n *node) redialSoon(owner mesh.ClusterName, lasted, refused bool) {
	rd := n.redial[owner]
	if rd.trying {
		return
	}
	if rd.wait == 0 || lasted {
		rd.wait = redialMin
	}
	wait := rd.wait/2 + time.Duration(n.m.rng.Int64N(int64(rd.wait/2)+1))
	if rd.wait = min(2*rd.wait, redialMax); refused || n.m.cfg.Without == defence.NoRedial {
		wait = refusedWait
	}
	rd.trying = true
	n.redial[owner] = rd
	n.later(wait, func() {
		rd := n.redial[owner]
		rd.trying = false
		n.redial[owner] = rd
		if n.sessions[owner] == nil {
			n.dial(owner)
		}
	})
}
