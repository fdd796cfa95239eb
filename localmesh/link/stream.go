package link

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
)

// stream is an end of a connection as the relay needs it. One goroutine reads and one writes; reset and close may come
// from any and unblock both.
type stream interface {
	// fill waits until there is something to read, asks for room only then, and returns how much of it was filled. io.EOF
	// is the peer's FIN, any other error its RST.
	fill(buffer) (int, error)
	// write writes all of bufs, which it consumes.
	write(bufs *net.Buffers) error
	closeWrite() error
	close()
	reset() // closes by an RST
	// closed tells whether the peer's FIN or RST is here, though perhaps behind bytes that nobody read.
	closed() (fin, rst bool)
}

// buffer is where fill puts what it reads.
type buffer interface {
	room() []byte
	unused() // gives back the last room, unfilled
}

// tcpStream is a stream over a socket. It reads through the raw descriptor, so that a connection without traffic holds no
// buffer: Read wants one before it waits.
type tcpStream struct {
	conn *net.TCPConn
	raw  syscall.RawConn
	try  func(fd uintptr) bool // bound once: a closure a read would be an allocation a read

	// of the fill in progress
	into buffer
	n    int
	err  error
}

func newTCPStream(conn *net.TCPConn) (*tcpStream, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("descriptor of %v: %w", conn.RemoteAddr(), err)
	}
	s := &tcpStream{conn: conn, raw: raw}
	s.try = s.tryRead
	return s, nil
}

func (s *tcpStream) fill(into buffer) (int, error) {
	s.into, s.n, s.err = into, 0, nil
	if err := s.raw.Read(s.try); err != nil {
		return 0, err
	}
	return s.n, s.err
}

// tryRead reads what is there; false makes the poller wait for more.
func (s *tcpStream) tryRead(fd uintptr) bool {
	p := s.into.room()
	for len(p) > 0 {
		n, err := syscall.Read(int(fd), p)
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			s.into.unused()
			return false
		case err != nil:
			s.err = err
		case n == 0:
			s.err = io.EOF
		default:
			s.n = n
			return true
		}
		break
	}
	if len(p) == 0 {
		s.err = io.ErrClosedPipe // the half is dead and lends no more room
	}
	s.into.unused()
	return true
}

func (s *tcpStream) write(bufs *net.Buffers) error {
	_, err := bufs.WriteTo(s.conn)
	return err
}

func (s *tcpStream) closeWrite() error { return s.conn.CloseWrite() }

// close and reset have nobody to tell an error: the connection is over either way.
func (s *tcpStream) close() { _ = s.conn.Close() }

func (s *tcpStream) reset() {
	_ = s.conn.SetLinger(0)
	_ = s.conn.Close()
}

// dialTCP dials target from source. Keep-alives are off on both ends of the relay: no peer on this machine vanishes
// without a word, and idle connections are to cost nothing.
func dialTCP(ctx context.Context, source netip.Addr, target netip.AddrPort) (stream, error) {
	d := net.Dialer{
		LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(source, 0)),
		KeepAlive: -1,
		Control:   bindWithoutPort,
	}
	conn, err := d.DialContext(ctx, "tcp", target.String())
	if err != nil {
		return nil, err
	}
	s, err := newTCPStream(conn.(*net.TCPConn))
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return s, nil
}

func listenTCP(ctx context.Context, at netip.AddrPort) (*net.TCPListener, error) {
	lc := net.ListenConfig{KeepAlive: -1}
	l, err := lc.Listen(ctx, "tcp", at.String())
	if err != nil {
		return nil, err
	}
	return l.(*net.TCPListener), nil
}
