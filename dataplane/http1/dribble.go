package http1

import (
	"math"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/socket"
)

// A client that sends a head or a body octet by octet has a proxy woken for each, and a body's is passed on as well, in a
// frame, a record and a packet of its own: hundreds of such clients cost a tenth of a core. So what dribbles is left to the
// kernel for a while, as Nagle's algorithm does at the other end (RFC 896), and read in one.
//
// Who does that for a reason is not to notice. Held back is a message of which the last reads gave next to nothing and that
// is late: a body that has fallen behind the least rate (ReadRateMin), for which its client is cut off if it goes on, or a
// head that has been coming for long. It is held for half the time that it is late at most, and not when what
// comes is more than a drip, is the rest of a body whose length is known, or comes after a longer pause.
const (
	dripBytes = 64 // a read of fewer is a drip
	dripReads = 3  // so many in a row are a dribble
	lateFrom  = 250 * time.Millisecond
	holdMost  = 500 * time.Millisecond
	// holdGrid is what waits end at the multiples of: one wake then reads what many clients dribbled.
	holdGrid = 100 * time.Millisecond
)

// hold is for how long more is waited for, in a message that is late by so much, after so many drips in a row.
func hold(drips uint8, late, most time.Duration) time.Duration {
	if drips < dripReads || late < lateFrom {
		return 0
	}
	return min(late/2, most)
}

// drip notes that a read gave n bytes.
func (in *input) drip(n int) {
	switch {
	case n >= dripBytes:
		in.drips = 0
	case in.drips < math.MaxUint8:
		in.drips++
	}
}

// holdBack waits for more than a drip, for as long as hold says. engine is the deadline of what is waited for, close to
// which nothing is held.
func (in *input) holdBack(engine, now time.Time, late time.Duration) {
	if in.drips < dripReads || in.raw == nil || in.failed != nil {
		return
	}
	most := orDefault(in.cfg.holdMost, holdMost)
	d := hold(in.drips, late, most)
	if d == 0 || !engine.IsZero() && engine.Sub(now) < 2*most {
		return
	}
	n := int64(dripBytes)
	if in.body.framing == framingLength && !in.body.done {
		n = min(n, in.body.remaining)
	}
	in.dl.startRead(now.Add(d).Truncate(holdGrid))
	socket.Hold(in.raw, int(n))
	in.dl.endRead()
}
