//go:build !race

package direct

import (
	"syscall"
	"unsafe"
)

// Read reads once from a descriptor that does not block; EAGAIN says that nothing is there. p
// is not empty.
func Read(fd uintptr, p []byte) (int, error) { return once(syscall.SYS_READ, fd, p) }

// Write writes once to a descriptor that does not block; EAGAIN says that there is no room. p
// is not empty.
func Write(fd uintptr, p []byte) (int, error) { return once(syscall.SYS_WRITE, fd, p) }

// once makes a system call of the shape of read and write, again where a signal came between.
func once(call, fd uintptr, p []byte) (int, error) {
	for {
		n, _, errno := syscall.RawSyscall(call, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
		switch errno {
		case 0:
			return int(n), nil
		case syscall.EINTR:
		default:
			return 0, errno
		}
	}
}
