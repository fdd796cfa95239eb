package datagram

import (
	"errors"
	"io"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/internal/clock"
)

// queueMost bounds what of one session waits to be sent, in bytes with heads: two of the largest
// datagrams. What comes beyond is dropped.
const queueMost = 2 * (MaxSize + headMost)

// errCut is how reading ends in a session whose time is up.
var errCut = errors.New("the session was cut off")

// session is an exchange that asks for a tunnel, and what one client sends and receives.
type session struct {
	port     *Port
	client   netip.AddrPort
	head     message.Head
	accepted bool    // by the goroutine that Responds and Writes, as is
	answers  Decoder // what Write is given
	timer    clock.Timer
	wake     chan struct{} // capacity 1: look again
	moved    atomic.Int64  // when a datagram last passed, either way, or with a ration came; in nanoseconds, as UnixNano has it
	owed     atomic.Int64  // with a ration: bytes of answers that the client has asked for and not had

	mu       sync.Mutex
	queue    []byte // capsules that wait, from at on
	at       int
	deadline time.Time
	ended    error // what Read returns when the queue is empty; nil: it waits
	onBreak  func()

	newer, older *session // in the port's order; by the port
}

func newSession(p *Port, client netip.AddrPort) *session {
	s := &session{port: p, client: client, wake: make(chan struct{}, 1)}
	s.head.Reset()
	s.head.Method, s.head.Authority = []byte("CONNECT"), []byte(p.cfg.Authority)
	return s
}

// put queues a datagram of the client's. It reports whether the session takes any; one that finds no
// room is dropped.
func (s *session) put(d []byte, now int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended != nil {
		return false
	}
	s.moved.Store(now)
	s.owed.Add(int64(s.port.cfg.Ration))
	if len(s.queue)-s.at+headMost+len(d) > queueMost {
		s.port.cfg.Dropped.Add(1)
		return true
	}
	if s.at > 0 && cap(s.queue)-len(s.queue) < headMost+len(d) {
		s.queue, s.at = s.queue[:copy(s.queue, s.queue[s.at:])], 0
	}
	s.queue = Append(s.queue, d)
	s.look()
	return true
}

// look wakes who reads.
func (s *session) look() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// end lets the session take no more: what waits is sent, and then reading ends in order.
func (s *session) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended == nil {
		s.ended = io.EOF
		s.look()
	}
}

// cut ends the session without regard to what its other end does.
func (s *session) cut() {
	s.mu.Lock()
	s.ended = errCut
	tell := s.onBreak
	s.look()
	s.mu.Unlock()
	if tell != nil {
		tell()
	}
}

// OnBreak has f told when the session is cut off.
func (s *session) OnBreak(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onBreak = f
}

func (s *session) Request() *message.Head    { return &s.head }
func (s *session) Trailers() []message.Field { return nil }
func (s *session) Abort(error)               { s.end() }

func (s *session) SetDeadline(t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deadline = t
	s.look()
}

// Read returns capsules, as many as wait and fit. It ends, and with it the session, when nothing has
// passed for the idle time.
func (s *session) Read(p []byte) (int, error) {
	for {
		n, wait, err := s.take(p)
		if n > 0 || err != nil {
			return n, err
		}
		if s.timer == nil {
			s.timer = s.port.cfg.Clock.NewTimer(wait)
		} else {
			s.timer.Reset(wait)
		}
		select {
		case <-s.wake:
		case <-s.timer.C():
		}
	}
}

// take is Read without waiting; with nothing to return it says for how long to wait.
func (s *session) take(p []byte) (n int, wait time.Duration, err error) {
	idle := s.port.cfg.Idle()
	s.mu.Lock()
	defer s.mu.Unlock()
	if n = copy(p, s.queue[s.at:]); n > 0 {
		if s.at += n; s.at == len(s.queue) {
			if s.queue, s.at = s.queue[:0], 0; cap(s.queue) > bufferKeep {
				s.queue = nil
			}
		}
		return n, 0, nil
	}
	if s.ended != nil {
		return 0, 0, s.ended
	}
	now := s.port.cfg.Clock.Now()
	if wait = idle - time.Duration(now.UnixNano()-s.moved.Load()); wait <= 0 {
		s.ended = io.EOF // under the lock: the client's next datagram opens another session
		return 0, 0, io.EOF
	}
	if !s.deadline.IsZero() {
		left := s.deadline.Sub(now)
		if left <= 0 {
			return 0, 0, os.ErrDeadlineExceeded
		}
		wait = min(wait, left)
	}
	return 0, wait, nil
}

// Respond accepts with 2xx; any other answer ends the session, and has nobody to read it.
func (s *session) Respond(h *message.Head, end bool) error {
	if s.accepted = h.Status/100 == 2; !s.accepted || end {
		s.end()
	}
	return nil
}

// Write sends the datagrams in p to the client, as they become whole. One that the system does not take
// is dropped.
func (s *session) Write(p []byte) (int, error) {
	if !s.accepted {
		return len(p), nil
	}
	for rest := p; ; {
		d, more, ok, err := s.answers.Next(rest)
		if err != nil {
			return 0, err
		}
		if !ok {
			return len(p), nil
		}
		rest = more
		if s.port.cfg.Ration == 0 {
			s.moved.Store(s.port.cfg.Clock.Now().UnixNano())
		} else if s.owed.Add(-int64(len(d))) < 0 {
			s.owed.Add(int64(len(d)))
			s.port.cfg.Dropped.Add(1)
			continue
		}
		if _, err := s.port.cfg.Socket.WriteToUDPAddrPort(d, s.client); err != nil {
			s.port.cfg.Dropped.Add(1)
		}
	}
}

// Finish says that the other end sends no more, which is the end of a session.
func (s *session) Finish([]message.Field) error {
	s.end()
	return nil
}
