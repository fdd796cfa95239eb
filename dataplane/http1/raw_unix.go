//go:build unix

package http1

import (
	"errors"
	"io"
	"os"
	"syscall"

	"github.com/isthmus-mesh/isthmus/dataplane/socket"
)

// tryRead reads once without blocking. It returns false, and has given its buffer back,
// when nothing is there: the runtime then waits for readability and calls it again. A
// connection that waits thus holds no buffer, at no extra system call; one whose message has come in part holds that part.
func (in *input) tryRead(fd uintptr) bool {
	if in.send != nil {
		return in.trySend(fd)
	}
	p := in.space()
	n, err := socket.Read(fd, p)
	switch {
	case err == nil && n == 0:
		in.readErr = io.EOF
	case err == nil:
		in.w += n
		in.readErr = nil
		return true
	case errors.Is(err, syscall.EAGAIN):
		in.release()
		in.settle(settleRoom)
		return false
	default:
		in.readErr = os.NewSyscallError("read", err)
	}
	in.release()
	return true
}

// tryIdle finds out whether an idle connection is still good: nothing to read is good,
// end, error or bytes that nobody asked for are not. The byte is never wanted.
func (in *input) tryIdle(fd uintptr) {
	_, err := socket.Read(fd, in.one[:])
	in.idleOK = errors.Is(err, syscall.EAGAIN)
}

// trySend writes what is to be sent on a connection that is still good, and returns false: then the answer is waited for.
// What it was told before a write is not lost, as between two calls of Read: the poller forgets that only when the
// first begins.
func (in *input) trySend(fd uintptr) bool {
	if in.tryIdle(fd); !in.idleOK {
		in.readErr = errUnsendable
		return true
	}
	n, err := socket.Write(fd, in.send)
	in.send, in.readErr = in.send[n:], nil
	switch {
	case err != nil && !errors.Is(err, syscall.EAGAIN):
		in.readErr = os.NewSyscallError("write", err)
	case len(in.send) == 0:
		in.send = nil
		return false
	}
	return true
}

// tryRest is tryRead for a byte, and takes no buffer to wait with.
func (in *input) tryRest(fd uintptr) bool {
	n, err := socket.Read(fd, in.one[:])
	switch {
	case err == nil && n == 0:
		in.readErr = io.EOF
	case err == nil:
		in.readErr = nil
	case errors.Is(err, syscall.EAGAIN):
		return false
	default:
		in.readErr = os.NewSyscallError("read", err)
	}
	return true
}
