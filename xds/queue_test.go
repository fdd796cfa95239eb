package xds

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestQueueIsWhatAListWouldBe pushes, pops, takes out and filters at random, beside a plain list.
func TestQueueIsWhatAListWouldBe(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		var q queue
		var list []due
		for step := range 400 {
			switch r.IntN(6) {
			case 0, 1, 2: // mostly what follows
				d := due{id: r.Uint32N(20), seq: uint64(step / 40), since: uint64(step / 80)}
				if k := len(list); k > 0 && r.IntN(3) > 0 {
					d.id = list[k-1].id + 1
				}
				q.push(d)
				list = append(list, d)
			case 3:
				if len(list) > 0 {
					if got := q.peek(); got != list[0] {
						t.Fatalf("seed %d: the head is %v, want %v", seed, got, list[0])
					}
					q.pop()
					list = list[1:]
				}
			case 4:
				id, want := r.Uint32N(25), uint64(none)
				list = slices.DeleteFunc(slices.Clone(list), func(d due) bool {
					if d.id == id {
						want = min(want, d.since)
					}
					return d.id == id
				})
				if got := q.take(id); got != want {
					t.Fatalf("seed %d: name %d was due since %d, want %d", seed, id, got, want)
				}
			case 5:
				if r.IntN(10) > 0 {
					continue
				}
				odd := func(d due) bool { return d.id%2 == 1 }
				q.filter(odd)
				list = slices.DeleteFunc(slices.Clone(list), func(d due) bool { return !odd(d) })
			}
			first, oldest := uint64(none), uint64(none)
			for i, d := range list {
				if i == 0 {
					first = d.seq
				}
				oldest = min(oldest, d.since)
			}
			if q.len() != len(list) || q.first() != first || q.oldest() != oldest {
				t.Fatalf("seed %d: %d names, first %d, oldest %d; want %d, %d, %d", seed, q.len(), q.first(), q.oldest(), len(list), first, oldest)
			}
		}
	}
}
