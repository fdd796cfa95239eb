package http1

import (
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// output is the writing half of a connection: a buffer held only while bytes wait in it,
// and the framing of the current body.
type output struct {
	conn net.Conn
	sock net.Conn // conn, past the scheduler
	cfg  *Config
	dl   *deadlines
	tcp  *net.TCPConn // writes with writev
	rate int          // least rate in bytes a second, or 0

	mu      sync.Mutex // the reading half sends 100 (Continue)
	buf     *buffer    // nil while empty
	b       []byte     // bytes that wait: buf.b[:n], or larger once grown
	corked  bool
	framing framing
	left    int64 // of framingLength
	ended   bool
	failed  error
	vector  [3][]byte
	rest    net.Buffers
}

func (o *output) init(conn, sock net.Conn, cfg *Config, dl *deadlines) {
	o.conn, o.sock, o.cfg, o.dl = conn, sock, cfg, dl
	o.tcp, _ = conn.(*net.TCPConn)
}

// hold returns the bytes that wait, to be appended to and stored in o.b.
func (o *output) hold() []byte {
	if o.buf == nil {
		o.buf = o.cfg.getBuffer()
		o.b = o.buf.b[:0]
	}
	return o.b
}

func (o *output) release() {
	if o.buf != nil {
		o.cfg.putBuffer(o.buf)
		o.buf, o.b = nil, nil
	}
}

// flush writes what waits.
func (o *output) flush() error {
	if o.failed != nil {
		return o.failed
	}
	if len(o.b) == 0 {
		return nil
	}
	err := o.write(o.b)
	o.release()
	return err
}

// write writes p to the connection, under the least rate if there is one.
func (o *output) write(p []byte) error {
	o.dl.startWrite(o.pace(len(p)))
	n, err := o.sock.Write(p)
	for o.dl.writeAgain(err) {
		p = p[n:]
		n, err = o.sock.Write(p)
	}
	o.dl.endWrite()
	return o.fail(err)
}

// pace gives the deadline by which n bytes must be taken.
func (o *output) pace(n int) time.Time {
	if o.rate == 0 {
		return time.Time{}
	}
	return o.cfg.now().Add(o.cfg.rateGrace() + time.Duration(int64(n)*int64(time.Second)/int64(o.rate)))
}

// fail remembers any error: after a part of a write nothing more can be said.
func (o *output) fail(err error) error {
	if err != nil && o.failed == nil {
		o.failed = err
		o.release()
	}
	return err
}

// startBody begins a body of the given framing.
func (o *output) startBody(fr framing, length int64) {
	o.framing, o.left = fr, length
	o.ended = fr == framingNone
}

// body writes part of a body, as one chunk if the body is chunked.
func (o *output) body(p []byte) (int, error) {
	if o.failed != nil {
		return 0, o.failed
	}
	if len(p) == 0 {
		return 0, nil
	}
	tail := ""
	switch {
	case o.ended:
		return 0, fmt.Errorf("write body: %w: it has ended", ErrState)
	case o.framing == framingLength:
		if int64(len(p)) > o.left {
			return 0, fmt.Errorf("write body: %w: longer than its length", ErrState)
		}
		o.left -= int64(len(p))
	case o.framing == framingChunked: // RFC 9112 §7.1
		o.b = appendHex(o.hold(), uint64(len(p)))
		o.b = append(o.b, "\r\n"...)
		tail = "\r\n"
	}
	if err := o.gather(p, tail); err != nil {
		return 0, err
	}
	return len(p), nil
}

// gather adds p and tail to what waits, and writes all unless corked. Large parts are not
// copied: they go out in one writev, or, over TLS, in the largest records.
func (o *output) gather(p []byte, tail string) error {
	if len(o.b) == 0 && tail == "" && !o.corked {
		return o.write(p)
	}
	if len(o.hold())+len(p)+len(tail) <= bufferSize {
		o.b = append(append(o.b, p...), tail...)
		if o.corked {
			return nil
		}
		return o.flush()
	}
	if o.tcp != nil {
		return o.writev(p, tail)
	}
	for len(p) > 0 {
		n := min(len(p), max(bufferSize-len(o.b), 0))
		o.b = append(o.b, p[:n]...)
		if p = p[n:]; len(o.b) >= bufferSize {
			if err := o.flush(); err != nil {
				return err
			}
			o.hold()
		}
	}
	o.b = append(o.b, tail...)
	if o.corked {
		return nil
	}
	return o.flush()
}

func (o *output) writev(p []byte, tail string) error {
	head := len(o.b)
	o.b = append(o.b, tail...)
	o.vector = [3][]byte{o.b[:head:head], p, o.b[head:]}
	o.rest = o.vector[:]
	if head == 0 {
		o.rest = o.rest[1:]
	}
	o.dl.startWrite(o.pace(head + len(p) + len(tail)))
	_, err := o.rest.WriteTo(o.tcp)
	for o.dl.writeAgain(err) {
		_, err = o.rest.WriteTo(o.tcp) // of what is left
	}
	o.dl.endWrite()
	o.vector, o.rest = [3][]byte{}, nil
	o.release()
	return o.fail(err)
}

// end ends the body, with trailers where the framing has room for them, and flushes.
func (o *output) end(trailers []message.Field) error {
	if o.failed != nil {
		return o.failed
	}
	if o.framing == framingLength && o.left > 0 {
		return fmt.Errorf("end body: %w: %d bytes are missing", ErrState, o.left)
	}
	if o.framing == framingChunked && !o.ended {
		o.b = append(o.hold(), "0\r\n"...)
		mark := len(o.b)
		var err error
		if o.b, err = appendFields(o.b, trailers, true); err != nil {
			// The body itself was sound: what cannot be written is left out.
			o.b = o.b[:mark]
		}
		o.b = append(o.b, "\r\n"...)
	}
	o.ended = true
	return o.flush()
}

// closeWrite closes our direction, if the connection can (RFC 9112 §9.6).
func closeWrite(c net.Conn) error {
	if c, ok := c.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}

// reset closes c so that the peer sees an error and not the end of a body.
func reset(c net.Conn) {
	inner := c
	if t, ok := c.(interface{ NetConn() net.Conn }); ok {
		inner = t.NetConn() // without the close_notify that says all is well
	}
	if t, ok := inner.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = inner.Close()
	if inner != c {
		_ = c.Close()
	}
}
