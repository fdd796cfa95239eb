//go:build !unix

package http1

import (
	"net"
	"syscall"
)

func rawOf(net.Conn) syscall.RawConn { return nil }

func (in *input) tryRead(uintptr) bool { return true }

func (in *input) tryIdle(uintptr) {}
