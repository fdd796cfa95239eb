//go:build !linux

package handover

import "net"

// sameUser trusts the mode of the socket.
func sameUser(*net.UnixConn) error { return nil }
