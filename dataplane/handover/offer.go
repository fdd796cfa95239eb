package handover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	// replyTime bounds the wait for a message that needs no thought.
	replyTime = 5 * time.Second
	// SettleTime is how long a successor may take from the ports to its first answer.
	SettleTime = 60 * time.Second
)

// Offer is the old side: it gives the ports of a process to a successor that asks.
type Offer struct {
	Ports *Ports
	// ID is who this is; a successor must be the same.
	ID string
	// Prepare, if set, is called before the ports are given: what the successor starts from is
	// to be on the disk.
	Prepare func()
	// Yield is called when the successor serves. When it returns this process accepts no more.
	Yield func()
	Log   *slog.Logger
}

// Open opens the socket at path for Serve: for its owner only. A file that a dead process left
// is replaced. The predecessor's own, if it was given, is used.
func (o *Offer) Open(ctx context.Context, path string) (net.Listener, error) {
	if f := o.Ports.claim(portName("unix", path)); f != nil {
		defer f.Close()
		ln, err := net.FileListener(f)
		if err != nil {
			return nil, fmt.Errorf("offer the ports at %s: %w", path, err)
		}
		return o.Ports.hold(portName("unix", path), ln), nil
	}
	if err := removeStale(path); err != nil {
		return nil, fmt.Errorf("offer the ports at %s: %w", path, err)
	}
	// Linux gives the file the mode of the socket, so that there is no moment in which others may
	// connect; elsewhere Fchmod fails and Chmod closes the gap, in which connecting alone gives nothing.
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = syscall.Fchmod(int(fd), 0o600) })
	}}
	ln, err := config.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("offer the ports: %w", err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false) // the file may be the successor's by then
	if err := os.Chmod(path, 0o600); err != nil {
		ln.Close()
		return nil, fmt.Errorf("offer the ports: %w", err)
	}
	return o.Ports.hold(portName("unix", path), ln), nil
}

// removeStale removes a socket that nobody listens on.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != os.ModeSocket {
		return errors.New("there is a file that is no socket")
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		c.Close()
		return errors.New("another process offers its ports there; to replace it, start with --replace")
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}

// Serve answers successors, one at a time, until one has taken the ports (nil), ctx ends, or the
// listener fails. It closes ln.
func (o *Offer) Serve(ctx context.Context, ln net.Listener) error {
	defer ln.Close()
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	for {
		c, err := ln.Accept()
		if ctx.Err() != nil {
			if err == nil {
				c.Close()
			}
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("offer the ports: %w", err)
		}
		pid, err := o.serve(ctx, c.(*net.UnixConn))
		if err == nil {
			o.Log.Info("the ports are the successor's", "pid", pid)
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		o.Log.Warn("a successor did not take the ports; this process goes on", "pid", pid, "error", err)
	}
}

// serve speaks with one successor.
func (o *Offer) serve(ctx context.Context, c *net.UnixConn) (pid int, err error) {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	_ = c.SetDeadline(time.Now().Add(replyTime))
	if err := sameUser(c); err != nil {
		return 0, err
	}
	hello, _, err := expect(c, sayHello)
	if err != nil {
		return 0, err
	}
	if why := o.unfit(hello); why != "" {
		_ = send(c, message{Say: sayRefused, Why: why}, nil)
		return hello.PID, errors.New(why)
	}
	if o.Prepare != nil {
		o.Prepare()
	}
	if err := o.give(c); err != nil {
		return hello.PID, fmt.Errorf("give the ports: %w", err)
	}
	_ = c.SetDeadline(time.Now().Add(SettleTime + replyTime))
	if _, _, err := expect(c, sayServing); err != nil {
		return hello.PID, fmt.Errorf("wait until it serves: %w", err)
	}
	// From here there is no way back: the successor answers.
	o.Yield()
	_ = c.SetDeadline(time.Now().Add(replyTime))
	if err := send(c, message{Say: sayYours}, nil); err != nil {
		o.Log.Warn("the successor was not told that the ports are its own", "error", err)
	}
	return hello.PID, nil
}

func (o *Offer) unfit(hello message) string {
	switch {
	case hello.Version != version:
		return fmt.Sprintf("it speaks version %d of the hand-over and this process %d", hello.Version, version)
	case hello.ID != o.ID:
		return fmt.Sprintf("it is %s and this process %s", hello.ID, o.ID)
	}
	return ""
}

// give sends all ports.
func (o *Offer) give(c *net.UnixConn) error {
	ports, err := o.Ports.copies()
	if err != nil {
		return err
	}
	defer func() {
		for _, g := range ports {
			g.file.Close()
		}
	}()
	for rest := ports; ; {
		now := rest[:min(len(rest), rightsMax)]
		rest = rest[len(now):]
		m := message{Say: sayPorts, PID: os.Getpid(), More: len(rest) > 0}
		for _, g := range now {
			m.Ports = append(m.Ports, g.name)
		}
		if err := send(c, m, now); err != nil || len(rest) == 0 {
			return err
		}
	}
}

// Taken is the new side of a hand-over that is under way.
type Taken struct {
	conn *net.UnixConn
	mu   sync.Mutex
	// PID of the process that is replaced.
	PID int
}

// Take asks the process that offers its ports at path for them, and puts them into ports. The caller
// claims them by Listen, begins to serve, and then calls Serving; or Close, after which all is as
// before. ID must be the other's.
func Take(ctx context.Context, path, id string, ports *Ports) (*Taken, error) {
	d := net.Dialer{Timeout: replyTime}
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("replace the process that offers its ports at %s: %w", path, err)
	}
	t := &Taken{conn: conn.(*net.UnixConn)}
	_ = t.conn.SetDeadline(time.Now().Add(2 * replyTime))
	if err := t.take(id, ports); err != nil {
		t.Close()
		ports.Drop()
		return nil, fmt.Errorf("replace the process that offers its ports at %s: %w", path, err)
	}
	return t, nil
}

func (t *Taken) take(id string, ports *Ports) error {
	if err := sameUser(t.conn); err != nil {
		return err
	}
	if err := send(t.conn, message{Say: sayHello, Version: version, ID: id, PID: os.Getpid()}, nil); err != nil {
		return err
	}
	for {
		m, files, err := expect(t.conn, sayPorts)
		if err != nil {
			return err
		}
		t.PID = m.PID
		ports.mu.Lock()
		for i, f := range files {
			ports.given = append(ports.given, given{m.Ports[i], f})
		}
		n := len(ports.given)
		ports.mu.Unlock()
		switch {
		case n > portsMax:
			return fmt.Errorf("%w: more than %d ports", errWords, portsMax)
		case !m.More:
			return nil
		}
	}
}

// Serving says that this process answers, and returns when the other accepts no more. On an error
// the other may go on: this process should end.
func (t *Taken) Serving() error {
	defer t.Close()
	_ = t.conn.SetDeadline(time.Now().Add(replyTime))
	err := send(t.conn, message{Say: sayServing}, nil)
	if err == nil {
		_, _, err = expect(t.conn, sayYours)
	}
	if err != nil {
		return fmt.Errorf("take over from process %d: %w", t.PID, err)
	}
	return nil
}

// Close breaks the hand-over off, if it is not complete.
func (t *Taken) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.conn.Close()
}
