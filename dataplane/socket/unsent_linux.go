package socket

import (
	"net"
	"syscall"
)

// notSentLow is what may wait unsent in the kernel, in bytes; by itself it takes megabytes, which are as many answers as a
// client may have asked for in a row and need not take.
const notSentLow = 128 << 10

// tcpNotSentLowat is TCP_NOTSENT_LOWAT of linux/tcp.h, which package syscall lacks.
const tcpNotSentLowat = 25

// Unhoarding prepares a socket before it connects: a write to it waits while 128 KiB of what was written before are unsent.
// What waits above the kernel waits where it can be seen, and stops whoever makes it. Where the kernel refuses, that
// happens later than it should: no error.
func Unhoarding(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpNotSentLowat, notSentLow)
	})
}

// Unhoard is Unhoarding for a connection that was accepted.
func Unhoard(c net.Conn) {
	if raw := Raw(c); raw != nil {
		_ = Unhoarding("", "", raw)
	}
}
