// Package parent ends a process when the process that started it is gone.
//
// Its one idea: whoever starts a process gives it the read end of a pipe and keeps the
// write end. The kernel closes that end however its holder dies, kill -9 included, and
// the child reads the end of the file. The alternative that tempts, Pdeathsig, follows
// the thread that started the child, and in Go threads come and go.
//
// It deliberately does not start processes (localmesh does) and knows nothing of what
// its caller should do at the end. The first function to read is Watch.
package parent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"
)

// Env names the variable that holds the number of the inherited descriptor.
const Env = "ISTHMUS_PARENT_FD"

// Grace is how long a process may take to end in order after its parent is gone; then
// it is ended where it stands.
const Grace = 2 * time.Second

// exitOrphaned is the status of a process that did not end within Grace.
const exitOrphaned = 2

// ErrGone is the cause of the context of Watch once the parent is gone.
var ErrGone = errors.New("the process that started this one is gone")

// Watch returns a context that ends with ctx, and when the parent is gone. Grace later
// the process exits, whatever it is doing, so that no orphan outlives its mesh. Without
// Env, or where it names no pipe, Watch returns ctx.
//
// A process calls it once, early. Env is taken out of the environment, so that it does
// not reach processes to which the descriptor is not passed. The goroutine that waits
// lives as long as the process.
func Watch(ctx context.Context) context.Context {
	fd, err := take()
	if err != nil {
		return ctx
	}
	return watch(ctx, fd, func() { os.Exit(exitOrphaned) })
}

// take reads Env, removes it, and keeps the descriptor from being inherited further.
func take() (*os.File, error) {
	text := os.Getenv(Env)
	if text == "" {
		return nil, errors.New("no parent to watch")
	}
	if err := os.Unsetenv(Env); err != nil {
		return nil, fmt.Errorf("remove %s: %w", Env, err)
	}
	fd, err := strconv.Atoi(text)
	if err != nil || fd < 3 {
		return nil, fmt.Errorf("%s=%q is not a descriptor", Env, text)
	}
	var stat syscall.Stat_t
	if err := syscall.Fstat(fd, &stat); err != nil {
		return nil, fmt.Errorf("descriptor %d of %s: %w", fd, Env, err)
	}
	if stat.Mode&syscall.S_IFMT != syscall.S_IFIFO {
		return nil, fmt.Errorf("descriptor %d of %s is not a pipe", fd, Env)
	}
	syscall.CloseOnExec(fd)
	_ = syscall.SetNonblock(fd, true) // waits in the poller, not in a thread of its own
	return os.NewFile(uintptr(fd), "parent"), nil
}

// watch cancels the returned context at the end of pipe, and calls exit Grace later.
func watch(ctx context.Context, pipe *os.File, exit func()) context.Context {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		defer pipe.Close()
		var b [1]byte
		for {
			_, err := pipe.Read(b[:])
			if err == nil || errors.Is(err, syscall.EINTR) {
				continue // nobody writes; were it a byte, it would mean nothing
			}
			break
		}
		cancel(ErrGone)
		time.AfterFunc(Grace, exit)
	}()
	return ctx
}
