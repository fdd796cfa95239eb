package derive

import (
	"cmp"
	"math"
	"slices"
	"sync"
	"sync/atomic"
)

// top is the level of roots that have never been evaluated: above every height.
const top = math.MaxInt

// Result is what a completed settle has to say, in the order in which the roots were first watched.
type Result struct {
	// Changed lists the roots whose value differs from the one last reported.
	Changed []Change
	// Failed lists the roots that have no value in this revision. They keep their last good one, are tried again in
	// each revision, and are listed until they succeed.
	Failed []Failure
}

// Change is what became of a root. Func.Change gives it its types.
type Change struct {
	Root     Ref
	Old, New any  // Old is nil if First
	First    bool // the first report since the root was watched
}

// Failure is why a root has no value.
type Failure struct {
	Root Ref
	Err  *CycleError
}

// Settle brings every root up to date in the current revision, evaluating on up to the given number of goroutines
// (at least one, the caller's). The result is the same for any number.
func (e *Engine) Settle(workers int) Result {
	res, _ := e.Slice(workers, nil)
	return res
}

// Slice does a part of a Settle. yield is asked after each node brought up to date, and now and then while freeing, by one
// goroutine at a time; once it answers true nothing further is begun, evaluations that need something not yet computed are broken off
// to be begun again, and Slice returns. Every slice makes progress, whatever yield says, and takes no longer than until
// the functions now running next read. The result comes with done; until then watch, unwatch, commit, or call Slice again.
// After a commit between slices the result speaks of the last revision only, and each root's Old is what was last reported.
func (e *Engine) Slice(workers int, yield func() bool) (res Result, done bool) {
	e.mustBeIdle("Settle")
	e.running, e.yield = true, yield
	e.stop.Store(false)
	defer func() { e.running, e.yield = false, nil }()
	for !e.pending.empty() && !e.stop.Load() {
		var batch []*node
		e.level, batch = e.pending.pop()
		batch = slices.DeleteFunc(batch, func(n *node) bool { return !e.take(n) })
		e.wave(batch, max(1, workers))
		e.absorb()
		for _, n := range batch {
			if n.verified.Load() != e.revision {
				e.queue(n, e.level)
			}
		}
	}
	if e.stop.Load() {
		return Result{}, false
	}
	failures := e.failures() // before the nodes on a cycle are freed
	if !e.sweep() {
		return Result{}, false
	}
	return Result{e.changes(), failures}, true
}

// take says whether a node found in the queue's lowest bucket is to be evaluated in this wave.
func (e *Engine) take(n *node) bool {
	if n.due != e.level {
		return false // a void entry
	}
	n.due = 0
	switch {
	case n.dead || !n.dirty:
		return false // freed, or already evaluated for a reader
	case !n.wanted():
		return false // stays dirty; evaluated if something reads it after all
	case n.height > e.level:
		e.queue(n, n.height) // has risen since it was queued
		return false
	}
	return true
}

// wave brings all of batch up to date.
func (e *Engine) wave(batch []*node, workers int) {
	workers = min(workers, len(batch))
	if workers == 0 {
		return
	}
	for len(e.workers) < workers {
		e.workers = append(e.workers, &worker{engine: e, tables: make(map[*family]anyTable)})
	}
	var next atomic.Int64
	work := func(w *worker) {
		for !e.stop.Load() {
			i := int(next.Add(1)) - 1
			if i >= len(batch) {
				return
			}
			w.bring(batch[i])
		}
	}
	var others sync.WaitGroup
	for _, w := range e.workers[1:workers] {
		others.Go(func() { work(w) })
	}
	work(e.workers[0])
	others.Wait()
}

// absorb applies what a wave found to the graph: edges first, for only all of them together are sure to be acyclic (a
// node's new edge may oppose another's old one), then heights, which need that, then dirt, which needs heights.
func (e *Engine) absorb() {
	e.eachDone(e.rewire)
	e.eachDone(e.lift)
	e.eachDone(e.spread)
	for _, w := range e.workers {
		for _, n := range w.born {
			if n.memo != nil {
				e.stats.Nodes++
			} else {
				e.stats.Cells++
			}
			if !n.wanted() { // its reader was broken off or failed
				e.orphan(n)
			}
		}
		e.stats.Suspended += w.suspended
		w.suspended = 0
		clear(w.born)
		clear(w.done)
		w.born, w.done = w.born[:0], w.done[:0]
	}
}

func (e *Engine) eachDone(do func(*node)) {
	for _, w := range e.workers {
		for _, n := range w.done {
			do(n)
		}
	}
}

// rewire replaces n's deps by what its evaluation read. The read that failed it is left out: kept, it could close a
// cycle, and heights would have no end.
func (e *Engine) rewire(n *node) {
	e.stats.Edges += n.keep + len(n.extra) - len(n.deps)
	n.unlink(n.keep, e.orphan)
	for _, dep := range n.extra {
		n.link(dep)
	}
	n.keep, n.extra = 0, nil
}

// lift restores that n stands above its deps and below its readers. Unless n rose, its readers stand above it already and
// are not visited: a hub may have 100,000 of them.
func (e *Engine) lift(n *node) {
	before := n.height
	n.height = 1
	for _, dep := range n.deps {
		n.height = max(n.height, dep.node.height+1)
	}
	if n.height <= before {
		return
	}
	for rising := []*node{n}; len(rising) > 0; {
		n := rising[len(rising)-1]
		rising = rising[:len(rising)-1]
		for _, r := range n.readers {
			if r.node.height <= n.height {
				r.node.height = n.height + 1
				rising = append(rising, r.node)
			}
		}
	}
}

// spread counts n's evaluation and, if the value changed, marks the readers that have not yet seen it.
func (e *Engine) spread(n *node) {
	n.dirty = false
	e.stats.Evaluated++
	if n.failed != nil {
		e.failing = append(e.failing, n)
	}
	if n.changed != e.revision {
		e.stats.CutOff++
		return
	}
	if n.watches > 0 {
		e.touch(n)
	}
	for _, r := range n.readers {
		if r.node.verified.Load() != e.revision {
			e.mark(r.node)
		}
	}
}

// changes collects the reports of all touched roots.
func (e *Engine) changes() []Change {
	slices.SortFunc(e.touched, func(a, b *node) int { return cmp.Compare(a.order, b.order) })
	var out []Change
	for i, n := range e.touched {
		e.touched[i], n.touched = nil, false
		if n.watches == 0 || n.failed != nil {
			continue // what failed is touched again when it succeeds
		}
		if ch, ok := n.memo.report(); ok {
			out = append(out, ch)
		}
	}
	e.touched = e.touched[:0]
	return out
}

func (e *Engine) failures() []Failure {
	var roots []*node
	for _, n := range e.failing {
		if n.failed != nil && n.watches > 0 {
			roots = append(roots, n)
		}
	}
	slices.SortFunc(roots, func(a, b *node) int { return cmp.Compare(a.order, b.order) })
	var out []Failure
	for _, n := range roots {
		out = append(out, Failure{n.ref(), cycleBelow(n)})
	}
	return out
}
