package derive_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/isthmus-mesh/isthmus/core/derive"
)

// subject is one engine under test, with what it has told so far.
type subject struct {
	name    string
	e       *derive.Engine
	d       *derived
	workers int
	told    map[int]int // by root, as last reported
	fresh   map[int]bool
}

func newSubject(name string, g graph, w toy, workers int) *subject {
	return &subject{name, derive.New(w), newDerived(g), workers, map[int]int{}, map[int]bool{}}
}

func (s *subject) watch(k int) {
	s.d.node.Watch(s.e, k)
	s.fresh[k] = true
}

func (s *subject) unwatch(k int) {
	s.d.node.Unwatch(s.e, k)
	delete(s.told, k)
	delete(s.fresh, k)
}

// mustEqualScratch compares everything visible after a completed settle with a computation from nothing.
func (s *subject) mustEqualScratch(t *rapid.T, g graph, w toy, roots []int, res derive.Result) {
	t.Helper()
	plain := &scratch{g, w, map[int]*answer{}, s.d.node.Ref}
	var want derive.Result
	for _, k := range roots {
		a := plain.eval(k)
		if a.fails {
			err := &derive.CycleError{Path: plain.cycle(k)}
			want.Failed = append(want.Failed, derive.Failure{Root: s.d.node.Ref(k), Err: err})
			continue
		}
		if v, ok := s.d.node.Value(s.e, k); !ok || v != a.value {
			t.Fatalf("%s: node %d = %d (%v), from nothing %d", s.name, k, v, ok, a.value)
		}
		switch before, ok := s.told[k]; {
		case s.fresh[k]:
			want.Changed = append(want.Changed, derive.Change{Root: s.d.node.Ref(k), New: a.value, First: true})
		case !ok:
			t.Fatalf("%s: model lost root %d", s.name, k)
		case before != a.value:
			want.Changed = append(want.Changed, derive.Change{Root: s.d.node.Ref(k), Old: before, New: a.value})
		}
		s.told[k] = a.value
		delete(s.fresh, k)
	}
	if d := cmp.Diff(want, res); d != "" {
		t.Fatalf("%s: result (-want +got)\n%s", s.name, d)
	}
	wantAlive := plain.alive(roots)
	var alive []int
	for ref := range s.e.Nodes() {
		alive = append(alive, ref.Key.(int))
	}
	slices.Sort(alive)
	if d := cmp.Diff(wantAlive, alive); d != "" {
		t.Fatalf("%s: alive (-want +got)\n%s", s.name, d)
	}
	cells := map[derive.Ref]bool{}
	for _, k := range alive {
		got, want := s.e.Reads(s.d.node.Ref(k)), plain.eval(k).reads
		if len(got)+len(want) > 0 && !slices.Equal(got, want) {
			t.Fatalf("%s: node %d has read %v, from nothing %v", s.name, k, got, want)
		}
		for _, r := range want {
			if r.Kind != derive.KindFunc {
				cells[r] = true
			}
			if !slices.Contains(s.e.Readers(r), s.d.node.Ref(k)) {
				t.Fatalf("%s: %v does not know its reader %d", s.name, r, k)
			}
		}
	}
	if st := s.e.Stats(); st.Nodes != len(alive) || st.Cells != len(cells) {
		t.Fatalf("%s: %+v with %d nodes and %d cells alive", s.name, st, len(alive), len(cells))
	}
}

func drawWorld(t *rapid.T) toy {
	return rapid.MapOf(rapid.IntRange(0, factCount-1), rapid.IntRange(0, 9)).Draw(t, "world")
}

// edit returns a world that differs from w in up to three facts, and the cells to commit: all that differ, and sometimes
// one that does not.
func edit(t *rapid.T, w toy) (toy, []derive.Ref) {
	next := maps.Clone(w)
	for range rapid.IntRange(0, 3).Draw(t, "edits") {
		k := rapid.IntRange(0, factCount-1).Draw(t, "fact")
		if v := rapid.IntRange(-2, 9).Draw(t, "value"); v < 0 {
			delete(next, k)
		} else {
			next[k] = v
		}
	}
	changed := differences(w, next)
	if rapid.IntRange(0, 4).Draw(t, "superfluous") == 0 {
		changed = append(changed, toyFact.Ref(rapid.IntRange(0, factCount-1).Draw(t, "unchanged")))
	}
	return next, changed
}

// rewatch turns up to two random nodes into roots, or back.
func rewatch(t *rapid.T, roots []int, subjects ...*subject) []int {
	for range rapid.IntRange(0, 2).Draw(t, "rewatch") {
		k := rapid.IntRange(0, nodeCount-1).Draw(t, "root")
		i := slices.Index(roots, k)
		for _, s := range subjects {
			if i < 0 {
				s.watch(k)
			} else {
				s.unwatch(k)
			}
		}
		if i < 0 {
			roots = append(roots, k)
		} else {
			roots = slices.Delete(roots, i, i+1)
		}
	}
	return roots
}

// Incremental equals scratch, for values, reports, failures, provenance and what is alive, over random edits of random
// graphs; all of it, and the counters, are the same for any number of workers; and nothing is evaluated twice in one
// revision.
func TestIncrementalEqualsScratchForAnyWorkers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g, w := drawGraph(t), drawWorld(t)
		var subjects []*subject
		for _, n := range []int{1, 2, 16} {
			subjects = append(subjects, newSubject(fmt.Sprintf("%d workers", n), g, w, n))
		}
		roots := rewatch(t, nil, subjects...)
		for range rapid.IntRange(1, 8).Draw(t, "steps") {
			roots = rewatch(t, roots, subjects...)
			for _, s := range subjects {
				clear(s.d.runs)
				s.mustEqualScratch(t, g, w, roots, s.e.Settle(s.workers))
				for k, n := range s.d.runs {
					if n > 1 {
						t.Fatalf("%s: node %d evaluated %d times in one revision", s.name, k, n)
					}
				}
				if d := cmp.Diff(subjects[0].e.Stats(), s.e.Stats()); d != "" {
					t.Fatalf("counters (-%s +%s)\n%s", subjects[0].name, s.name, d)
				}
			}
			next, changed := edit(t, w)
			w = next
			for _, s := range subjects {
				s.e.Commit(w, changed...)
			}
		}
		for _, k := range roots {
			for _, s := range subjects {
				s.unwatch(k)
			}
		}
		for _, s := range subjects {
			s.mustEqualScratch(t, g, w, nil, s.e.Settle(s.workers))
			if st := s.e.Stats(); st.Nodes != 0 || st.Cells != 0 || st.Edges != 0 {
				t.Fatalf("%s: alive without watchers: %+v", s.name, st)
			}
		}
	})
}

// However a settle is cut into slices, and whatever is committed, watched and unwatched between them, what it says in the
// end is what an uncut settle of the last revision says.
func TestSlicesSayWhatTheWholeSays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g, w := drawGraph(t), drawWorld(t)
		workers := rapid.SampledFrom([]int{1, 2, 16}).Draw(t, "workers")
		s := newSubject(fmt.Sprintf("%d workers in slices", workers), g, w, workers)
		var roots []int
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			roots = rewatch(t, roots, s)
			next, changed := edit(t, w)
			w = next
			s.e.Commit(w, changed...)
			for range rapid.IntRange(0, 4).Draw(t, "slices") {
				budget := rapid.IntRange(0, 4).Draw(t, "budget")
				res, done := s.e.Slice(workers, func() bool { budget--; return budget < 0 })
				if done {
					s.mustEqualScratch(t, g, w, roots, res)
					break
				}
			}
		}
		s.mustEqualScratch(t, g, w, roots, s.e.Settle(workers))
	})
}

// The shortest slices possible still come to an end, after no more slices than there is work.
func TestEverySliceMakesProgress(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g, w := drawGraph(t), drawWorld(t)
		s := newSubject("slices of one", g, w, 1)
		var roots []int
		for k := range nodeCount {
			s.watch(k)
			roots = append(roots, k)
		}
		for i := 0; ; i++ {
			if i > nodeCount+1 {
				t.Fatalf("not done after %d slices over %d nodes", i, nodeCount)
			}
			if res, done := s.e.Slice(1, func() bool { return true }); done {
				s.mustEqualScratch(t, g, w, roots, res)
				return
			}
		}
	})
}

// Eval is the definition.
func TestEvalEqualsScratch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g, w := drawGraph(t), drawWorld(t)
		d := newDerived(g)
		plain := &scratch{g, w, map[int]*answer{}, d.node.Ref}
		for k := range nodeCount {
			v, err := derive.Eval(w, d.node, k)
			if a := plain.eval(k); a.fails != (err != nil) || (!a.fails && a.value != v) {
				t.Fatalf("Eval(%d) = %d, %v; from nothing %+v", k, v, err, a)
			}
		}
	})
}
