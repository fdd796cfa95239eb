package tunnel

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
)

// Paths is what routers do to connections, for a host on which none can stand: the clusters of
// a local mesh share one kernel, which would connect them past the links between them. Where
// networks are real both fields are empty. The zero value leads everywhere.
type Paths struct {
	// Translate maps the address of a server proxy to the one at which it is reached from here,
	// as destination NAT does (RFC 2663 §4). Everybody else knows the proxy by the former.
	Translate map[netip.AddrPort]netip.AddrPort
	// Unreachable are networks that nothing leads into but what is translated.
	Unreachable []netip.Prefix
}

var errNoPath = errors.New("no path leads there from here (unreachable)")

// To is where a connection to addr goes.
func (p *Paths) To(addr netip.AddrPort) netip.AddrPort {
	if to, ok := p.Translate[addr]; ok {
		return to
	}
	return addr
}

// Guard is a net.Dialer's Control, which sees an address when names have been looked up: it
// refuses those that are unreachable, and then calls next, which may be nil.
func (p *Paths) Guard(next func(network, address string, c syscall.RawConn) error) func(string, string, syscall.RawConn) error {
	if len(p.Unreachable) == 0 {
		return next
	}
	return func(network, address string, c syscall.RawConn) error {
		if a, err := netip.ParseAddrPort(address); err == nil &&
			slices.ContainsFunc(p.Unreachable, func(n netip.Prefix) bool { return n.Contains(a.Addr().Unmap()) }) {
			return fmt.Errorf("%s: %w", address, errNoPath)
		}
		if next == nil {
			return nil
		}
		return next(network, address, c)
	}
}
