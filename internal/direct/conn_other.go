//go:build !unix

package direct

import (
	"net"
	"syscall"
)

// New returns c: there is nothing to win.
func New(c net.Conn) net.Conn { return c }

// Raw returns nil: package net does all.
func Raw(net.Conn) syscall.RawConn { return nil }
