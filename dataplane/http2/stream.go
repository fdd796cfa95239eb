package http2

import (
	"io"
	"os"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// stream is what both ends of a stream share. All fields are guarded by conn.mu. Objects
// are reused within their connection, with their storage and their timer.
type stream struct {
	c       *conn
	id      uint32
	next    *stream // in a chain of the table
	inTable bool
	err     error  // why it broke
	onBreak func() // called once when it breaks

	// Receiving.
	rcond     sync.Cond
	head      message.Head
	headReady bool // head has not been received yet
	headEnd   bool // it ended the stream
	info      []message.Head
	infos     int // informational responses in info
	trailers  message.Head
	queue     queue
	recvWin   int   // what the peer may still send
	window    int   // what the peer may have outstanding
	extra     int   // of window, from the budget
	consumed  int   // read, and not given back yet
	taken     int   // read in all
	expect    int64 // octets of body still to come, or -1
	gotHead   bool  // a head, be it informational
	gotFinal  bool
	recvEnd   bool
	isHead    bool // HEAD request
	isConnect bool
	began     int64 // a server's: when its head was read

	// Sending.
	wcond              sync.Cond
	waitIn             *waitList
	waitPrev, waitNext *stream
	sendWin            int
	begun, parked      bool // a server's: its handler has begun, or waits to
	given              int  // octets of DATA sent, up to freshOctets
	fresh              freshness
	left               int64 // octets of body still to be sent, or -1
	sentHead           bool  // the final one
	sendEnd            bool
	discard            bool // the body is swallowed: a response to HEAD, 204, 304
	lastFrame          int  // place in conn.out of the last HEADERS or DATA
	lastGen            uint64

	// Deadline. The timer is not stopped when the deadline moves back or goes: it looks
	// again when it fires. So deadlines that move forward cost nothing.
	deadline time.Time
	expired  bool
	timer    *time.Timer
	timerAt  time.Time // when it fires; zero if it is not armed
}

func (s *stream) init(c *conn) {
	s.c = c
	s.rcond.L, s.wcond.L = &c.mu, &c.mu
}

// reusable reports whether nobody can have a reason to call s any more: both directions
// ended in order. Any other stream may still have a goroutine that copies into it or out of it,
// whose next call must fail and not fall into another request: such objects are left to the
// garbage collector. mu is held.
func (s *stream) reusable() bool { return s.sendEnd && s.recvEnd && s.err == nil }

// letGo gives back what s holds. mu is held, and s is not in the table.
func (s *stream) letGo() {
	c := s.c
	s.deadline = time.Time{}
	if s.err == nil && !s.reusable() {
		s.err = &StreamError{ID: s.id, Code: Cancel, Reason: "closed"}
	}
	if s.extra > 0 {
		c.bufMax -= s.extra
		if c.cfg.Budget != nil {
			c.cfg.Budget.Give(s.extra)
		}
	}
	if n := s.queue.n; n > 0 {
		s.queue.drop()
		c.buffered -= n
		c.replenish()
	}
	s.extra = 0
}

// recycle makes s ready for another use. mu is held.
func (s *stream) recycle() {
	c := s.c
	s.head.Reset()
	s.trailers.Reset()
	s.id, s.err, s.onBreak = 0, nil, nil
	s.headReady, s.headEnd, s.infos = false, false, 0
	s.recvWin, s.window, s.consumed, s.taken, s.expect = c.cfg.InitialWindow, c.cfg.InitialWindow, 0, 0, -1
	s.gotHead, s.gotFinal, s.recvEnd, s.isHead, s.isConnect = false, false, false, false, false
	s.sendWin, s.left = 0, -1
	s.begun, s.parked, s.given = false, false, 0
	s.sentHead, s.sendEnd, s.discard = false, false, false
	s.lastGen = ^uint64(0)
	s.deadline, s.expired = time.Time{}, false
}

// working reports whether we are busy with s, and have not been for long. mu is held.
func (s *stream) working() bool {
	return s.inTable && !s.sendEnd && s.c.lastRead.Load()-s.began < wasteWithin
}

// enter puts s into the table under id. mu is held.
func (s *stream) enter(id uint32) {
	s.id, s.inTable, s.began = id, true, s.c.lastRead.Load()
	s.sendWin = s.c.peerWindow
	s.c.streams.put(s)
}

// connEnded is the error of a call on a stream of a connection that has ended.
func (s *stream) connEnded() error {
	c := s.c
	return &StreamError{ID: s.id, Code: c.err.Code, Remote: true, NotExecuted: s.id == 0, Err: c.err}
}

// read is Read of both ends.
func (s *stream) read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case s.expired:
			return 0, os.ErrDeadlineExceeded
		case s.queue.n > 0:
			n := s.queue.pop(p)
			c.consumed(s, n)
			return n, nil
		case s.recvEnd:
			return 0, io.EOF
		case s.err != nil:
			return 0, s.err
		case c.err != nil:
			return 0, s.connEnded()
		}
		s.rcond.Wait()
	}
}

// ready is Ready of both ends.
func (s *stream) ready() bool {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	return s.queue.n > 0 || s.recvEnd || s.expired || s.err != nil || c.err != nil
}

// Trailers returns the peer's trailer fields, after Read returned io.EOF.
func (s *stream) Trailers() []message.Field {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if !s.recvEnd {
		return nil
	}
	return s.trailers.Fields
}

// SetDeadline bounds every blocking call, those already waiting included.
func (s *stream) SetDeadline(t time.Time) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	s.deadline, s.expired = t, false
	if t.IsZero() {
		return
	}
	if !s.timerAt.IsZero() && !s.timerAt.After(t) {
		return // it looks when it fires, which is now if t has passed
	}
	d := time.Until(t)
	if d <= 0 {
		s.expire()
		return
	}
	s.timerAt = t
	if s.timer == nil {
		s.timer = time.AfterFunc(d, s.timerFired)
	} else {
		s.timer.Reset(d)
	}
}

func (s *stream) timerFired() {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.timerAt = time.Time{}
	if s.deadline.IsZero() {
		return
	}
	if d := time.Until(s.deadline); d > 0 {
		s.timerAt = s.deadline
		s.timer.Reset(d)
		return
	}
	s.expire()
}

func (s *stream) expire() {
	s.expired = true
	s.rcond.Broadcast()
	s.wcond.Broadcast()
}

// OnBreak has f called once, on a goroutine of its own, when the stream breaks: reset by
// either side, or the connection ended. It is called at once if that has
// happened; nil takes f back. A handler that waits for something else than
// its client learns here that the client is gone.
func (s *stream) OnBreak(f func()) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if s.err != nil && f != nil {
		go f()
		return
	}
	s.onBreak = f
}
