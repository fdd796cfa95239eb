package socket

import (
	"net"

	"golang.org/x/sys/unix"
)

// Queues tells what the kernel holds of a TCP connection, in bytes: what has come and was not read, and what was
// written and the peer's kernel has not acknowledged (tcp(7), SIOCINQ and SIOCOUTQ). It is false for a connection that
// is not on a descriptor of its own, or is closed.
func Queues(c net.Conn) (unread, unacknowledged int, ok bool) {
	for {
		over, is := c.(interface{ Inner() net.Conn })
		if !is {
			break
		}
		c = over.Inner()
	}
	raw := Raw(c)
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
