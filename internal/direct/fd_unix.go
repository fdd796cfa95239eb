//go:build unix && (!linux || race)

package direct

// The race detector takes what package syscall sends and receives for an order between
// goroutines, as tests with both ends in one process do.

import (
	"errors"
	"syscall"
)

// Read reads once from a descriptor that does not block; EAGAIN says that nothing is there. p
// is not empty.
func Read(fd uintptr, p []byte) (int, error) {
	for {
		n, err := syscall.Read(int(fd), p)
		if !errors.Is(err, syscall.EINTR) {
			return max(n, 0), err
		}
	}
}

// Write writes once to a descriptor that does not block; EAGAIN says that there is no room. p
// is not empty.
func Write(fd uintptr, p []byte) (int, error) {
	for {
		n, err := syscall.Write(int(fd), p)
		if !errors.Is(err, syscall.EINTR) {
			return max(n, 0), err
		}
	}
}
