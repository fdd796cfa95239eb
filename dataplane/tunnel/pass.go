package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/socket"
)

const (
	// passBuffer serves messages; they are smaller, and splice is dear for them.
	passBuffer = 8 << 10
	// spliceAfter is how much goes one way before the kernel copies, and how much must go in
	// spliceIdle for it to go on.
	spliceAfter = 256 << 10
	// spliceChunk is how much it copies before it is looked at again.
	spliceChunk = 4 << 20
	// spliceIdle is after how long a splice, and the pipe that it holds, is given up.
	spliceIdle = 200 * time.Millisecond
	// idleLooks is how often in its idle time a pair is looked at.
	idleLooks = 4
)

// End is a connection that is passed, and what had been read of it already.
type End struct {
	net.Conn
	Ahead []byte
}

// Sockets takes the connections of an open tunnel's two ends, if both are plain ones that give them away
// (Raw of http1 and raw), whose bytes need not pass the caller then.
func Sockets(ex message.Exchange, s message.Stream) (down, up End, ok bool) {
	type plain interface {
		Raw() (conn net.Conn, ahead []byte)
	}
	e, ok := ex.(plain)
	t, ok2 := s.(plain)
	if !ok || !ok2 {
		return down, up, false // nothing was taken of either
	}
	if up.Conn, up.Ahead = t.Raw(); up.Conn == nil {
		return down, up, false
	}
	if down.Conn, down.Ahead = e.Raw(); down.Conn == nil {
		breakOff(up.Conn) // no tunnel is open to the client, which the caller's next write will say
		return down, up, false
	}
	return down, up, true
}

// Pair is two connections between which bytes are copied both ways. Run it once; Cut may come from any goroutine.
type Pair struct {
	down, up End
	idle     time.Duration
	moved    atomic.Int64 // bytes, both ways
	// pipe makes what bulk is passed through: newPipe.
	pipe func(to, from net.Conn) (pipe, error)

	mu    sync.Mutex
	ended bool
	err   error // the first
	fault *fault
	timer *time.Timer
	seen  int64 // of moved, at the last look
	quiet int   // looks at which nothing had moved since the one before
}

// pipe is a socket.Pipe.
type pipe interface {
	Step() (int, error)
	Held() int
	Close()
}

func newPipe(to, from net.Conn) (pipe, error) { return socket.NewPipe(to, from) }

// NewPair returns a pair that ends when nothing has moved for the idle time; 0 is never. It owns both
// connections from Run or Cut on.
func NewPair(down, up End, idle time.Duration) *Pair {
	return &Pair{down: down, up: up, idle: idle, pipe: newPipe}
}

// Run copies until both directions have ended, one of them broke, nothing has moved for the idle time, or Cut,
// and closes both. It adds up what went down to up (there) and what came back, in bytes, as it goes. A
// pair that waits holds no buffer; bulk between two TCP connections is copied by the kernel. The error says what
// broke: os.ErrDeadlineExceeded that nothing moved, nil that both directions ended in order. A panic of
// either direction ends both and goes on in the caller's goroutine.
func (p *Pair) Run(there, back *atomic.Int64) error {
	if p.idle > 0 {
		p.mu.Lock() // for a look that comes at once
		p.timer = time.AfterFunc(p.idle/idleLooks, p.look)
		p.mu.Unlock()
	}
	var inward sync.WaitGroup
	inward.Go(func() { p.half(p.down.Conn, p.up, back) })
	p.half(p.up.Conn, p.down, there)
	inward.Wait()
	p.end(nil)
	p.down.Close()
	p.up.Close()
	if p.fault != nil {
		panic(p.fault)
	}
	return p.err
}

// Cut ends both connections at once, as broken ones. Run returns err, unless it had ended already.
func (p *Pair) Cut(err error) {
	if p.end(err) {
		breakOff(p.up.Conn)
		breakOff(p.down.Conn)
	}
}

// look ends both connections when nothing has moved for the idle time, or up to a look longer. It runs on
// the timer's goroutine. What fell idle has ended: it is no reset.
func (p *Pair) look() {
	p.mu.Lock()
	if p.ended {
		p.mu.Unlock()
		return
	}
	now := p.moved.Load()
	if now != p.seen {
		p.quiet = 0
	} else {
		p.quiet++
	}
	p.seen = now
	if p.quiet < idleLooks {
		p.timer.Reset(p.idle / idleLooks)
		p.mu.Unlock()
		return
	}
	p.mu.Unlock()
	if p.end(os.ErrDeadlineExceeded) {
		p.down.Close()
		p.up.Close()
	}
}

// end notes why the pair ends, and reports whether it had not ended yet. Whoever ended it closes both connections.
func (p *Pair) end(err error) (first bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return false
	}
	p.ended, p.err = true, err
	if p.timer != nil {
		p.timer.Stop()
	}
	return true
}

// fault is a panic that goes on in another goroutine, with the stack on which it began.
type fault struct {
	value any
	stack []byte
}

func (f *fault) Error() string {
	return fmt.Sprintf("%v\n\nof a goroutine that passed bytes:\n%s", f.value, f.stack)
}

// caught ends the pair if what it is deferred by panics.
func (p *Pair) caught() {
	v := recover()
	if v == nil {
		return
	}
	f := &fault{v, debug.Stack()}
	p.mu.Lock()
	if p.fault == nil {
		p.fault = f
	}
	p.mu.Unlock()
	p.Cut(f)
}

// breakOff closes a connection so that what was cut off does not look whole, not even under TLS, whose Close
// would say goodbye.
func breakOff(c net.Conn) {
	if t, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = t.NetConn()
	}
	if t, ok := c.(interface{ SetLinger(sec int) error }); ok {
		_ = t.SetLinger(0)
	}
	_ = c.Close()
}

// untilQuiet returns when nothing has moved for quietFor, or ctx has ended.
func (p *Pair) untilQuiet(ctx context.Context) {
	look := time.NewTicker(quietFor)
	defer look.Stop()
	for seen := p.moved.Load(); ; {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
		now := p.moved.Load()
		if now == seen {
			return
		}
		seen = now
	}
}

// half copies one direction and then closes the far side's half (RFC 9293 §3.6: the other may go
// on); an error breaks both ends.
func (p *Pair) half(to net.Conn, from End, count *atomic.Int64) {
	defer p.caught()
	err := p.copy(to, from, count)
	if w, ok := to.(interface{ CloseWrite() error }); ok && errors.Is(err, io.EOF) {
		if err = w.CloseWrite(); err == nil {
			return
		}
	}
	p.Cut(err)
}

// copy copies until an error, which for the end of from is io.EOF.
func (p *Pair) copy(to net.Conn, from End, count *atomic.Int64) error {
	src, dst := newSource(from.Conn), socket.New(to)
	defer src.release()
	if len(from.Ahead) > 0 {
		n, err := dst.Write(from.Ahead)
		p.count(n, count)
		if err != nil {
			return err
		}
	}
	for bulk := true; ; {
		if err := p.small(dst, src, count, bulk); err != nil {
			return err
		}
		switch err := p.large(to, from.Conn, count); {
		case errors.Is(err, errors.ErrUnsupported):
			bulk = false // from now on all goes through the buffer
		case err != nil:
			return err
		}
	}
}

// count takes note of what was passed on.
func (p *Pair) count(n int, count *atomic.Int64) {
	count.Add(int64(n))
	p.moved.Add(int64(n))
}

// small copies through a buffer, until there is bulk if that may be done otherwise. A message costs no clock and
// no deadline.
func (p *Pair) small(to net.Conn, from *source, count *atomic.Int64, until bool) error {
	for sum := 0; !until || sum < spliceAfter; {
		b, err := from.next()
		if n := len(b); n > 0 {
			if sum += n; n < passBuffer/4 {
				sum = 0 // messages, not bulk
			}
			n, werr := to.Write(b)
			from.release()
			p.count(n, count)
			if werr != nil {
				return werr
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// large has the kernel copy, by splice(2) between two TCP connections, until there is too little for it.
// errors.ErrUnsupported says that it cannot; while there is no pipe, small goes on.
func (p *Pair) large(to, from net.Conn, count *atomic.Int64) error {
	through, err := p.pipe(to, from)
	if errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	if err != nil {
		return nil
	}
	defer through.Close()
	for {
		if err := from.SetReadDeadline(time.Now().Add(spliceIdle)); err != nil {
			return err
		}
		for sum := 0; sum < spliceChunk; {
			n, err := through.Step()
			p.count(n, count)
			sum += n
			if errors.Is(err, os.ErrDeadlineExceeded) && through.Held() == 0 { // the reading side's
				if sum >= spliceAfter {
					break
				}
				return from.SetReadDeadline(time.Time{})
			}
			if errors.Is(err, errors.ErrUnsupported) && through.Held() == 0 {
				return errors.Join(err, from.SetReadDeadline(time.Time{}))
			}
			if err != nil {
				return err
			}
		}
	}
}
