package http1

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/socket"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// A ClientConn sends requests over a connection, one at a time: RFC 9112 §9.3.2 would let
// them be pipelined, which no proxy can rely on. Open, use the stream, Close it,
// and while Usable, Open again.
type ClientConn struct {
	conn   net.Conn
	cfg    *Config
	dl     deadlines
	in     input
	out    output
	stream Stream

	heads *heads // lent while a chunked response is read
	open  bool
	dead  bool // not to be used again
	fresh bool // it came from the pool unseen: see Pool.Get
	used  bool // a response has been read to its end
	pool  *Pool
	to    *poolTarget
	since time.Time // when it became idle; guarded by the pool's mutex
}

// NewClientConn asks over c, which it closes when it cannot be used again.
func NewClientConn(c net.Conn, cfg *Config) *ClientConn {
	cc := &ClientConn{conn: c, cfg: cfg}
	cc.dl.conn = c
	sock := socket.New(c)
	cc.in.init(c, sock, cfg, &cc.dl)
	cc.out.init(c, sock, cfg, &cc.dl)
	cc.stream.c = cc
	return cc
}

// Open begins a request. No other may be open: that would be a fault of the caller, and
// panics. On a connection that is not Usable, Send fails with message.ErrStale.
func (c *ClientConn) Open() message.Stream {
	if c.open {
		panic("http1: a stream is open already")
	}
	c.open = true
	s := &c.stream
	s.asked, s.sent, s.held, s.sendEnded, s.final = asked{}, false, false, false, false
	s.short, s.closes, s.tunnel, s.interim = false, false, false, 0
	s.got.Store(false)
	c.out.corked = false
	c.dl.set(time.Time{})
	return s
}

// Usable reports whether another request may be sent: the connection is still open, the
// last response was complete, and nothing came after it.
func (c *ClientConn) Usable() bool { return !c.open && !c.dead && c.in.idleGood() }

// Close closes the connection. A Pool's connections are closed by it.
func (c *ClientConn) Close() error {
	c.dead = true
	return c.conn.Close()
}

// Stream is one request on a ClientConn; it implements message.Stream.
type Stream struct {
	c         *ClientConn
	asked     asked
	sent      bool
	held      bool // the request is sent when the answer is waited for: see sendAndWait
	sendEnded bool
	final     bool        // the final head has come
	short     bool        // the body ended before its length; of the sending side
	got       atomic.Bool // a byte of the response has come
	closes    bool        // the server ends the connection; of the receiving side
	tunnel    bool
	interim   int
}

var _ message.Stream = (*Stream)(nil)

// interimMax bounds the 1xx responses before a final one.
const interimMax = 32

// Send sends the request's head. Its error wraps message.ErrStale if the connection had
// served before and proves closed.
func (s *Stream) Send(h *message.Head, end bool) error {
	c := s.c
	if s.sent {
		return fmt.Errorf("send request: %w: sent already", ErrState)
	}
	if c.dead || len(c.in.buffered()) > 0 {
		c.dead = true
		return fmt.Errorf("send request: %w", message.ErrStale)
	}
	b, fr, err := appendRequest(c.out.hold(), h, end)
	if err != nil {
		c.out.release()
		return fmt.Errorf("send request: %w", err)
	}
	if c.fresh && fr != framingNone && !c.in.idleGood() {
		c.out.release()
		return s.unsendable()
	}
	s.sent = true
	c.out.b = b
	c.out.startBody(fr, h.Length)
	s.sendEnded = fr == framingNone
	s.asked = asked{
		head:    string(h.Method) == "HEAD",
		connect: h.IsConnect(),
		upgrade: string(h.Upgrade),
	}
	if s.held = c.fresh && s.sendEnded; s.held || c.out.corked && !s.sendEnded && !h.Expect100 {
		return nil
	}
	return s.stale("send request", c.out.flush())
}

// unsendable is a pooled connection that had been closed, or on which something came that nobody asked for, before
// anything was sent on it.
func (s *Stream) unsendable() error {
	s.c.dead = true
	s.c.pool.doubt(s.c.to)
	return fmt.Errorf("send request: the pooled connection had been closed: %w", message.ErrNotExecuted)
}

// sendAndWait sends a request that has no body, if the connection is still good, and waits for the answer, in one
// wait on the socket: Usable, a write and a wait of its own cost a system call more.
func (s *Stream) sendAndWait() error {
	c := s.c
	s.held = false
	c.in.send = c.out.b
	err := c.in.fill(time.Time{}, 0)
	unsent := c.in.send
	c.in.send = nil
	if err == errUnsendable {
		c.out.release()
		s.sent = false
		return s.unsendable()
	}
	if err == nil && len(unsent) > 0 { // there was no room for all of it
		err = c.out.write(unsent)
	}
	c.out.release()
	return err
}

// stale marks an error that came before any byte of a response on a connection that had
// served: RFC 9112 §9.3.1 lets a server close such a one at any time.
func (s *Stream) stale(what string, err error) error {
	if err == nil {
		return nil
	}
	if s.c.used && !s.got.Load() &&
		!errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, net.ErrClosed) {
		if s.c.pool != nil {
			s.c.pool.doubt(s.c.to)
		}
		return fmt.Errorf("%s: %w: %w", what, message.ErrStale, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// Write sends part of the body. After an error Receive may still find that the server had
// answered early and closed.
func (s *Stream) Write(p []byte) (int, error) {
	if !s.sent || s.sendEnded {
		return 0, fmt.Errorf("write body: %w: no body is open", ErrState)
	}
	n, err := s.c.out.body(p)
	if err != nil && !errors.Is(err, ErrState) {
		err = s.stale("write body", err)
	}
	return n, err
}

// CloseWrite ends the body; trailers are dropped unless it is chunked. In a tunnel it
// closes our direction.
func (s *Stream) CloseWrite(trailers []message.Field) error {
	if !s.sent {
		return fmt.Errorf("close body: %w: nothing was sent", ErrState)
	}
	if s.sendEnded {
		return nil
	}
	s.sendEnded = true
	if s.tunnel {
		if err := s.c.out.flush(); err != nil {
			return err
		}
		return closeWrite(s.c.conn)
	}
	err := s.c.out.end(trailers)
	if err != nil {
		s.short = true
	}
	return s.stale("close body", err)
}

// Receive reads the next head. A malformed one is a *ParseError of status 502. After 101,
// or 2xx to CONNECT, the stream is a tunnel and Write is open again, also if Send ended it.
func (s *Stream) Receive(h *message.Head) (end bool, err error) {
	c := s.c
	h.Reset()
	if !s.sent || s.final {
		return false, fmt.Errorf("receive: %w", ErrState)
	}
	if s.held {
		if err := s.sendAndWait(); err != nil && !s.sent {
			return false, err
		} else if err != nil {
			return false, s.receiveFailed(err)
		}
	}
	block, err := c.in.readHead(h, nil)
	if err == nil || len(c.in.buffered()) > 0 {
		s.got.Store(true)
	}
	if err != nil {
		return false, s.receiveFailed(err)
	}
	fr, closes, perr := parseResponse(h, block, c.cfg.fieldsMax(), s.asked)
	if perr != nil {
		c.dead = true
		return false, perr
	}
	s.closes = s.closes || closes
	if h.Status < 200 && fr != framingTunnel {
		if s.interim++; s.interim > interimMax {
			c.dead = true
			return false, &ParseError{Status: 502, Reason: mesh.ReasonProtocol, Detail: "too many 1xx responses"}
		}
		return false, nil
	}
	s.final = true
	if fr == framingChunked {
		c.heads = c.cfg.getHeads()
		c.in.body.trailer = &c.heads.trailer
	}
	c.in.startBody(fr, h.Length)
	if fr == framingTunnel {
		s.tunnel, s.sendEnded = true, false
		c.out.startBody(framingTunnel, 0)
	}
	return c.in.body.done, nil
}

func (s *Stream) receiveFailed(err error) error {
	s.closes = true
	var perr *ParseError
	if errors.As(err, &perr) {
		return &ParseError{Status: 502, Reason: mesh.ReasonProtocol, Detail: perr.Detail}
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return s.stale("receive response", err)
}

// Read reads the body. One that breaks the chunked coding ends in a *ParseError.
func (s *Stream) Read(p []byte) (int, error) {
	if !s.final {
		return 0, fmt.Errorf("read body: %w: no response has come", ErrState)
	}
	n, err := s.c.in.read(p)
	s.c.in.sparing = false
	if perr, ok := err.(*ParseError); ok {
		err = &ParseError{Status: 502, Reason: mesh.ReasonProtocol, Detail: perr.Detail}
	}
	return n, err
}

// Ready reports whether Read would return without waiting for the server. It belongs to the
// goroutine that reads.
func (s *Stream) Ready() bool { return s.final && s.c.in.ready() }

// Settle gives back what the stream holds beyond the bytes that lie in it, and the next Read takes little from the
// connection: its caller is about to wait for somebody else. It belongs to the goroutine that reads.
func (s *Stream) Settle() {
	s.c.in.settle(0)
	s.c.in.sparing = true
}

// Trailers of the response.
func (s *Stream) Trailers() []message.Field {
	if s.c.heads == nil || !s.c.in.body.done {
		return nil
	}
	return s.c.heads.trailer.Fields
}

// SetDeadline bounds every blocking call from now on; zero is none.
func (s *Stream) SetDeadline(t time.Time) { s.c.dl.set(t) }

// Cork holds back Send and Write as Exchange.Cork does; CloseWrite flushes.
func (s *Stream) Cork() { s.c.out.corked = true }

// Flush sends what Cork held back. It belongs to the goroutine that writes.
func (s *Stream) Flush() error { return s.stale("send request", s.c.out.flush()) }

// Raw is Exchange.Raw for the other side of a tunnel. The connection is closed by Close.
func (s *Stream) Raw() (conn net.Conn, buffered []byte) {
	if !s.tunnel {
		return nil, nil
	}
	return s.c.in.handOver()
}

// Close gives the stream back; Trailers are not valid after it. The connection lives on
// only if both directions ended as they should and the server did not say close; else
// it is closed.
func (s *Stream) Close() {
	c := s.c
	if !c.open {
		return
	}
	good := !c.dead && s.final && s.sendEnded && !s.short && !s.tunnel && !s.closes && c.in.body.done &&
		c.in.failed == nil && c.out.failed == nil && len(c.in.buffered()) == 0
	if !s.sent && !c.dead {
		good = true // nothing has happened on it
	}
	c.dl.set(time.Time{})
	c.open, c.used = false, c.used || good && s.sent
	c.in.advance(len(c.in.buffered()))
	c.out.release()
	if c.heads != nil {
		c.cfg.putHeads(c.heads)
		c.heads, c.in.body.trailer = nil, nil
	}
	if !good {
		c.dead = true
		if l, ok := c.conn.(interface{ SetLinger(sec int) error }); ok && s.sent && !s.tunnel && (!s.final || !c.in.body.done) {
			// Broken off in the middle: a reset tells the server at once, and leaves no port in
			// TIME_WAIT. A client that breaks off request after request used all ports up.
			_ = l.SetLinger(0)
		}
		_ = c.conn.Close()
	}
	if c.pool != nil {
		c.pool.put(c)
	}
}
