package link

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	controlClientsMax  = 16               // at once; the next waits in the socket's backlog
	controlIdleTimeout = 30 * time.Second // of a client that says nothing, or does not read
)

// control is the server of the control socket.
type control struct {
	listener *net.UnixListener

	mu      sync.Mutex
	conns   map[net.Conn]struct{}
	stopped bool
}

// startControl opens the socket for its owner only. A socket file that nobody listens on, left by a killed process, is
// replaced; any other file at its path is an error.
func (r *relay) startControl() error {
	path := r.cfg.Control
	if path == "" {
		return nil
	}
	if err := removeStale(path); err != nil {
		return err
	}
	// Linux gives the file the mode of the socket, so there is no moment in which others may connect; elsewhere Fchmod
	// fails and Chmod below closes the gap.
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = syscall.Fchmod(int(fd), 0o600) })
	}}
	l, err := lc.Listen(r.ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("open control socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return fmt.Errorf("open control socket: %w", err)
	}
	c := &control{listener: l.(*net.UnixListener), conns: map[net.Conn]struct{}{}}
	r.mu.Lock()
	r.control = c
	r.mu.Unlock()
	r.wg.Go(func() { r.serveControl(c) })
	return nil
}

func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open control socket: %w", err)
	}
	if info.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("open control socket: %s is there and is not a socket", path)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = conn.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("open control socket: %s is in use by another process", path)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("open control socket: remove the stale one: %w", err)
	}
	return nil
}

func (r *relay) stopControl() {
	r.mu.Lock()
	c := r.control
	r.mu.Unlock()
	if c == nil {
		return
	}
	_ = c.listener.Close() // removes the file
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped = true
	for conn := range c.conns {
		_ = conn.Close()
	}
}

func (r *relay) serveControl(c *control) {
	slots := make(chan struct{}, controlClientsMax)
	var pause waiter
	defer pause.stop()
	for {
		conn, err := c.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			if !pause.wait(r.ctx, acceptBackoffMax, nil) {
				return
			}
			continue
		}
		slots <- struct{}{} // given back within controlIdleTimeout of a client's silence
		r.wg.Go(func() {
			defer func() { <-slots }()
			if c.add(conn) {
				r.serveClient(conn)
			}
			c.remove(conn)
		})
	}
}

func (c *control) add(conn net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns[conn] = struct{}{}
	return !c.stopped
}

func (c *control) remove(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.conns, conn)
	_ = conn.Close()
}

// serveClient answers lines until the client ends, is silent too long, or sends one that is too long.
func (r *relay) serveClient(conn net.Conn) {
	in := bufio.NewScanner(conn)
	in.Buffer(make([]byte, 0, 512), lineMaxBytes+1)
	out := json.NewEncoder(conn) // one line a value
	for {
		if conn.SetDeadline(time.Now().Add(controlIdleTimeout)) != nil || !in.Scan() {
			break
		}
		if out.Encode(r.answer(in.Bytes())) != nil {
			return
		}
	}
	if errors.Is(in.Err(), bufio.ErrTooLong) {
		_ = out.Encode(answer{Error: fmt.Sprintf("request longer than %d bytes", lineMaxBytes)})
	}
}

func (r *relay) answer(line []byte) answer {
	q, err := decodeRequest(line)
	if err != nil {
		return answer{Error: err.Error()}
	}
	if err := r.do(q); err != nil {
		return answer{Error: err.Error()}
	}
	s := r.stats()
	return answer{OK: true, Stats: &s}
}

// do carries out a request. When it returns, the change is in force for all that is sent from then on.
func (r *relay) do(q request) error {
	r.ops.Lock()
	defer r.ops.Unlock()
	switch q.Op {
	case "shape":
		shape, err := q.apply(r.ways[AtoB].shape())
		if err != nil {
			return fmt.Errorf("shape link: %w", err)
		}
		return r.reshape(shape)
	case "cut":
		r.setGate(gateCut, q.Traffic, q.Direction...)
	case "stall":
		r.setGate(gateStalled, q.Traffic, q.Direction...)
	case "refuse":
		r.refuse()
	case "heal":
		r.setGate(gateOpen, q.Traffic, q.Direction...)
		if len(q.Direction) == 2 && len(q.Traffic) == 2 {
			return r.accord()
		}
	case "restore":
		if err := r.reshape(r.cfg.Shape); err != nil {
			return err
		}
		r.setGate(gateOpen, kinds{Data, Control}, AtoB, BtoA)
		return r.accord()
	}
	return nil
}
