package socket_test

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/socket"
)

func TestQueuesTellWhatLiesUnread(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	a, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	wrapped := socket.New(a)
	if unread, out, ok := socket.Queues(wrapped); unread != 0 || out != 0 || !ok {
		t.Errorf("of a new connection: %d, %d, %v", unread, out, ok)
	}
	if _, ok := socket.RoundTrip(wrapped); !ok {
		t.Error("the round trip of a connection that was made is not known")
	}
	if _, err := b.Write([]byte("seven..")); err != nil {
		t.Fatal(err)
	}
	one := make([]byte, 1)
	_ = a.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := wrapped.Read(one); err != nil { // it has come
		t.Fatal(err)
	}
	if unread, _, ok := socket.Queues(wrapped); unread != 6 || !ok {
		t.Errorf("%d bytes unread, %v, want 6", unread, ok)
	}
	if n, ok := socket.Unsent(wrapped); n != 0 || !ok {
		t.Errorf("%d bytes unsent, %v, before anything was written", n, ok)
	}
	// More than the peer's socket takes is not acknowledged until the peer reads.
	much := make([]byte, 64<<20)
	for end := time.Now().Add(time.Minute); time.Now().Before(end); { // a deadline may pass before anything is written
		_ = a.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		if n, _ := wrapped.Write(much); n > 0 {
			break
		}
	}
	if _, out, ok := socket.Queues(wrapped); out == 0 || !ok {
		t.Errorf("%d bytes unacknowledged, %v, though the peer does not read", out, ok)
	}
	if n, ok := socket.Unsent(wrapped); n == 0 || !ok {
		t.Errorf("%d bytes unsent, %v, though the peer does not read", n, ok)
	}
	acks, ok := socket.Acknowledged(wrapped)
	for end := time.Now().Add(time.Minute); ok && acks.Owed && time.Now().Before(end); { // until the last segment's has come
		_ = a.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		_, _ = io.ReadFull(wrapped, make([]byte, 64))
		acks, ok = socket.Acknowledged(wrapped)
	}
	if acks.Owed || acks.Bytes == 0 || !ok {
		t.Errorf("%+v, %v, behind a window that is shut", acks, ok)
	}
	a.Close()
	if _, ok := socket.Acknowledged(wrapped); ok {
		t.Error("a closed connection has acknowledgements")
	}
	if _, ok := socket.RoundTrip(wrapped); ok {
		t.Error("a closed connection has a round trip")
	}
	if _, ok := socket.Unsent(wrapped); ok {
		t.Error("a closed connection has something unsent")
	}
	if _, _, ok := socket.Queues(wrapped); ok {
		t.Error("a closed connection has queues")
	}
	if _, _, ok := socket.Queues(struct{ net.Conn }{b}); ok {
		t.Error("a wrapped connection has queues")
	}
}
