package xds

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestMarksAreFoundWhereverTheyLie: sets with holes of every kind, asked for each ID that is there and each that is not.
func TestMarksAreFoundWhereverTheyLie(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		var ids []uint32
		for id, n, dense := 1+r.Uint32N(5), r.IntN(40), r.Uint32N(4); len(ids) < n; id += 1 + r.Uint32N(1+dense*dense*dense) {
			ids = append(ids, id)
		}
		b := &sub{ids: ids}
		last := uint32(0)
		if len(ids) > 0 {
			last = ids[len(ids)-1]
		}
		for id := range last + 3 {
			want, there := slices.BinarySearch(ids, id)
			if i, ok := b.find(id); i != want || ok != there {
				t.Fatalf("%d in %v: %d, %v; want %d, %v", id, ids, i, ok, want, there)
			}
		}
	}
	b := &sub{ids: []uint32{1, 1<<32 - 1}} // as far apart as IDs may be
	if i, ok := b.find(1<<32 - 2); i != 1 || ok {
		t.Errorf("%d, %v", i, ok)
	}
}
