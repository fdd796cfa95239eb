//go:build !unix

package socket

import "syscall"

// Hold waits for nothing: no connection is read past the scheduler here.
func Hold(syscall.RawConn, int) {}
