package derive

import (
	"fmt"
	"slices"
)

// Ctx is one evaluation's window on the world: what a function reads, it reads by handing its Ctx to a handle's Get, which
// records the read. A Ctx belongs to the goroutine of its evaluation and dies with it.
type Ctx struct {
	worker  *worker
	node    *node   // nil once the evaluation has ended
	keep    int     // reads so far that repeat node.deps
	extra   []*node // reads after those
	recent  [8]*node
	reads   int // so far, repeated ones included
	aborted bool
	blame   *node // why aborted: the read that failed, or nil if the slice ran out
}

// aborted unwinds a function whose evaluation cannot go on. Reads return values, not errors, so that functions stay
// formulas; the panic never leaves this package.
type aborted struct{}

func (c *Ctx) abort(blame *node) {
	c.aborted, c.blame = true, blame
	panic(aborted{})
}

// need brings n up to date and records that it was read.
func (c *Ctx) need(n *node) {
	switch c.worker.bring(n) {
	case current:
		c.record(n)
	case failed:
		c.abort(n)
	case suspended:
		c.abort(nil)
	}
}

// record appends n to the sequence of reads. As long as the sequence repeats the one of the evaluation before, it is kept
// as a count, and the edges that exist already need no work.
//
// A node read again within the last few reads is recorded once. Exact sets would cost a map for each evaluation; this
// catches what loops do (an item, the shared setting, an item, the shared setting), and a repetition that it misses costs
// one more edge and nothing else.
func (c *Ctx) record(n *node) {
	if c.expected() == n {
		c.keep++
	} else if !slices.Contains(c.recent[:], n) {
		c.extra = append(c.extra, n)
	}
	c.recent[c.reads%len(c.recent)] = n
	c.reads++
}

// expected returns the node that comes next if this evaluation reads what the one before read.
func (c *Ctx) expected() *node {
	if len(c.extra) == 0 && c.keep < len(c.node.deps) {
		return c.node.deps[c.keep].node
	}
	return nil
}

// readCell records a read of f's cell under k and returns the world to read it in.
func readCell[K comparable](c *Ctx, f *family, k K) any {
	n := lookup(c, f, k, func(k K) *node { return &node{fam: f, key: k} })
	c.record(n)
	return c.worker.engine.world
}

// lookup finds or makes the node of (f, k). The expected node, if it is the one, saves hashing the key.
func lookup[K comparable](c *Ctx, f *family, k K, birth func(K) *node) *node {
	if c.node == nil {
		panic(fmt.Sprintf("derive: %s(%v) read through the Ctx of an evaluation that has ended", f.name, k))
	}
	if c.aborted { // the function recovered from an abort and reads on
		panic(aborted{})
	}
	if n := c.expected(); n != nil && n.fam == f && n.key.(K) == k {
		return n
	}
	w := c.worker
	t, ok := w.tables[f].(*table[K])
	if !ok {
		t = tableOf[K](w.engine, f)
		w.tables[f] = t
	}
	n, born := t.getOrMake(k, birth)
	if born {
		w.born = append(w.born, n)
	}
	return n
}
