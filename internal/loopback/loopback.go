// Package loopback hands tests addresses of 127.0.0.0/8 that no other process uses. Its one idea is that a network of
// 254 addresses is claimed by listening at one of them until the test ends, so that the kernel arbitrates and forgets:
// what listens later, or again after a restart, needs no port that was free a moment ago.
//
// Networks come from 127.30.0.0 to 127.49.255.0, where no local mesh of a test has its addresses. Systems whose
// loopback interface answers for 127.0.0.1 alone have none. Read Net.
package loopback

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"testing"
)

const (
	lowest, highest = 30, 49 // of the second octet
	// claimPort is beyond those that kernels give to connections by themselves.
	claimPort = 61999
	// port is below them, and no local mesh's.
	port = 18080
	// tries is far more than there can be networks in use.
	tries = 1000
)

// Net is a network of 254 addresses that are the test's alone until it ends: 127.x.y.1 to .253, and the network's
// own .0 for what wants a prefix. Its cleanup runs after those that are registered later.
func Net(t testing.TB) netip.Prefix {
	t.Helper()
	for range tries {
		base := [4]byte{127, byte(lowest + rand.IntN(highest-lowest+1)), byte(rand.IntN(256)), 254}
		ln, err := net.Listen("tcp4", net.JoinHostPort(netip.AddrFrom4(base).String(), strconv.Itoa(claimPort)))
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		if err != nil {
			t.Fatalf("claim a network of loopback addresses: %v", err)
		}
		t.Cleanup(func() { ln.Close() })
		base[3] = 0
		return netip.PrefixFrom(netip.AddrFrom4(base), 24)
	}
	t.Fatalf("claim a network of loopback addresses: %d at random were taken", tries)
	panic("unreachable")
}

// AddrPort is an address of a network of its own, and a port at which nothing listens.
func AddrPort(t testing.TB) netip.AddrPort {
	t.Helper()
	return netip.AddrPortFrom(Net(t).Addr().Next(), port)
}

// The ports of Home: below those that kernels give by themselves, and beyond what is well known.
const homeLow, homeHigh = 20000, 29999

// Home is 127.0.0.1 and a port that is the test's alone until it ends, for what must be at the address that connections
// within a machine come from. Who claims the port listens at it elsewhere.
func Home(t testing.TB) netip.AddrPort {
	t.Helper()
	claims := netip.AddrFrom4([4]byte{127, highest + 1, 0, 1})
	for range tries {
		port := uint16(homeLow + rand.IntN(homeHigh-homeLow+1))
		ln, err := net.Listen("tcp4", netip.AddrPortFrom(claims, port).String())
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		if err != nil {
			t.Fatalf("claim a port: %v", err)
		}
		t.Cleanup(func() { ln.Close() })
		home := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
		if there, err := net.Listen("tcp4", home.String()); err == nil { // nor has it somebody who does not claim
			there.Close()
			return home
		}
	}
	t.Fatalf("claim a port of 127.0.0.1: %d at random were taken", tries)
	panic("unreachable")
}
