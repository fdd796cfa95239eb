package http1

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/socket"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// A ServerConn reads requests from a connection, one after the other: Next, use the
// exchange, Finish or Abort it, Next again, until Next fails; then Close, which is always
// called. One goroutine drives it; within an exchange a second may help, as
// message.Exchange says, and has left when Next is called. Drain and EndIdle may come from any goroutine.
//
// Pipelined requests are read in order, each only when the former is finished.
type ServerConn struct {
	conn net.Conn
	cfg  *Config
	dl   deadlines
	in   input
	out  output
	ex   Exchange

	heads  *heads // lent while a request is here
	active bool   // an exchange was handed out and not settled
	begun  bool   // what begins the connection was looked at
	served bool   // a request has come

	rested  bool // Rest was called since the last request
	restErr error
	over    error // why there is no next request
	linger  bool  // the client may still be sending: RFC 9112 §9.6
}

// NewServerConn serves c, which it closes in Close. cfg is shared and outlives it.
func NewServerConn(c net.Conn, cfg *Config) *ServerConn {
	s := &ServerConn{conn: c, cfg: cfg}
	s.dl.conn = c
	sock := socket.New(c)
	s.in.init(c, sock, cfg, &s.dl)
	s.out.init(c, sock, cfg, &s.dl)
	s.out.rate = cfg.WriteRateMin
	s.ex.c = s
	return s
}

// Next waits for a request and reads its head. It first settles the former: what is left
// of its body is read and dropped within Config.DrainBytesMax, else there is no next.
//
// Errors: io.EOF when the connection ended between requests or was not to be kept;
// a *ParseError, already answered, when the bytes were not a request; ErrDraining;
// one for which os.ErrDeadlineExceeded holds when the client was idle too long; others
// from the connection. None of them leaves a next request. ErrIdle alone does: after it
// comes Rest or another Next.
func (c *ServerConn) Next() (message.Exchange, error) {
	if err := c.settle(); err != nil {
		return nil, err
	}
	if err := c.await(); err == ErrIdle {
		return nil, err
	} else if err != nil {
		return nil, c.end(err)
	}
	if c.cfg.HTTP2 && !c.begun {
		if is, err := c.preface(); err != nil {
			return nil, c.end(err)
		} else if is {
			c.over = ErrHTTP2
			return nil, c.over
		}
	}
	c.begun = true
	c.heads = c.cfg.getHeads()
	h := &c.heads.request
	h.Minor = 1
	block, err := c.in.readHead(h, c.headerDeadline)
	if err != nil {
		return nil, c.end(err)
	}
	closes, perr := parseRequest(h, block, c.cfg.fieldsMax())
	if perr != nil {
		return nil, c.end(perr)
	}
	c.served = true
	c.begin(h, closes)
	return &c.ex, nil
}

// begin readies the exchange for a request.
func (c *ServerConn) begin(h *message.Head, closes bool) {
	c.in.body.trailer = &c.heads.trailer
	switch {
	case h.Length == message.LengthUnknown:
		c.in.startBody(framingChunked, 0)
	default:
		c.in.startBody(framingLength, h.Length)
	}
	if c.cfg.ReadRateMin > 0 {
		c.in.paced, c.in.budget = true, c.cfg.rateGrace()
	}
	e := &c.ex
	e.request, e.closes = h, closes
	e.state = exchangeOpen
	e.expect.Store(expectNone)
	if h.Expect100 {
		e.expect.Store(expectPending)
	}
	c.active = true
}

// await waits for the first byte of a request. One empty line before it is dropped
// (RFC 9112 §2.2); a byte that begins no method is refused at once, so that a client that
// speaks another protocol does not wait for a timeout.
func (c *ServerConn) await() error {
	for skipped := false; ; {
		b := c.in.buffered()
		switch {
		case len(b) == 0:
			if err := c.idle(); err != nil {
				return err
			}
		case tokenLower[b[0]] != 0:
			return nil
		case b[0] != '\r' || skipped || len(b) > 1 && b[1] != '\n':
			return malformed("invalid method")
		case len(b) == 1:
			if err := c.in.fill(c.headerDeadline(), 0); err != nil {
				return err
			}
		default:
			c.in.advance(2)
			skipped = true
		}
	}
}

// idle waits for a byte of a request that need not come, or takes what Rest has waited for.
func (c *ServerConn) idle() error {
	whole, first := c.cfg.idle(), c.cfg.RestAfter
	var err error
	switch rests := first > 0 && first < whole; {
	case c.rested:
		c.rested = false
		c.dl.endRead()
		if err = c.in.fail(c.restErr); err == nil {
			c.in.takeOne()
		}
	case rests:
		err = c.in.fill(c.deadline(first), first)
		if errors.Is(err, os.ErrDeadlineExceeded) && !c.dl.endsIdle() {
			c.dl.startIdle(c.deadline(whole-first), whole/8)
			return ErrIdle
		}
	default:
		err = c.in.fill(c.deadline(whole), whole/8)
	}
	if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) || !c.dl.isDraining() {
		return err
	}
	if c.in.look() {
		return nil
	}
	return ErrDraining
}

// Rest waits for what Next waits for, after Next has returned ErrIdle, within what is left of
// IdleTimeout. The next Next tells how it ended. It calls little, and what it needs was readied, so that a
// goroutine which has just begun waits on the 2 KiB of stack that it began with.
func (c *ServerConn) Rest() { c.rested, c.restErr = true, c.in.rest() }

// http2Preface begins every connection of HTTP/2 (RFC 9113 §3.4). It was chosen so that no
// HTTP/1 message begins with it.
const http2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// preface reports whether the connection begins with the preface of HTTP/2. It reads no more
// than it takes to tell, within ReadHeaderTimeout: an HTTP/1 request differs in its first bytes.
func (c *ServerConn) preface() (bool, error) {
	var engine time.Time
	for {
		b := c.in.buffered()
		n := min(len(b), len(http2Preface))
		if string(b[:n]) != http2Preface[:n] {
			return false, nil
		}
		if n == len(http2Preface) {
			return true, nil
		}
		if engine.IsZero() {
			engine = c.headerDeadline()
		}
		if err := c.in.fill(engine, 0); err != nil {
			return false, err
		}
	}
}

// HandOver gives the connection up after Next returned ErrHTTP2, with all that was read of it.
// From then on nothing of c touches it; Close is not called.
func (c *ServerConn) HandOver() (conn net.Conn, received []byte) {
	c.out.release()
	return c.in.handOver()
}

func (c *ServerConn) headerDeadline() time.Time { return c.deadline(c.cfg.header()) }

func (c *ServerConn) deadline(d time.Duration) time.Time {
	if d < 0 {
		return time.Time{}
	}
	return c.cfg.now().Add(d)
}

// settle ends the former exchange and says whether another may follow.
func (c *ServerConn) settle() error {
	if c.over != nil {
		return c.over
	}
	if !c.active {
		return nil
	}
	if c.ex.state != exchangeFinished {
		return c.end(fmt.Errorf("next request: %w: the former is not finished", ErrState))
	}
	c.dl.set(time.Time{})
	if c.ex.closes || !c.in.body.done && !c.drainBody() {
		c.linger = c.in.body.framing != framingTunnel
		c.over = io.EOF // whatever has been pipelined behind
		return c.over
	}
	c.in.paced, c.out.corked, c.active = false, false, false
	c.returnHeads()
	return nil
}

// drainBody reads what the caller left of a request's body, within bounds.
func (c *ServerConn) drainBody() bool {
	left := int64(c.cfg.drainBytesMax())
	if c.in.body.framing == framingLength && c.in.body.remaining > left {
		return false
	}
	c.dl.set(c.cfg.now().Add(c.cfg.linger()))
	defer c.dl.set(time.Time{})
	scratch := c.cfg.getBuffer()
	defer c.cfg.putBuffer(scratch)
	for left > 0 {
		n, err := c.in.read(scratch.b)
		if err != nil {
			return err == io.EOF
		}
		left -= int64(n)
	}
	return false
}

// end answers err, if the client is owed an answer, and makes it the last.
func (c *ServerConn) end(err error) error {
	if c.over != nil {
		return c.over
	}
	partial := len(c.in.buffered()) > 0
	var perr *ParseError
	switch {
	case errors.Is(err, errNotHTTP) && c.cfg.HTTP2 && !c.served:
		// It speaks neither version, and is owed an answer in neither.
	case errors.As(err, &perr):
		c.answer(perr)
	case errors.Is(err, os.ErrDeadlineExceeded) && partial: // RFC 9110 §15.5.9
		perr = &ParseError{Status: 408, Reason: mesh.ReasonTimeout, Detail: "the head did not come in time"}
		c.answer(perr)
		err = perr
	case err == io.EOF && partial:
		err = fmt.Errorf("read request: %w", io.ErrUnexpectedEOF)
	case err != io.EOF:
		err = fmt.Errorf("read request: %w", err)
	}
	c.over = err
	return err
}

// answer writes the engine's own response to what it could not accept.
func (c *ServerConn) answer(perr *ParseError) {
	c.linger = true
	h := new(message.Head)
	h.Status = perr.Status
	h.Add("isthmus-reason", string(perr.Reason))
	if c.cfg.Refused != nil {
		c.cfg.Refused(perr, h)
	}
	h.Length = 0
	c.dl.set(c.cfg.now().Add(c.cfg.linger()))
	b, _, err := appendResponse(c.out.hold(), h, true, answered{close: true})
	if err != nil {
		c.out.release()
		return
	}
	c.out.b = b
	_ = c.out.flush() // the connection ends either way
}

// Drain says `Connection: close` in the next response, after which no request follows. A
// client that is idle is left to send one more: closing under its request would
// fail it. When patience ends, EndIdle follows.
func (c *ServerConn) Drain() { c.dl.drain(false) }

// EndIdle is Drain, and ends a Next that waits with ErrDraining unless a request has
// just come.
func (c *ServerConn) EndIdle() { c.dl.drain(true) }

// Close closes the connection and gives everything back. If the client may still be sending,
// it first closes our direction and reads on for at most Config.LingerTimeout, so that a reset
// does not destroy the response on its way (RFC 9112 §9.6).
func (c *ServerConn) Close() error {
	if c.active && c.ex.state != exchangeFinished {
		c.ex.Abort(net.ErrClosed)
	}
	var perr *ParseError
	if errors.As(c.in.failed, &perr) {
		c.in.failed = nil // the bytes were at fault, the connection still reads
	}
	if c.linger && c.in.failed == nil && closeWrite(c.conn) == nil {
		c.lingerClose()
	}
	err := c.conn.Close()
	c.over = net.ErrClosed
	c.active, c.linger = false, false
	c.in.r = c.in.w
	c.in.release()
	c.out.release()
	c.returnHeads()
	return err
}

// lingerBytesMax bounds what is read and thrown away while an answer is on its way to a client
// that still sends: more than sockets hold, and than such a client can send before it
// has read.
const lingerBytesMax = 16 << 20

// lingerHeadMax is the same where a head was too large: nobody sends so much more of one before he reads an answer but to
// have it read. It was a sixth of a core for four who did.
const lingerHeadMax = 256 << 10

func (c *ServerConn) lingerClose() {
	if _, ok := c.conn.(interface{ CloseWrite() error }); !ok {
		return
	}
	c.dl.set(c.cfg.now().Add(c.cfg.linger()))
	c.in.paced = false
	scratch := c.cfg.getBuffer()
	defer c.cfg.putBuffer(scratch)
	c.in.r = c.in.w
	c.in.release()
	left := lingerBytesMax
	var perr *ParseError
	if errors.As(c.over, &perr) && perr.Reason == mesh.ReasonHeadTooLarge {
		left = lingerHeadMax
	}
	for left > 0 {
		n, err := c.in.readDirect(scratch.b)
		if err != nil {
			return
		}
		left -= n
	}
}

func (c *ServerConn) returnHeads() {
	if c.heads != nil {
		c.cfg.putHeads(c.heads)
		c.heads, c.ex.request, c.in.body.trailer = nil, nil, nil
	}
}
