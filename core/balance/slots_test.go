package balance

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/isthmus-mesh/isthmus/mesh"
	"pgregory.net/rapid"
)

func TestNextSlotsIsBalancedAndMovesLittle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var table mesh.SlotTable
		for range rapid.IntRange(1, 8).Draw(t, "steps") {
			var ready []netip.AddrPort
			for _, n := range rapid.SliceOfNDistinct(rapid.ByteRange(1, 12), 0, 12, rapid.ID).Draw(t, "ready") {
				ready = append(ready, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, n}), 15008))
			}
			slices.SortFunc(ready, netip.AddrPort.Compare)
			before := slices.Clone(table.Slots)
			next, changed := NextSlots(table, ready)
			if !slices.Equal(before, table.Slots) {
				t.Fatal("the previous table was modified")
			}
			got := slices.Clone(next.Slots)
			slices.SortFunc(got, netip.AddrPort.Compare)
			if !slices.Equal(got, ready) {
				t.Fatalf("slots %v, want each of %v once", next.Slots, ready)
			}
			if len(next.Moved) != len(next.Slots) {
				t.Fatalf("%d generations for %d slots", len(next.Moved), len(next.Slots))
			}
			moved, came, went := 0, 0, 0
			for i, e := range next.Slots {
				stayed := i < len(before) && before[i] == e
				if !stayed {
					moved++
				}
				if stayed == (next.Moved[i] == next.Generation && changed) {
					t.Fatalf("slot %d: stayed %v, marked as moved at %d of %d", i, stayed, next.Moved[i], next.Generation)
				}
				if !slices.Contains(before, e) {
					came++
				}
			}
			for _, e := range before {
				if !slices.Contains(ready, e) {
					went++
				}
			}
			if moved > max(came, went) {
				t.Fatalf("%d slots moved for %d endpoints that came and %d that went", moved, came, went)
			}
			if changed != (came+went > 0) {
				t.Fatalf("changed %v with %d come and %d gone", changed, came, went)
			}
			table = next
		}
	})
}
