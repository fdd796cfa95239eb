package derive_test

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"pgregory.net/rapid"

	"github.com/isthmus-mesh/isthmus/core/derive"
)

// The model: random programs over a small world, run both by engines and by a plain recursive evaluator that knows nothing
// of them.

const (
	factCount  = 8
	nodeCount  = 14
	bucketMod  = 3
	totalCount = 2
)

// toy is a world: facts under 0..factCount-1, some absent. A fact's bucket is its value modulo bucketMod; total t sums the
// facts under keys congruent to t.
type toy map[int]int

func (w toy) bucket(b int) []int {
	var out []int
	for k := range factCount {
		if v, ok := w[k]; ok && v%bucketMod == b {
			out = append(out, k)
		}
	}
	return out
}

func (w toy) total(t int) int {
	sum := 0
	for k, v := range w {
		if k%totalCount == t {
			sum += v
		}
	}
	return sum
}

var (
	toyFact   = derive.NewFact("toyFact", func(w toy, k int) (int, bool) { v, ok := w[k]; return v, ok })
	toyBucket = derive.NewBucket("toyBucket", toy.bucket)
	toyTotal  = derive.NewAggregate("toyTotal", toy.total)
)

// differences names the cells in which a and b differ.
func differences(a, b toy) []derive.Ref {
	var out []derive.Ref
	for k := range factCount {
		va, oka := a[k]
		vb, okb := b[k]
		if va != vb || oka != okb {
			out = append(out, toyFact.Ref(k))
		}
	}
	for i := range bucketMod {
		if !slices.Equal(a.bucket(i), b.bucket(i)) {
			out = append(out, toyBucket.Ref(i))
		}
	}
	for i := range totalCount {
		if a.total(i) != b.total(i) {
			out = append(out, toyTotal.Ref(i))
		}
	}
	return out
}

// reads is what a program can ask; a node that fails does not return.
type reads interface {
	fact(k int) (int, bool)
	bucket(b int) []int
	total(t int) int
	node(k int) int
}

type op struct{ Kind, A, B int }

// program is one node's function: a fold over its ops, each of which may depend on what came before. Coarse makes values
// collide, so that waves stop.
type program struct {
	Ops    []op
	Coarse int
}

// graph is a program for each node. Ordered graphs have no cycle, though which of two nodes may read the other changes
// with fact 0; free ones have plenty.
type graph struct {
	Programs []program
	Ordered  bool
}

func drawGraph(t *rapid.T) graph {
	g := graph{Ordered: rapid.Bool().Draw(t, "ordered")}
	small := rapid.IntRange(0, 60)
	for i := range nodeCount {
		p := program{Coarse: rapid.SampledFrom([]int{2, 3, 1000}).Draw(t, "coarse")}
		for range rapid.IntRange(1, 5).Draw(t, fmt.Sprint("ops of ", i)) {
			kind := rapid.IntRange(0, 7).Draw(t, "op")
			p.Ops = append(p.Ops, op{kind, small.Draw(t, "a"), small.Draw(t, "b")})
		}
		g.Programs = append(g.Programs, p)
	}
	return g
}

func (g graph) run(r reads, k int) int {
	acc := k
	fold := func(v int) { acc = (acc*31 + v + 1) % 100_003 }
	node := func(target int) {
		target %= nodeCount
		if g.Ordered {
			flag, _ := r.fact(0)
			if up := flag%2 == 0; target == k || (target < k) != up {
				return
			}
		}
		fold(r.node(target))
	}
	fact := func(key int) {
		if v, ok := r.fact(key % factCount); ok {
			fold(v)
		} else {
			fold(77)
		}
	}
	for _, o := range g.Programs[k].Ops {
		switch o.Kind {
		case 0:
			fact(o.A)
		case 1:
			fact(o.A + acc) // which fact depends on what was read
		case 2:
			for _, m := range r.bucket(o.A % bucketMod) {
				fact(m)
			}
		case 3:
			fold(r.total(o.A % totalCount))
		case 4:
			node(o.A)
		case 5: // a guarded read
			if acc%2 == 0 {
				node(o.A)
			}
		case 6: // one or the other
			if acc%2 == 0 {
				node(o.A)
			} else {
				node(o.B)
			}
		case 7: // which node depends on what was read
			node(o.A + acc)
		}
	}
	return acc % g.Programs[k].Coarse
}

// derived is the graph as an engine's function; it counts how often each node's evaluation came to its end.
type derived struct {
	node *derive.Func[int, int]
	mu   sync.Mutex
	runs map[int]int
}

func newDerived(g graph) *derived {
	d := &derived{runs: map[int]int{}}
	d.node = derive.NewFunc("node", derive.Same[int], func(c *derive.Ctx, k int) int {
		v := g.run(tracked{c, d}, k)
		d.mu.Lock()
		defer d.mu.Unlock()
		d.runs[k]++
		return v
	})
	return d
}

type tracked struct {
	c *derive.Ctx
	d *derived
}

func (r tracked) fact(k int) (int, bool) { return toyFact.Get(r.c, k) }
func (r tracked) bucket(b int) []int     { return toyBucket.Get(r.c, b) }
func (r tracked) total(t int) int        { return toyTotal.Get(r.c, t) }
func (r tracked) node(k int) int         { return r.d.node.Get(r.c, k) }

// answer is the plain evaluator's result for one node.
type answer struct {
	value int
	busy  bool
	blame int // the failing read if failed
	fails bool
	reads []derive.Ref // in order, each once, without the failing one
}

// scratch evaluates a graph over a world by recursion.
type scratch struct {
	g    graph
	w    toy
	done map[int]*answer
	ref  func(int) derive.Ref
}

type stuck struct{}

func (s *scratch) eval(k int) (a *answer) {
	if a := s.done[k]; a != nil {
		return a
	}
	a = &answer{busy: true}
	s.done[k] = a
	defer func() {
		a.busy = false
		if r := recover(); r != nil && r != any(stuck{}) {
			panic(r)
		}
	}()
	a.value = s.g.run(asked{s, a}, k)
	return a
}

type asked struct {
	s *scratch
	a *answer
}

func (r asked) note(ref derive.Ref) {
	if !slices.Contains(r.a.reads, ref) {
		r.a.reads = append(r.a.reads, ref)
	}
}

func (r asked) fact(k int) (int, bool) {
	r.note(toyFact.Ref(k))
	v, ok := r.s.w[k]
	return v, ok
}

func (r asked) bucket(b int) []int { r.note(toyBucket.Ref(b)); return r.s.w.bucket(b) }
func (r asked) total(t int) int    { r.note(toyTotal.Ref(t)); return r.s.w.total(t) }

func (r asked) node(k int) int {
	got := r.s.eval(k)
	if got.busy || got.fails {
		r.a.fails, r.a.blame = true, k
		panic(stuck{})
	}
	r.note(r.s.ref(k))
	return got.value
}

// cycle follows failing reads from k to the circle they end in.
func (s *scratch) cycle(k int) []derive.Ref {
	var walk []int
	for !slices.Contains(walk, k) {
		walk = append(walk, k)
		k = s.done[k].blame
	}
	walk = walk[slices.Index(walk, k):]
	var path []derive.Ref
	first := 0
	for i, k := range walk {
		path = append(path, s.ref(k))
		if path[i].String() < path[first].String() {
			first = i
		}
	}
	return append(path[first:], path[:first]...)
}

// alive returns the nodes that roots reach by reads.
func (s *scratch) alive(roots []int) []int {
	seen := map[int]bool{}
	var visit func(k int)
	visit = func(k int) {
		if seen[k] {
			return
		}
		seen[k] = true
		for _, r := range s.eval(k).reads {
			if r.Kind == derive.KindFunc {
				visit(r.Key.(int))
			}
		}
	}
	for _, k := range roots {
		visit(k)
	}
	return slices.Sorted(maps.Keys(seen))
}
