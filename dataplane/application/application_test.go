package application

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestAPlaceOutlivesOneChange keeps a place for whoever found it out before the change, whatever is told again meanwhile, and
// for no longer; what is forgotten is not spoken to in the clear instead.
func TestAPlaceOutlivesOneChange(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	reached := make(chan struct{}, 16)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.Close()
			reached <- struct{}{}
		}
	}()
	s := New(Config{})
	port := func(host string) ir.InboundPort {
		return ir.InboundPort{Port: 80, Protocol: mesh.ProtocolHTTP, Target: ln.Addr().(*net.TCPAddr).AddrPort(), TLS: &ir.BackendTLS{Object: "BackendTLSPolicy shop/p@eu", Hostname: host, System: true}}
	}
	learn := func(ports ...ir.InboundPort) { s.Learn([]ir.Inbound{{Ports: ports}}) }
	knows := func(p ir.InboundPort) bool { return s.places.Load().find(p.Place()) != nil }
	a, b, c := port("a.example.com"), port("b.example.com"), port("c.example.com")
	learn(a)
	made := s.places.Load().find(a.Place())
	learn(a, b)
	if s.places.Load().find(a.Place()) != made {
		t.Error("a place that stays was made anew")
	}
	learn(b)
	learn(b)
	if !knows(a) || !knows(b) {
		t.Error("the place of before is forgotten although nothing has changed since")
	}
	learn(c)
	if knows(a) {
		t.Error("a place is known two changes later")
	}
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	for _, p := range []mesh.Protocol{mesh.ProtocolHTTP, mesh.ProtocolHTTP2, mesh.ProtocolTCP} {
		if conn, err := s.Dial(ctx, a.Place(), p); err == nil {
			conn.Close()
			t.Errorf("%s: a place that is forgotten was connected to", p)
		}
	}
	select {
	case <-reached:
		t.Error("the application was connected to in the clear")
	default:
	}
}

// TestPlacesDiffer has ports share connections if they are spoken to alike, and not otherwise.
func TestPlacesDiffer(t *testing.T) {
	at := netip.MustParseAddrPort("127.0.0.1:8080")
	plain := ir.InboundPort{Port: 80, Target: at}
	if got := plain.Place(); got != "127.0.0.1:8080" {
		t.Errorf("in the clear: %q", got)
	}
	if got := (ir.InboundPort{Port: 80, TLS: &ir.BackendTLS{}}).Place(); got != "" {
		t.Errorf("without a target: %q", got)
	}
	one := ir.InboundPort{Port: 80, Target: at, TLS: &ir.BackendTLS{Hostname: "a"}}
	same := ir.InboundPort{Port: 81, Target: at, TLS: &ir.BackendTLS{Hostname: "a"}}
	other := ir.InboundPort{Port: 80, Target: at, TLS: &ir.BackendTLS{Hostname: "a", Roots: "r"}}
	if one.Place() != same.Place() || one.Place() == other.Place() || !strings.HasPrefix(one.Place(), plain.Place()+" by TLS ") {
		t.Errorf("%q, %q, %q", one.Place(), same.Place(), other.Place())
	}
}
