package balance

import (
	"net/netip"
	"slices"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// NextSlots is the slot table that follows prev when the ready endpoints of a service
// are those given, sorted: each endpoint has exactly one slot, so that shares are equal; an
// endpoint that stays keeps its slot, a new one fills a hole or is appended, and remaining
// holes are filled from the tail. No change moves more slots than endpoints came and went.
// It reports whether anything changed; prev is not modified.
func NextSlots(prev mesh.SlotTable, ready []netip.AddrPort) (mesh.SlotTable, bool) {
	next := mesh.SlotTable{Service: prev.Service, Generation: prev.Generation + 1,
		Slots: slices.Clone(prev.Slots), Moved: slices.Clone(prev.Moved)}
	placed := make(map[netip.AddrPort]bool, len(ready))
	var holes []int
	for i, e := range next.Slots {
		if _, ok := slices.BinarySearchFunc(ready, e, netip.AddrPort.Compare); ok && !placed[e] {
			placed[e] = true
		} else {
			holes = append(holes, i)
		}
	}
	changed := len(holes) > 0
	for _, e := range ready {
		if placed[e] {
			continue
		}
		placed[e], changed = true, true
		if len(holes) > 0 {
			next.Slots[holes[0]], next.Moved[holes[0]] = e, next.Generation
			holes = holes[1:]
			continue
		}
		next.Slots, next.Moved = append(next.Slots, e), append(next.Moved, next.Generation)
	}
	for len(holes) > 0 {
		tail := len(next.Slots) - 1
		if hole := holes[len(holes)-1]; hole == tail {
			holes = holes[:len(holes)-1]
		} else {
			next.Slots[holes[0]], next.Moved[holes[0]] = next.Slots[tail], next.Generation
			holes = holes[1:]
		}
		next.Slots, next.Moved = next.Slots[:tail], next.Moved[:tail]
	}
	if !changed {
		return prev, false
	}
	return next, true
}
