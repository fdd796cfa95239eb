package derive_test

import (
	"fmt"
	"testing"

	"github.com/isthmus-mesh/isthmus/core/derive"
)

// One endpoint flips; every root stands behind "is the service up", which stays as it is.
func BenchmarkFlip(b *testing.B) {
	for _, roots := range []int{1_000, 100_000} {
		b.Run(fmt.Sprintf("roots=%d", roots), func(b *testing.B) {
			on := newShop()
			off, changed := on.with("c1", false)
			e := derive.New(on)
			healthy.Watch(e, "cart")
			for i := range roots {
				page.Watch(e, i)
			}
			e.Settle(2)
			before := e.Stats()
			b.ReportAllocs()
			for b.Loop() {
				on, off = off, on
				e.Commit(on, changed...)
				if res := e.Settle(2); len(res.Changed) != 1 {
					b.Fatalf("changed %v, want healthy alone", res.Changed)
				}
			}
			b.ReportMetric(float64(e.Stats().Evaluated-before.Evaluated)/float64(b.N), "evaluations/op")
		})
	}
}

// 10,000 roots from nothing: each reads a fact of its own and shares one of a hundred functions of ten facts.
func BenchmarkColdSettle(b *testing.B) {
	type world = []int
	number := derive.NewFact("number", func(w world, i int) (int, bool) { return w[i], true })
	shared := derive.NewFunc("shared", derive.Same[int], func(c *derive.Ctx, k int) int {
		sum := 0
		for i := range 10 {
			v, _ := number.Get(c, k*10+i)
			sum += v
		}
		return sum
	})
	root := derive.NewFunc("root", derive.Same[int], func(c *derive.Ctx, k int) int {
		v, _ := number.Get(c, k)
		return v + shared.Get(c, k%100)
	})
	const roots = 9_900
	w := make(world, roots)
	for _, workers := range []int{1, 2} {
		b.Run(fmt.Sprintf("workers=%d", workers), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				e := derive.New(w)
				for i := range roots {
					root.Watch(e, i)
				}
				e.Settle(workers)
				if n := e.Stats().Nodes; n != 10_000 {
					b.Fatalf("%d nodes, want 10,000", n)
				}
			}
		})
	}
}
