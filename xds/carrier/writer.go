package carrier

import (
	"encoding/binary"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/mem"

	"github.com/isthmus-mesh/isthmus/internal/direct"
)

const (
	// pendingMax is how much waits for the socket before messages wait for it, and pendingEnd how
	// much of answers to what a client does (SETTINGS, PING) before it is given up.
	pendingMax = 64 << 10
	pendingEnd = 256 << 10
	// writeTime is how long the socket may take nothing; the deadline is renewed when half has passed.
	writeTime = 30 * time.Second
	// frameHead is the length of a frame's header (RFC 9113 §4.1), messageHead that of gRPC's prefix.
	frameHead, messageHead = 9, 5
)

// buffers hold what is pending; connections without any hold none.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

// writer is the way out of a connection. Whoever adds something writes it, with all that others
// add meanwhile, unless somebody writes already.
type writer struct {
	conn   net.Conn
	outlet *direct.Outlet // below conn
	hasty  bool           // writes of the outlet wait for nothing

	mu       sync.Mutex
	room     sync.Cond // windows grew, what was pending is written, or the connection failed
	out      *[]byte   // pending; nil is nothing
	writing  bool
	err      error
	deadline time.Time

	window    int64 // of the connection (RFC 9113 §6.9)
	initial   int64 // of a stream
	frameSize int
}

// newWriter writes to c, which writes to o.
func newWriter(c net.Conn, o *direct.Outlet) *writer {
	w := &writer{conn: c, outlet: o, hasty: o.Hasty(), window: 65535, initial: 65535, frameSize: 16 << 10}
	w.room.L = &w.mu
	return w
}

// add appends frames to what is pending and sees to it that they are written. The mutex is held.
func (w *writer) add(build func(b []byte) []byte) {
	if w.err != nil {
		return
	}
	if w.out == nil {
		w.out = buffers.Get().(*[]byte)
	}
	*w.out = build(*w.out)
	if w.writing {
		return
	}
	w.writing = true
	w.drain()
}

// drain writes what is pending, and ends the writing. The mutex is held but while it writes.
func (w *writer) drain() {
	for w.out != nil && w.err == nil {
		p := w.out
		w.out = nil
		w.mu.Unlock()
		err := w.write(*p)
		if err == nil {
			err = w.rest()
		}
		release(p)
		w.mu.Lock()
		if err != nil && w.err == nil {
			w.err = err
		}
		w.room.Broadcast()
	}
	w.writing = false
}

func release(p *[]byte) {
	if cap(*p) <= pendingMax {
		*p = (*p)[:0]
		buffers.Put(p)
	}
}

// write hands bytes to the connection. One that is hasty may keep some of them until rest.
func (w *writer) write(p []byte) error {
	if !w.hasty {
		if err := w.until(); err != nil {
			return err
		}
	}
	_, err := w.conn.Write(p)
	return err
}

// rest waits until what the socket had no room for is written.
func (w *writer) rest() error {
	if !w.hasty || !w.outlet.Kept() {
		return nil
	}
	if err := w.until(); err != nil {
		return err
	}
	return w.outlet.Rest()
}

// until renews the deadline. Only the one who writes calls it.
func (w *writer) until() error {
	now := time.Now()
	if w.deadline.Sub(now) >= writeTime/2 {
		return nil
	}
	w.deadline = now.Add(writeTime)
	return w.outlet.SetWriteDeadline(w.deadline)
}

// control adds an answer to what the client did. False says that the client takes none.
func (w *writer) control(build func(b []byte) []byte) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.out != nil && len(*w.out) > pendingEnd {
		return false
	}
	w.add(build)
	return w.err == nil
}

// fail ends all waiting; the connection is the caller's to close.
func (w *writer) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
	w.room.Broadcast()
}

// frame appends the header of a frame.
func frame(b []byte, t http2.FrameType, flags http2.Flags, stream uint32, length int) []byte {
	b = append(b, byte(length>>16), byte(length>>8), byte(length), byte(t), byte(flags))
	return binary.BigEndian.AppendUint32(b, stream)
}

// message writes a message of a stream, as its windows allow. head says that the response's head
// goes before it. False says that the stream or the connection has ended.
func (w *writer) message(s *stream, head bool, m mem.BufferSlice) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	size := m.Len()
	var prefix [messageHead]byte // not compressed, and the length ("Length-Prefixed-Message")
	binary.BigEndian.PutUint32(prefix[1:], uint32(size))
	rest := pieces{first: prefix[:], more: m}
	for left := messageHead + size; left > 0; {
		for !s.gone && w.err == nil && (w.out != nil && len(*w.out) >= pendingMax || w.window <= 0 || s.window <= 0) {
			w.room.Wait()
		}
		if s.gone || w.err != nil {
			return false
		}
		n := min(int64(left), w.window, s.window, int64(w.frameSize))
		w.window -= n
		s.window -= n
		left -= int(n)
		w.add(func(b []byte) []byte {
			if head {
				b, head = appendResponseHead(b, s.id), false
			}
			return rest.append(frame(b, http2.FrameData, 0, s.id, int(n)), int(n))
		})
	}
	return w.err == nil
}

// now is message for who must not wait: it writes one that is due alone and that fits the windows and a frame. False says that
// it was not written; what of it the socket has no room for, a goroutine writes.
func (w *writer) now(s *stream, head bool, m mem.BufferSlice) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	size := messageHead + m.Len()
	if !w.hasty || s.gone || w.err != nil || w.writing || w.out != nil || int64(size) > min(w.window, s.window, int64(w.frameSize)) {
		return false
	}
	w.window -= int64(size)
	s.window -= int64(size)
	p := buffers.Get().(*[]byte)
	if head {
		*p = appendResponseHead(*p, s.id)
	}
	*p = appendMessage(frame(*p, http2.FrameData, 0, s.id, size), m)
	w.writing = true
	w.mu.Unlock()
	err := w.write(*p)
	release(p)
	w.mu.Lock()
	switch {
	case err != nil:
		w.err, w.writing = err, false
		w.room.Broadcast()
	case w.out != nil || w.outlet.Kept():
		go w.goOn()
	default:
		w.writing = false
	}
	return true
}

// goOn writes what now left. It ends when that is written, or with the connection.
func (w *writer) goOn() {
	err := w.rest()
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil && w.err == nil {
		w.err = err
	}
	w.drain()
	w.room.Broadcast()
}

// appendMessage appends a message with its prefix.
func appendMessage(b []byte, m mem.BufferSlice) []byte {
	b = binary.BigEndian.AppendUint32(append(b, 0), uint32(m.Len()))
	for _, part := range m {
		b = append(b, part.ReadOnlyData()...)
	}
	return b
}

// pieces are read one after the other.
type pieces struct {
	first []byte
	more  mem.BufferSlice
}

func (p *pieces) append(b []byte, n int) []byte {
	for n > 0 {
		if len(p.first) == 0 {
			p.first, p.more = p.more[0].ReadOnlyData(), p.more[1:]
			continue
		}
		k := min(n, len(p.first))
		b, p.first, n = append(b, p.first[:k]...), p.first[k:], n-k
	}
	return b
}
