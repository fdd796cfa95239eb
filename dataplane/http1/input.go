package http1

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/socket"
)

// input is the reading half of a connection: a buffer held only while bytes lie in
// it, and the body of the current message. One goroutine uses it at a time.
type input struct {
	conn net.Conn
	cfg  *Config
	dl   *deadlines

	sock    net.Conn        // conn, past the scheduler
	raw     syscall.RawConn // nil: Read is used
	tryFn   func(uintptr) bool
	restFn  func(uintptr) bool
	idleFn  func(uintptr)
	readErr error
	idleOK  bool
	one     [1]byte
	send    []byte // to be written before the next read waits; see Stream.sendAndWait

	buf  *buffer // nil while empty
	r, w int     // unread bytes are buf.b[r:w]

	sparing bool // what is read next is to be little: it will wait here

	body   body
	budget time.Duration // what the client may still fall behind Config.ReadRateMin
	paced  bool
	drips  uint8 // reads in a row that gave next to nothing; see holdBack
	failed error // a read failed for good
}

func (in *input) init(conn, sock net.Conn, cfg *Config, dl *deadlines) {
	in.conn, in.sock, in.cfg, in.dl = conn, sock, cfg, dl
	in.raw = socket.Raw(conn)
	dl.lazy = in.raw != nil
	in.tryFn, in.restFn, in.idleFn = in.tryRead, in.tryRest, in.tryIdle
}

func (in *input) buffered() []byte {
	if in.buf == nil {
		return nil
	}
	return in.buf.b[in.r:in.w]
}

// advance drops n bytes, and the buffer with the last.
func (in *input) advance(n int) {
	in.r += n
	in.release()
}

// release gives an empty buffer back.
func (in *input) release() {
	if in.buf != nil && in.r == in.w {
		in.cfg.putBuffer(in.buf)
		in.buf, in.r, in.w = nil, 0, 0
	}
}

// settle holds no more than lies unread, where that is little, and room for so many bytes more: who reads it waits for
// somebody else, or for the rest. A buffer that was grown, or is nearly full, stays.
func (in *input) settle(room int) {
	n := in.w - in.r
	if in.buf == nil || len(in.buf.b) != bufferSize || n > bufferSize/4 {
		return
	}
	own := &buffer{make([]byte, n+room)}
	copy(own.b, in.buffered())
	in.cfg.putBuffer(in.buf)
	in.buf, in.r, in.w = own, 0, n
}

// settleRoom is what there is room for, in bytes, while the rest of a head is waited for: who dribbles it has this much
// read without another buffer, and who sends it in two pieces is read into a whole one when this is full.
const settleRoom = 256

// sparingSize is what is read at once, in bytes, for who has no room for it.
const sparingSize = 1 << 10

// space returns room to read into, making it if there is none.
func (in *input) space() []byte {
	switch {
	case in.buf == nil && in.sparing:
		in.buf = &buffer{make([]byte, sparingSize)}
	case in.buf == nil:
		in.buf = in.cfg.getBuffer()
	}
	if in.w == len(in.buf.b) {
		if in.r > 0 && len(in.buf.b) >= bufferSize {
			in.w = copy(in.buf.b, in.buf.b[in.r:in.w])
			in.r = 0
		} else {
			old := in.buf
			if len(old.b) < bufferSize { // it had settled
				in.buf = in.cfg.getBuffer()
			} else {
				in.buf = &buffer{make([]byte, 2*len(old.b))}
			}
			in.r, in.w = 0, copy(in.buf.b, old.b[in.r:in.w])
			in.cfg.putBuffer(old)
		}
	}
	return in.buf.b[in.w:]
}

// fill reads at least one byte more. The engine's deadline holds beside the caller's; with slack
// a message need not come, and the deadline may be later by as much.
func (in *input) fill(engine time.Time, slack time.Duration) error {
	if in.failed != nil {
		return in.failed
	}
	idle := slack > 0
	if idle {
		in.dl.startIdle(engine, slack)
	} else {
		in.dl.startRead(engine)
	}
	defer in.dl.endRead()
	if in.raw != nil {
		for {
			err := in.raw.Read(in.tryFn)
			switch {
			case err == nil:
				return in.fail(in.readErr)
			case in.dl.readAgain(err):
			default:
				in.release()
				return in.fail(err)
			}
		}
	}
	if in.buf == nil && idle { // waits for a request: one byte, to hold no buffer
		n, err := in.conn.Read(in.one[:])
		if n > 0 {
			in.takeOne()
			err = nil
		}
		return in.fail(err)
	}
	n, err := in.conn.Read(in.space())
	in.w += n
	in.release()
	if n > 0 {
		return nil
	}
	return in.fail(err)
}

// rest waits for a byte under the deadline that is armed. It calls little: see ServerConn.Rest.
func (in *input) rest() error {
	if in.failed != nil {
		return in.failed
	}
	if in.raw != nil {
		if err := in.raw.Read(in.restFn); err != nil {
			return err
		}
		return in.readErr
	}
	n, err := in.conn.Read(in.one[:])
	if n > 0 {
		return nil
	}
	return err
}

// takeOne puts the byte that was waited for into the empty buffer.
func (in *input) takeOne() {
	in.space()[0] = in.one[0]
	in.w++
}

// fail remembers an error that is for good; a deadline is not.
func (in *input) fail(err error) error {
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		in.failed = err
	}
	return err
}

// readDirect reads into p what the buffer does not hold; the buffer is empty.
func (in *input) readDirect(p []byte) (int, error) {
	if in.failed != nil {
		return 0, in.failed
	}
	engine, start := in.paceStart()
	in.dl.startRead(engine)
	n, err := in.sock.Read(p)
	for in.dl.readAgain(err) {
		n, err = in.sock.Read(p)
	}
	in.dl.endRead()
	if n > 0 {
		err = nil
	}
	return n, in.paceEnd(engine, start, n, in.fail(err))
}

// fillBody is fill under the least rate of a body.
func (in *input) fillBody() error {
	engine, start := in.paceStart()
	before := in.w - in.r
	err := in.fill(engine, 0)
	return in.paceEnd(engine, start, in.w-in.r-before, err)
}

// paceStart gives the deadline by which more of a body must come: the budget is a
// bucket that waiting empties and bytes fill, so a peer that sends a byte now and then
// does not live on it, and a caller that is slow to read costs the peer nothing.
func (in *input) paceStart() (engine, start time.Time) {
	if !in.paced {
		return time.Time{}, time.Time{}
	}
	start = in.cfg.now()
	engine = start.Add(max(in.budget, 0))
	in.holdBack(engine, start, in.cfg.rateGrace()-in.budget)
	return engine, start
}

func (in *input) paceEnd(engine, start time.Time, n int, err error) error {
	if !in.paced {
		return err
	}
	if err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) && !in.dl.userFirst(engine) {
			return fmt.Errorf("read body: %w: %w", ErrTooSlow, err)
		}
		return err
	}
	in.drip(n)
	in.budget -= in.cfg.now().Sub(start)
	in.budget += time.Duration(int64(n) * int64(time.Second) / int64(in.cfg.ReadRateMin))
	in.budget = min(in.budget, in.cfg.rateGrace())
	return nil
}

// readHead reads a whole head and copies it into h, whose storage the parser then works
// in: the buffer is free again before the message is. deadline is asked once, when the head
// has not come in one piece.
func (in *input) readHead(h *message.Head, deadline func() time.Time) ([]byte, error) {
	var (
		scan   headScan
		engine time.Time
		began  time.Time
		limit  = in.cfg.headBytesMax()
	)
	in.drips = 0
	for {
		b := in.buffered()
		n, perr := scan.scan(b)
		if perr != nil {
			return nil, perr
		}
		if n > limit || n == 0 && len(b) >= limit {
			if scan.line == 0 {
				return nil, refuse(414, "first line too long") // RFC 9112 §3
			}
			return nil, refuse(431, "head too large") // RFC 6585 §5
		}
		if n > 0 {
			block := h.Keep(b[:n])
			in.advance(n)
			return block, nil
		}
		if engine.IsZero() && deadline != nil {
			engine, began = deadline(), in.cfg.now()
		}
		if in.drips >= dripReads && !engine.IsZero() {
			now := in.cfg.now()
			in.holdBack(engine, now, now.Sub(began))
		}
		if err := in.fill(engine, 0); err != nil {
			return nil, err
		}
		in.drip(len(in.buffered()) - len(b))
	}
}

// idleGood reports whether a connection on which nothing is expected may be used.
func (in *input) idleGood() bool {
	if in.failed != nil || len(in.buffered()) > 0 {
		return false
	}
	raw := in.raw
	if raw == nil {
		if !in.nothingDecoded() {
			return false
		}
		// Under TLS bytes below may be a close or a ticket; to tell would need to
		// decrypt them. Treating both as an end costs at most a new connection.
		inner, ok := in.conn.(interface{ NetConn() net.Conn })
		if !ok {
			return true
		}
		if raw = socket.Raw(inner.NetConn()); raw == nil {
			return true
		}
	}
	in.idleOK = false
	err := raw.Control(in.idleFn) // neither waits nor looks at deadlines
	return err == nil && in.idleOK
}

// look takes what has come without waiting, and reports whether it is anything.
func (in *input) look() bool {
	if in.raw != nil {
		_ = in.raw.Control(func(fd uintptr) { in.tryRead(fd) })
	}
	return len(in.buffered()) > 0
}

// nothingDecoded reports whether a connection that is not a plain descriptor, TLS above
// all, holds no bytes in buffers of its own: with a deadline in the past a read gives
// those and asks for no others. A response that lay there unasked would answer the
// next request.
func (in *input) nothingDecoded() bool {
	in.dl.set(time.Unix(1, 0))
	in.dl.startRead(time.Time{})
	n, err := in.conn.Read(in.one[:])
	in.dl.endRead()
	in.dl.set(time.Time{})
	return n == 0 && errors.Is(err, os.ErrDeadlineExceeded)
}

// errBroken says that the peer ended a body early.
func errBroken(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
		return io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read body: %w: %w", io.ErrUnexpectedEOF, err)
}

// ready reports whether read would return without waiting.
func (in *input) ready() bool {
	b := &in.body
	if b.done || in.failed != nil {
		return true
	}
	for b.framing == framingChunked && b.state != chunkData {
		used, perr := in.chunkStep(in.buffered())
		if perr != nil {
			in.failed = perr
			return true
		}
		if used == 0 {
			return false
		}
		in.advance(used)
		if b.done {
			return true
		}
	}
	return len(in.buffered()) > 0
}

// handOver gives up the connection and the bytes read ahead.
func (in *input) handOver() (net.Conn, []byte) {
	buffered := append([]byte(nil), in.buffered()...)
	in.advance(len(in.buffered()))
	in.dl.handOver()
	return in.conn, buffered
}
