// Package hbone says what a connection of another mesh's proxy is for. HBONE (HTTP-based overlay network encapsulation) is
// what nodes and waypoints of ambient meshes speak: CONNECT over mTLS, where the authority is the address and port of a
// workload and no field says which service is meant. Its one idea is that an address is every service that the workload serves
// there: who connects to it must be let in by each of them.
//
// It opens nothing and decides nothing about callers (dataplane/proxy does), and knows no connection (dataplane/tunnel does).
// Read Ask first, then Find.
package hbone

import (
	"bytes"
	"fmt"
	"net/netip"
	"unsafe"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Ask is what a CONNECT asks for: an address and port of the workload, or a service and one of its ports.
type Ask struct {
	At      netip.AddrPort
	Service mesh.ServiceName
	Port    uint16
}

// Parse reads the authority of a CONNECT (RFC 9113 §8.5, RFC 9110 §7.1): an IPv4 address, an IPv6 address in brackets, or a
// name of a service with its namespace, and a port, which has no default. What other parsers may read otherwise is
// refused: zeros in front, zones, signs. The problem is empty if it is understood. An IPv4 address in an IPv6 one (RFC 4291
// §2.5.5.2) is the former.
func Parse(authority []byte) (a Ask, problem string) {
	i := bytes.LastIndexByte(authority, ':')
	if i < 0 {
		return a, "it has no port"
	}
	host, port := authority[:i], number(authority[i+1:])
	if port == 0 {
		return a, "its port is not a number from 1 to 65535"
	}
	inner, bracketed := bytes.CutPrefix(host, []byte("["))
	if bracketed {
		if inner, bracketed = bytes.CutSuffix(inner, []byte("]")); !bracketed {
			return a, "its brackets hold no IPv6 address"
		}
	}
	addr, err := netip.ParseAddr(view(inner))
	switch {
	case err == nil && addr.Zone() != "":
		return a, "it has a zone, which means nothing here"
	case err == nil && addr.Is4() == !bracketed:
		a.At = netip.AddrPortFrom(addr.Unmap(), port)
		return a, ""
	case err == nil || bracketed || bytes.IndexByte(host, ':') >= 0:
		return a, "an IPv6 address stands in brackets, and nothing else does"
	}
	if a.Service, _, err = mesh.ParseHost(string(host), ""); err != nil {
		return Ask{}, "it is neither an address nor a name of a service with its namespace"
	}
	a.Port = port
	return a, ""
}

// number reads a port; 0 is none.
func number(b []byte) uint16 {
	if len(b) == 0 || len(b) > 5 || b[0] == '0' {
		return 0
	}
	n := 0
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0
		}
		n = n*10 + int(c-'0')
	}
	if n > 1<<16-1 {
		return 0
	}
	return uint16(n)
}

// view is b as a string without a copy, for a call that keeps nothing of it.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// Claim is a port of a service that a connection is to.
type Claim struct {
	Service mesh.ServiceName
	Port    uint16
}

// Find appends the ports that a connection to an address is to, in order of service: all whose application listens
// there, or those of the service only that the connection was made for. A port of UDP is none.
func Find(claims []Claim, served []ir.Inbound, at netip.AddrPort, only mesh.ServiceName) []Claim {
	for i := range served {
		in := &served[i]
		if !only.IsZero() && in.Service != only {
			continue
		}
		for j := range in.Ports {
			if p := &in.Ports[j]; p.Target == at && p.Protocol != mesh.ProtocolUDP {
				claims = append(claims, Claim{in.Service, p.Port})
			}
		}
	}
	return claims
}

// Nothing says why nothing is found at an address of a workload, of which nothing may be known yet.
func Nothing(self *ir.Proxy, at netip.AddrPort, only mesh.ServiceName) (mesh.Reason, string) {
	var served []ir.Inbound
	if self != nil {
		served = self.Inbound
	}
	switch {
	case !lives(served, at.Addr()):
		return mesh.ReasonMisdirected, fmt.Sprintf("%s is no address of the workload", at.Addr())
	case !only.IsZero() && len(Find(nil, served, at, mesh.ServiceName{})) > 0:
		return mesh.ReasonMisdirected, fmt.Sprintf("the connection is for service %s, which does not listen at %s", only, at)
	}
	return mesh.ReasonUnknownPort, fmt.Sprintf("no service of the workload listens at %s", at)
}

// lives reports whether an address is the workload's: where some service of it has a port.
func lives(served []ir.Inbound, at netip.Addr) bool {
	for i := range served {
		for j := range served[i].Ports {
			if served[i].Ports[j].Target.Addr() == at {
				return true
			}
		}
	}
	return false
}
