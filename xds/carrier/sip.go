package carrier

import (
	"encoding/binary"
	"sync"

	"github.com/isthmus-mesh/isthmus/internal/direct"
)

// readMost is how much is read from a socket at once.
const readMost = 4 << 10

// recordHead is the length of a TLS record's header: its type, a version, and the length of what follows (RFC 8446 §5.1).
const recordHead = 5

// sip is what TLS reads from: it gives a record at a time, its header first. What a read finds, TLS keeps room for as long as the connection
// lives (crypto/tls, Conn.rawInput), twice over where a record's end has the next one's beginning behind it. What was read and not yet given lies
// in a buffer that connections share: one that waits has none.
type sip struct {
	*direct.Outlet
	buf  []byte           // as it was taken from the pool; nil when all was given
	at   int              // what of it was given
	head [recordHead]byte // of the record under way
	got  int              // of head
	left int              // of the record behind its header
}

// Read implements net.Conn.
func (s *sip) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if s.buf == nil {
		b, err := s.Draw(sips{})
		if err != nil {
			return 0, err
		}
		s.buf, s.at = b, 0
	}
	from := s.buf[s.at:]
	if s.left > 0 {
		n := copy(p, from[:min(len(from), s.left)])
		s.left -= n
		return s.given(n), nil
	}
	n := copy(p, from[:min(len(from), recordHead-s.got)])
	if s.got += copy(s.head[s.got:], p[:n]); s.got == recordHead {
		s.got, s.left = 0, int(binary.BigEndian.Uint16(s.head[recordHead-2:]))
	}
	return s.given(n), nil
}

// given notes that n bytes more were given.
func (s *sip) given(n int) int {
	if s.at += n; s.at == len(s.buf) {
		sips{}.Put(s.buf)
		s.buf = nil
	}
	return n
}

// sips are the buffers of connections of which something was read.
type sips struct{}

var sipsPool = sync.Pool{New: func() any { return new([readMost]byte) }}

// Get implements direct.Room.
func (sips) Get() []byte { return sipsPool.Get().(*[readMost]byte)[:] }

// Put implements direct.Room.
func (sips) Put(b []byte) { sipsPool.Put((*[readMost]byte)(b[:readMost])) }
