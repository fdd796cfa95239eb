package balance

import (
	"cmp"
	"math"
	"slices"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// table is a consistent hash: where a key begins, and in which order endpoints follow. What falls
// out is stepped over, so that only its own keys move, each to the next in order. It is
// immutable.
type table struct {
	// entries are indices of endpoints, in the order of the table, which is a circle.
	entries []uint16
	// points are the places of the entries on a ring; nil for Maglev, whose places are all alike.
	points []uint32
	// jump finds, by the high bits of a place, the first entry at or behind it.
	jump  []uint32
	shift uint
}

// newTable makes the table for endpoints; only the first 65,536 take part.
func newTable(kind mesh.HashTable, endpoints []*Endpoint, weights []uint32) *table {
	n := min(len(endpoints), 1<<16)
	if n == 0 {
		return nil
	}
	endpoints, weights = endpoints[:n], weights[:n]
	if kind == mesh.HashRing {
		return newRing(endpoints, weights)
	}
	return newMaglev(endpoints, weights)
}

// newMaglev fills a table by turns (Eisenbud et al., NSDI 2016, §3.4): each endpoint in its turn
// takes the first free place of its own permutation. Turns are as many as its weight.
// Endpoints take turns by the order of their hashes, so that every proxy makes the same table, in whatever
// order it knows them.
func newMaglev(endpoints []*Endpoint, weights []uint32) *table {
	type taker struct {
		at           uint16
		next, skip   uint32
		credit, gain float64
	}
	heaviest := float64(slices.Max(weights))
	takers := make([]taker, len(endpoints))
	for i, e := range endpoints {
		h := e.place
		takers[i] = taker{at: uint16(i), next: uint32(h>>32) % maglevSize, skip: uint32(mix(h))%(maglevSize-1) + 1,
			gain: float64(weights[i]) / heaviest}
	}
	slices.SortFunc(takers, func(a, b taker) int { return cmp.Compare(endpoints[a.at].place, endpoints[b.at].place) })
	t := &table{entries: make([]uint16, maglevSize)}
	taken := make([]bool, maglevSize)
	for left := maglevSize; left > 0; {
		for i := range takers {
			k := &takers[i]
			if k.credit += k.gain; k.credit < 1-1e-9 {
				continue
			}
			k.credit--
			for taken[k.next] {
				k.next = (k.next + k.skip) % maglevSize
			}
			taken[k.next], t.entries[k.next] = true, k.at
			if left--; left == 0 {
				break
			}
		}
	}
	return t
}

// newRing places each endpoint on a circle at points of its own (Karger et al., STOC 1997), as many as its
// weight; a key belongs to the next point.
func newRing(endpoints []*Endpoint, weights []uint32) *table {
	sum := 0.0
	for _, w := range weights {
		sum += float64(w)
	}
	each := min(ringPoints*float64(len(endpoints)), ringMax) / sum
	// A point is its place and, behind it, the rank of its endpoint by hash: so that where two meet
	// every proxy gives the same one the place.
	order := make([]int, len(endpoints))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(endpoints[a].place, endpoints[b].place) })
	points := make([]uint64, 0, int(each*sum)+len(endpoints))
	for rank, i := range order {
		n := max(1, int(math.Round(float64(weights[i])*each)))
		for k := range n {
			points = append(points, mix(endpoints[i].place+uint64(k)*0x9e3779b97f4a7c15)>>32<<16|uint64(rank))
		}
	}
	slices.Sort(points)
	t := &table{entries: make([]uint16, len(points)), points: make([]uint32, len(points)), shift: 31}
	for t.shift > 0 && 1<<(32-t.shift) < len(points) {
		t.shift--
	}
	t.jump = make([]uint32, 1<<(32-t.shift))
	at := 0
	for bucket := range t.jump {
		for at < len(points) && points[at]>>16 < uint64(bucket)<<t.shift {
			at++
		}
		t.jump[bucket] = uint32(at)
	}
	for i, p := range points {
		t.points[i], t.entries[i] = uint32(p>>16), uint16(order[uint16(p)])
	}
	return t
}

// start is where the search for a key's endpoint begins: its index in entries.
func (t *table) start(hash uint64) int {
	if t.points == nil {
		return int(hash % maglevSize)
	}
	place := uint32(hash >> 32)
	at := int(t.jump[place>>t.shift])
	for at < len(t.points) && t.points[at] < place {
		at++
	}
	if at == len(t.points) {
		return 0
	}
	return at
}
