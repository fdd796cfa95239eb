package load

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// MiB is how much a Sink receives between two of its acknowledgements, and the unit of bulk.
const MiB = 1 << 20

// Sink is the application of bulk: it throws away what it receives and answers each MiB by a
// byte, so that a sender knows what has come through. It serves until ctx ends.
func Sink(ctx context.Context, address string) error { return accept(ctx, address, swallow) }

func swallow(c net.Conn) {
	defer c.Close()
	buf := make([]byte, 128<<10)
	for sum := 0; ; {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		for sum += n; sum >= MiB; sum -= MiB {
			if _, err := c.Write([]byte{1}); err != nil {
				return
			}
		}
	}
}

// writeSize is how much a sender gives to the kernel at once.
const writeSize = 64 << 10

// Bulk is a connection to a Sink.
type Bulk struct {
	conn  net.Conn
	first []byte // sent before anything else
}

// DialBulk connects to a Sink. The way's Request is what the connection begins with: a ClientHello,
// or nothing.
func DialBulk(ctx context.Context, w *Way) (*Bulk, error) {
	c, err := w.open(ctx)
	if err != nil {
		return nil, err
	}
	return &Bulk{conn: c, first: w.Request}, nil
}

// Send sends so many MiB and returns when the Sink has received them.
func (b *Bulk) Send(mib int) error {
	if err := b.conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	received := make(chan error, 1)
	go func() {
		_, err := io.ReadFull(b.conn, make([]byte, mib))
		received <- err
	}()
	buf := make([]byte, writeSize)
	left := mib * MiB
	err := func() error {
		n := len(b.first)
		if _, err := b.conn.Write(b.first); err != nil {
			return err
		}
		for b.first, left = nil, left-n; left > 0; left -= len(buf) {
			if _, err := b.conn.Write(buf[:min(left, len(buf))]); err != nil {
				return err
			}
		}
		return nil
	}()
	if err != nil {
		err = fmt.Errorf("send %d MiB: %w", mib, err)
		_ = b.conn.Close()
	}
	return errors.Join(err, <-received)
}

// Close ends the connection.
func (b *Bulk) Close() { _ = b.conn.Close() }

// Connections makes total connections, some at a time, sends the request over each, receives its
// answer and closes it. It returns how many it made.
func Connections(ctx context.Context, w *Way, atATime, total int) (int, error) {
	var left atomic.Int64
	left.Store(int64(total))
	errs := make([]error, atATime)
	done := make([]int, atATime)
	var all sync.WaitGroup
	for i := range atATime {
		all.Go(func() {
			for left.Add(-1) >= 0 && ctx.Err() == nil {
				cs, err := DialAll(ctx, 1, w)
				if err == nil {
					err = cs[0].do()
					CloseAll(cs)
				}
				if errs[i] = err; err != nil {
					return
				}
				done[i]++
			}
		})
	}
	all.Wait()
	sum := 0
	var err error
	for i, n := range done {
		sum += n
		err = cmp.Or(err, errs[i])
	}
	return sum, err
}
