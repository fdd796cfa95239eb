package peer

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestWhatIsNotAcknowledgedEndsAConnection: in the time in which silence does, though heartbeats be heard.
func TestWhatIsNotAcknowledgedEndsAConnection(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := dialAgain(t.Context(), dialer(netip.Addr{}), l.Addr().String(), dialTimeout)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var got int
	if ctl := raw.Control(func(fd uintptr) {
		got, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
	}); ctl != nil || err != nil {
		t.Fatal(ctl, err)
	}
	if d := time.Duration(got) * time.Millisecond; d != silentMax {
		t.Errorf("the kernel tries for %v, want %v", d, silentMax)
	}
}
