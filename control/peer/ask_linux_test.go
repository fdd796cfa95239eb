package peer

import (
	"errors"
	"net"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/isthmus-mesh/isthmus/internal/loopback"
)

func timedOut(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

// TestALinkThatHealedIsFoundByTheNextSocket: the SYN of the first socket is lost. There is place for a connection from
// when the second asks, which has it: nobody waits for the kernel's timer.
func TestALinkThatHealedIsFoundByTheNextSocket(t *testing.T) {
	at, accept := loopback.Full(t)
	var sockets atomic.Int32
	c, err := dialAgain(t.Context(), &net.Dialer{Control: func(string, string, syscall.RawConn) error {
		if sockets.Add(1) == 2 {
			accept()
		}
		return nil
	}}, at.String(), dialTimeout)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if n := sockets.Load(); n < 2 {
		t.Errorf("%d sockets asked, want 2", n)
	}
}

// TestADialThatIsNotAnsweredEnds: within its time, with a bounded number of sockets, and with the reason.
func TestADialThatIsNotAnsweredEnds(t *testing.T) {
	at, _ := loopback.Full(t)
	var sockets atomic.Int32
	c, err := dialAgain(t.Context(), &net.Dialer{Control: func(string, string, syscall.RawConn) error {
		sockets.Add(1)
		return nil
	}}, at.String(), dialTimeout)
	if c != nil || !timedOut(err) {
		t.Errorf("%v, %v: want an error that says that time was up", c, err)
	}
	if n := sockets.Load(); n < 2 || n > asksMax {
		t.Errorf("%d sockets asked, want 2 to %d", n, asksMax)
	}
}

// TestARefusalIsAnswered: at once, by the first socket.
func TestARefusalIsAnswered(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().String()
	l.Close()
	if c, err := dialAgain(t.Context(), &net.Dialer{}, at, dialTimeout); c != nil || !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("%v, %v: want a refusal", c, err)
	}
}
