package http2

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// ClientConn is a connection's client role. All its methods may be called from any
// goroutine.
type ClientConn struct {
	conn
	wg sync.WaitGroup

	// Guarded by conn.mu.
	nextID   uint32
	held     int // slots given out: streams between Open and their end
	waiting  []*slotWaiter
	free     []*clientStream
	draining bool
}

// NewClientConn begins the client's side of HTTP/2 on nc, which nobody else uses from
// now on, and owns a reader and a flusher until Close, or until the connection ends.
// It does not wait for the server. On error nc is closed.
func NewClientConn(nc net.Conn, cfg Config) (*ClientConn, error) {
	if err := cfg.Validate(); err != nil {
		_ = nc.Close()
		return nil, err
	}
	c := &ClientConn{nextID: 1}
	c.role = c
	c.init(nc, cfg, true)
	c.greet()
	c.wg.Add(2)
	flushed := make(chan struct{})
	go func() {
		defer c.wg.Done()
		defer close(flushed)
		c.flushLoop()
	}()
	go func() {
		defer c.wg.Done()
		c.conn.read()
		<-flushed
		_ = nc.Close()
	}()
	return c, nil
}

// waitingMax bounds the calls of Open that wait for a slot.
const waitingMax = 4096

// Open reserves a stream: it waits, until ctx ends, while the server's
// SETTINGS_MAX_CONCURRENT_STREAMS or Config.MaxConcurrentStreams are in use. Its error wraps
// message.ErrNotExecuted. Nothing is sent before Send.
func (c *ClientConn) Open(ctx context.Context) (message.Stream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.cannotOpen(); err != nil {
		return nil, err
	}
	if c.held < c.limit() && len(c.waiting) == 0 {
		c.held++
		return c.takeStream(), nil
	}
	if len(c.waiting) >= waitingMax {
		return nil, fmt.Errorf("http2: open a stream: %d wait already: %w", waitingMax, message.ErrNotExecuted)
	}
	w := &slotWaiter{turn: make(chan struct{})}
	c.waiting = append(c.waiting, w)
	c.mu.Unlock()
	var ctxErr error
	select {
	case <-w.turn:
	case <-ctx.Done():
		ctxErr = ctx.Err()
	}
	c.mu.Lock()
	if ctxErr != nil {
		c.leaveQueue(w)
		return nil, fmt.Errorf("http2: open a stream: %w: %w", ctxErr, message.ErrNotExecuted)
	}
	if err := c.cannotOpen(); err != nil {
		if w.granted {
			c.release()
		}
		return nil, err
	}
	return c.takeStream(), nil
}

// slotWaiter is a call of Open that waits; turn is closed when it has a slot, or when there
// will be none.
type slotWaiter struct {
	turn    chan struct{}
	granted bool
}

// leaveQueue takes w out of the queue, or gives its slot back. mu is held.
func (c *ClientConn) leaveQueue(w *slotWaiter) {
	if w.granted {
		c.release()
		return
	}
	c.waiting = slices.DeleteFunc(c.waiting, func(o *slotWaiter) bool { return o == w })
}

func (c *ClientConn) limit() int { return min(c.peerStreams, c.cfg.MaxConcurrentStreams) }

// grant gives free slots to those who wait, in order. mu is held.
func (c *ClientConn) grant() {
	n := 0
	for ; n < len(c.waiting) && c.held < c.limit(); n++ {
		c.held++
		c.waiting[n].granted = true
		close(c.waiting[n].turn)
	}
	c.waiting = slices.Delete(c.waiting, 0, n)
}

// cannotOpen says why no stream can be opened. mu is held.
func (c *ClientConn) cannotOpen() error {
	switch {
	case c.err != nil:
		return &StreamError{Code: c.err.Code, Remote: true, NotExecuted: true, Err: c.err}
	case c.unsent != nil:
		return &StreamError{Code: c.unsent.Code, Remote: true, NotExecuted: true, Err: c.unsent}
	case c.peerGoneAway:
		return &StreamError{Remote: true, NotExecuted: true, Reason: "the server is leaving"}
	case c.draining || c.nextID > maxStreamID:
		return &StreamError{NotExecuted: true, Reason: "the connection takes no new streams"}
	}
	return nil
}

// Done is closed when the connection has ended.
func (c *ClientConn) Done() <-chan struct{} { return c.done }

// Err says why the connection ended: a *ConnError, wrapping ErrClosed after Drain and Close;
// nil while it lives.
func (c *ClientConn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		return nil
	}
	return c.err
}

// Usable reports whether Open may succeed: the connection lives and neither side drains.
func (c *ClientConn) Usable() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cannotOpen() == nil
}

// InFlight counts streams that are open or reserved, and calls of Open that wait.
func (c *ClientConn) InFlight() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.held + len(c.waiting)
}

// LastRead is when the last octet was read, in nanoseconds of Config.Now.
func (c *ClientConn) LastRead() int64 { return c.lastRead.Load() }

// Unacknowledged is how many bytes of bodies the server has not given window back for:
// what may still be on its way to it, and what its own threshold keeps back. Heads do not count.
func (c *ClientConn) Unacknowledged() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sendMax - c.sendWin
}

// pingsMax bounds the PINGs of Ping that are under way.
const pingsMax = 16

// Ping measures a round trip through the server's HTTP/2.
func (c *ClientConn) Ping(ctx context.Context) (time.Duration, error) {
	c.mu.Lock()
	switch {
	case c.err != nil:
		defer c.mu.Unlock()
		return 0, c.err
	case len(c.pings) >= pingsMax:
		c.mu.Unlock()
		return 0, fmt.Errorf("http2: ping: %d are under way", pingsMax)
	}
	c.pingSeq++
	p := &ping{data: c.pingSeq, ack: make(chan struct{})}
	c.pings = append(c.pings, p)
	sent := c.cfg.Now()
	c.out = appendPing(c.out, 0, p.data)
	c.kick()
	c.mu.Unlock()
	select {
	case <-p.ack:
		return time.Duration(c.cfg.Now() - sent), nil
	case <-c.done:
		return 0, c.Err()
	case <-ctx.Done():
		// Its acknowledgement may still come: it stays in the list, whose bound makes
		// a silent peer an error.
		return 0, fmt.Errorf("http2: ping: %w", ctx.Err())
	}
}

// Drain takes no new streams, lets those there are end, and then closes. It does not wait:
// Done tells.
func (c *ClientConn) Drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.draining || c.err != nil {
		return
	}
	c.draining = true
	c.goneAway()
}

// Close ends the connection at once; open streams fail. It returns when the reader
// and the flusher have ended.
func (c *ClientConn) Close() error {
	c.mu.Lock()
	c.fail(&ConnError{Code: NoError, Err: ErrClosed})
	c.mu.Unlock()
	_ = c.nc.SetWriteDeadline(time.Now().Add(lingerTime))
	c.wg.Wait()
	return nil
}

// opened implements role: servers open no streams, as push is disabled.
func (c *ClientConn) opened(frame, string) *ConnError {
	return connErr(ProtocolError, "HEADERS on an idle stream")
}

func (c *ClientConn) idle(id uint32) bool { return id&1 == 0 || id >= c.nextID }

// ended gives the slot of a stream back.
func (c *ClientConn) ended(*stream) { c.release() }

func (c *ClientConn) release() {
	c.held--
	c.grant()
	c.maybeDrained()
}

func (c *ClientConn) maybeDrained() {
	if c.held == 0 && c.err == nil && (c.draining || c.peerGoneAway) {
		c.fail(&ConnError{Code: NoError, Err: ErrClosed})
	}
}

// goneAway wakes those who wait for a slot, to fail.
func (c *ClientConn) goneAway() {
	c.failed()
	c.maybeDrained()
}

func (c *ClientConn) settled() {
	c.grant()
	c.streams.each(func(s *stream) { s.wcond.Broadcast() })
	for c.spaceWait.first != nil { // those who wait to know whether extended CONNECT is allowed
		c.spaceWait.wakeOne()
	}
}

func (c *ClientConn) flushing() {}

func (c *ClientConn) opening() {}

func (c *ClientConn) failed() {
	for _, w := range c.waiting {
		close(w.turn)
	}
	c.waiting = nil
}

// clientStream is the client's side of a stream.
type clientStream struct {
	stream
}

func (c *ClientConn) takeStream() *clientStream {
	if n := len(c.free); n > 0 {
		s := c.free[n-1]
		c.free = c.free[:n-1]
		return s
	}
	s := &clientStream{}
	s.init(&c.conn)
	s.recycle()
	return s
}

// Send implements message.Stream. A head with Upgrade is sent as extended CONNECT, if the
// server takes it; ErrNoConnectProtocol otherwise.
func (s *clientStream) Send(h *message.Head, end bool) error {
	c := s.c
	cc := c.role.(*ClientConn)
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.id != 0 {
		return ErrOrder
	}
	if end && h.Length > 0 {
		return ErrLength
	}
	for len(h.Upgrade) > 0 && !c.peerSettled && s.sendErr() == nil {
		c.wakeWriters() // it may hold the turn of one who can go on
		c.spaceWait.push(&s.stream)
		s.wcond.Wait()
		c.spaceWait.remove(&s.stream)
	}
	if err := s.awaitSpace(); err != nil {
		return notSent(err)
	}
	if err := cc.cannotOpen(); err != nil && !cc.onlyDraining() {
		return err
	}
	if len(h.Upgrade) > 0 && !c.peerConnect {
		return ErrNoConnectProtocol
	}
	s.enter(cc.nextID)
	cc.nextID += 2
	s.sentHead = true
	s.isHead = string(h.Method) == "HEAD"
	s.isConnect = h.IsConnect() || len(h.Upgrade) > 0
	if !s.isConnect {
		s.left = h.Length
	}
	s.sendHead(end, func(e *encoder, dst []byte) []byte { return e.appendRequest(dst, h, end) })
	c.wakeWriters()
	return nil
}

// onlyDraining reports whether a stream reserved before Drain may still be sent. mu is held.
func (c *ClientConn) onlyDraining() bool {
	return c.err == nil && !c.peerGoneAway && c.nextID <= maxStreamID
}

// errUnheard is the end of a wait during which nothing was read.
var errUnheard = fmt.Errorf("%w: %w", os.ErrDeadlineExceeded, message.ErrUnheard)

// notSent marks the error of a head that was not sent.
func notSent(err error) error {
	if _, ok := err.(*StreamError); ok {
		return err
	}
	return fmt.Errorf("http2: send a head: %w: %w", err, message.ErrNotExecuted)
}

// Write implements message.Stream.
func (s *clientStream) Write(p []byte) (int, error) { return s.sendData(p) }

// CloseWrite implements message.Stream.
func (s *clientStream) CloseWrite(trailers []message.Field) error {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if !s.sentHead {
		return ErrOrder
	}
	return s.sendEndStream(trailers)
}

// Receive implements message.Stream.
func (s *clientStream) Receive(h *message.Head) (end bool, err error) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case s.expired && s.sentHead && c.lastRead.Load() == s.began:
			return false, errUnheard
		case s.expired:
			return false, os.ErrDeadlineExceeded
		case s.infos > 0:
			*h, s.info[0] = s.info[0], *h
			first := s.info[0]
			s.infos--
			copy(s.info, s.info[1:s.infos+1])
			s.info[s.infos] = first
			return false, nil
		case s.headReady:
			*h, s.head = s.head, *h
			s.headReady = false
			return s.headEnd, nil
		case s.gotFinal:
			return false, ErrOrder
		case s.err != nil:
			return false, s.err
		case c.err != nil:
			return false, s.connEnded()
		}
		s.rcond.Wait()
	}
}

// Read implements message.Stream.
func (s *clientStream) Read(p []byte) (int, error) { return s.read(p) }

// Ready reports whether Read would return without waiting for the server.
func (s *clientStream) Ready() bool { return s.ready() }

// Close implements message.Stream. Calls that are under way, and later ones by goroutines that
// were still copying, fail. A stream that has not ended is reset by CANCEL (RFC 9113
// §8.1: NO_ERROR is a server's).
func (s *clientStream) Close() {
	c := s.c
	cc := c.role.(*ClientConn)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case s.id == 0:
		cc.release()
	case s.inTable:
		c.reset(&s.stream, &StreamError{ID: s.id, Code: Cancel, Reason: "closed"})
	}
	s.letGo()
	if !s.reusable() || c.err != nil || len(cc.free) >= freeMax {
		if s.timer != nil {
			s.timer.Stop()
		}
		return
	}
	s.recycle()
	cc.free = append(cc.free, s)
}
