// Package capture takes a workload's connections without its knowledge: nftables rules that
// redirect them to its proxy, and the destination that they were made for. Its one idea is that the
// rules stand by themselves: while the proxy is down, what they take fails, and nothing goes out or comes
// in past it.
//
// It changes the rules of the network namespace that it is run in, and no other; it runs no proxy and
// knows no service. UDP is not taken. Read Rules and Command first.
package capture

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// ErrNoOriginal says that a connection was made to the very address that accepted it.
var ErrNoOriginal = errors.New("the connection was not redirected")

// Table is the nftables table, of family inet, that holds all rules of a workload.
const Table = "isthmus"

// Rules say what is taken and what is not.
type Rules struct {
	// UID is the user that the proxy runs as. Its own connections are never taken, which is how they
	// do not come back to it.
	UID uint32
	// Outbound is the port that connections of the workload are redirected to; 0 takes none.
	Outbound uint16
	// Inbound is the port that connections to the workload are redirected to; 0 takes none.
	Inbound uint16
	// Own are ports of the proxy that others connect to, such as 15008.
	Own []uint16
	// ExcludeOutboundPorts and ExcludeOutboundCIDRs are destinations that are left alone;
	// ExcludeInboundPorts are ports of the workload that are.
	ExcludeOutboundPorts, ExcludeInboundPorts []uint16
	ExcludeOutboundCIDRs                      []netip.Prefix
}

// Defaults are the rules for the ports of CONTRACT and for a user of the proxy's own.
func Defaults() Rules {
	return Rules{UID: 1337, Outbound: 15001, Inbound: 15006, Own: []uint16{15008, 15020}}
}

// Validate reports every fault.
func (r *Rules) Validate() error {
	var faults []error
	if r.Outbound == 0 && r.Inbound == 0 {
		faults = append(faults, errors.New("capture: neither outbound nor inbound connections are taken: give a port for one"))
	}
	if r.Outbound != 0 && r.Outbound == r.Inbound {
		faults = append(faults, fmt.Errorf("capture: port %d is to take both outbound and inbound connections: give two ports", r.Outbound))
	}
	if r.Inbound != 0 && slices.Contains(r.Own, r.Inbound) {
		faults = append(faults, fmt.Errorf("capture: port %d takes inbound connections and is left alone: drop one", r.Inbound))
	}
	for _, p := range slices.Concat(r.Own, r.ExcludeOutboundPorts, r.ExcludeInboundPorts) {
		if p == 0 {
			faults = append(faults, errors.New("capture: port 0 is excluded: write a number from 1 to 65535"))
		}
	}
	for _, p := range r.ExcludeOutboundCIDRs {
		if !p.IsValid() {
			faults = append(faults, errors.New("capture: an excluded network is not valid: write ADDRESS/BITS"))
		}
	}
	return errors.Join(faults...)
}
