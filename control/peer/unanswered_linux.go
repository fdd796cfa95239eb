package peer

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// giveUp has the kernel end a connection of which nothing that was sent is acknowledged for so long (RFC 5482). What is
// heard says nothing of it: where one way of a link alone is cut, the owner's heartbeats come and our acknowledgements are stuck.
// When the cut is mended they would wait for a retransmission timer that has doubled all the while, and what the
// owner has to say would wait for them. gRPC asks the same of its connections, but of a wrapped one it cannot.
func giveUp(after time.Duration) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) {
			failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(after.Milliseconds()))
		})
		if err == nil {
			err = failed
		}
		return err
	}
}
