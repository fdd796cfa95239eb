package peer

import (
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// full opens a port of which the queue of connections is full, so that a SYN is dropped, and returns what makes place
// in it for one.
func full(t *testing.T) (at netip.AddrPort, accept func()) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	at = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(name.(*syscall.SockaddrInet4).Port))
	for range 8 {
		c, err := net.DialTimeout("tcp", at.String(), 100*time.Millisecond)
		if err == nil {
			t.Cleanup(func() { c.Close() })
			continue
		}
		if !timedOut(err) {
			t.Fatalf("%v, want a timeout", err)
		}
		return at, func() {
			n, _, err := syscall.Accept4(fd, syscall.SOCK_CLOEXEC)
			if err != nil {
				t.Error(err)
				return
			}
			syscall.Close(n)
		}
	}
	t.Fatal("a queue of none took all")
	panic("unreachable")
}

func timedOut(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

// TestALinkThatHealedIsFoundByTheNextSocket: the SYN of the first socket is lost. There is place for a connection from
// when the second asks, which has it: nobody waits for the kernel's timer.
func TestALinkThatHealedIsFoundByTheNextSocket(t *testing.T) {
	at, accept := full(t)
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
	at, _ := full(t)
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
