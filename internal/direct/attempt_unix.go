//go:build unix

package direct

import (
	"errors"
	"net"
	"os"
	"syscall"
)

// attempts returns what writes to a connection as much as there is room for, nil if its descriptor is not to be had. It is
// called by one goroutine at a time, and makes no closure.
func attempts(c net.Conn) func(p []byte) (int, error) {
	raw := Raw(c)
	if raw == nil {
		return nil
	}
	var p []byte
	var n int
	var fault error
	try := func(fd uintptr) {
		for n < len(p) {
			k, err := Write(fd, p[n:min(len(p), n+writeMax)])
			n += k
			if err != nil {
				if !errors.Is(err, syscall.EAGAIN) {
					fault = os.NewSyscallError("write", err)
				}
				return
			}
		}
	}
	return func(b []byte) (int, error) {
		p, n, fault = b, 0, nil
		err := raw.Control(try)
		p = nil
		return n, errors.Join(err, fault)
	}
}
