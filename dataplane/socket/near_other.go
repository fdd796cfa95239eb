//go:build !linux

package socket

import (
	"net"
	"net/netip"
)

// prepared is next: there is nothing to be done here.
func prepared(next Control, _ netip.Addr) Control { return next }

// ListenConfig is by which ports of TCP are opened.
func ListenConfig() net.ListenConfig { return net.ListenConfig{} }

// Accepted prepares a connection that was accepted: there is nothing to be done here.
func Accepted(net.Conn) {}
