package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// ExitError is the end of a user's command that failed by itself.
type ExitError struct {
	Command string
	Status  int // as a shell shows it: 128 and the signal for one that was killed
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("%s ended with status %d", e.Command, e.Status)
}

// termGrace is how long a command may take to end after SIGTERM.
const termGrace = time.Second

// aliveFD is the supervisor's lock on its state directory: passed on, it shows that the
// command still lives.
const aliveFD = 4

// run runs the user's command as a child of this process and in its process group, so that
// what stops or kills the group reaches both. It is a shim because a command of the user's
// watches no pipe: the shim does, and takes its group with it.
func run(ctx context.Context, c Config) error {
	if len(c.Command) == 0 {
		return fmt.Errorf("run workload %s: command: missing", c.Instance)
	}
	// Dies with this thread (see bindToThread), which is kept until the end.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.Command(c.Command[0], c.Command[1:]...)
	cmd.Dir = c.Dir
	cmd.Env = append(os.Environ(), c.Env...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = bindToThread()
	if c.Supervised {
		alive := os.NewFile(aliveFD, "alive")
		cmd.ExtraFiles = []*os.File{nil, alive}
		defer runtime.KeepAlive(alive)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("run workload %s: %w", c.Instance, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		return exitOf(c.Command[0], err)
	case <-ctx.Done():
	}
	group := cmd.Process.Pid
	if c.Supervised {
		group = 0 // ours: what the command has started as well
	}
	_ = syscall.Kill(group, syscall.SIGTERM) // ended meanwhile, if it fails
	grace := time.NewTimer(termGrace)
	defer grace.Stop()
	select {
	case <-ended:
	case <-grace.C:
		if !c.Supervised {
			_ = cmd.Process.Kill()
			<-ended
		}
	}
	if c.Supervised {
		_ = syscall.Kill(0, syscall.SIGKILL) // this process too: there is nothing left to do
	}
	return nil
}

func exitOf(command string, err error) error {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return &ExitError{command, 0}
	case errors.As(err, &exit):
		status := exit.ExitCode()
		if w, ok := exit.Sys().(syscall.WaitStatus); ok && w.Signaled() {
			status = 128 + int(w.Signal())
		}
		return &ExitError{command, status}
	}
	return fmt.Errorf("wait for %s: %w", command, err)
}
