package socket

import (
	"net"
	"net/netip"
	"syscall"
)

// near is how TCP sends where both ends are on one machine: by "reno", which every kernel has and allows
// everybody. There is no queue to be found out about, and an algorithm that paces what it sends, as BBR does,
// which hosts are given for the sake of their networks, sets a timer of the kernel for each burst: a fifth of all that bulk
// costs, and the bursts are small. Refused, it is as the host has it.
const near = "reno"

// ListenConfig is by which ports of TCP are opened: what is accepted on a port that only this machine reaches is
// near. It is no multipath TCP, which package net asks for: what we ask of a socket is of one path, and
// each connection accepted would pay for what nobody uses.
func ListenConfig() net.ListenConfig {
	c := net.ListenConfig{Control: func(_, address string, c syscall.RawConn) error {
		if a, err := netip.ParseAddrPort(address); err != nil || !a.Addr().IsLoopback() {
			return nil
		}
		return c.Control(nearby)
	}}
	c.SetMultipathTCP(false)
	return c
}

// Accepted prepares a connection that was accepted on a port that more than this machine reaches: the own application's
// are near.
func Accepted(c net.Conn) {
	raw := Raw(c)
	if raw == nil {
		return
	}
	us, ok := c.LocalAddr().(*net.TCPAddr)
	peer, ok2 := c.RemoteAddr().(*net.TCPAddr)
	if ok && ok2 && isNear(us.AddrPort().Addr(), peer.AddrPort().Addr()) {
		_ = raw.Control(nearby)
	}
}

// prepared is next, and what a connection from an own address is given if it is near.
func prepared(next Control, local netip.Addr) Control {
	return func(network, address string, c syscall.RawConn) error {
		if next != nil {
			if err := next(network, address, c); err != nil {
				return err
			}
		}
		if to, err := netip.ParseAddrPort(address); err != nil || !isNear(local, to.Addr()) {
			return nil
		}
		return c.Control(nearby)
	}
}

// isNear reports whether a connection between two addresses stays on this machine, as far as they tell.
func isNear(us, peer netip.Addr) bool { return peer.Unmap().IsLoopback() || us == peer }

func nearby(fd uintptr) {
	_ = syscall.SetsockoptString(int(fd), syscall.IPPROTO_TCP, syscall.TCP_CONGESTION, near)
}
