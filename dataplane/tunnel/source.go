package tunnel

import (
	"net"
	"sync"
	"syscall"

	"github.com/isthmus-mesh/isthmus/dataplane/socket"
)

// passBuffers are shared by all pairs: one that waits holds none.
var passBuffers = sync.Pool{New: func() any { return new([passBuffer]byte) }}

// source reads a connection into a buffer that it takes when there is something to read.
type source struct {
	net.Conn
	raw syscall.RawConn // nil: the descriptor's bytes are not the connection's, or the system is another
	try func(fd uintptr) bool
	buf *[passBuffer]byte
	n   int
	err error
}

func newSource(c net.Conn) *source {
	s := &source{Conn: c, raw: socket.Raw(c)}
	s.try = s.tryRead
	return s
}

// next waits for bytes and returns them, until release.
func (s *source) next() ([]byte, error) {
	if s.raw == nil {
		s.take()
		n, err := s.Read(s.buf[:])
		return s.buf[:n], err
	}
	s.n, s.err = 0, nil
	if err := s.raw.Read(s.try); err != nil {
		return nil, err
	}
	if s.n == 0 {
		return nil, s.err
	}
	return s.buf[:s.n], nil
}

func (s *source) take() {
	if s.buf == nil {
		s.buf = passBuffers.Get().(*[passBuffer]byte)
	}
}

func (s *source) release() {
	if s.buf != nil {
		passBuffers.Put(s.buf)
		s.buf = nil
	}
}
