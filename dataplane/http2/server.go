package http2

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// server is a connection's server role.
type server struct {
	conn
	handler func(message.Exchange)
	workers sync.WaitGroup

	// Guarded by conn.mu.
	lastID     uint32 // highest identifier seen
	running    int    // handlers, also those whose stream was reset
	heads      int    // octets of the heads that they hold, by RFC 9113 §6.5.2
	free       []*exchange
	pace       pace
	parked     parked
	draining   bool
	drained    bool // the second GOAWAY was sent: streams above goAwayLast are not answered
	goAwayLast uint32
	drainTimer *time.Timer
	idleTimer  *time.Timer
	quietSince int64 // when the last stream ended, if there is an IdleTimeout
}

// drainNotice is how long the first GOAWAY of a drain is waited on for an
// acknowledgement of the PING beside it, before the second is sent (RFC 9113 §6.8).
const drainNotice = time.Second

// ServeConn answers the requests of nc, each by a call of handler on a goroutine of its
// own, until the peer leaves, the protocol is broken, or ctx ends: then it drains, by
// two GOAWAYs so that no request is lost, and lets the streams there are end within
// Config.DrainTimeout. It returns after the last handler has returned, with nc closed;
// nil after a drain and when the peer left with nothing open.
//
// nc is not used by anyone else from the call on. When handler returns with the response
// neither finished nor aborted, it is aborted; the Exchange must not be used afterwards,
// nor after both its directions have ended.
// Exchanges also have the method OnBreak(func()), see there.
func ServeConn(ctx context.Context, nc net.Conn, cfg Config, handler func(message.Exchange)) error {
	if err := cfg.Validate(); err != nil {
		_ = nc.Close()
		return err
	}
	s := &server{handler: handler}
	s.role = s
	s.init(nc, cfg, false)
	s.pace.init(s)
	s.greet()
	flushed := make(chan struct{})
	go func() {
		defer close(flushed)
		s.flushLoop()
	}()
	stop := context.AfterFunc(ctx, s.startDrain)
	s.watchIdle()
	if cfg.Report != nil {
		cfg.Report(s.report)
	}
	s.conn.read()
	stop()
	<-flushed
	_ = nc.Close()

	s.mu.Lock()
	for _, timer := range []*time.Timer{s.drainTimer, s.idleTimer, s.pace.timer, s.parked.timer} {
		if timer != nil {
			timer.Stop()
		}
	}
	for _, x := range s.free {
		close(x.wake)
	}
	s.free = nil
	err := s.err
	s.mu.Unlock()
	s.workers.Wait()
	if err.Code == NoError && (err.Err == nil || errors.Is(err, ErrClosed)) || s.quiet(err) {
		return nil
	}
	return err
}

// quiet reports whether the peer left with nothing open, in whatever manner.
func (s *server) quiet(err *ConnError) bool {
	return err.broken() && s.openAtEnd == 0 && !errors.Is(err, os.ErrDeadlineExceeded)
}

// opened implements role: a new request.
func (s *server) opened(f frame, fault string) *ConnError {
	if f.stream&1 == 0 {
		return connErr(ProtocolError, "even stream identifier from a client") // RFC 9113 §5.1.1
	}
	if err := s.pace.wait(); err != nil {
		return err
	}
	s.lastID = f.stream
	if s.drained { // RFC 9113 §6.8: the client knows that it was not answered
		s.remember(f.stream, closedByUs)
		return nil
	}
	limit := s.cfg.MaxConcurrentStreams
	stuck := s.stuck()
	switch {
	case fault != "":
		return s.malformed(f.stream, fault)
	case s.streams.n >= limit, s.running >= 2*limit, // handlers outlive streams that were reset
		s.heads+s.parser.size > s.headsMax(), stuck && s.parked.octets+s.parser.size > parkOctets:
		return s.refuse(f.stream, RefusedStream)
	}
	x := s.takeWorker()
	x.head, s.scratch = s.scratch, x.head
	h := &x.head
	x.isHead = string(h.Method) == "HEAD"
	x.isConnect = h.IsConnect()
	x.gotHead, x.gotFinal = true, true
	x.headSize = s.parser.size
	x.enter(f.stream)
	if f.has(flagEndStream) {
		if h.Length == message.LengthUnknown {
			h.Length = 0
		}
		h.Expect100 = false
	}
	if x.isConnect && len(h.Upgrade) == 0 {
		h.Length = message.LengthUnknown
	} else {
		x.expect = h.Length
	}
	if f.has(flagEndStream) {
		if err := s.endReceive(&x.stream); err != nil || x.err != nil { // content-length without a body
			s.release(x)
			return err
		}
	}
	if stuck {
		s.park(x)
	} else {
		s.begin(x)
	}
	return nil
}

// stuckMax is how many handlers may wait for their client before it is taken for one that does
// not drain, who may not ask for much more.
const stuckMax = 32

// headsMax bounds the heads of requests in progress now, in octets.
func (s *server) headsMax() int {
	switch most := s.cfg.OpenHeadBytes; {
	case most < 0:
		return maxWindowSize
	case s.waiting > stuckMax:
		return most / 8
	default:
		return most
	}
}

// refuse resets a stream that never came to be.
func (s *server) refuse(id uint32, code Code) *ConnError {
	s.out = appendReset(s.out, id, code)
	s.remember(id, closedByUs)
	s.kick()
	return s.spend()
}

func (s *server) idle(id uint32) bool { return id&1 == 0 || id > s.lastID }

func (s *server) ended(st *stream) {
	if st.parked {
		s.unpark(st)
	}
	s.parkedMayBegin()
	if st.reusable() {
		s.pace.grow(1, paceHead)
	}
	if s.idleTimer != nil && s.streams.n == 0 {
		s.quietSince = s.cfg.Now()
	}
	s.maybeDrained()
}

func (s *server) goneAway() { s.maybeDrained() }

func (s *server) settled() {}

func (s *server) failed() { s.pace.wake() }

func (s *server) flushing() {
	s.pace.wake()
	s.parkedMayBegin()
}

func (s *server) opening() { s.parkedMayBegin() }

// startDrain begins a graceful end.
func (s *server) startDrain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining || s.err != nil {
		return
	}
	s.draining = true
	s.refuseParked(s.cfg.Now()) // somebody else may have time for them
	s.out = appendGoAway(s.out, maxStreamID, NoError, "")
	s.out = appendPing(s.out, 0, pingDrain)
	s.kick()
	s.drainTimer = time.AfterFunc(min(drainNotice, s.cfg.DrainTimeout), func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.finishDrain()
	})
}

// watchIdle drains the connection when it has been idle for IdleTimeout: a timer that
// looks, and sleeps for what is left.
func (s *server) watchIdle() {
	if s.cfg.IdleTimeout == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.idleTimer = time.AfterFunc(s.cfg.IdleTimeout, func() {
		s.mu.Lock()
		left := s.cfg.IdleTimeout - time.Duration(s.cfg.Now()-max(s.lastRead.Load(), s.quietSince))
		if s.streams.n > 0 {
			left = s.cfg.IdleTimeout
		}
		if left > 0 && s.err == nil {
			s.idleTimer.Reset(left)
		}
		s.mu.Unlock()
		if left <= 0 {
			s.startDrain()
		}
	})
}

// finishDrain sends the second GOAWAY: requests sent before the first was read have
// arrived by now. mu is held.
func (s *server) finishDrain() {
	if s.drained || s.err != nil {
		return
	}
	s.drained, s.goAwayLast = true, s.lastID
	s.out = appendGoAway(s.out, s.lastID, NoError, "")
	s.kick()
	s.drainTimer.Stop()
	s.drainTimer = time.AfterFunc(s.cfg.DrainTimeout, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.fail(connErr(NoError, "not drained in time"))
	})
	s.maybeDrained()
}

// maybeDrained ends a connection that takes no new streams and has none. mu is held.
func (s *server) maybeDrained() {
	if s.err == nil && s.streams.n == 0 && (s.drained || s.peerGoneAway) {
		s.fail(connErr(NoError, ""))
	}
}

// costReset takes a token for a reset of ours: the client may have caused it. mu is held.
func (s *server) costReset() {
	if err := s.spend(); err != nil {
		s.fail(err)
	}
}

// Request implements message.Exchange.
func (x *exchange) Request() *message.Head { return &x.head }

// Read implements message.Exchange.
func (x *exchange) Read(p []byte) (int, error) {
	if x.head.Expect100 {
		x.sendContinue()
	}
	return x.read(p)
}

// Whole reports whether all of the request has come, and how many bytes of its body wait to be read. One
// with trailers is never said to be.
func (x *exchange) Whole() (n int, ok bool) {
	c := x.c
	c.mu.Lock()
	defer c.mu.Unlock()
	return x.queue.n, x.recvEnd && x.err == nil && len(x.trailers.Fields) == 0
}

// Ready reports whether Read would return without waiting for the client.
func (x *exchange) Ready() bool { return x.ready() }

func (x *exchange) sendContinue() {
	c := x.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if x.continued {
		return
	}
	x.continued = true
	if x.sendErr() != nil || x.sentHead || x.queue.n > 0 || x.recvEnd {
		return
	}
	at := len(c.out)
	c.out = appendFrame(c.out, frame{kind: frameHeaders, flags: flagEndHeaders, stream: x.id})
	c.out = c.enc.named(c.enc.begin(c.out), idxStatus, []byte("100"))
	c.closeSection(at)
	c.kick()
}

// Respond implements message.Exchange. 101 to a request with :protocol is sent as 200,
// which means the same in HTTP/2 (RFC 8441 §5). A response that has no body by its
// nature (to HEAD, 204, 304) ends here whatever end says.
func (x *exchange) Respond(h *message.Head, end bool) error {
	c := x.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if x.sentHead {
		return ErrOrder
	}
	code := h.Status
	if code == 101 && x.isConnect {
		code = 200
	}
	if code < 100 || code > 599 || code == 101 {
		return fmt.Errorf("http2: respond with status %d: %w", code, errStatus)
	}
	if err := x.awaitSpace(); err != nil {
		return err
	}
	tunnel := x.isConnect && code >= 200 && code < 300
	bodyless := x.isHead || code == 204 || code == 304
	if code < 200 {
		end = false
		x.continued = x.continued || code == 100
	} else {
		x.sentHead = true
		if end = end || bodyless; end && h.Length > 0 && !bodyless {
			c.reset(&x.stream, &StreamError{ID: x.id, Code: InternalError, Reason: "body shorter than its announced length"})
			return ErrLength
		}
		x.discard = bodyless
		if !tunnel && !bodyless {
			x.left = h.Length
		}
	}
	x.sendHead(end, func(e *encoder, dst []byte) []byte {
		if tunnel && h.Length >= 0 { // RFC 9110 §8.6: no content-length in a tunnel's response
			plain := *h
			plain.Length = message.LengthUnknown
			return e.appendResponse(dst, &plain, code)
		}
		return e.appendResponse(dst, h, code)
	})
	c.wakeWriters()
	if end {
		c.maybeEnded(&x.stream)
	}
	return nil
}

var errStatus = errors.New("no such status in HTTP/2")

// Room is how many bytes Write could send at once. Who has much to write may take a large buffer only where there is room
// for it.
func (x *exchange) Room() int {
	c := x.c
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case x.discard:
		return maxWindowSize
	case len(c.out) >= c.cfg.SendBuffer:
		return 0
	}
	return max(0, min(x.sendWin, c.sendWin))
}

// Settle gives the request's head back, which its caller asks for no more: he is about to wait for the client.
func (x *exchange) Settle() {
	x.c.mu.Lock()
	defer x.c.mu.Unlock()
	x.head = message.Head{}
}

// Write implements message.Exchange.
func (x *exchange) Write(p []byte) (int, error) { return x.sendData(p) }

// Finish implements message.Exchange.
func (x *exchange) Finish(trailers []message.Field) error {
	c := x.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if !x.sentHead {
		return ErrOrder
	}
	if x.sendEnd {
		return nil
	}
	return x.sendEndStream(trailers)
}

// Abort implements message.Exchange: the stream is reset, by REFUSED_STREAM if no
// head was sent and err wraps message.ErrNotExecuted, so that the client may try again.
func (x *exchange) Abort(err error) {
	x.c.mu.Lock()
	defer x.c.mu.Unlock()
	if !x.inTable {
		return
	}
	why := &StreamError{ID: x.id, Code: InternalError, Reason: "aborted"}
	switch {
	case !x.sentHead && errors.Is(err, message.ErrNotExecuted):
		why.Code = RefusedStream
	case errors.Is(err, context.Canceled):
		why.Code = Cancel
	}
	x.c.reset(&x.stream, why)
	x.c.role.(*server).costReset()
}
