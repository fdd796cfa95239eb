package handover

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
)

// Ports opens the listening sockets of a process, or takes those that its predecessor gave it.
// The zero Ports has no predecessor. It is safe for concurrent use.
type Ports struct {
	mu    sync.Mutex
	given []given // by the predecessor, not claimed yet
	open  []socket
}

// given is a socket of the predecessor under the name that it was opened by.
type given struct {
	name string
	file *os.File
}

// socket is an open one.
type socket struct {
	name string
	conn syscall.Conn
}

// portName is what a socket is asked for by: the same text in both processes.
func portName(network, address string) string { return network + " " + address }

// Listen returns a listener of an address: the predecessor's if it had one, which is then claimed
// and has its queue of connections, or a new one made by config.
func (p *Ports) Listen(ctx context.Context, config net.ListenConfig, network, address string) (net.Listener, error) {
	name := portName(network, address)
	if f := p.claim(name); f != nil {
		defer f.Close()
		ln, err := net.FileListener(f)
		if err != nil {
			return nil, fmt.Errorf("listen on %s with the socket of the process before: %w", name, err)
		}
		return p.hold(name, ln), nil
	}
	ln, err := config.Listen(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return p.hold(name, ln), nil
}

// ListenPacket is Listen for datagrams.
func (p *Ports) ListenPacket(ctx context.Context, config net.ListenConfig, network, address string) (net.PacketConn, error) {
	name := portName(network, address)
	var c net.PacketConn
	var err error
	if f := p.claim(name); f != nil {
		c, err = net.FilePacketConn(f)
		f.Close()
	} else {
		c, err = config.ListenPacket(ctx, network, address)
	}
	if err != nil {
		return nil, err
	}
	if s, ok := c.(*net.UDPConn); ok {
		p.add(socket{name, s})
		return &packets{UDPConn: s, ports: p}, nil
	}
	return c, nil
}

func (p *Ports) claim(name string) *os.File {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, g := range p.given {
		if g.name == name {
			p.given = slices.Delete(p.given, i, i+1)
			return g.file
		}
	}
	return nil
}

// Inherited counts the predecessor's sockets that were not claimed yet.
func (p *Ports) Inherited() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.given)
}

// Drop closes the predecessor's sockets that nobody claimed: ports that are served no more.
func (p *Ports) Drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, g := range p.given {
		g.file.Close()
	}
	p.given = nil
}

func (p *Ports) add(s socket) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open = append(p.open, s)
}

func (p *Ports) forget(c syscall.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open = slices.DeleteFunc(p.open, func(s socket) bool { return s.conn == c })
}

func (p *Ports) hold(name string, ln net.Listener) net.Listener {
	c, ok := ln.(syscall.Conn)
	if !ok {
		return ln
	}
	p.add(socket{name, c})
	return &listener{Listener: ln, conn: c, ports: p}
}

// copies are duplicates of all open sockets, which the caller closes.
func (p *Ports) copies() ([]given, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []given
	for _, s := range p.open {
		f, err := duplicate(s)
		if errors.Is(err, net.ErrClosed) {
			continue
		}
		if err != nil {
			for _, g := range out {
				g.file.Close()
			}
			return nil, err
		}
		out = append(out, given{s.name, f})
	}
	return out, nil
}

// duplicate is not File of package net, which callers may use to make the socket block: that is a
// property of the socket, and would reach the goroutines that accept.
func duplicate(s socket) (*os.File, error) {
	raw, err := s.conn.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("the socket of %s: %w", s.name, err)
	}
	fd := -1
	var failed error
	if err := raw.Control(func(own uintptr) { fd, failed = dup(int(own)) }); err != nil {
		return nil, fmt.Errorf("the socket of %s: %w", s.name, err)
	}
	if failed != nil {
		return nil, fmt.Errorf("duplicate the socket of %s: %w", s.name, failed)
	}
	return os.NewFile(uintptr(fd), s.name), nil
}

func dup(fd int) (int, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	n, err := syscall.Dup(fd)
	if err == nil {
		syscall.CloseOnExec(n)
	}
	return n, err
}

// listener forgets itself when it is closed.
type listener struct {
	net.Listener
	conn  syscall.Conn
	ports *Ports
}

// SyscallConn implements syscall.Conn.
func (l *listener) SyscallConn() (syscall.RawConn, error) { return l.conn.SyscallConn() }

func (l *listener) Close() error {
	l.ports.forget(l.conn)
	return l.Listener.Close()
}

type packets struct {
	*net.UDPConn
	ports *Ports
}

func (c *packets) Close() error {
	c.ports.forget(c.UDPConn)
	return c.UDPConn.Close()
}
