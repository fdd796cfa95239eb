package tunnel

import (
	"net"
	"syscall"
)

// notSentLow is what may wait unsent in the kernel, in bytes: what waits above it waits in
// HTTP/2's own buffer, where streams take turns and where the Dialer can see it.
const notSentLow = 128 << 10

// tcpNotSentLowat is TCP_NOTSENT_LOWAT of linux/tcp.h, which package syscall lacks.
const tcpNotSentLowat = 25

// tuneSocket prepares a socket before it connects. Where the kernel refuses, connections grow
// in number later than they should: no error.
func tuneSocket(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpNotSentLowat, notSentLow)
	})
}

// tuneConn is tuneSocket for a connection that was accepted: what its client does not take must be seen here, and
// not fill megabytes of the kernel's.
func tuneConn(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		if raw, err := t.SyscallConn(); err == nil {
			_ = tuneSocket("", "", raw)
		}
	}
}
