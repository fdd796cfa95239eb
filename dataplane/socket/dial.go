package socket

import (
	"context"
	"net"
	"net/netip"
	"syscall"
)

// Control prepares a socket before it connects, as net.Dialer's.
type Control = func(network, address string, c syscall.RawConn) error

// dial is package net's way.
func dial(ctx context.Context, control Control, local netip.Addr, address string) (net.Conn, error) {
	d := net.Dialer{Control: control}
	if local.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(local, 0))
	}
	return d.DialContext(ctx, "tcp", address)
}
