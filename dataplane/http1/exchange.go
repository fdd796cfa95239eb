package http1

import (
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// Exchange is one request of a ServerConn; it implements message.Exchange. It is the
// connection's own and is used again by the next request.
//
// To save system calls a caller may Cork it: see there.
type Exchange struct {
	c       *ServerConn
	request *message.Head
	state   exchangeState
	closes  bool // no request follows this one
	expect  atomic.Int32
}

var _ message.Exchange = (*Exchange)(nil)

type exchangeState uint8

const (
	exchangeOpen exchangeState = iota
	exchangeAnswered
	exchangeTunnel
	exchangeFinished
)

const (
	expectNone    = iota
	expectPending // the client waits for 100 (Continue)
	expectSettled
)

// Request returns the head; it is valid until Next.
func (e *Exchange) Request() *message.Head { return e.request }

// Read reads the body. A body that breaks the chunked coding ends in a *ParseError with
// the status to answer; the connection is then not used again. A request for a tunnel
// reads as empty until Respond has opened it.
func (e *Exchange) Read(p []byte) (int, error) {
	if e.expect.Load() == expectPending {
		e.sendContinue()
	}
	return e.c.in.read(p)
}

// Ready reports whether Read would return without waiting for the client. It belongs to the
// goroutine that reads.
func (e *Exchange) Ready() bool { return e.c.in.ready() }

// sendContinue sends 100 (Continue), unless a response went first (RFC 9110 §10.1.1).
// A failure shows in the next write.
func (e *Exchange) sendContinue() {
	o := &e.c.out
	o.mu.Lock()
	defer o.mu.Unlock()
	if e.expect.CompareAndSwap(expectPending, expectSettled) {
		o.b = append(o.hold(), "HTTP/1.1 100 Continue\r\n\r\n"...)
		_ = o.flush()
	}
}

// Trailers of the request.
func (e *Exchange) Trailers() []message.Field {
	if e.c.heads == nil || !e.c.in.body.done {
		return nil
	}
	return e.c.heads.trailer.Fields
}

// Respond sends a head. 1xx is not sent to a 1.0 client (RFC 9110 §15.2). To HEAD, and with
// 204 and 304, no body can follow, whatever end says; Finish is still due if end is false.
func (e *Exchange) Respond(h *message.Head, end bool) error {
	c := e.c
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	if e.state != exchangeOpen {
		return fmt.Errorf("respond: %w: the response has begun", ErrState)
	}
	interim := h.Status < 200 && h.Status != 101
	old := e.request.Minor == 0
	if interim && old {
		return nil
	}
	if !interim || h.Status == 100 {
		unsettled := e.expect.CompareAndSwap(expectPending, expectSettled)
		if unsettled && !interim {
			// The client sends the body or it does not: where the next request
			// begins is not known.
			e.closes = true
		}
	}
	if !interim {
		e.closes = e.closes || c.dl.isDraining()
	}
	b, fr, err := appendResponse(c.out.hold(), h, end, answered{
		head:    string(e.request.Method) == "HEAD",
		connect: e.request.IsConnect(),
		upgrade: e.request.Upgrade,
		old:     old,
		close:   e.closes,
	})
	if err != nil {
		if len(c.out.b) == 0 {
			c.out.release()
		}
		return fmt.Errorf("respond: %w", err)
	}
	c.out.b = b
	if !interim {
		e.answered(fr, h.Length)
	}
	if end && !interim && fr != framingTunnel {
		return e.finish(nil)
	}
	if c.out.corked && !interim && fr != framingTunnel {
		return nil
	}
	return c.out.flush()
}

// answered takes note of a final head.
func (e *Exchange) answered(fr framing, length int64) {
	e.c.out.startBody(fr, length)
	e.state = exchangeAnswered
	switch fr {
	case framingTunnel:
		e.state, e.closes = exchangeTunnel, true
		e.c.in.paced, e.c.out.rate = false, 0
		e.c.in.startBody(framingTunnel, 0)
	case framingClose:
		e.closes = true
	}
}

// Write sends part of the body.
func (e *Exchange) Write(p []byte) (int, error) {
	o := &e.c.out
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case e.state != exchangeAnswered && e.state != exchangeTunnel:
		return 0, fmt.Errorf("write body: %w: no response is open", ErrState)
	case o.framing == framingNone && string(e.request.Method) == "HEAD":
		return len(p), nil // RFC 9110 §9.3.2: what a GET would have sent goes nowhere
	}
	return o.body(p)
}

// Finish ends the response and writes whatever was held back. Trailers are sent if the body
// is chunked, and dropped otherwise (RFC 9110 §6.5.1). In a tunnel it
// closes our direction.
func (e *Exchange) Finish(trailers []message.Field) error {
	e.c.out.mu.Lock()
	defer e.c.out.mu.Unlock()
	return e.finish(trailers)
}

func (e *Exchange) finish(trailers []message.Field) error {
	switch e.state {
	case exchangeTunnel:
		e.state = exchangeFinished
		if err := e.c.out.flush(); err != nil {
			return err
		}
		return closeWrite(e.c.conn)
	case exchangeAnswered:
	default:
		return fmt.Errorf("finish: %w: no response is open", ErrState)
	}
	e.state = exchangeFinished
	err := e.c.out.end(trailers)
	if err != nil {
		e.closes = true
	}
	return err
}

// Abort closes the connection with a reset, so that even a body that only the end of the
// connection delimits is seen to be broken. err is for the caller's own log.
func (e *Exchange) Abort(error) {
	reset(e.c.conn) // before the lock: a Write may be blocked under it
	e.c.out.mu.Lock()
	defer e.c.out.mu.Unlock()
	e.state, e.closes = exchangeFinished, true
	_ = e.c.out.fail(net.ErrClosed)
}

// SetDeadline bounds every blocking call from now on; zero is none.
func (e *Exchange) SetDeadline(t time.Time) { e.c.dl.set(t) }

// Cork holds back what Respond and Write send, up to a buffer, until Flush, Finish, Abort or
// a larger write: a head, its body and its end then leave in one system call. The
// caller must Flush before it waits for anything else, which is why it is not the
// default: with r the source of the body,
//
//	if !r.Ready() { ex.Flush() }
//	n, err := r.Read(buf)
func (e *Exchange) Cork() {
	e.c.out.mu.Lock()
	e.c.out.corked = true
	e.c.out.mu.Unlock()
}

// Flush sends what Cork held back.
func (e *Exchange) Flush() error {
	e.c.out.mu.Lock()
	defer e.c.out.mu.Unlock()
	return e.c.out.flush()
}

// Raw hands the connection over after Respond opened a tunnel, with the bytes the client
// had already sent into it, for a caller that copies by splice. It ends the exchange: from
// then on nothing but ServerConn.Close, which closes it, touches the connection. It
// returns nil if no tunnel is open.
func (e *Exchange) Raw() (conn net.Conn, buffered []byte) {
	if e.state != exchangeTunnel {
		return nil, nil
	}
	e.state = exchangeFinished
	return e.c.in.handOver()
}
