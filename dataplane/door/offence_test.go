package door_test

import (
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/door"
	"github.com/isthmus-mesh/isthmus/mesh"
)

var (
	bad   = mesh.Identity{TrustDomain: "us-east.isthmus.local", Namespace: "demo", ServiceAccount: "gone-bad"}
	other = mesh.Identity{TrustDomain: "us-east.isthmus.local", Namespace: "demo", ServiceAccount: "shop"}
)

func TestOffencesAreRememberedAndForgotten(t *testing.T) {
	now := time.Unix(1000, 0)
	o := &door.Offences{Now: func() time.Time { return now }}
	peer := door.PeerOf(&from{addr: "10.1.0.1:1"}, bad)
	if o.Left(peer) != 0 {
		t.Error("one who did nothing is turned away")
	}
	var waits []time.Duration
	for range 5 {
		waits = append(waits, o.Note(peer))
		now = now.Add(o.Left(peer))
	}
	if got, want := fmt.Sprint(waits), "[1s 2s 4s 4s 4s]"; got != want {
		t.Errorf("back-offs %s, want %s", got, want)
	}
	if o.Left(peer) != 0 {
		t.Error("the back-off does not end")
	}
	o.Note(peer)
	for what, p := range map[string]door.Peer{
		"another identity of the address": door.PeerOf(&from{addr: "10.1.0.1:2"}, other),
		"the identity elsewhere":          door.PeerOf(&from{addr: "10.1.0.2:1"}, bad),
		"the address alone":               door.PeerOf(&from{addr: "10.1.0.1:3"}, mesh.Identity{}),
	} {
		if o.Left(p) != 0 {
			t.Errorf("%s is turned away for what the peer did", what)
		}
	}
	if o.Left(door.PeerOf(&from{addr: "10.1.0.1:9"}, bad)) == 0 {
		t.Error("the peer comes in from another port")
	}
	now = now.Add(time.Hour)
	if got := o.Note(peer); got != time.Second {
		t.Errorf("after an hour in order an offence costs %v, want a second", got)
	}
	if o.Turned() != 6 { // five by the loop, which asked, and one by another port
		t.Errorf("%d were turned away, want 6", o.Turned())
	}
	six := func(addr string) door.Peer { return door.PeerOf(&from{addr: addr}, bad) }
	if six("[2001:db8::1]:1") != six("[2001:db8::2]:1") || six("[2001:db8::1]:1") == six("[2001:db8:0:1::1]:1") {
		t.Error("of IPv6 a peer is not a network of 64 bits")
	}
}

// TestOffendersAreBounded: whoever has many addresses uses up no memory, and does not have himself forgotten.
func TestOffendersAreBounded(t *testing.T) {
	now := time.Unix(1000, 0)
	o := &door.Offences{Now: func() time.Time { return now }}
	worst := door.PeerOf(&from{addr: "192.0.2.1:1"}, bad)
	for range 10 {
		o.Note(worst)
	}
	for i := range 100_000 {
		o.Note(door.Peer{Identity: bad, Addr: netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})})
	}
	if n := o.Len(); n > 4096 {
		t.Errorf("%d are remembered", n)
	}
	if o.Left(worst) == 0 {
		t.Error("the worst was displaced by those who offended once")
	}
}

// TestAddressesMayNotWasteHandshakes: beyond its allowance an address is refused before anything is done for it, others
// are not, and who shares it is let in as far as connections of it end well.
func TestAddressesMayNotWasteHandshakes(t *testing.T) {
	now := time.Unix(1000, 0)
	a := &door.Allowance{}
	doorOf := func(a *door.Allowance) *door.Door {
		return &door.Door{Most: 1 << 20, Allowance: a, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return now }}
	}
	d := doorOf(a)
	// come has n connections come in a second, of which each wasteful one comes to nothing; it returns how many were let in.
	come := func(d *door.Door, addr string, n, wasteful int) (in int) {
		for i := range n {
			now = now.Add(time.Second / time.Duration(n))
			c := &from{addr: addr}
			leave, ok := d.Enter(c)
			if !ok {
				continue
			}
			in++
			leave()
			if i%wasteful == 0 {
				d.Allowance.Waste(c, now)
			} else {
				d.Allowance.Earn(c, now)
			}
		}
		return in
	}
	come(d, "10.1.0.1:1", 1000, 1)
	if in := come(d, "10.1.0.1:1", 1000, 1); in > 60 {
		t.Errorf("%d of 1,000 in a second were let in of an address of which none comes to anything", in)
	}
	if in := come(d, "10.1.0.2:1", 100, 1000); in != 100 {
		t.Errorf("%d of 100 of another address were let in", in)
	}
	if in := come(d, "10.1.0.3:1", 1000, 2); in != 1000 {
		t.Errorf("%d of 1,000 were let in of an address of which half are in order", in)
	}
	now = now.Add(10 * time.Second)
	if in := come(d, "10.1.0.1:1", 50, 1); in != 50 {
		t.Errorf("%d of 50 were let in of an address that has paid", in)
	}
	if d.Refused() == 0 {
		t.Error("nothing was counted")
	}
	if in := come(doorOf(nil), "10.1.0.1:1", 1000, 1); in != 1000 {
		t.Errorf("control without an allowance: %d of 1,000 were let in", in)
	}
}
