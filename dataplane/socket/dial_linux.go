package socket

import (
	"context"
	"net"
	"net/netip"
	"syscall"
)

// Dial makes a TCP connection to "address:port", from local if that is valid. control, unless nil, prepares the socket, as
// net.Dialer's. It is DialContext of package net, less the wait where the kernel has none: on one machine the
// handshake is over when connect(2) returns, although that says EINPROGRESS. Package net then asks the poller, while a
// timer and a function wait for ctx; asked a second time, connect(2) says EISCONN, for which package net waits no
// more. Where the peer is further away it says EALREADY, and all is as ever.
func Dial(ctx context.Context, control Control, local netip.Addr, address string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil || to.Addr().Is4In6() || to.Addr().Zone() != "" || local.IsValid() && (local.Is4() != to.Addr().Is4() || local.Zone() != "") {
		return dial(ctx, control, local, address) // package net knows how, or says what is wrong
	}
	e := early{local: local, to: to, next: control}
	d := net.Dialer{Control: e.control}
	return d.DialContext(ctx, "tcp", address)
}

// early is a connection that is begun before package net does.
type early struct {
	local netip.Addr
	to    netip.AddrPort
	next  Control // nil: none
	err   error
}

// control implements net.Dialer.Control.
func (e *early) control(network, address string, c syscall.RawConn) error {
	if e.next != nil {
		if err := e.next(network, address, c); err != nil {
			return err
		}
	}
	if err := c.Control(e.begin); err != nil {
		return err
	}
	return e.err
}

// begin leaves what connect says to package net, which asks again.
func (e *early) begin(fd uintptr) {
	if isNear(e.local, e.to.Addr()) {
		nearby(fd)
	}
	if e.local.IsValid() {
		if e.err = syscall.Bind(int(fd), sockaddr(netip.AddrPortFrom(e.local, 0))); e.err != nil {
			return
		}
	}
	_ = syscall.Connect(int(fd), sockaddr(e.to))
}

func sockaddr(a netip.AddrPort) syscall.Sockaddr {
	if a.Addr().Is4() {
		return &syscall.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &syscall.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}
