package derive

import (
	"fmt"
	"sync"
	"sync/atomic"
)

// node is an input cell (memo is nil) or a derived value. During a wave many workers look at nodes; who may write what:
//
//   - between waves, the engine's goroutine writes everything;
//   - during a wave, the worker that owns a node writes the fields under "written by the owner" and its memo's value, and
//     publishes them by storing verified; everyone else reads them only after seeing verified;
//   - owner is guarded by Engine.mu.
type node struct {
	fam  *family
	key  any
	memo computer

	deps    []edge // what the last evaluation read, in order
	readers []edge
	height  int // greater than that of every dep; 0 for cells and for nodes never evaluated
	watches int
	order   uint64 // of becoming a root
	dirty   bool   // a dep changed, or never evaluated
	due     int    // the bucket of Engine.pending in which it counts, 0 for none
	touched bool   // stands in Engine.touched
	fresh   bool   // a root whose first value was not yet reported
	dead    bool   // freed

	// written by the owner
	keep    int     // how many of deps the last evaluation read again, from the first
	extra   []*node // what it read after those
	changed uint64  // revision in which the value last changed
	failed  *node   // the read that failed the last evaluation, nil if it succeeded

	verified atomic.Uint64 // revision for which the value is known to be current
	owner    *worker
}

// edge joins a reader to what it read. slot is the index of the twin edge in the other node's list, which makes removal
// O(1) for a hub with 100,000 readers and keeps every order reproducible, as a map would not.
type edge struct {
	node *node
	slot int
}

// computer is the typed half of a derived node.
type computer interface {
	// compute evaluates the function; ok is false if the evaluation was aborted through c.
	compute(c *Ctx) (changed, ok bool)
	// report returns what became of the value since the last report, if anything did, and forgets the older one.
	report() (Change, bool)
	// forget drops what report would have said.
	forget()
}

func (n *node) ref() Ref     { return Ref{n.fam.kind, n.fam.name, n.key} }
func (n *node) wanted() bool { return n.watches > 0 || len(n.readers) > 0 }

// link records that n read dep.
func (n *node) link(dep *node) {
	n.deps = append(n.deps, edge{dep, len(dep.readers)})
	dep.readers = append(dep.readers, edge{n, len(n.deps) - 1})
}

// unlink forgets all deps from the one at index from, and calls orphan for each that nothing wants any more.
func (n *node) unlink(from int, orphan func(*node)) {
	for i := len(n.deps) - 1; i >= from; i-- {
		dep, slot := n.deps[i].node, n.deps[i].slot
		last := len(dep.readers) - 1
		moved := dep.readers[last]
		dep.readers[slot] = moved
		moved.node.deps[moved.slot].slot = slot
		dep.readers[last] = edge{}
		dep.readers = dep.readers[:last]
		if !dep.wanted() {
			orphan(dep)
		}
	}
	clear(n.deps[from:])
	n.deps = n.deps[:from]
}

// memo is the derived node of one (function, key).
type memo[K comparable, V any] struct {
	node
	fn    *Func[K, V]
	value V
	known bool // value holds one

	old    V // of a root: the value at the last report
	hadOld bool
	moved  bool // old is set
	// differs says that value was found to differ from old already: it came right after it.
	differs bool
}

func (f *Func[K, V]) node(k K) *node {
	m := &memo[K, V]{fn: f}
	m.fam, m.key, m.memo, m.dirty = &f.family, k, m, true
	return &m.node
}

func (m *memo[K, V]) compute(c *Ctx) (changed, ok bool) {
	v, ok := m.call(c)
	if !ok {
		return false, false
	}
	compared := m.known && m.failed == nil
	if compared && m.fn.equal(m.value, v) {
		return false, true
	}
	m.differs = compared && m.watches > 0 && !m.moved
	if m.watches > 0 && !m.moved {
		m.old, m.hadOld, m.moved = m.value, m.known, true
	}
	m.value, m.known = v, true
	return true, true
}

// call runs the function and catches our own abort, and nothing else: a panic of the function passes with its stack.
func (m *memo[K, V]) call(c *Ctx) (v V, ok bool) {
	defer func() {
		if !c.aborted {
			return
		}
		ok = false // even if the function recovered from the abort and returned
		if r := recover(); r != nil && r != any(aborted{}) {
			panic(r)
		}
	}()
	return m.fn.eval(c, m.key.(K)), true
}

func (m *memo[K, V]) report() (Change, bool) {
	if !m.known || (!m.fresh && !m.moved) {
		return Change{}, false
	}
	ch := Change{Root: m.ref(), New: m.value, First: m.fresh || !m.hadOld}
	unchanged := false
	if !ch.First {
		ch.Old, unchanged = m.old, !m.differs && m.fn.equal(m.old, m.value)
	}
	m.forget()
	return ch, !unchanged
}

func (m *memo[K, V]) forget() {
	var none V
	m.old, m.hadOld, m.moved, m.differs, m.fresh = none, false, false, false, false
}

// table holds the nodes of one family. The lock is for workers that look up and create nodes during a wave.
type table[K comparable] struct {
	mu    sync.RWMutex
	nodes map[K]*node
}

// anyTable is a table without its key's type.
type anyTable interface {
	// find returns nil if there is no such node; typed is false if key is not a K.
	find(key any) (n *node, typed bool)
	remove(key any)
	each(visit func(*node) bool) bool
}

func (t *table[K]) get(k K) *node {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.nodes[k]
}

func (t *table[K]) getOrMake(k K, birth func(K) *node) (n *node, born bool) {
	if n = t.get(k); n != nil {
		return n, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if n = t.nodes[k]; n != nil {
		return n, false
	}
	n = birth(k)
	t.nodes[k] = n
	return n, true
}

func (t *table[K]) find(key any) (*node, bool) {
	k, ok := key.(K)
	if !ok {
		return nil, false
	}
	return t.get(k), true
}

func (t *table[K]) remove(key any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.nodes, key.(K))
}

func (t *table[K]) each(visit func(*node) bool) bool {
	for _, n := range t.nodes {
		if !visit(n) {
			return false
		}
	}
	return true
}

// tableOf returns f's table, made at its first use in this engine.
func tableOf[K comparable](e *Engine, f *family) *table[K] {
	e.tablesMu.RLock()
	t := e.tables[f]
	e.tablesMu.RUnlock()
	if t != nil {
		return t.(*table[K])
	}
	e.tablesMu.Lock()
	defer e.tablesMu.Unlock()
	if t := e.tables[f]; t != nil {
		return t.(*table[K])
	}
	if _, taken := e.names[f.name]; taken {
		panic(fmt.Sprintf("derive: two handles are named %q", f.name))
	}
	made := &table[K]{nodes: make(map[K]*node)}
	e.tables[f], e.names[f.name] = made, made
	return made
}
