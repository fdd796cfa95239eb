package http1

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// deadlines merges the caller's deadline with the engine's own and arms the
// connection's timers only for calls that are about to block. SetDeadline may come from another goroutine
// while a call blocks, and takes effect on it.
//
// Each request has a deadline of its own, later than that of the one before, and nearly none is reached. So a timer
// that is armed for earlier is left: what it ends before its time is armed anew and goes on (readAgain,
// writeAgain). That is once in the length of a deadline, and not with every request.
type deadlines struct {
	conn net.Conn
	lazy bool // a call that a deadline ends can be made again where it stopped, as on a plain socket; TLS fails for good

	mu         sync.Mutex
	user       time.Time
	read       direction
	write      direction
	handedOver bool
	draining   bool // responses say that the connection ends
	endIdle    bool // and no wait for a request goes on
}

type direction struct {
	engine time.Time // of the call in progress
	armed  time.Time // what the connection was last told
	busy   bool      // a call is in progress
	idle   bool      // it waits for a message that need not come
}

// earliest returns the earlier of two deadlines; zero is none.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// set is the caller's SetDeadline.
func (d *deadlines) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.user = t
	if d.read.busy {
		d.armRead()
	}
	if d.write.busy {
		d.armWrite()
	}
}

// startRead is called before a read that may block.
func (d *deadlines) startRead(engine time.Time) {
	d.mu.Lock()
	d.read.busy, d.read.idle, d.read.engine = true, false, engine
	d.armRead()
	d.mu.Unlock()
}

// startIdle is startRead for a wait that drain may end. A deadline already armed is left
// if it lies no more than slack after the engine's.
func (d *deadlines) startIdle(engine time.Time, slack time.Duration) {
	d.mu.Lock()
	d.read.busy, d.read.idle, d.read.engine = true, true, engine
	if !engine.IsZero() {
		late := engine.Add(slack)
		if d.read.armed.Before(engine) || d.read.armed.After(late) {
			d.read.engine = late
		} else {
			d.read.engine = d.read.armed
		}
	}
	d.armRead()
	d.mu.Unlock()
}

// drain marks the connection as ending, and with endIdle ends a wait for a message, now or when
// it begins.
func (d *deadlines) drain(endIdle bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.draining = true
	d.endIdle = d.endIdle || endIdle
	if d.read.busy {
		d.armRead()
	}
}

func (d *deadlines) isDraining() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.draining
}

// endsIdle reports whether no wait for a request goes on.
func (d *deadlines) endsIdle() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.endIdle
}

func (d *deadlines) endRead() {
	d.mu.Lock()
	d.read.busy = false
	d.mu.Unlock()
}

func (d *deadlines) startWrite(engine time.Time) {
	d.mu.Lock()
	d.write.busy, d.write.engine = true, engine
	d.armWrite()
	d.mu.Unlock()
}

func (d *deadlines) endWrite() {
	d.mu.Lock()
	d.write.busy = false
	d.mu.Unlock()
}

// armRead arms the deadline in force, unless one that is armed ends the call before. mu is held.
func (d *deadlines) armRead() {
	if t := d.readEnd(); t != d.read.armed && !(d.lazy && !d.read.idle && sooner(d.read.armed, t)) {
		d.armReadAt(t)
	}
}

// readEnd is the deadline in force. mu is held.
func (d *deadlines) readEnd() time.Time {
	if d.endIdle && d.read.idle {
		return time.Unix(1, 0) // past, whatever the clock
	}
	return earliest(d.user, d.read.engine)
}

func (d *deadlines) armReadAt(t time.Time) {
	if !d.handedOver {
		d.read.armed = t
		_ = d.conn.SetReadDeadline(t) // a closed connection says so in the read
	}
}

// readAgain reports whether a read that ended by err goes on: its timer was armed for earlier than the deadline in
// force, which is armed now.
func (d *deadlines) readAgain(err error) bool {
	if err == nil || !d.lazy || !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	t := d.readEnd()
	if t == d.read.armed || d.handedOver {
		return false
	}
	d.armReadAt(t)
	return true
}

func (d *deadlines) armWrite() {
	if t := earliest(d.user, d.write.engine); t != d.write.armed && !(d.lazy && sooner(d.write.armed, t)) {
		d.armWriteAt(t)
	}
}

func (d *deadlines) armWriteAt(t time.Time) {
	if !d.handedOver {
		d.write.armed = t
		_ = d.conn.SetWriteDeadline(t)
	}
}

// writeAgain is readAgain for a write.
func (d *deadlines) writeAgain(err error) bool {
	if err == nil || !d.lazy || !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	t := earliest(d.user, d.write.engine)
	if t == d.write.armed || d.handedOver {
		return false
	}
	d.armWriteAt(t)
	return true
}

// sooner reports whether a is a deadline and not after b; zero is none.
func sooner(a, b time.Time) bool { return !a.IsZero() && (b.IsZero() || !a.After(b)) }

// handOver removes every deadline, for a caller that takes the connection itself.
func (d *deadlines) handOver() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.handedOver = true
	_ = d.conn.SetDeadline(time.Time{})
}

// userFirst reports whether the caller's deadline lies before t.
func (d *deadlines) userFirst(t time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.user.IsZero() && d.user.Before(t)
}
