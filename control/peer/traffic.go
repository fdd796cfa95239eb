package peer

import "sync/atomic"

// Traffic counts the octets of TCP, records of TLS included, that went over the connections which were made to a peer. What the peer asks of
// us goes over a connection that it makes, and is in its own count. The zero Traffic has counted nothing, and a nil one never
// does. It is safe for concurrent use.
type Traffic struct{ received, sent atomic.Int64 }

// Octets are those received and sent so far.
func (t *Traffic) Octets() (received, sent int64) { return t.received.Load(), t.sent.Load() }

func (t *Traffic) add(received, sent int) {
	if t == nil {
		return
	}
	t.received.Add(int64(received))
	t.sent.Add(int64(sent))
}
