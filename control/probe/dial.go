package probe

import (
	"context"
	"net"
	"net/netip"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// straight dials by TCP from an address; invalid is any.
func straight(local netip.Addr) func(context.Context, netip.AddrPort) (net.Conn, error) {
	// No keep-alive: a ping every quarter of a second says more.
	d := net.Dialer{KeepAlive: -1}
	if local.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(local, 0))
	}
	return func(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
		return d.DialContext(ctx, "tcp", addr.String())
	}
}

// Through dials gateways of a third cluster, of the trust domain by, and asks them to pass the connection on to the peer's: a Config's
// Dial, whose Peer has the third cluster's gateways in place of its own.
func Through(local netip.Addr, by mesh.TrustDomain) func(context.Context, netip.AddrPort) (net.Conn, error) {
	dial := straight(local)
	return func(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
		c, err := dial(ctx, addr)
		if err != nil {
			return nil, err
		}
		if _, err := c.Write(mesh.PassOn(by)); err != nil { // some octets into an empty queue: it does not wait
			c.Close()
			return nil, err
		}
		return c, nil
	}
}
