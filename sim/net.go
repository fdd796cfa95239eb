package sim

import (
	"time"

	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// direction is one way of a link between two clusters.
type direction struct{ from, to mesh.ClusterName }

// network is what lies between clusters. Within a stream order is kept, as TCP
// keeps it; between streams it is not.
type network struct {
	m      *simMesh
	cut    map[direction]bool
	slow   map[direction]time.Duration // added delay
	jitter map[direction]time.Duration // added random delay
}

// delay is one message's.
func (n *network) delay(d direction) time.Duration {
	base := 40 * time.Millisecond
	if d.from == d.to {
		base = time.Millisecond
	}
	base += n.slow[d]
	if j := n.jitter[d]; j > 0 {
		base += time.Duration(n.m.rng.Int64N(int64(j)))
	}
	return base + time.Duration(n.m.rng.Int64N(int64(base/4)+1))
}

// session is one stream: an importer on client, an exporter on server.
type session struct {
	m              *simMesh
	id             uint64
	client, server *node
	owner          mesh.ClusterName
	ex             *replica.Exporter
	down, up       pipe
	closed         bool
	// For the hand-over checker: the subscription's holding, and what came since.
	have     *replica.Partition
	haveSync uint64
	names    int
	first    bool
}

// pipe is one direction of a stream: a queue in order.
type pipe struct {
	dir   direction
	queue []func()
	last  time.Time
}

// push queues a delivery behind all before it.
func (s *session) push(p *pipe, deliver func()) {
	at := s.m.clock.now.Add(s.m.net.delay(p.dir))
	if at.Before(p.last) {
		at = p.last
	}
	p.last = at
	p.queue = append(p.queue, deliver)
	s.m.clock.after(at.Sub(s.m.clock.now), func() { s.pump(p) })
}

// pump delivers the head; while the way is cut it waits, as retransmission does.
func (s *session) pump(p *pipe) {
	if s.closed || len(p.queue) == 0 {
		return
	}
	if s.m.net.cut[p.dir] {
		s.m.clock.after(200*time.Millisecond, func() { s.pump(p) })
		return
	}
	head := p.queue[0]
	p.queue = p.queue[1:]
	head()
}

// sendDown sends an exporter's messages, with the two faults that TCP excludes and
// bugs do not: a message lost within the stream, and a change left out of one.
func (s *session) sendDown(ms []replica.Down) {
	for _, d := range ms {
		if s.m.faulty("lose-in-stream") {
			continue
		}
		if r, ok := d.(*replica.Response); ok && len(r.Set) > 1 && s.m.faulty("miss-change") {
			c := *r
			c.Set = c.Set[1:]
			d = &c
		}
		s.push(&s.down, func() { s.client.receiveDown(s, d) })
	}
}

func (s *session) sendUp(ms []replica.Up) {
	for _, u := range ms {
		if sub, ok := u.(*replica.Subscribe); ok && s.m.cfg.Without == NoResume {
			u = &replica.Subscribe{Protocol: sub.Protocol, Sync: sub.Sync, Known: sub.Known}
		}
		if s.m.faulty("lose-in-stream") {
			continue
		}
		s.push(&s.up, func() { s.server.receiveUp(s, u) })
	}
}

func (s *session) close() {
	if s.closed {
		return
	}
	s.closed = true
	delete(s.server.serving, s.id)
	if s.client.sessions[s.owner] == s {
		delete(s.client.sessions, s.owner)
		if im := s.client.importers[s.owner]; im != nil {
			s.client.apply(s.owner, nil, im.Disconnect(s.m.clock.now, s.id))
		}
	}
}
