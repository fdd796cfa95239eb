package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
)

// child is a process that answers each line on its input with "ok".
type child struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// spawn starts one and waits for its first "ok".
func spawn(name string, args ...string) (*child, error) {
	c := &child{cmd: exec.Command(name, args...)}
	c.cmd.Stderr = os.Stderr
	in, err := c.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.in, c.out = in, bufio.NewReader(out)
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	if err := c.ok(); err != nil {
		return nil, errors.Join(err, c.end())
	}
	return c, nil
}

// do has the child do something.
func (c *child) do(format string, args ...any) error {
	if _, err := fmt.Fprintf(c.in, format+"\n", args...); err != nil {
		return err
	}
	return c.ok()
}

func (c *child) ok() error {
	line, err := c.out.ReadString('\n')
	if err != nil {
		return fmt.Errorf("the peer ended: %w", err)
	}
	if line != "ok\n" {
		return fmt.Errorf("the peer said %q", line)
	}
	return nil
}

// end kills it and waits.
func (c *child) end() error {
	_ = c.cmd.Process.Kill() // it may have ended
	_ = c.cmd.Wait()         // it was killed
	return nil
}
