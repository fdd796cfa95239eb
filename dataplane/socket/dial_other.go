//go:build !linux

package socket

import (
	"context"
	"net"
	"net/netip"
)

// Dial makes a TCP connection to "address:port", from local if that is valid. control, unless nil, prepares the socket.
func Dial(ctx context.Context, control Control, local netip.Addr, address string) (net.Conn, error) {
	return dial(ctx, control, local, address)
}

// ListenConfig is by which ports of TCP are opened.
func ListenConfig() net.ListenConfig { return net.ListenConfig{} }

// Accepted prepares a connection that was accepted: there is nothing to be done here.
func Accepted(net.Conn) {}
