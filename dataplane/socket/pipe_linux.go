package socket

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
)

const (
	// pipeSize is how much a pipe is asked to hold, and how much one call moves, in bytes. Without
	// privileges the pipes of a user may hold 64 MiB together (pipe-user-pages-soft), so that 256 are this large.
	pipeSize = 256 << 10
	// pipeLeast is the least that is worth a pipe. A user whose share is spent gets pipes of two pages.
	pipeLeast = 64 << 10
	// setPipeSize is F_SETPIPE_SZ of linux/fcntl.h, which package syscall lacks.
	setPipeSize = 1031
	// getPipeSize is F_GETPIPE_SZ.
	getPipeSize = 1032
	// spliceFlags are SPLICE_F_MOVE and SPLICE_F_NONBLOCK of splice(2).
	spliceFlags = 1 | 2
)

// Pipe passes bytes from one TCP connection to another inside the kernel, by splice(2), past
// the scheduler like all of this package. One goroutine uses it at a time.
type Pipe struct {
	from, to    syscall.RawConn
	read, write int // the pipe's ends
	fill, drain func(fd uintptr) bool
	size        int // what it can hold, at most
	held        int // bytes in the pipe
	n           int
	err         error
}

// NewPipe returns a pipe between two connections; errors.ErrUnsupported if they are none whose
// descriptors carry their bytes, else the error of a system that has no pipe left, or none worth having.
func NewPipe(to, from net.Conn) (*Pipe, error) {
	p := &Pipe{from: Raw(from), to: Raw(to)}
	if p.from == nil || p.to == nil {
		return nil, errors.ErrUnsupported
	}
	var ends [2]int
	if err := syscall.Pipe2(ends[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK); err != nil {
		return nil, fmt.Errorf("make a pipe for splice: %w", err)
	}
	p.read, p.write = ends[0], ends[1]
	// Refused beyond a user's share.
	_, _, _ = syscall.Syscall(syscall.SYS_FCNTL, uintptr(p.write), setPipeSize, pipeSize)
	size, _, _ := syscall.Syscall(syscall.SYS_FCNTL, uintptr(p.write), getPipeSize, 0)
	if p.size = int(size); p.size < pipeLeast {
		p.Close()
		return nil, fmt.Errorf("make a pipe for splice: of %d bytes: %w", p.size, syscall.ENOBUFS)
	}
	p.fill, p.drain = p.tryFill, p.tryDrain
	return p, nil
}

// Held is how many bytes were taken and not passed on yet.
func (p *Pipe) Held() int { return p.held }

// Step waits for bytes, or for room for those that it holds, and returns how many it passed on,
// which may be 0. After a deadline of either side it may be called again; io.EOF is the end of what came.
// errors.ErrUnsupported, while it holds nothing, says that the kernel does not splice these and has taken nothing.
func (p *Pipe) Step() (int, error) {
	p.n, p.err = 0, nil
	if p.held == 0 {
		if err := p.from.Read(p.fill); err != nil {
			return 0, err
		}
		if p.err != nil {
			return 0, p.err
		}
	}
	if err := p.to.Write(p.drain); err != nil {
		return 0, err
	}
	return p.n, p.err
}

// Close gives the pipe up, and what it holds.
func (p *Pipe) Close() {
	_ = syscall.Close(p.read)
	_ = syscall.Close(p.write)
}

func (p *Pipe) tryFill(fd uintptr) bool {
	n, errno := splice(int(fd), p.write, p.size)
	switch {
	case errno == 0 && n == 0:
		p.err = io.EOF
	case errno == 0:
		p.held = n
	case errno == syscall.EAGAIN: // the pipe is empty: it is the connection that has nothing
		return false
	default:
		p.err = os.NewSyscallError("splice", errno)
		if errno == syscall.EINVAL || errno == syscall.EPERM { // of these two, or for this process (seccomp)
			p.err = fmt.Errorf("splice: %w: %w", errno, errors.ErrUnsupported)
		}
	}
	return true
}

func (p *Pipe) tryDrain(fd uintptr) bool {
	n, errno := splice(p.read, int(fd), p.held)
	switch {
	case errno == 0:
		p.held -= n
		p.n = n
	case errno == syscall.EAGAIN: // the pipe holds something: it is the connection that has no room
		return false
	default:
		p.err = os.NewSyscallError("splice", errno)
	}
	return true
}

func splice(from, to, most int) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall6(syscall.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(most), spliceFlags)
		if errno != syscall.EINTR {
			return int(n), errno
		}
	}
}
