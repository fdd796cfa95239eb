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
	to.Close()
	from.Close()
}

// copy copies until an error, which for the end of from is io.EOF.
func (p *pass) copy(to, from net.Conn, count *atomic.Int64) error {
	buf := make([]byte, passBuffer)
	for {
		if err := p.small(to, from, buf, count); err != nil {
			return err
		}
		if err := p.large(to, from, count); err != nil {
			return err
		}
	}
}

// small copies through a buffer until there is bulk. Its read deadline is only looked at when it
// passes, and then put off if anything has moved either way: a message costs no clock.
func (p *pass) small(to, from net.Conn, buf []byte, count *atomic.Int64) error {
	if err := from.SetReadDeadline(time.Now().Add(p.idle)); err != nil {
		return err
	}
	seen := p.moved.Load()
	for sum := 0; sum < spliceAfter; {
		n, err := from.Read(buf)
		if n > 0 {
			count.Add(int64(n))
			p.moved.Add(int64(n))
			if sum += n; n < passBuffer/4 {
				sum = 0 // messages, not bulk
			}
			if _, err := to.Write(buf[:n]); err != nil {
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
