package derive

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
)

// Engine remembers the values of functions over one world after another. Its methods, and those of handles that take an
// Engine, are for one goroutine: the single writer's. The workers of a settle live only as long as the call.
type Engine struct {
	world    any
	revision uint64

	tablesMu sync.RWMutex // workers meet new families during a wave
	tables   map[*family]anyTable
	names    map[string]anyTable

	pending levels
	level   int     // the wave being run: every clean node of at most this height is current
	failing []*node // whose last evaluation failed; tried again in each revision
	touched []*node // roots that may have something to report
	orphans []*node // may have lost their last reader
	roots   uint64  // so far, gives a root its place in reports
	stats   Stats
	running bool

	workers []*worker
	mu      sync.Mutex // guards node.owner, worker.waiting, sleeping, yield's calls
	wake    sync.Cond  // an owner let go of a node
	sleeper int        // workers waiting on wake
	yield   func() bool
	stop    atomic.Bool // this slice starts no further evaluation
}

// Stats counts work since New, and what is alive now. All but Suspended are the same for any number of workers.
type Stats struct {
	Evaluated int // evaluations that came to an end
	CutOff    int // of these, the ones whose value equalled the older one: the wave stopped there
	Dirtied   int // times a clean node was marked dirty
	Suspended int // evaluations that a slice's end broke off, to be begun again

	Nodes int // derived nodes alive
	Cells int // input cells somebody read, alive
	Edges int // recorded reads
}

// New returns an engine over its first world.
func New(world any) *Engine {
	e := &Engine{
		world: world, revision: 1,
		tables: make(map[*family]anyTable), names: make(map[string]anyTable),
	}
	e.wake.L = &e.mu
	return e
}

// Commit makes world the current revision and marks dirty what directly read a changed cell. changed names every cell
// whose reading differs from the revision before: a fact that appeared, changed or went, a bucket whose members changed,
// an aggregate whose figure did. Naming too many costs evaluations, naming too few makes wrong answers. Cells nobody read
// cost nothing. Commit may come between slices; the settle then goes on in the new revision.
func (e *Engine) Commit(world any, changed ...Ref) {
	e.mustBeIdle("Commit")
	e.world = world
	e.revision++
	for _, ref := range changed {
		if ref.Kind == KindFunc {
			panic(fmt.Sprintf("derive: Commit names %v, which is derived", ref))
		}
		t := e.names[ref.Name]
		if t == nil {
			continue
		}
		n, typed := t.find(ref.Key)
		if !typed {
			panic(fmt.Sprintf("derive: Commit names %v with a key of type %T, which is not the handle's", ref, ref.Key))
		}
		if n == nil {
			continue
		}
		for _, r := range n.readers {
			e.mark(r.node)
		}
	}
	// The reads that failed these were not kept as edges (see rewire).
	for _, n := range e.failing {
		if n.failed != nil && !n.dead {
			e.mark(n)
		}
	}
	e.failing = e.failing[:0]
}

// Stats returns the counters.
func (e *Engine) Stats() Stats { return e.stats }

func (e *Engine) mustBeIdle(what string) {
	if e.running {
		panic("derive: " + what + " called by a derived function")
	}
}

func (e *Engine) mark(n *node) {
	if !n.dirty {
		n.dirty = true
		e.stats.Dirtied++
	}
	e.queue(n, n.height)
}

// queue makes n due at height, or earlier if it is due earlier. A dirty node that has readers must not wait above its own
// height, where it would be overtaken by them; a later entry that n has left behind in the queue is void.
func (e *Engine) queue(n *node, height int) {
	if n.due == 0 || height < n.due {
		n.due = height
		e.pending.push(height, n)
	}
}

func (e *Engine) watch(n *node) {
	n.watches++
	if n.watches > 1 {
		return
	}
	e.roots++
	n.order, n.fresh = e.roots, true
	e.touch(n)
	if n.dirty {
		// Last of all, so that what it reads is current by then and needs no checking.
		e.queue(n, top)
	}
}

func (e *Engine) unwatch(n *node) {
	n.watches--
	if n.watches > 0 {
		return
	}
	n.memo.forget()
	if !n.wanted() {
		e.orphan(n)
	}
}

func (e *Engine) touch(n *node) {
	if !n.touched {
		n.touched = true
		e.touched = append(e.touched, n)
	}
}

func (e *Engine) orphan(n *node) { e.orphans = append(e.orphans, n) }

// sweep frees what nothing wants and all that only it wanted; false if the slice ran out first.
func (e *Engine) sweep() bool {
	const stride = 64 // nodes freed between two questions whether to yield
	for freed := 0; len(e.orphans) > 0; {
		n := e.orphans[len(e.orphans)-1]
		e.orphans[len(e.orphans)-1] = nil
		e.orphans = e.orphans[:len(e.orphans)-1]
		if n.dead || n.wanted() {
			continue
		}
		n.dead = true
		e.stats.Edges -= len(n.deps)
		n.unlink(0, e.orphan)
		e.tables[n.fam].remove(n.key)
		if n.memo != nil {
			e.stats.Nodes--
		} else {
			e.stats.Cells--
		}
		if freed++; freed%stride == 0 && e.yield != nil && e.yield() {
			return false
		}
	}
	return true
}

// levels is a queue of nodes by height, lowest first.
type levels struct {
	heights []int // of the buckets, descending
	buckets map[int][]*node
}

func (l *levels) push(height int, n *node) {
	b, ok := l.buckets[height]
	if !ok {
		if l.buckets == nil {
			l.buckets = make(map[int][]*node)
		}
		i, _ := slices.BinarySearchFunc(l.heights, height, func(a, b int) int { return b - a })
		l.heights = slices.Insert(l.heights, i, height)
	}
	l.buckets[height] = append(b, n)
}

func (l *levels) empty() bool { return len(l.heights) == 0 }

// pop takes out the lowest bucket.
func (l *levels) pop() (int, []*node) {
	height := l.heights[len(l.heights)-1]
	l.heights = l.heights[:len(l.heights)-1]
	b := l.buckets[height]
	delete(l.buckets, height)
	return height, b
}
