// Package rig is what benchmarks run: a local mesh of the built binaries, other proxies
// beside it, and what /proc tells of their processes. Its one idea is that what is measured
// is whole processes from outside, ours and those we compare with by the same reading.
//
// It makes no load and judges no figure. Read Mesh, Peer and CPUOf first.
package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// Pause waits, or less if ctx ends.
func Pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Answers waits until a URL answers 200, ten seconds at most.
func Answers(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		err := Fetch(ctx, url, io.Discard)
		if err == nil {
			return nil
		}
		if Pause(ctx, 20*time.Millisecond) != nil {
			return err
		}
	}
}

// Fetch copies the body of a URL that answers 200.
func Fetch(ctx context.Context, url string, to io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("get %s: status %d", url, resp.StatusCode)
	}
	_, err = io.Copy(to, resp.Body)
	return err
}

// Accepts waits until an address does, five seconds at most.
func Accepts(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", address)
		if err == nil {
			return c.Close()
		}
		if Pause(ctx, 20*time.Millisecond) != nil {
			return err
		}
	}
}

// Process is a child of this one.
type Process struct {
	cmd    *exec.Cmd
	output bytes.Buffer // complete after End
}

// Start runs a command with the environment of this process and env.
func Start(env []string, name string, args ...string) (*Process, error) {
	p := &Process{cmd: exec.Command(name, args...)}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	p.cmd.WaitDelay = time.Second
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	return p, nil
}

// PID is the process's number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Output is what the process has said, once it has ended.
func (p *Process) Output() string { return p.output.String() }

// End kills the process and waits for it.
func (p *Process) End() error {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	_ = p.cmd.Wait() // it was killed
	return nil
}

// Stop asks the process to end, so that it ends its own children, and kills it after two
// seconds.
func (p *Process) Stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return p.End()
	}
	patience := time.AfterFunc(2*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer patience.Stop()
	_ = p.cmd.Wait() // it was told to end
	return nil
}
