package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

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
)

// Pass copies between two connections both ways until both directions have ended, one of them broke, or
// nothing has moved for the idle time, and closes both. It adds up what went down to up (out) and back
// (in), in bytes. An idle pair holds no buffer; bulk between two TCP connections is copied by the kernel.
func Pass(down, up net.Conn, idle time.Duration, in, out *atomic.Int64) {
	p := pass{idle: idle}
	p.run(down, up, in, out)
	down.Close()
	up.Close()
}

// pass is a pair of connections whose bytes are copied both ways.
type pass struct {
	idle  time.Duration
	moved atomic.Int64 // bytes, both ways
}

// run copies until both directions have ended, one of them broke, or nothing has moved for
// the idle time.
func (p *pass) run(down, up net.Conn, in, out *atomic.Int64) {
	var inward sync.WaitGroup
	inward.Go(func() { p.half(up, down, in) })
	p.half(down, up, out)
	inward.Wait()
}

// untilQuiet returns when nothing has moved for quietFor, or ctx has ended.
func (p *pass) untilQuiet(ctx context.Context) {
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
// on); an error closes both ends.
func (p *pass) half(to, from net.Conn, count *atomic.Int64) {
	err := p.copy(to, from, count)
	if w, ok := to.(interface{ CloseWrite() error }); ok && errors.Is(err, io.EOF) && w.CloseWrite() == nil {
		return
	}
	for _, c := range []net.Conn{to, from} {
		// What broke must not look whole to the other side; what fell idle has ended.
		if t, ok := c.(*net.TCPConn); ok && !errors.Is(err, os.ErrDeadlineExceeded) {
			_ = t.SetLinger(0)
		}
		c.Close()
	}
}

// copy copies until an error, which for the end of from is io.EOF.
func (p *pass) copy(to, from net.Conn, count *atomic.Int64) error {
	src, dst := newSource(from), socket.New(to)
	for {
		if err := p.small(dst, src, count); err != nil {
			return err
		}
		if err := p.large(to, from, count); err != nil {
			return err
		}
	}
}

// small copies through a buffer until there is bulk. Its read deadline is only looked at when it
// passes, and then put off if anything has moved either way: a message costs no clock.
func (p *pass) small(to net.Conn, from *source, count *atomic.Int64) error {
	if err := from.SetReadDeadline(time.Now().Add(p.idle)); err != nil {
		return err
	}
	seen := p.moved.Load()
	for sum := 0; sum < spliceAfter; {
		b, err := from.next()
		if n := len(b); n > 0 {
			count.Add(int64(n))
			p.moved.Add(int64(n))
			if sum += n; n < passBuffer/4 {
				sum = 0 // messages, not bulk
			}
			_, err := to.Write(b)
			from.release()
			if err != nil {
				return err
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded) && p.moved.Load() != seen:
			seen = p.moved.Load()
			if err := from.SetReadDeadline(time.Now().Add(p.idle)); err != nil {
				return err
			}
		default:
			return err
		}
	}
	return nil
}

// large has the kernel copy, by splice(2) between two TCP connections, until there is
// too little for it. Package net holds a pipe meanwhile, and empties it before it waits.
func (p *pass) large(to, from net.Conn, count *atomic.Int64) error {
	for {
		if err := from.SetReadDeadline(time.Now().Add(spliceIdle)); err != nil {
			return err
		}
		n, err := io.CopyN(to, from, spliceChunk)
		count.Add(n)
		p.moved.Add(n)
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			if n < spliceAfter {
				return nil
			}
		default:
			return err
		}
	}
}
