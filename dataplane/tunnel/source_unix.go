//go:build unix

package tunnel

import (
	"errors"
	"io"
	"os"
	"syscall"

	"github.com/isthmus-mesh/isthmus/dataplane/socket"
)

// tryRead reads once without blocking. It returns false, and has given its buffer back, when nothing is
// there: the runtime then waits for readability and calls it again, at no extra system call.
func (s *source) tryRead(fd uintptr) bool {
	s.take()
	n, err := socket.Read(fd, s.buf[:])
	switch {
	case err == nil && n > 0:
		s.n = n
		return true
	case errors.Is(err, syscall.EAGAIN):
		s.release()
		return false
	case err == nil:
		s.err = io.EOF
	default:
		s.err = os.NewSyscallError("read", err)
	}
	s.release()
	return true
}
