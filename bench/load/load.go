// Package load makes the load of the benchmarks and is the application behind the proxies
// under test. Its one idea is that a generator must not hide what it measures: a closed loop
// counts what is answered, an open loop starts each request at its time whether or not those
// before have been answered, and counts from then on (no coordinated omission).
//
// It knows no proxy, measures no process and writes no report. Read Client, ClosedLoop and
// OpenLoop first; App is the other end.
package load

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// answer is what the application says to everything: 128 bytes of body.
var answer = []byte("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 128\r\n\r\n" + strings.Repeat("isthmus\n", 16))

// App is the application: it answers each request head at once and reads no bodies, so
// that what stands in front of it is what is measured. It serves until ctx ends.
func App(ctx context.Context, address string) error { return accept(ctx, address, Serve) }

// accept runs serve for every connection to an address until ctx ends.
func accept(ctx context.Context, address string, serve func(net.Conn)) error {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = ln.Close() })()
	for {
		c, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		go serve(c)
	}
}

// Serve is App on one connection, with which it ends.
func Serve(c net.Conn) {
	defer c.Close()
	buf := make([]byte, 16<<10)
	n := 0
	for {
		more, err := c.Read(buf[n:])
		if err != nil || n+more == len(buf) {
			return
		}
		if n += more; bytes.HasSuffix(buf[:n], []byte("\r\n\r\n")) {
			if _, err := c.Write(answer); err != nil {
				return
			}
			n = 0
		}
	}
}

// Client is one connection that sends one request after the other.
type Client struct {
	conn    net.Conn
	request []byte
	buf     []byte
}

// Get is a request for a target, in origin form or in the absolute form that a proxy is sent.
func Get(target, host string) []byte {
	return []byte("GET " + target + " HTTP/1.1\r\nhost: " + host + "\r\nuser-agent: isthmus-bench\r\naccept: */*\r\n\r\n")
}

// RequestTimeout bounds one exchange: what takes longer fails the run.
const RequestTimeout = 10 * time.Second

// Way is where load goes in: an address, what is sent first to open a tunnel there if it takes one,
// and what is then sent again and again.
type Way struct {
	Target string
	// Connect, if set, is sent first, and must be answered by 200.
	Connect []byte
	Request []byte
}

// ConnectTo asks an explicit proxy for a tunnel to an address.
func ConnectTo(address string) []byte {
	return []byte("CONNECT " + address + " HTTP/1.1\r\nhost: " + address + "\r\n\r\n")
}

// open connects, through a tunnel if the way has one.
func (w *Way) open(ctx context.Context) (net.Conn, error) {
	d := net.Dialer{Timeout: 5 * time.Second}
	c, err := d.DialContext(ctx, "tcp", w.Target)
	if err != nil || w.Connect == nil {
		return c, err
	}
	if err := tunnel(c, w.Connect); err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("tunnel through %s: %w", w.Target, err)
	}
	return c, nil
}

func tunnel(c net.Conn, ask []byte) error {
	if err := c.SetDeadline(time.Now().Add(RequestTimeout)); err != nil {
		return err
	}
	if _, err := c.Write(ask); err != nil {
		return err
	}
	var answer []byte
	for b := [1]byte{}; !bytes.HasSuffix(answer, []byte("\r\n\r\n")) && len(answer) < 1<<10; answer = append(answer, b[0]) {
		if _, err := io.ReadFull(c, b[:]); err != nil {
			return err
		}
	}
	if !bytes.HasPrefix(answer, []byte("HTTP/1.1 200 ")) {
		return fmt.Errorf("answered %q", answer)
	}
	return c.SetDeadline(time.Time{})
}

// DialAll opens n connections, or none.
func DialAll(ctx context.Context, n int, w *Way) ([]*Client, error) {
	out := make([]*Client, 0, n)
	for range n {
		c, err := w.open(ctx)
		if err != nil {
			CloseAll(out)
			return nil, err
		}
		out = append(out, &Client{conn: c, request: w.Request, buf: make([]byte, 8<<10)})
	}
	return out, nil
}

// CloseAll closes connections.
func CloseAll(cs []*Client) {
	for _, c := range cs {
		_ = c.conn.Close()
	}
}

// do is one exchange.
func (c *Client) do() error {
	if err := c.conn.SetDeadline(time.Now().Add(RequestTimeout)); err != nil {
		return err
	}
	if _, err := c.conn.Write(c.request); err != nil {
		return err
	}
	return c.receive()
}

// receive reads one answer, which must be a 200 of known length.
func (c *Client) receive() error {
	n, want := 0, -1
	for n != want {
		more, err := c.conn.Read(c.buf[n:])
		if err != nil {
			return err
		}
		n += more
		if want < 0 {
			if want, err = answerLength(c.buf[:n]); err != nil {
				return err
			}
		}
		if n == len(c.buf) || want >= 0 && n > want {
			return fmt.Errorf("an answer of %d bytes or more, want %d", n, want)
		}
	}
	return nil
}

// answerLength is that of head and body; -1 while the head is incomplete.
func answerLength(b []byte) (int, error) {
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if end < 0 {
		return -1, nil
	}
	if !bytes.HasPrefix(b, []byte("HTTP/1.1 200 ")) {
		return 0, fmt.Errorf("answered %q", b)
	}
	const name = "content-length:"
	for line := range bytes.SplitSeq(b[:end], []byte("\r\n")) {
		if len(line) > len(name) && strings.EqualFold(string(line[:len(name)]), name) {
			n, err := strconv.Atoi(string(bytes.TrimSpace(line[len(name):])))
			return end + 4 + n, err
		}
	}
	return 0, errors.New("answered without content-length")
}

// ClosedLoop sends requests over all connections, each as soon as the one before it has been
// answered, until total are answered or the time is over. It returns how many were.
func ClosedLoop(cs []*Client, total int, most time.Duration) (int, error) {
	var left atomic.Int64
	left.Store(int64(total))
	until := time.Now().Add(most)
	errs := make([]error, len(cs))
	done := make([]int, len(cs))
	var all sync.WaitGroup
	for i, c := range cs {
		all.Go(func() {
			for left.Add(-1) >= 0 && time.Now().Before(until) {
				if errs[i] = c.do(); errs[i] != nil {
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
		err = cmp.Or(err, errs[i]) // one tells it all
	}
	return sum, err
}

// OpenLoop sends rate requests a second for a while, whether or not those before have been
// answered, and returns how long each took from when it was meant to start: what waits for a
// connection, or for this program, waits on the clock.
func OpenLoop(ctx context.Context, cs []*Client, rate int, last time.Duration) ([]time.Duration, error) {
	idle := make(chan *loop, len(cs))
	loops := make([]*loop, len(cs))
	var all sync.WaitGroup
	for i, c := range cs {
		if err := c.conn.SetDeadline(time.Now().Add(last + RequestTimeout)); err != nil {
			return nil, err
		}
		loops[i] = &loop{Client: c}
		idle <- loops[i]
		all.Go(func() { loops[i].receiveAll(idle) })
	}
	err := dispatch(ctx, idle, loops, rate, last)
	for range cs { // each is idle or has failed
		select {
		case <-idle:
		case <-time.After(RequestTimeout):
		}
	}
	for _, l := range loops {
		_ = l.conn.SetReadDeadline(time.Now())
	}
	all.Wait()
	var out []time.Duration
	for _, l := range loops {
		out = append(out, l.took...)
		err = cmp.Or(err, l.err)
	}
	return out, err
}

// loop is a connection of OpenLoop.
type loop struct {
	*Client
	meant atomic.Int64 // when the request under way was meant to start, Unix nanoseconds; 0 is none
	took  []time.Duration
	err   error
}

// dispatch writes each request at its time from a thread of its own that sleeps in the kernel: a
// timer of the runtime may be a millisecond late.
func dispatch(ctx context.Context, idle chan *loop, loops []*loop, rate int, last time.Duration) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	gap := time.Second / time.Duration(rate)
	began := time.Now()
	for at := time.Duration(0); at < last && ctx.Err() == nil; at += gap {
		if early := at - time.Since(began); early > 0 {
			ts := syscall.NsecToTimespec(int64(early))
			_ = syscall.Nanosleep(&ts, nil) // interrupted, it is early by what a signal takes
		}
		select {
		case l := <-idle:
			l.meant.Store(began.Add(at).UnixNano())
			if _, err := l.conn.Write(l.request); err != nil {
				return err
			}
		case <-time.After(RequestTimeout):
			return fmt.Errorf("none of %d connections was free for %s", len(loops), RequestTimeout)
		}
	}
	return context.Cause(ctx)
}

// receiveAll reads answers until the connection's deadline or end.
func (l *loop) receiveAll(idle chan *loop) {
	for {
		err := l.receive()
		now := time.Now().UnixNano()
		meant := l.meant.Swap(0)
		if err != nil {
			if meant != 0 || !isTimeout(err) && !errors.Is(err, io.EOF) {
				l.err = err
			}
			return
		}
		l.took = append(l.took, time.Duration(now-meant))
		idle <- l
	}
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// Each sends one request over each connection, one after the other.
func Each(cs []*Client) error {
	for _, c := range cs {
		if err := c.do(); err != nil {
			return err
		}
	}
	return nil
}
