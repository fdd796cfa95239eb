//go:build unix

package http1

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
)

// rawOf returns the descriptor of a TCP or Unix connection, nil for any other: those
// two alone promise that bytes read from the descriptor are the connection's bytes.
func rawOf(c net.Conn) syscall.RawConn {
	switch c := c.(type) {
	case *net.TCPConn:
		raw, _ := c.SyscallConn()
		return raw
	case *net.UnixConn:
		raw, _ := c.SyscallConn()
		return raw
	}
	return nil
}

// tryRead reads once without blocking. It returns false, and has given its buffer back,
// when nothing is there: the runtime then waits for readability and calls it again. A
// connection that waits thus holds no buffer, at no extra system call.
func (in *input) tryRead(fd uintptr) bool {
	p := in.space()
	for {
		n, err := syscall.Read(int(fd), p)
		switch {
		case err == nil && n == 0:
			in.readErr = io.EOF
		case err == nil:
			in.w += n
			in.readErr = nil
			return true
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EAGAIN):
			in.release()
			return false
		default:
			in.readErr = os.NewSyscallError("read", err)
		}
		in.release()
		return true
	}
}

// tryIdle finds out whether an idle connection is still good: nothing to read is good,
// end, error or bytes that nobody asked for are not. The byte is never wanted.
func (in *input) tryIdle(fd uintptr) {
	_, err := syscall.Read(int(fd), in.one[:])
	in.idleOK = errors.Is(err, syscall.EAGAIN)
}
