package sim

import (
	"time"

	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/sim/defence"
	"github.com/isthmus-mesh/isthmus/sim/virtual"
)

// session is one stream: an importer on client, an exporter on server.
type session struct {
	m              *simMesh
	id             uint64
	client, server *node
	// via are the primaries that pass the stream on, of a remote cluster.
	via      []*node
	owner    mesh.ClusterName
	ex       *replica.Exporter
	newest   *replica.Partition // what ex was told last
	down, up virtual.Pipe
	began    time.Time
	heard    time.Time // when the client last heard anything
	closed   bool
	refused  bool // the client left what it does not believe
	// tainted says that a fault forged what the client holds.
	tainted bool
	// seq is of the last message sent down, sync of the last subscription sent up.
	seq, sync uint64
	// unanswered counts responses to subscription answers, of which nonce is the last, that the client has not answered.
	unanswered     int
	answers, nonce uint64
	// For the hand-over checker: the subscription's holding, and what came since.
	have     *replica.Partition
	haveSync uint64
	names    int
	first    bool
	counted  uint64 // sequence of the last response, which may come twice
}

// push queues a delivery.
func (s *session) push(p *virtual.Pipe, deliver func()) {
	p.Push(deliver)
	s.m.oracle.bounded(s, p.Len())
}

// sendDown sends an exporter's messages, with the three faults that TCP excludes and
// bugs do not: a message lost within the stream, one said twice, and a change left out of one.
func (s *session) sendDown(ms []replica.Down) {
	for _, d := range ms {
		s.seq++
		if r, ok := d.(*replica.Response); ok {
			s.m.oracle.inFlight(s, r)
			if s.m.cfg.Without == defence.NoBackPressure {
				s.m.clock.After(0, func() { s.server.step(s, &replica.Ack{Sync: r.Sync, Nonce: r.Nonce}) })
			}
			if len(r.Set) > 1 && s.m.faulty("miss-change") {
				c := *r
				c.Set = c.Set[1:]
				d = &c
			}
		}
		if s.m.faulty("lose-in-stream") {
			continue
		}
		s.push(&s.down, func() { s.client.receiveDown(s, d) })
		if s.m.faulty("duplicate-message") {
			s.push(&s.down, func() { s.client.receiveDown(s, d) })
		}
	}
}

func (s *session) sendUp(ms []replica.Up) {
	for _, u := range ms {
		if sub, ok := u.(*replica.Subscribe); ok {
			if s.sync = sub.Sync; s.m.cfg.Without == defence.NoResume {
				u = &replica.Subscribe{Protocol: sub.Protocol, Sync: sub.Sync, Known: sub.Known}
			}
		}
		if s.m.faulty("lose-in-stream") {
			continue
		}
		s.push(&s.up, func() { s.server.receiveUp(s, u) })
		if s.m.faulty("duplicate-message") {
			s.push(&s.up, func() { s.server.receiveUp(s, u) })
		}
	}
}

// lost is a connection that the kernel of one end gave up.
func (s *session) lost() {
	s.m.count("redial-unanswered-connection")
	s.close()
}

// close ends the stream; the client dials again.
func (s *session) close() {
	if s.closed {
		return
	}
	s.closed = true
	s.down.Close()
	s.up.Close()
	delete(s.server.serving, s.id)
	if s.client.sessions[s.owner] != s {
		return
	}
	delete(s.client.sessions, s.owner)
	for _, r := range s.client.servingSorted() { // what it holds is not told on without the owner
		if r.owner == s.owner {
			r.close()
		}
	}
	if im := s.client.importers[s.owner]; im != nil && s.client.up {
		s.client.apply(s.owner, nil, im.Disconnect(s.client.now(), s.id))
		s.client.redialSoon(s.owner, s.m.clock.Now.Sub(s.began) > steady, s.refused)
	}
}
