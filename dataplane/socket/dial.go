package socket

import (
	"context"
	"net"
	"net/netip"
	"syscall"
)

// Control prepares a socket before it connects, as net.Dialer's.
type Control = func(network, address string, c syscall.RawConn) error

// Dial makes a TCP connection to "address:port", from local if that is valid. control, unless nil, prepares the socket
// first.
func Dial(ctx context.Context, control Control, local netip.Addr, address string) (net.Conn, error) {
	d := net.Dialer{Control: prepared(control, local)}
	if local.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(local, 0))
	}
	return d.DialContext(ctx, "tcp", address)
}
