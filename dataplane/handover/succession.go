package handover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime/debug"
	"slices"
	"strconv"
	"syscall"

	"github.com/isthmus-mesh/isthmus/internal/parent"
	"golang.org/x/sys/unix"
)

// ErrReplaced is what ends a process whose successor has its ports, when all that was in progress
// has ended.
var ErrReplaced = errors.New("a successor has taken over")

// FlagReplace is the flag by which a process is told to take over.
const FlagReplace = "--replace"

// Succession replaces a process by its own executable, started again, as often as it is asked to. The
// first process stays: who supervises it (a container's runtime, systemd, the local mesh) sees
// one process that never ends, which passes signals on and ends as the last successor did. Its
// successors end when it is gone, kill -9 included.
type Succession struct {
	// Executable is started with Args, and FlagReplace, in Env.
	Executable string
	Args, Env  []string
	// Secrets are what successors read from descriptors that can be read once, by number.
	Secrets map[int][]byte
	Log     *slog.Logger
}

// heir is a successor that runs.
type heir struct {
	cmd  *exec.Cmd
	line *os.File // what it watches: closed with this process
	err  error
}

// Run runs own, and a successor for each value of ask, until nobody is left. It returns the error of
// own, unless that is ErrReplaced; then that of the last successor.
func (s *Succession) Run(ctx context.Context, ask <-chan os.Signal, own func(context.Context) error) error {
	ended := make(chan error, 1)
	go func() { ended <- own(ctx) }()
	gone := make(chan *heir)
	var heirs []*heir
	alive, over := true, ctx.Done()
	for {
		select {
		case <-ask:
			h, err := s.start(gone)
			if err != nil {
				s.Log.Error("no successor could be started; this process goes on", "error", err)
				continue
			}
			s.Log.Info("a successor was started", "pid", h.cmd.Process.Pid)
			heirs = append(heirs, h)
		case <-over:
			over = nil
			signalAll(heirs)
		case err := <-ended:
			if alive = false; !errors.Is(err, ErrReplaced) {
				signalAll(heirs)
				return errors.Join(err, drainHeirs(heirs, gone))
			}
			if len(heirs) == 0 {
				return nil // one that somebody else has started
			}
			s.Log.Info("this process only looks after its successor now", "pid", heirs[len(heirs)-1].cmd.Process.Pid)
			debug.FreeOSMemory()
		case h := <-gone:
			heirs = slices.DeleteFunc(heirs, func(o *heir) bool { return o == h })
			if !alive && len(heirs) == 0 {
				return h.err
			}
			if h.err != nil {
				s.Log.Warn("a successor ended", "pid", h.cmd.Process.Pid, "error", h.err)
			}
		}
	}
}

// signalAll tells every successor to end.
func signalAll(heirs []*heir) {
	for _, h := range heirs {
		_ = h.cmd.Process.Signal(syscall.SIGTERM) // one that has just ended needs none
	}
}

// drainHeirs waits for what was told to end; who supervises this process bounds the wait.
func drainHeirs(heirs []*heir, gone <-chan *heir) error {
	var errs []error
	for range heirs {
		errs = append(errs, (<-gone).err)
	}
	return errors.Join(errs...)
}

// start starts a successor; it is sent on gone when it has ended.
func (s *Succession) start(gone chan<- *heir) (*heir, error) {
	files, line, err := s.descriptors()
	defer closeAll(files)
	if err != nil {
		return nil, err
	}
	args := s.Args
	if !slices.Contains(args, FlagReplace) {
		args = append(slices.Clone(args), FlagReplace)
	}
	cmd := exec.Command(s.Executable, args...)
	cmd.Env = append(slices.Clone(s.Env), parent.Env+"="+strconv.Itoa(2+len(files)))
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = os.Stdin, os.Stdout, os.Stderr, files
	if err := cmd.Start(); err != nil {
		line.Close()
		return nil, fmt.Errorf("start a successor: %w", err)
	}
	h := &heir{cmd: cmd, line: line}
	go func() {
		if h.err = cmd.Wait(); h.err != nil {
			h.err = fmt.Errorf("the successor (process %d): %w", cmd.Process.Pid, h.err)
		}
		line.Close()
		gone <- h
	}()
	return h, nil
}

// inheritedMax bounds the descriptors that are looked at: those that a supervisor gives are few.
const inheritedMax = 64

// descriptors are those of a successor from 3 on, which finds under each number what this process
// found: its own copy of a secret, what it inherited (all that is open and stays so over exec: Go
// opens its own otherwise), and last the pipe whose other end is line.
func (s *Succession) descriptors() (files []*os.File, line *os.File, err error) {
	for fd := 3; fd < inheritedMax; fd++ {
		var f *os.File
		if secret, ok := s.Secrets[fd]; ok {
			f, err = filled(secret)
		} else if flags, gone := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); gone == nil && flags&unix.FD_CLOEXEC == 0 {
			var n int
			if n, err = dup(fd); err == nil {
				f = os.NewFile(uintptr(n), "inherited")
			}
		}
		if err != nil {
			closeAll(files)
			return nil, nil, fmt.Errorf("descriptor %d for a successor: %w", fd, err)
		}
		files = append(files, f)
	}
	for len(files) > 0 && files[len(files)-1] == nil {
		files = files[:len(files)-1]
	}
	theirs, line, err := os.Pipe()
	if err != nil {
		closeAll(files)
		return nil, nil, fmt.Errorf("a pipe for a successor: %w", err)
	}
	return append(files, theirs), line, nil
}

// filled is a pipe that holds a secret and its end.
func filled(secret []byte) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	_, err = w.Write(secret) // fits into the pipe
	if err = errors.Join(err, w.Close()); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}
