package link

import (
	"fmt"
	"net/netip"
	"sync/atomic"
)

// counter counts up; readers may see it mid-way.
type counter struct{ atomic.Uint64 }

func (c *counter) add(n int) {
	if n != 0 {
		c.Add(uint64(n))
	}
}

// Stats is what a link has done since it started, and its state. Counters of one answer may be a moment apart.
type Stats struct {
	A        string         `json:"a"`
	B        string         `json:"b"`
	Shape    Shape          `json:"shape"`
	Refusing bool           `json:"refusing"`
	AtoB     DirectionStats `json:"aToB"`
	BtoA     DirectionStats `json:"bToA"`
	Forwards []ForwardStats `json:"forwards"`
	Held     int64          `json:"heldBytes"` // in flight, in this process's memory
	TapFull  bool           `json:"tapFull"`   // the tap has reached its bound and records no more
}

// DirectionStats counts one direction: bytes and segments that flow in it, connections that were opened in it.
type DirectionStats struct {
	State  string `json:"state"`        // open, stalled or cut; "data open, control cut" where they differ
	Bytes  uint64 `json:"bytes"`        // delivered
	Lost   uint64 `json:"lostSegments"` // that cost a retransmission
	Opened uint64 `json:"opened"`
	Closed uint64 `json:"closed"`
	Active uint64 `json:"active"`
}

// ForwardStats counts the connections of one Forward and what they carried.
type ForwardStats struct {
	Name      string         `json:"name"`
	Direction Direction      `json:"direction"`
	Listen    netip.AddrPort `json:"listen"` // with its real port
	Target    netip.AddrPort `json:"target"`
	Sent      uint64         `json:"sentBytes"`     // delivered to the target
	Received  uint64         `json:"receivedBytes"` // delivered to the callers
	Lost      uint64         `json:"lostSegments"`  // of data, both ways
	Opened    uint64         `json:"opened"`
	Closed    uint64         `json:"closed"`
	Active    uint64         `json:"active"`
	Failed    uint64         `json:"failed"`  // whose handshake came to nothing, the target's refusal included
	Refused   uint64         `json:"refused"` // reset at once, for ConnectionsMax or while refusing
}

func (r *relay) stats() Stats {
	s := Stats{
		A: r.cfg.A, B: r.cfg.B,
		Shape:   r.ways[AtoB].shape(),
		Held:    r.held.Load(),
		TapFull: r.tap.full(),
	}
	directions := [2]*DirectionStats{&s.AtoB, &s.BtoA}
	for d, w := range r.ways {
		data, control := r.lanes[Data][d].condition().gate, r.lanes[Control][d].condition().gate
		directions[d].State = data.String()
		if data != control {
			directions[d].State = fmt.Sprintf("data %s, control %s", data, control)
		}
		directions[d].Lost = w.lost.Load()
	}
	r.mu.Lock()
	s.Refusing = r.refusing
	for _, f := range r.forwards {
		fs := f.stats()
		s.Forwards = append(s.Forwards, fs)
	}
	r.mu.Unlock()
	for _, f := range s.Forwards {
		there, back := directions[f.Direction], directions[f.Direction.Reverse()]
		there.Bytes += f.Sent
		back.Bytes += f.Received
		there.Opened += f.Opened
		there.Closed += f.Closed
		there.Active += f.Active
	}
	return s
}

// stats is called with the relay's lock held, for the sake of Listen.
func (f *forward) stats() ForwardStats {
	closed := f.closed.Load() // before opened, which is never less
	opened := f.opened.Load()
	return ForwardStats{
		Name: f.cfg.Name, Direction: f.cfg.Direction, Listen: f.cfg.Listen, Target: f.cfg.Target,
		Sent: f.sent.Load(), Received: f.received.Load(), Lost: f.lost.Load(),
		Opened: opened, Closed: closed, Active: opened - closed,
		Failed: f.failed.Load(), Refused: f.refused.Load(),
	}
}
