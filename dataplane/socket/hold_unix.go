//go:build unix

package socket

import "syscall"

// Hold waits until n bytes that nobody has read are there, the peer has ended, or the connection's read deadline is
// reached, and reads nothing: who sends an octet now and then is waited for once and not once for each (SO_RCVLOWAT of
// socket(7)). Reads are woken as usual afterwards. It is a wish: a kernel that refuses it, or counts otherwise, ends the
// wait sooner.
func Hold(raw syscall.RawConn, n int) {
	asked := false
	_ = raw.Read(func(fd uintptr) bool { // what fails it fails the read that follows
		if asked {
			return true
		}
		asked = true // from here on: the poller has forgotten what came before, and the kernel tells it anew if there is as much
		return syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVLOWAT, n) != nil
	})
	_ = raw.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVLOWAT, 1)
	})
}
