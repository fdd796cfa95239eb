package tunnel

import (
	"net"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/socket"
)

// TestAStarvedProxyIsNotCongested: writes that took long say that a send queue is full only if the kernel has
// something to send. A proxy that did not get to run would else make connections, which needs more of what it lacks.
func TestAStarvedProxyIsNotCongested(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	raw, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	peer, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	c := &conn{wire: &wire{}, socket: &heard{Conn: socket.New(raw)}}
	now := int64(time.Minute)
	if c.congested(now) {
		t.Error("congested without a slow write")
	}
	c.wire.slow.Store(now - int64(time.Second)) // the last write took more than a millisecond, a second ago
	if c.congested(now) {
		t.Error("congested though all that was written has been sent")
	}
	much := make([]byte, 64<<20)                                                      // more than the peer's socket takes
	for n, end := 0, time.Now().Add(time.Minute); n == 0 && time.Now().Before(end); { // a deadline may pass before anything is written
		_ = raw.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		n, _ = raw.Write(much)
	}
	if c.congested(now + int64(lookQueue) - 1) {
		t.Error("the kernel was asked again at once")
	}
	if !c.congested(now + int64(lookQueue)) {
		t.Error("not congested though the peer takes nothing")
	}
	a, b := net.Pipe() // nothing to be asked: the time of writes is all there is
	defer a.Close()
	defer b.Close()
	if c := (&conn{wire: c.wire, socket: &heard{Conn: a}}); !c.congested(now) {
		t.Error("not congested where no kernel can be asked")
	}
}
