//go:build unix

package direct

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
)

// Raw returns the descriptor of a TCP or Unix connection, nil for any other: those two
// alone promise that the descriptor's bytes are the connection's.
func Raw(c net.Conn) syscall.RawConn {
	switch c := c.(type) {
	case *net.TCPConn:
		raw, _ := c.SyscallConn()
		return raw
	case *net.UnixConn:
		raw, _ := c.SyscallConn()
		return raw
	}
	return nil
}

// writeMax is how much is given to the kernel at once: what a call copies, no other goroutine of
// the thread's runs meanwhile, and nothing can preempt it.
const writeMax = 256 << 10

// Conn is a connection that is read by one goroutine at a time and written by one. All else,
// deadlines and Close among it, is the embedded connection's.
type Conn struct {
	net.Conn
	raw     syscall.RawConn
	in, out half
	draught draught
}

// draught is a Draw under way.
type draught struct {
	try  func(fd uintptr) bool
	room Room
	p    []byte
	n    int
	err  error
}

// half is a call under way in one direction. try is made once: a request makes no closure.
type half struct {
	try func(fd uintptr) bool
	p   []byte
	n   int
	err error
}

// New returns c in a Conn, or c itself if its descriptor is not the connection's bytes.
func New(c net.Conn) net.Conn {
	raw := Raw(c)
	if raw == nil {
		return c
	}
	s := &Conn{Conn: c, raw: raw}
	s.in.try, s.out.try, s.draught.try = s.tryRead, s.tryWrite, s.tryDraw
	return s
}

// Inner is the connection that was given to New.
func (s *Conn) Inner() net.Conn { return s.Conn }

// CloseWrite closes our direction, if the connection can.
func (s *Conn) CloseWrite() error {
	if c, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Read implements net.Conn.
func (s *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	h := &s.in
	h.p, h.n, h.err = p, 0, nil
	err := s.raw.Read(h.try)
	h.p = nil
	if err == nil {
		err = h.err
	}
	return h.n, err
}

func (s *Conn) tryRead(fd uintptr) bool {
	h := &s.in
	n, err := Read(fd, h.p)
	switch {
	case err == nil && n == 0:
		h.err = io.EOF
	case err == nil:
		h.n = n
	case errors.Is(err, syscall.EAGAIN):
		return false
	default:
		h.err = os.NewSyscallError("read", err)
	}
	return true
}

// Draw is Read into a buffer that is taken from room when something is there, and is the caller's to put back: who waits holds none. It is
// nil with an error. It is called where Read is, by the same one goroutine.
func (s *Conn) Draw(room Room) ([]byte, error) {
	d := &s.draught
	d.room, d.p, d.n, d.err = room, nil, 0, nil
	err := s.raw.Read(d.try)
	p := d.p
	d.room, d.p = nil, nil
	if err == nil {
		err = d.err
	}
	if err != nil {
		return nil, err
	}
	return p[:d.n], nil
}

func (s *Conn) tryDraw(fd uintptr) bool {
	d := &s.draught
	p := d.room.Get()
	n, err := Read(fd, p)
	if err == nil && n > 0 {
		d.p, d.n = p, n
		return true
	}
	d.room.Put(p)
	switch {
	case err == nil:
		d.err = io.EOF
	case errors.Is(err, syscall.EAGAIN):
		return false
	default:
		d.err = os.NewSyscallError("read", err)
	}
	return true
}

// Write implements net.Conn.
func (s *Conn) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	h := &s.out
	h.p, h.n, h.err = p, 0, nil
	err := s.raw.Write(h.try)
	h.p = nil
	if err == nil {
		err = h.err
	}
	return h.n, err
}

func (s *Conn) tryWrite(fd uintptr) bool {
	h := &s.out
	for h.n < len(h.p) {
		n, err := Write(fd, h.p[h.n:min(len(h.p), h.n+writeMax)])
		h.n += n
		switch {
		case err == nil:
		case errors.Is(err, syscall.EAGAIN):
			return false
		default:
			h.err = os.NewSyscallError("write", err)
			return true
		}
	}
	return true
}
