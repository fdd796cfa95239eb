//go:build !linux

package capture

import (
	"net"
	"net/netip"
)

// Original is the destination that a redirected connection was made for; without nftables none is.
func Original(net.Conn) (netip.AddrPort, error) { return netip.AddrPort{}, ErrNoOriginal }
