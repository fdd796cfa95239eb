package http2

import (
	"errors"
	"os"
	"runtime"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// kick tells the flusher that there is something to write. mu is held.
func (c *conn) kick() {
	if c.flusherIdle {
		c.flusherIdle = false
		c.flush.Signal()
	}
}

// flushLoop is the flusher: it writes what has gathered until the connection has ended and
// all is written, then closes the transport.
func (c *conn) flushLoop() {
	broken := false
	c.mu.Lock()
	for {
		for len(c.out) == 0 && c.err == nil {
			c.flusherIdle = true
			c.flush.Wait()
		}
		c.flusherIdle = false
		if len(c.out) == 0 || broken || c.err != nil && c.err.broken() {
			break
		}
		if c.streams.n > 1 && c.err == nil {
			// Producers that are ready append first: their frames share the write.
			c.mu.Unlock()
			runtime.Gosched()
			c.mu.Lock()
		}
		b := c.out
		c.out, c.spare = c.spare[:0], nil
		c.outGen++
		c.spaceWait.wakeOne()
		c.role.flushing()
		c.mu.Unlock()
		err := c.write(b)
		c.mu.Lock()
		if cap(b) <= 2*c.cfg.SendBuffer {
			c.spare = b[:0]
		}
		if err != nil {
			broken = true
			c.writeFailed(err)
		}
	}
	polite := !broken && !c.err.broken()
	c.mu.Unlock()
	if half, ok := c.nc.(interface{ CloseWrite() error }); polite && ok && half.CloseWrite() == nil {
		// The reader lingers until the peer has read the GOAWAY, or for lingerTime.
		_ = c.nc.SetReadDeadline(time.Now().Add(lingerTime))
		return
	}
	_ = c.nc.Close()
}

// lastWords bounds how long a client reads on after a write has failed. A server that refuses says why, by GOAWAY or
// by an alert of TLS, and closes; what we are still sending is answered by a reset (RFC 9293 §3.10.7.4), which fails our
// write while its words stand unread in our socket. They say more than the reset: whether a stream was executed, and why.
const lastWords = 500 * time.Millisecond

// writeFailed ends the connection whose transport answered a write by err, a client's when the reader has come to its
// end or lastWords are over. A write that came to its deadline broke nothing that the peer could speak of. mu is held.
func (c *conn) writeFailed(err error) {
	why := transportErr("write", err)
	if !c.client || errors.Is(err, os.ErrDeadlineExceeded) {
		c.fail(why)
		return
	}
	if c.err == nil {
		c.unsent = why
		_ = c.nc.SetReadDeadline(time.Now().Add(lastWords))
	}
	for c.err == nil {
		c.flush.Wait()
	}
}

// write writes b within WriteTimeout. The deadline is moved only when half of it is gone: a
// write has at least half.
func (c *conn) write(b []byte) error {
	now := time.Now()
	if c.writeUntil.Sub(now) < c.cfg.WriteTimeout/2 {
		c.writeUntil = now.Add(c.cfg.WriteTimeout)
		if err := c.nc.SetWriteDeadline(c.writeUntil); err != nil {
			return err
		}
	}
	_, err := c.nc.Write(b)
	return err
}

// wakeWriters wakes the first writer that can go on; it wakes the next when it has had
// its turn, so that writers take turns of a frame each. mu is held.
func (c *conn) wakeWriters() {
	if len(c.out) < c.cfg.SendBuffer {
		c.spaceWait.wakeOne()
	}
	if c.sendWin > 0 {
		c.windowWait.wakeOne()
	}
}

// awaitSpace waits until the buffer has room. mu is held.
func (s *stream) awaitSpace() error {
	c := s.c
	for {
		if err := s.sendErr(); err != nil {
			c.wakeWriters() // the turn goes on to the next
			return err
		}
		if len(c.out) < c.cfg.SendBuffer {
			return nil
		}
		c.spaceWait.push(s)
		c.waiting++
		s.wcond.Wait()
		c.waiting--
		c.spaceWait.remove(s)
	}
}

// awaitWindow waits until a DATA frame of at least one octet may be appended and
// returns how many of n may be. mu is held.
func (s *stream) awaitWindow(n int) (int, error) {
	c := s.c
	for {
		if err := s.sendErr(); err != nil {
			c.wakeWriters()
			return 0, err
		}
		var l *waitList
		switch {
		case s.sendWin <= 0: // woken by its own WINDOW_UPDATE
		case c.sendWin <= 0:
			l = &c.windowWait
		case len(c.out) >= c.cfg.SendBuffer:
			l = &c.spaceWait
		default:
			return min(n, c.maxFrame, s.sendWin, c.sendWin), nil
		}
		c.wakeWriters() // the turn goes on to one who can use it
		if l != nil {
			l.push(s)
		}
		c.waiting++
		s.wcond.Wait()
		c.waiting--
		if l != nil {
			l.remove(s)
		}
	}
}

// sendErr says why s may not send now. mu is held.
func (s *stream) sendErr() error {
	switch {
	case s.err != nil:
		return s.err
	case s.c.err != nil:
		return s.connEnded()
	case s.sendEnd:
		return ErrEnded
	case s.expired:
		return os.ErrDeadlineExceeded
	}
	return nil
}

// sendData appends p as DATA frames as windows and room allow.
func (s *stream) sendData(p []byte) (n int, err error) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if !s.sentHead {
		return 0, ErrOrder
	}
	if s.discard {
		return len(p), nil
	}
	if s.left >= 0 && int64(len(p)) > s.left {
		c.reset(s, &StreamError{ID: s.id, Code: InternalError, Reason: "body longer than its announced length"})
		return 0, ErrLength
	}
	for n < len(p) {
		k, err := s.awaitWindow(len(p) - n)
		if err != nil {
			return n, err
		}
		s.lastFrame, s.lastGen = len(c.out), c.outGen
		c.out = append(appendFrame(c.out, frame{k, frameData, 0, s.id}), p[n:n+k]...)
		s.sendWin -= k
		c.sendWin -= k
		c.gave(s, k)
		if k == len(p)-n || k >= earnFrameSent {
			c.bucket.earn(earnFrame + float64(k)*earnOctet)
		}
		n += k
		if s.left >= 0 {
			s.left -= int64(k)
		}
		c.wakeWriters()
		c.kick()
	}
	return n, nil
}

// sendEndStream ends the sending direction: by a trailer section, by a flag on the stream's
// last frame if the flusher has not taken it yet, or by an empty DATA frame. mu is held.
func (s *stream) sendEndStream(trailers []message.Field) error {
	c := s.c
	switch {
	case s.err != nil:
		return s.err
	case c.err != nil:
		return s.connEnded()
	case s.sendEnd:
		return nil
	case s.left > 0:
		c.reset(s, &StreamError{ID: s.id, Code: InternalError, Reason: "body shorter than its announced length"})
		return ErrLength
	}
	switch {
	case len(trailers) > 0:
		at := len(c.out)
		c.out = c.enc.appendTrailers(appendFrame(c.out, frame{kind: frameHeaders, flags: flagEndStream | flagEndHeaders, stream: s.id}), trailers)
		c.closeSection(at)
	case s.lastGen == c.outGen:
		c.out[s.lastFrame+4] |= flagEndStream
	default:
		c.out = appendFrame(c.out, frame{0, frameData, flagEndStream, s.id})
	}
	s.sendEnd = true
	c.maybeEnded(s)
	c.kick()
	return nil
}

// sendHead appends a head. encode appends its field section. mu is held.
func (s *stream) sendHead(end bool, encode func(e *encoder, dst []byte) []byte) {
	c := s.c
	s.lastFrame, s.lastGen = len(c.out), c.outGen
	f := frame{kind: frameHeaders, flags: flagEndHeaders, stream: s.id}
	if end {
		f.flags |= flagEndStream
		s.sendEnd = true
	}
	c.out = encode(&c.enc, appendFrame(c.out, f))
	c.closeSection(s.lastFrame)
	c.kick()
}

// closeSection writes the length of the HEADERS frame that begins at at, and cuts it into
// CONTINUATION frames if it is too long (RFC 9113 §6.10). mu is held.
func (c *conn) closeSection(at int) {
	n := len(c.out) - at - frameHeaderLen
	if n <= c.maxFrame {
		setLength(c.out[at:], n)
		return
	}
	block := append([]byte(nil), c.out[at+frameHeaderLen:]...)
	head := parseFrame(c.out[at:])
	c.out = c.out[:at]
	kind, flags := uint8(frameHeaders), head.flags&^flagEndHeaders
	for len(block) > 0 {
		k := min(len(block), c.maxFrame)
		if k == len(block) {
			flags |= flagEndHeaders
		}
		c.out = append(appendFrame(c.out, frame{k, kind, flags, head.stream}), block[:k]...)
		block, kind, flags = block[k:], frameContinuation, 0
	}
}
