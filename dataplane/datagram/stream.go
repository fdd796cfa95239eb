package datagram

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// leaveTime is how long a stream waits for answers that are on their way when its proxy drains.
const leaveTime = 500 * time.Millisecond

// buffers hold one capsule each. They are taken when a datagram is there and not while one is waited for.
var buffers = sync.Pool{New: func() any { return new([headMost + MaxSize]byte) }}

// Stream presents a connected UDP socket as a stream whose tunnel was granted: what is written must be
// capsules, and what is read is. It ends in order when draining ends, so that the client's next datagram
// opens a session elsewhere. A datagram that the system does not take is counted in dropped; that nobody
// listens any more (ICMP port unreachable) breaks the stream.
func Stream(c *net.UDPConn, draining context.Context, dropped *atomic.Uint64) (message.Stream, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &stream{conn: c, raw: raw, dropped: dropped}
	s.try = s.tryRead
	s.stop = context.AfterFunc(draining, func() {
		s.leaving.Store(true)
		_ = c.SetReadDeadline(time.Now().Add(leaveTime))
	})
	return s, nil
}

type stream struct {
	conn    *net.UDPConn
	raw     syscall.RawConn
	dropped *atomic.Uint64
	sends   Decoder
	stop    func() bool
	leaving atomic.Bool
	closed  atomic.Bool

	// By who reads: a capsule, of which rest was not read yet, and how receiving it went.
	try  func(uintptr) bool
	buf  *[headMost + MaxSize]byte
	rest []byte
	err  error
}

func (s *stream) Send(*message.Head, bool) error { return nil }
func (s *stream) Trailers() []message.Field      { return nil }

func (s *stream) SetDeadline(t time.Time) {
	if !t.IsZero() || !s.leaving.Load() {
		_ = s.conn.SetDeadline(t)
	}
}

func (s *stream) Receive(h *message.Head) (bool, error) {
	h.Reset()
	h.Status, h.Length = 200, message.LengthUnknown
	return false, nil
}

func (s *stream) Write(p []byte) (int, error) {
	for rest := p; ; {
		d, more, ok, err := s.sends.Next(rest)
		if err != nil {
			return 0, err
		}
		if !ok {
			return len(p), nil
		}
		rest = more
		switch _, err := s.conn.Write(d); {
		case err == nil:
		case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, net.ErrClosed), errors.Is(err, os.ErrDeadlineExceeded):
			return 0, err
		default: // too large for the link, no buffer, no route just now
			s.dropped.Add(1)
		}
	}
}

// CloseWrite says that the client has left: nobody waits for answers.
func (s *stream) CloseWrite([]message.Field) error {
	s.closed.Store(true)
	return s.conn.Close()
}

func (s *stream) Read(p []byte) (int, error) {
	if len(s.rest) == 0 {
		if err := s.receive(); err != nil {
			return 0, err
		}
	}
	n := copy(p, s.rest)
	if s.rest = s.rest[n:]; len(s.rest) == 0 {
		s.release()
	}
	return n, nil
}

// receive waits for a datagram and makes a capsule of it.
func (s *stream) receive() error {
	s.err = nil
	err := s.raw.Read(s.try)
	if err == nil {
		err = s.err
	}
	switch {
	case err == nil:
		return nil
	case s.closed.Load(), s.leaving.Load() && errors.Is(err, os.ErrDeadlineExceeded):
		return io.EOF
	}
	return err
}

// received takes n bytes that were read behind room for a head.
func (s *stream) received(n int) {
	var head [headMost]byte
	h := appendHead(head[:0], n)
	copy(s.buf[headMost-len(h):], h)
	s.rest = s.buf[headMost-len(h) : headMost+n]
}

func (s *stream) release() {
	if s.buf != nil {
		buffers.Put(s.buf)
		s.buf = nil
	}
}

func (s *stream) Close() {
	s.closed.Store(true)
	s.stop()
	_ = s.conn.Close()
	s.release()
}
