package socket_test

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/socket"
)

// connected returns the two ends of a connection of TCP.
func connected(t *testing.T) (a, b net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	a, err = net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	if b, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return a, b
}

// TestWhoTakesNothingIsNotWrittenTo writes to a peer that does not read: the kernel takes little, where by itself, which is
// the control, it takes megabytes.
func TestWhoTakesNothingIsNotWrittenTo(t *testing.T) {
	const enough = 512 << 10 // the bound, the peer's window and what is one segment here
	taken := func(prepare func(net.Conn)) (n int) {
		c, peer := connected(t)
		if err := peer.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
			t.Fatal(err)
		}
		prepare(c)
		w := socket.New(c)
		for piece, late := make([]byte, 8<<10), 0; n < 64<<20; {
			if err := c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			m, err := w.Write(piece)
			n += m
			switch {
			case errors.Is(err, os.ErrDeadlineExceeded):
				if late++; late == 3 { // once may be that we did not get to run
					return n
				}
			case err != nil:
				t.Fatal(err)
			}
		}
		return n
	}
	if n := taken(socket.Unhoard); n > enough {
		t.Errorf("%d KiB were taken for a peer that takes nothing, want at most %d", n>>10, enough>>10)
	}
	if n := taken(func(net.Conn) {}); n <= enough {
		t.Errorf("control: the kernel takes %d KiB by itself, so nothing was shown", n>>10)
	}
}

// TestDribblesAreReadInOnePiece has a peer send a message octet by octet, one every few milliseconds: it is read in a few
// calls. The control reads the connection itself, and is woken for each octet, for which the peer waits.
func TestDribblesAreReadInOnePiece(t *testing.T) {
	const size = 128
	calls := func(reader func(net.Conn) io.Reader, waits bool) (n int) {
		c, peer := connected(t)
		_ = c.SetReadDeadline(time.Now().Add(time.Minute))
		taken := make(chan struct{}, size) // a call has returned
		go func() {
			for i := range size {
				if _, err := peer.Write([]byte{byte(i)}); err != nil {
					return
				}
				if waits {
					<-taken
				} else {
					<-time.After(5 * time.Millisecond)
				}
			}
		}()
		b, r := make([]byte, size), reader(c)
		for at := 0; at < size; n++ {
			m, err := r.Read(b[at:])
			if err != nil {
				t.Fatal(err)
			}
			at += m
			taken <- struct{}{}
		}
		for i := range b {
			if b[i] != byte(i) {
				t.Fatalf("octet %d is %d", i, b[i])
			}
		}
		return n
	}
	if n := calls(func(c net.Conn) io.Reader { return socket.NewWhole(c) }, false); n > size/4 {
		t.Errorf("%d reads for %d octets", n, size)
	}
	if n := calls(func(c net.Conn) io.Reader { return c }, true); n != size {
		t.Errorf("control: %d reads for %d octets, so nothing was shown", n, size)
	}
}

// TestWholeLetsGo finds a connection as it was once Whole is closed, and hears of the peer's end at once.
func TestWholeLetsGo(t *testing.T) {
	c, peer := connected(t)
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	w, b := socket.NewWhole(c), make([]byte, 100)
	if _, err := peer.Write([]byte("ab")); err != nil {
		t.Fatal(err)
	}
	if n, err := w.Read(b); n == 0 || err != nil {
		t.Fatal(n, err)
	}
	w.Close()
	one := make(chan error, 1)
	go func() {
		_, err := io.ReadFull(c, b[:1])
		one <- err
	}()
	if _, err := peer.Write([]byte("c")); err != nil {
		t.Fatal(err)
	}
	if err := <-one; err != nil {
		t.Errorf("one octet after Close: %v", err)
	}
	w = socket.NewWhole(c)
	if _, err := peer.Write([]byte("d")); err != nil {
		t.Fatal(err)
	}
	if n, err := w.Read(b); n == 0 || err != nil {
		t.Fatal(n, err)
	}
	peer.Close()
	for {
		if _, err := w.Read(b); err != nil {
			if !errors.Is(err, io.EOF) {
				t.Errorf("after the peer's end: %v", err)
			}
			return
		}
	}
}
