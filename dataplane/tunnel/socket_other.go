//go:build !linux

package tunnel

import (
	"net"
	"syscall"
)

func tuneSocket(string, string, syscall.RawConn) error { return nil }

func tuneConn(net.Conn) {}
