//go:build !linux

package socket

import (
	"errors"
	"net"
)

// Pipe is of Linux alone.
type Pipe struct{}

// NewPipe returns errors.ErrUnsupported.
func NewPipe(net.Conn, net.Conn) (*Pipe, error) { return nil, errors.ErrUnsupported }

// Held is 0.
func (*Pipe) Held() int { return 0 }

// Step returns errors.ErrUnsupported.
func (*Pipe) Step() (int, error) { return 0, errors.ErrUnsupported }

// Close does nothing.
func (*Pipe) Close() {}
