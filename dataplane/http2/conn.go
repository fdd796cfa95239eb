package http2

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/socket"
)

// role is what differs between the two ends. Its methods are called with conn.mu held,
// unless they say otherwise.
type role interface {
	// opened handles the head of a stream that this side does not know and whose
	// identifier the peer may open; the fields are in conn.scratch, fault is what was wrong with them.
	opened(f frame, fault string) *ConnError
	// idle reports whether the identifier has not been used yet.
	idle(id uint32) bool
	// ended is called when a stream has left the table.
	ended(s *stream)
	// goneAway is called after the peer's GOAWAY and the streams above last failed.
	goneAway()
	// settled is called after the peer's SETTINGS were applied.
	settled()
	// failed is called when the connection has ended.
	failed()
	// flushing is called when what was gathered is about to be written.
	flushing()
	// opening is called when a window has opened.
	opening()
}

// conn is what both ends of a connection share.
//
// mu guards all fields below it. The fields between are the reader's. Neither
// the reader nor a flush holds mu during I/O.
type conn struct {
	nc     net.Conn
	cfg    Config
	role   role
	client bool

	lastRead atomic.Int64

	// The reader's.
	rbuf          []byte
	r, w          int
	dec           decoder
	parser        headParser
	scratch       message.Head
	block         []byte // a field section that is not complete
	blockFrame    frame  // its HEADERS; length 0 and stream 0 if none
	continuations int

	mu  sync.Mutex
	err *ConnError // the end; nothing is appended after it but its GOAWAY

	openAtEnd int        // streams that err broke
	unsent    *ConnError // a client's write that failed, while the reader goes on; see writeFailed

	// Sending.
	out, spare  []byte
	outGen      uint64 // counts what the flusher took
	flush       sync.Cond
	flusherIdle bool
	writeUntil  time.Time // the write deadline in force
	enc         encoder
	sendWin     int // RFC 9113 §6.9
	sendMax     int // the largest that sendWin has been
	maxFrame    int
	waiting     int      // writers that wait, for their own window too
	windowWait  waitList // writers that wait for sendWin
	spaceWait   waitList // writers that wait for room in out
	taken       allowance
	fresh       [3]int // streams by their freshness

	// Receiving.
	recvWin  int // what the peer may still send
	window   int // what recvWin is brought back to
	buffered int // received and not read yet
	bufMax   int
	bdp      bdp

	streams      streamTable
	closed       []closedStream // recently closed, by identifier
	peerWindow   int            // SETTINGS_INITIAL_WINDOW_SIZE
	peerStreams  int            // SETTINGS_MAX_CONCURRENT_STREAMS
	peerConnect  bool           // SETTINGS_ENABLE_CONNECT_PROTOCOL
	peerSettled  bool           // the first SETTINGS arrived
	ackPending   bool           // ours are not acknowledged yet
	ackTimer     *time.Timer
	peerGoneAway bool
	bucket       bucket
	pings        []*ping
	pingSeq      uint64
	reports      int // sent and not acknowledged
	done         chan struct{}
}

// closedStream remembers how a stream ended, so that a late frame is told from a wrong
// one (RFC 9113 §5.1).
type closedStream struct {
	id  uint32
	how closedHow
}

type closedHow uint8

const (
	closedUnknown closedHow = iota
	closedInOrder           // both directions ended
	closedByUs              // frames still on their way are ignored
	closedByPeer            // the peer reset it
)

// ping waits for an acknowledgement.
type ping struct {
	data uint64
	ack  chan struct{}
}

// The data of our own PINGs; those of Ping count up from 1.
const (
	pingBDP   = 1<<63 | 1
	pingDrain = 1<<63 | 2
	// pingReport marks the data of a report, beside its count.
	pingReport, pingReportMask = 1 << 62, 3 << 62
)

// reportsMax bounds reports that are not acknowledged: the acknowledgement may stand behind much
// else, but not for ever.
const reportsMax = 1 << 10

// report sends a count to the peer; see Config.Report.
func (c *conn) report(count uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil || c.reports >= reportsMax || len(c.out) > c.cfg.SendBuffer {
		return
	}
	c.reports++
	c.out = appendPing(c.out, 0, pingReport|count&^pingReportMask)
	c.kick()
}

// Sizes of the reader's buffer: small until the connection is used in earnest.
const (
	readSmall = 4 << 10
	readLarge = 32 << 10
)

func (c *conn) init(nc net.Conn, cfg Config, client bool) {
	cfg = cfg.withDefaults()
	c.nc, c.cfg, c.client = socket.New(nc), cfg, client
	c.rbuf = make([]byte, max(readSmall, len(cfg.Received)))
	c.w = copy(c.rbuf, cfg.Received)
	c.cfg.Received = nil
	c.dec = newDecoder()
	c.enc = newEncoder(cfg.HeaderTableBytes)
	c.parser = headParser{limit: cfg.MaxHeaderBytes, connect: cfg.ConnectProtocol && !client}
	c.flush.L = &c.mu
	c.sendWin, c.peerWindow, c.maxFrame = defaultWindow, defaultWindow, minMaxFrame
	c.sendMax = c.sendWin
	c.recvWin, c.window, c.bufMax = defaultWindow, max(cfg.InitialWindow, defaultWindow), cfg.ConnBuffer
	c.peerStreams = 100 // RFC 9113 §6.5.2 recommends no less; the first SETTINGS tell
	c.bucket = newBucket(cfg.ControlRate, cfg.ControlBurst, cfg.Now())
	c.lastRead.Store(cfg.Now())
	c.done = make(chan struct{})
}

// greet appends what each side sends first (RFC 9113 §3.4). Not locked: called before
// anything runs.
func (c *conn) greet() {
	cfg := &c.cfg
	if c.client {
		c.out = append(c.out, preface...)
	}
	at := len(c.out)
	c.out = appendFrame(c.out, frame{kind: frameSettings})
	if c.client {
		c.out = appendSetting(c.out, settingEnablePush, 0)
	} else {
		c.out = appendSetting(c.out, settingMaxConcurrentStreams, uint32(cfg.MaxConcurrentStreams))
		if cfg.ConnectProtocol {
			c.out = appendSetting(c.out, settingEnableConnect, 1)
		}
	}
	if cfg.HeaderTableBytes != defaultTableBytes {
		c.out = appendSetting(c.out, settingHeaderTableSize, uint32(cfg.HeaderTableBytes))
	}
	if cfg.InitialWindow != defaultWindow {
		c.out = appendSetting(c.out, settingInitialWindowSize, uint32(cfg.InitialWindow))
	}
	c.out = appendSetting(c.out, settingMaxHeaderListSize, uint32(cfg.MaxHeaderBytes))
	setLength(c.out[at:], len(c.out)-at-frameHeaderLen)
	if more := c.window - c.recvWin; more > 0 {
		c.out = appendWindowUpdate(c.out, 0, more)
		c.recvWin = c.window
	}
	c.ackPending = true
	c.ackTimer = time.AfterFunc(cfg.SettingsTimeout, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.ackPending {
			c.fail(connErr(SettingsTimeout, "SETTINGS not acknowledged in time"))
		}
	})
}

// read is the reader: it handles frames until the connection ends, then lingers so that the
// peer gets to read why.
func (c *conn) read() {
	err := c.readFrames()
	c.mu.Lock()
	if c.unsent != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		err = c.unsent
	}
	c.fail(err) // no effect if it has failed already
	why := c.err
	c.mu.Unlock()
	if !why.broken() {
		c.linger()
	}
	// The flusher closes nc after its last write, which has a deadline.
}

// lingerMax bounds what is read and thrown away after the end, and lingerTime for how
// long: a socket closed with unread input resets the connection and takes our GOAWAY with
// it.
const (
	lingerMax  = 1 << 20
	lingerTime = 500 * time.Millisecond
)

func (c *conn) linger() {
	_ = c.nc.SetReadDeadline(time.Now().Add(lingerTime))
	for n := 0; n < lingerMax; {
		m, err := c.nc.Read(c.rbuf)
		if err != nil {
			return
		}
		n += m
	}
}

// readBy sets the deadline of reads, which after the end is the flusher's business.
func (c *conn) readBy(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil && c.unsent == nil {
		_ = c.nc.SetReadDeadline(t)
	}
}

func (c *conn) readFrames() *ConnError {
	c.readBy(time.Now().Add(c.cfg.HandshakeTimeout))
	if !c.client {
		b, err := c.next(len(preface))
		if err != nil {
			return err
		}
		if string(b) != preface {
			return connErr(ProtocolError, "invalid connection preface")
		}
	}
	for first := true; ; first = false {
		b, err := c.next(frameHeaderLen)
		if err != nil {
			return err
		}
		f := parseFrame(b)
		if first && c.client && string(b[:7]) == "HTTP/1." {
			return connErr(ProtocolError, "the server speaks HTTP/1, and not HTTP/2 by prior knowledge")
		}
		if f.length > minMaxFrame {
			return connErr(FrameSizeError, "frame above SETTINGS_MAX_FRAME_SIZE")
		}
		if first && (f.kind != frameSettings || f.has(flagAck)) { // RFC 9113 §3.4
			return connErr(ProtocolError, "the first frame is not SETTINGS")
		}
		if b, err = c.next(f.length); err != nil {
			return err
		}
		if err := c.handle(f, b); err != nil {
			return err
		}
		if first {
			c.readBy(time.Time{})
		}
	}
}

// next returns the next n octets, valid until it is called again.
func (c *conn) next(n int) ([]byte, *ConnError) {
	for c.w-c.r < n {
		if c.r > 0 {
			c.w = copy(c.rbuf, c.rbuf[c.r:c.w])
			c.r = 0
		}
		if n > len(c.rbuf) || c.w == len(c.rbuf) {
			c.rbuf = append(make([]byte, 0, readLarge), c.rbuf[:c.w]...)[:readLarge]
		}
		m, err := c.nc.Read(c.rbuf[c.w:])
		c.w += m
		if m > 0 {
			c.lastRead.Store(c.cfg.Now())
			if m == readSmall && len(c.rbuf) == readSmall {
				c.rbuf = append(make([]byte, 0, readLarge), c.rbuf...)[:readLarge]
			}
		}
		if err != nil && c.w-c.r < n {
			return nil, transportErr("read", err)
		}
	}
	b := c.rbuf[c.r : c.r+n]
	c.r += n
	return b, nil
}

func transportErr(what string, err error) *ConnError {
	if err == io.EOF {
		return &ConnError{Remote: true, Err: io.EOF, Reason: "the peer closed the connection"}
	}
	return &ConnError{Remote: true, Code: InternalError, Err: err, Reason: what}
}

// fail ends the connection: the reader stops, streams fail, what is in the buffer is
// written, followed by GOAWAY unless the transport broke. mu is held.
func (c *conn) fail(err *ConnError) {
	if c.err != nil {
		return
	}
	c.err, c.openAtEnd = err, c.streams.n
	if !err.Remote {
		err.Abuse = err.Code == EnhanceYourCalm && c.bucket.spent > c.bucket.earned+abuseOver
		c.out = appendGoAway(c.out, c.lastPeerStream(), err.Code, err.Reason)
	}
	c.ackTimer.Stop()
	c.streams.each(func(s *stream) {
		c.breakStream(s, &StreamError{ID: s.id, Code: err.Code, Remote: true, Stale: c.client && err.Remote && !s.gotHead, Err: err}, closedByPeer)
	})
	for c.windowWait.first != nil {
		c.windowWait.wakeOne()
	}
	for c.spaceWait.first != nil {
		c.spaceWait.wakeOne()
	}
	c.role.failed()
	close(c.done)
	c.flush.Signal()
}

// lastPeerStream is the highest identifier of the peer's that was acted on.
func (c *conn) lastPeerStream() uint32 {
	s, ok := c.role.(*server)
	switch {
	case !ok:
		return 0
	case s.drained: // RFC 9113 §6.8: it must not rise
		return s.goAwayLast
	}
	return s.lastID
}

// spend takes a token; nil if there was one. mu is held.
func (c *conn) spend() *ConnError {
	return c.spendFor(1)
}

func (c *conn) spendFor(tokens float64) *ConnError {
	if c.bucket.spend(tokens, c.cfg.Now()) {
		return nil
	}
	return connErr(EnhanceYourCalm, "too many control frames and resets")
}

// wasted is the price of a stream that the peer broke; worked says that we were busy with
// it, and had not been for long. mu is held.
func (c *conn) wasted(worked bool) *ConnError {
	if worked && !c.client {
		return c.spendFor(costWaste)
	}
	return c.spend()
}

// unlink takes s out of the table. mu is held.
func (c *conn) unlink(s *stream, how closedHow) {
	if !s.inTable {
		return
	}
	s.inTable = false
	c.streams.remove(s)
	c.gauge(s)
	c.remember(s.id, how)
	c.role.ended(s)
}

// remember keeps how a stream ended, for as long as its place is not needed. mu is held.
func (c *conn) remember(id uint32, how closedHow) {
	if c.closed == nil {
		c.closed = make([]closedStream, ringLen(max(64, c.cfg.MaxConcurrentStreams)))
	}
	c.closed[int(id>>1)&(len(c.closed)-1)] = closedStream{id, how}
}

func (c *conn) howClosed(id uint32) closedHow {
	if c.closed == nil {
		return closedUnknown
	}
	if k := c.closed[int(id>>1)&(len(c.closed)-1)]; k.id == id {
		return k.how
	}
	return closedUnknown
}

// breakStream ends s by err on both sides, and wakes who waits. mu is held.
func (c *conn) breakStream(s *stream, err *StreamError, how closedHow) {
	if s.err == nil {
		s.err = err
	}
	c.unlink(s, how)
	s.rcond.Broadcast()
	s.wcond.Broadcast()
	if s.onBreak != nil {
		f := s.onBreak
		s.onBreak = nil
		go f() // not under mu
	}
}

// reset sends RST_STREAM for s and breaks it. mu is held.
func (c *conn) reset(s *stream, err *StreamError) {
	if s.inTable && c.err == nil {
		c.out = appendReset(c.out, s.id, err.Code)
		c.kick()
	}
	c.breakStream(s, err, closedByUs)
}

// fault resets s for a fault of the peer (RFC 9113 §5.4.2). mu is held.
func (c *conn) fault(s *stream, code Code, reason string) *ConnError {
	worked := s.working()
	c.reset(s, &StreamError{ID: s.id, Code: code, Remote: true, Reason: reason})
	return c.wasted(worked)
}

// maybeEnded takes s out of the table once both directions have ended. mu is held.
func (c *conn) maybeEnded(s *stream) {
	if s.recvEnd && s.sendEnd && s.inTable {
		c.bucket.earn(earnStream)
		c.unlink(s, closedInOrder)
	}
}

// pingData is the payload of a PING.
func pingData(b []byte) uint64 { return binary.BigEndian.Uint64(b) }
