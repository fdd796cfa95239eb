package peer

import (
	"net/netip"
	"testing"
	"time"
)

// TestPatienceGrowsWithWhatWasSeen: with round trips, with how long it took, with a peer that answers late; and not with one that is silent.
func TestPatienceGrowsWithWhatWasSeen(t *testing.T) {
	a, b := netip.MustParseAddrPort("10.0.0.1:15012"), netip.MustParseAddrPort("10.0.0.2:15012")
	var p Patience
	want := func(what string, d time.Duration) {
		t.Helper()
		if got := p.at(a); got != d {
			t.Errorf("%s: %v, want %v", what, got, d)
		}
		if got := p.at(b); got != dialTimeout {
			t.Errorf("%s: %v for an address of which nothing was seen, want %v", what, got, dialTimeout)
		}
	}
	want("nothing seen", dialTimeout)
	p.Path(a, 80*time.Millisecond)
	want("a short path", dialTimeout)
	p.Path(a, time.Second)
	want("a long path", 4*time.Second)
	p.Path(a, 0)
	want("a path that is not measured", 4*time.Second)
	for range 5 {
		p.late(a, p.at(a))
	}
	want("late again and again", patienceMax)
	p.made(a, 1500*time.Millisecond)
	want("made in 1.5 s", 4500*time.Millisecond)
	p.made(a, time.Millisecond)
	want("made in no time", dialTimeout)
	var none *Patience
	none.late(a, time.Minute)
	none.made(a, time.Minute)
	none.Path(a, time.Minute)
	if got := none.at(a); got != dialTimeout {
		t.Errorf("without a memory: %v, want %v", got, dialTimeout)
	}
	for i := range 3 * addressesMax {
		p.late(netip.AddrPortFrom(a.Addr(), uint16(i)), time.Minute)
	}
	if len(p.of) > addressesMax {
		t.Errorf("%d addresses are remembered, want %d at most", len(p.of), addressesMax)
	}
}
