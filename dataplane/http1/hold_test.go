//go:build linux

package http1

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/socket"
)

func TestOnlyLateDribblesAreHeld(t *testing.T) {
	for _, c := range []struct {
		drips uint8
		late  time.Duration
		want  time.Duration
	}{
		{dripReads, time.Second, holdMost},
		{dripReads, lateFrom, lateFrom / 2},
		{200, time.Hour, holdMost},
		{dripReads - 1, time.Hour, 0},
		{0, time.Hour, 0},
		{200, lateFrom - 1, 0},
		{200, -time.Second, 0}, // ahead of the least rate
	} {
		if got := hold(c.drips, c.late, holdMost); got != c.want {
			t.Errorf("after %d drips, %v late: held for %v, want %v", c.drips, c.late, got, c.want)
		}
	}
	in := input{}
	for _, n := range []int{1, dripBytes - 1, 5} {
		in.drip(n)
	}
	if in.drips != 3 {
		t.Errorf("%d drips in a row, want 3", in.drips)
	}
	for range 300 {
		in.drip(1)
	}
	if in.drip(dripBytes); in.drips != 0 {
		t.Errorf("%d drips after a whole piece, want none", in.drips)
	}
}

// dribbler is a client on a socket of its own, and what its server has read.
type dribbler struct {
	t *testing.T
	net.Conn
	server net.Conn
	sc     *ServerConn
	pieces chan int // of the body, one for each read
}

// forever is as long as a wait that is not to end in a test.
const forever = 48 * time.Hour

// still is a clock by which nothing is ever late, however slow the machine.
func still() time.Time { return time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC) }

// dribbles serves a connection whose heads and bodies count as late from the beginning if late is true, and whose dribbles
// are held for so long then. Where that is for ever, what is not to be held comes through, or the test ends by its deadline.
func dribbles(t *testing.T, late bool, most time.Duration, now func() time.Time) *dribbler {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_ = client.SetDeadline(time.Now().Add(time.Minute))
	_ = client.(*net.TCPConn).SetNoDelay(true)
	d := &dribbler{t: t, Conn: client, server: server, pieces: make(chan int, 1000)}
	cfg := &Config{ReadRateMin: 1, RateGrace: 10 * forever, ReadHeaderTimeout: 10 * forever, holdMost: most, Now: now}
	d.sc = NewServerConn(server, cfg)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer d.sc.Close()
		for {
			ex, err := d.sc.Next()
			if err != nil {
				return
			}
			d.pieces <- 0 // the head
			if late {
				d.sc.in.budget -= 5 * forever
			}
			buf := make([]byte, 8<<10)
			for err == nil {
				var n int
				if n, err = ex.Read(buf); n > 0 {
					d.pieces <- n
				}
			}
			if err != io.EOF {
				ex.Abort(err)
				return
			}
			_ = ex.Respond(head(204, 0), true)
		}
	}()
	t.Cleanup(func() {
		client.Close()
		<-done
	})
	return d
}

func (d *dribbler) send(text string) {
	d.t.Helper()
	if _, err := io.WriteString(d.Conn, text); err != nil {
		d.t.Fatal(err)
	}
}

// read waits for what one read of the server gave: 0 is a head.
func (d *dribbler) read(want int) {
	d.t.Helper()
	select {
	case n := <-d.pieces:
		if n != want {
			d.t.Fatalf("a read gave %d bytes, want %d", n, want)
		}
	case <-time.After(time.Minute):
		d.t.Fatalf("nothing is read, want %d bytes", want)
	}
}

// unread waits until so many bytes lie in the server's socket.
func (d *dribbler) unread(want int) {
	d.t.Helper()
	for end := time.Now().Add(time.Minute); ; {
		n, _, ok := socket.Queues(d.server)
		switch {
		case !ok:
			d.t.Fatal("the socket does not tell what it holds")
		case n == want:
			return
		case time.Now().After(end):
			d.t.Fatalf("%d bytes wait to be read, want %d", n, want)
		}
	}
}

const post = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10000\r\n\r\n"

// TestALateBodyThatDribblesIsReadInOne: after three drips the kernel keeps what comes until it is more than a drip, and
// gives all of it in one read. The control is a body that keeps to the least rate, each octet of which is read at once.
func TestALateBodyThatDribblesIsReadInOne(t *testing.T) {
	for _, late := range []bool{true, false} {
		t.Run(fmt.Sprint("late ", late), func(t *testing.T) {
			d := dribbles(t, late, forever, still)
			d.send(post)
			d.read(0)
			for range dripReads {
				d.send("b")
				d.read(1)
			}
			for i := range dripBytes - 1 {
				d.send("b")
				if late {
					d.unread(i + 1)
				} else {
					d.read(1)
				}
			}
			d.send("b")
			if !late {
				d.read(1)
				return
			}
			d.read(dripBytes)
			for range dripReads { // and then it flows until it dribbles again
				d.send("b")
				d.read(1)
			}
			d.send("b")
			d.unread(1)
		})
	}
}

// TestWhatIsHeldComesInTime, though nothing follows it.
func TestWhatIsHeldComesInTime(t *testing.T) {
	d := dribbles(t, true, 2*holdGrid, time.Now)
	d.send(post)
	d.read(0)
	for range 2 * dripReads {
		d.send("b")
		d.read(1)
	}
}

// TestTheEndOfABodyIsNotHeld, where its length says that it is the end; nor is a large piece, nor the body of the request
// that follows.
func TestTheEndOfABodyIsNotHeld(t *testing.T) {
	d := dribbles(t, true, forever, time.Now)
	d.send(strings.Replace(post, "10000", "2008", 1))
	d.read(0)
	for range dripReads {
		d.send("b")
		d.read(1)
	}
	d.send(strings.Repeat("b", 2000))
	d.read(2000)
	for range dripReads {
		d.send("b")
		d.read(1)
	}
	d.send("b")
	d.unread(1)
	d.send("b")
	d.read(2)
	if _, err := io.ReadFull(d, make([]byte, len("HTTP/1.1 204 No Content\r\n\r\n"))); err != nil {
		t.Fatal(err)
	}
	d.send(post)
	d.read(0)
	d.send("b")
	d.read(1)
}

// TestALateHeadThatDribblesIsReadInOne, as a body is.
func TestALateHeadThatDribblesIsReadInOne(t *testing.T) {
	for _, late := range []bool{true, false} {
		t.Run(fmt.Sprint("late ", late), func(t *testing.T) {
			now := still
			if late {
				var asked atomic.Int64
				now = func() time.Time { return time.Now().Add(time.Duration(asked.Add(1)) * time.Hour) }
			}
			d := dribbles(t, false, forever, now)
			for _, piece := range []string{"GET / HTTP/1.1\r\n", "Host: x\r\n", "A: 1\r\n", "B: 2\r\n"} {
				d.send(piece)
				d.unread(0)
			}
			sent := 0
			for ; sent < dripBytes-2; sent += 8 {
				d.send("D: 456\r\n")
				if !late {
					d.unread(0)
				} else if sent+8 < dripBytes {
					d.unread(sent + 8)
				}
			}
			d.send("\r\n")
			d.read(0)
		})
	}
}

// TestSmallPiecesThatKeepTheRateAreNeverHeld: a stream of small chunks, each of which is waited for before the next is sent, as
// one does who reports events. Any that were held would be for ever.
func TestSmallPiecesThatKeepTheRateAreNeverHeld(t *testing.T) {
	d := dribbles(t, false, forever, time.Now)
	d.send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
	d.read(0)
	for range 500 {
		d.send("8\r\nan event\r\n")
		d.read(8)
	}
	d.send("0\r\n\r\n")
	if _, err := io.ReadFull(d, make([]byte, len("HTTP/1.1 204 No Content\r\n\r\n"))); err != nil {
		t.Fatal(err)
	}
}
