package loopback_test

import (
	"net"
	"net/netip"
	"testing"

	"github.com/isthmus-mesh/isthmus/internal/loopback"
)

// TestNobodyElseHasTheAddress: while a test has a network nobody else gets it, also while nothing listens there; once the
// test has ended it is free.
func TestNobodyElseHasTheAddress(t *testing.T) {
	held := map[netip.Prefix]bool{}
	t.Run("who holds them", func(t *testing.T) {
		for range 500 { // of 5,120: by chance alone two would be the same
			n := loopback.Net(t)
			if held[n] {
				t.Fatalf("%s was handed out twice", n)
			}
			held[n] = true
		}
	})
	free := false
	for n := range held {
		last := n.Addr().As4()
		last[3] = 254
		if ln, err := net.Listen("tcp4", netip.AddrPortFrom(netip.AddrFrom4(last), 61999).String()); err == nil {
			ln.Close()
			free = true
		}
	}
	if !free {
		t.Error("none of them is free after the test")
	}
	for _, at := range []netip.AddrPort{loopback.AddrPort(t), loopback.Home(t), loopback.Home(t)} {
		ln, err := net.Listen("tcp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		ln.Close()
	}
}
