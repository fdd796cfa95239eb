package loopback

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

// Full opens a port of which the queue of connections is full, so that a SYN is dropped, and returns what makes place
// in it for one.
func Full(t testing.TB) (at netip.AddrPort, accept func()) {
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
		var late net.Error
		if !errors.As(err, &late) || !late.Timeout() {
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
