package socket

import "time"

// Acks is what a peer's kernel has said of what it was sent. It speaks for the path and that kernel: the process
// behind it may be stopped.
type Acks struct {
	Bytes uint64        // acknowledged since the connection was made
	Quiet time.Duration // since the last acknowledgement, that of a probe of a shut window among them; in milliseconds
	// Owed is that something was sent which a living kernel acknowledges within a round trip. It is false while the
	// peer's window is shut, which our kernel probes at intervals that double (RFC 9293 §3.8.6.1), also where it shut
	// behind what was sent. Linux before 5.4 does not tell the window: there it is always false.
	Owed bool
}
