package socket_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/isthmus-mesh/isthmus/dataplane/socket"
	"github.com/isthmus-mesh/isthmus/internal/loopback"
)

// congestion is by what a connection sends.
func congestion(t *testing.T, c net.Conn) (name string) {
	t.Helper()
	err := socket.Raw(c).Control(func(fd uintptr) {
		var err error
		if name, err = unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimRight(name, "\x00")
}

// listen opens a port and gives what is accepted.
func listen(t *testing.T, c net.ListenConfig, address string) (at netip.AddrPort, accepted chan net.Conn) {
	t.Helper()
	ln, err := c.Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	accepted = make(chan net.Conn, 8)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	return ln.Addr().(*net.TCPAddr).AddrPort(), accepted
}

// TestConnectionsOfOneMachineAreNotPaced, whoever opens them, also on a port that others reach too.
func TestConnectionsOfOneMachineAreNotPaced(t *testing.T) {
	near, accepted := listen(t, socket.ListenConfig(), "127.0.0.1:0")
	c, err := socket.Dial(t.Context(), nil, netip.Addr{}, near.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	a := <-accepted
	defer a.Close()
	if got, got2 := congestion(t, c), congestion(t, a); got != "reno" || got2 != "reno" {
		t.Errorf("dialled: %s, accepted: %s", got, got2)
	}

	wide, accepted := listen(t, socket.ListenConfig(), "0.0.0.0:0")
	d, err := net.Dial("tcp", netip.AddrPortFrom(near.Addr(), wide.Port()).String())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	b := <-accepted
	defer b.Close()
	host, err := os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := congestion(t, b), strings.TrimSpace(string(host)); got != want {
		t.Errorf("accepted on a port that others reach: %s, want the host's %s before it is known who comes", got, want)
	}
	if socket.Accepted(b); congestion(t, b) != "reno" {
		t.Errorf("a neighbour on a port that others reach: %s", congestion(t, b))
	}
}

// TestADialFrom an address comes from there, of either family, and is prepared before it begins.
func TestADialFromAnAddressComesFromThere(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		at, accepted := listen(t, socket.ListenConfig(), net.JoinHostPort(host, "0"))
		prepared := ""
		c, err := socket.Dial(t.Context(), func(_, address string, _ syscall.RawConn) error {
			prepared = address
			return nil
		}, at.Addr(), at.String())
		if err != nil {
			t.Fatal(err)
		}
		a := <-accepted
		if prepared != at.String() || a.RemoteAddr().String() != c.LocalAddr().String() || c.RemoteAddr().String() != at.String() ||
			c.LocalAddr().(*net.TCPAddr).AddrPort().Addr() != at.Addr() {
			t.Errorf("prepared for %q; %s to %s, accepted from %s", prepared, c.LocalAddr(), c.RemoteAddr(), a.RemoteAddr())
		}
		go func() { _, _ = a.Write([]byte("x")) }()
		b := make([]byte, 2)
		if n, err := c.Read(b); n != 1 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		c.Close()
		a.Close()
	}
}

func TestADialThatCannotSaysWhy(t *testing.T) {
	at, _ := listen(t, socket.ListenConfig(), "127.0.0.1:0")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := ln.Addr().String()
	ln.Close()
	no := errors.New("no")
	expired, stop := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer stop()
	for _, c := range []struct {
		name    string
		ctx     context.Context
		control socket.Control
		local   string
		to      string
		want    error
	}{
		{"nobody listens", t.Context(), nil, "", gone, syscall.ECONNREFUSED},
		{"nobody listens, from an address", t.Context(), nil, "127.0.0.2", gone, syscall.ECONNREFUSED},
		{"not an address of this machine", t.Context(), nil, "192.0.2.1", at.String(), syscall.EADDRNOTAVAIL},
		{"forbidden", t.Context(), func(string, string, syscall.RawConn) error { return no }, "", at.String(), no},
		{"too late", expired, nil, "", at.String(), os.ErrDeadlineExceeded},
	} {
		local, _ := netip.ParseAddr(c.local)
		conn, err := socket.Dial(c.ctx, c.control, local, c.to)
		if conn != nil || !errors.Is(err, c.want) && !(errors.Is(c.want, os.ErrDeadlineExceeded) && isTimeout(err)) {
			t.Errorf("%s: %v, %v", c.name, conn, err)
		}
		var op *net.OpError
		if !errors.As(err, &op) || op.Op != "dial" {
			t.Errorf("%s: %v is no error of a dial", c.name, err)
		}
	}
	// Another family than the own address's is package net's to refuse.
	if _, err := socket.Dial(t.Context(), nil, netip.MustParseAddr("::1"), at.String()); err == nil {
		t.Error("an address of IPv6 reached one of IPv4")
	}
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// TestADialEndsWithItsContext: a peer that says nothing, its queue of connections being full.
func TestADialEndsWithItsContext(t *testing.T) {
	at, _ := loopback.Full(t)
	for name, end := range map[string]func() (context.Context, context.CancelFunc){
		"its deadline": func() (context.Context, context.CancelFunc) {
			return context.WithTimeout(t.Context(), 100*time.Millisecond)
		},
		"its cancellation": func() (context.Context, context.CancelFunc) {
			ctx, stop := context.WithTimeout(t.Context(), time.Hour)
			time.AfterFunc(20*time.Millisecond, stop)
			return ctx, stop
		},
	} {
		ctx, stop := end()
		c, err := socket.Dial(ctx, nil, netip.Addr{}, at.String())
		stop()
		if c != nil || !isTimeout(err) && !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v, %v", name, c, err)
		}
	}
}

// TestALostSYNIsMadeUpForInTime: the kernel sends its SYN again after a second, and then after ever longer times.
// Here there is place for a connection only once the second socket asks, which ends the dial long before.
func TestALostSYNIsMadeUpForInTime(t *testing.T) {
	at, accept := loopback.Full(t)
	var asked atomic.Int32
	ctx, stop := context.WithTimeout(t.Context(), 6*time.Second)
	defer stop()
	// The kernel's are lost too: until the second socket asks the queue is full, and then there is place for one only.
	c, err := socket.Dial(ctx, func(string, string, syscall.RawConn) error {
		if asked.Add(1) == 2 {
			accept()
		}
		return nil
	}, netip.Addr{}, at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if n := asked.Load(); n != 2 {
		t.Errorf("%d sockets asked, want 2", n)
	}
}
