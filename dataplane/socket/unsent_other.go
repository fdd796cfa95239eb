//go:build !linux

package socket

import (
	"net"
	"syscall"
)

// Unhoarding cannot be asked for here.
func Unhoarding(string, string, syscall.RawConn) error { return nil }

// Unhoard cannot be asked for here.
func Unhoard(net.Conn) {}
