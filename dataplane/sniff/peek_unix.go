//go:build unix

package sniff

import (
	"errors"
	"syscall"
)

// peek returns what has come on a socket that does not block, and leaves it there; EAGAIN: nothing has.
func peek(fd uintptr, b []byte) (int, error) {
	for {
		n, _, err := syscall.Recvfrom(int(fd), b, syscall.MSG_PEEK)
		if !errors.Is(err, syscall.EINTR) {
			return n, err
		}
	}
}
