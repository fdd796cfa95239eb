//go:build unix

package tunnel

import (
	"errors"
	"io"
	"os"
	"syscall"

	"github.com/isthmus-mesh/isthmus/dataplane/socket"
)

// tryRead reads once without blocking, as source.tryRead does.
func (b *batch) tryRead(fd uintptr) bool {
	in := batches.Get().(*[batchSize]byte)
	n, err := socket.Read(fd, in[:])
	if n > 0 {
		b.in, b.r, b.w, b.more = in, 0, n, n >= recordMax
		return true
	}
	batches.Put(in)
	switch {
	case errors.Is(err, syscall.EAGAIN):
		return false
	case err == nil:
		b.err = io.EOF
	default:
		b.err = os.NewSyscallError("read", err)
	}
	return true
}
