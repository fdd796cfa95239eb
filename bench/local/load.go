package main

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

// beApp is the application: it answers each request head at once and reads no bodies, so
// that what stands in front of it is what is measured.
func beApp(ctx context.Context, address string) error {
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

// serve ends with the connection.
func serve(c net.Conn) {
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

// client is one connection that sends one request after the other.
type client struct {
	conn    net.Conn
	request []byte
	buf     []byte
}

// get is a request for a target, in origin form or in the absolute form that a proxy is sent.
func get(target, host string) []byte {
	return []byte("GET " + target + " HTTP/1.1\r\nhost: " + host + "\r\nuser-agent: isthmus-bench\r\naccept: */*\r\n\r\n")
}

// requestTimeout bounds one exchange: what takes longer fails the run.
const requestTimeout = 10 * time.Second

func dial(ctx context.Context, target string, request []byte) (*client, error) {
	d := net.Dialer{Timeout: 5 * time.Second}
	c, err := d.DialContext(ctx, "tcp", target)
	if err != nil {
		return nil, err
	}
	return &client{conn: c, request: request, buf: make([]byte, 8<<10)}, nil
}

// dialAll opens n connections, or none.
func dialAll(ctx context.Context, n int, target string, request []byte) ([]*client, error) {
	out := make([]*client, 0, n)
	for range n {
		c, err := dial(ctx, target, request)
		if err != nil {
			closeAll(out)
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

func closeAll(cs []*client) {
	for _, c := range cs {
		_ = c.conn.Close()
	}
}

// do is one exchange.
func (c *client) do() error {
	if err := c.conn.SetDeadline(time.Now().Add(requestTimeout)); err != nil {
		return err
	}
	if _, err := c.conn.Write(c.request); err != nil {
		return err
	}
	return c.receive()
}

// receive reads one answer, which must be a 200 of known length.
func (c *client) receive() error {
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

// closedLoop sends requests over all connections, each as soon as the one before it has been
// answered, until total are answered or the time is over. It returns how many were.
func closedLoop(cs []*client, total int, most time.Duration) (int, error) {
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

// openLoop sends rate requests a second for a while, whether or not those before have been
// answered, and returns how long each took from when it was meant to start: what waits for a
// connection, or for this program, waits on the clock.
func openLoop(ctx context.Context, cs []*client, rate int, last time.Duration) ([]time.Duration, error) {
	idle := make(chan *loop, len(cs))
	loops := make([]*loop, len(cs))
	var all sync.WaitGroup
	for i, c := range cs {
		if err := c.conn.SetDeadline(time.Now().Add(last + requestTimeout)); err != nil {
			return nil, err
		}
		loops[i] = &loop{client: c}
		idle <- loops[i]
		all.Go(func() { loops[i].receiveAll(idle) })
	}
	err := dispatch(ctx, idle, loops, rate, last)
	for range cs { // each is idle or has failed
		select {
		case <-idle:
		case <-time.After(requestTimeout):
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

// loop is a connection of openLoop.
type loop struct {
	*client
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
		case <-time.After(requestTimeout):
			return fmt.Errorf("none of %d connections was free for %s", len(loops), requestTimeout)
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
