package xds

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"
)

// ClientStatus is one stream as this server sees it.
type ClientStatus struct {
	Node      Node
	Connected time.Time
	// Behind says that the node knows more than this server and waits, sent nothing, for the
	// server to catch up.
	Behind bool
	// Queued says that the stream waits for its turn to be configured.
	Queued bool
	Types  []TypeStatus
}

// InSync reports whether the node has accepted everything it asked for.
func (c *ClientStatus) InSync() bool {
	return !c.Behind && !c.Queued && !slices.ContainsFunc(c.Types, func(t TypeStatus) bool { return !t.InSync })
}

// TypeStatus is how far a stream is with one type.
type TypeStatus struct {
	Type, Scope string
	Wildcard    bool
	// Names asked for, and how many of them the source has not spoken of.
	Names, Unanswered int
	// Sent and Acked are how many resources the node was sent, and had accepted at its last
	// answer. Digests are over names and versions: equal sets have equal digests, here, at
	// other replicas and in ClientState.
	Sent, Acked             int
	SentDigest, AckedDigest string
	// Queued are names to send, the response in flight not counted.
	Queued int
	// Pending says that a response is unanswered.
	Pending bool
	// InSync says that everything asked for was sent and accepted.
	InSync  bool
	Refused []Refusal
}

// Refusal is a version that a node refused; it goes on with the one before.
type Refusal struct{ Name, Version, Message string }

func digest(sum uint64) string { return fmt.Sprintf("%016x", sum) }

// Clients lists the streams by node ID.
func (s *Server) Clients() []ClientStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]ClientStatus, 0, len(s.streams))
	for st := range s.streams {
		c := ClientStatus{Node: st.node, Connected: st.connected, Behind: st.state == stateBehind, Queued: st.state == stateQueued}
		for _, b := range st.subs {
			c.Types = append(c.Types, b.status())
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(x, y ClientStatus) int {
		return cmp.Or(cmp.Compare(x.Node.ID, y.Node.ID), x.Connected.Compare(y.Connected))
	})
	return out
}

func (b *sub) status() TypeStatus {
	t := TypeStatus{Type: b.g.typ, Scope: b.g.scope, Wildcard: b.wild, Names: b.named, Unanswered: b.unanswered,
		Sent: b.heldN, Acked: b.ackedN, SentDigest: digest(b.held), AckedDigest: digest(b.acked),
		Queued: b.ups.len() + b.downs.len(), Pending: b.inflight != nil}
	for id, r := range b.refused {
		t.Refused = append(t.Refused, Refusal{b.g.byID(id).name, r.version, r.message})
	}
	slices.SortFunc(t.Refused, func(x, y Refusal) int { return cmp.Compare(x.Name, y.Name) })
	t.InSync = b.satisfied() && !b.owes && b.inflight == nil && len(b.refused) == 0
	return t
}

// Digest is over all there is of a type in a scope: what TypeStatus.AckedDigest is of a node that asked for all of it and has taken it.
func (s *Server) Digest(scope, typ string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	sum := uint64(0)
	if g := s.groups[groupKey{scope, typ}]; g != nil {
		for _, e := range g.entries {
			if e.cur != nil {
				sum += countable(e.cur.sum)
			}
		}
	}
	return digest(sum)
}

// Counters count since the start.
type Counters struct {
	Streams, Requests, Responses uint64
	// Resources are those sent or removed by responses, by type: a client that moves here with all that there is
	// adds none.
	Resources map[string]uint64
	// Frames are the distinct responses: Responses/Frames is how many streams share one.
	Frames uint64
	// Panics were caught and cost one stream each.
	Panics uint64
	// Refused are NACKs of one resource by one node.
	Refused uint64
	// TooLarge are resources that do not fit a message; the version before stays in force.
	TooLarge uint64
}

// Counters returns the counters.
func (s *Server) Counters() Counters {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.counters
	c.Resources = maps.Clone(c.Resources)
	return c
}
