package socket

import (
	"math"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Queues tells what the kernel holds of a TCP connection, in bytes: what has come and was not read, and what was
// written and the peer's kernel has not acknowledged (tcp(7), SIOCINQ and SIOCOUTQ). It is false for a connection that
// is not on a descriptor of its own, or is closed.
func Queues(c net.Conn) (unread, unacknowledged int, ok bool) {
	raw := rawUnder(c)
	if raw == nil {
		return 0, 0, false
	}
	err := raw.Control(func(fd uintptr) {
		var err, err2 error
		unread, err = unix.IoctlGetInt(int(fd), unix.SIOCINQ)
		unacknowledged, err2 = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
		ok = err == nil && err2 == nil
	})
	return unread, unacknowledged, ok && err == nil
}

// Unsent tells how much of what was written the kernel has not sent for the first time, in bytes (SIOCOUTQNSD of
// linux/sockios.h): none says that nothing written waits for what the network or the peer can take. It is false where
// Queues is.
func Unsent(c net.Conn) (n int, ok bool) {
	raw := rawUnder(c)
	if raw == nil {
		return 0, false
	}
	err := raw.Control(func(fd uintptr) {
		var err error
		n, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQNSD)
		ok = err == nil
	})
	return n, ok && err == nil
}

// Acknowledged asks the kernel what the peer's has told it (tcp(7), TCP_INFO). It is false where Queues is.
func Acknowledged(c net.Conn) (a Acks, ok bool) {
	raw := rawUnder(c)
	if raw == nil {
		return Acks{}, false
	}
	err := raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if ok = err == nil; ok {
			a = Acks{Bytes: info.Bytes_acked, Quiet: time.Duration(info.Last_ack_recv) * time.Millisecond, Owed: info.Unacked > 0 && info.Snd_wnd > 0}
		}
	})
	return a, ok && err == nil
}

// RoundTrip is the shortest that the kernel has measured on the path of c (tcp(7), TCP_INFO). It is false where Queues is, and
// before there is one.
func RoundTrip(c net.Conn) (d time.Duration, ok bool) {
	raw := rawUnder(c)
	if raw == nil {
		return 0, false
	}
	err := raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if ok = err == nil && info.Min_rtt != math.MaxUint32; ok {
			d = time.Duration(info.Min_rtt) * time.Microsecond
		}
	})
	return d, ok && err == nil
}

// rawUnder is the descriptor under the connections that c is made of; nil if there is none.
func rawUnder(c net.Conn) syscall.RawConn {
	for {
		over, is := c.(interface{ Inner() net.Conn })
		if !is {
			return Raw(c)
		}
		c = over.Inner()
	}
}
