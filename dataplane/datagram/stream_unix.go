//go:build unix

package datagram

import (
	"errors"
	"os"
	"syscall"
)

// tryRead receives once without blocking. It returns false, holding no buffer, when nothing is there: the
// runtime then waits and calls it again.
func (s *stream) tryRead(fd uintptr) bool {
	s.buf = buffers.Get().(*[headMost + MaxSize]byte)
	for {
		n, err := syscall.Read(int(fd), s.buf[headMost:])
		switch {
		case err == nil:
			s.received(n)
			return true
		case errors.Is(err, syscall.EINTR):
			continue
		}
		s.release()
		if errors.Is(err, syscall.EAGAIN) {
			return false
		}
		s.err = os.NewSyscallError("read", err)
		return true
	}
}
