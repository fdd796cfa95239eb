package derive

import (
	"iter"
	"slices"
	"strings"
)

// Reads returns what the node read in its last evaluation, in the order of first reading, each once: its provenance.
// It is nil if there is no such node. The read at which a failed evaluation stopped is not among them.
func (e *Engine) Reads(of Ref) []Ref {
	n := e.lookup(of)
	if n == nil {
		return nil
	}
	return refs(n.deps)
}

// Readers returns the nodes that read the cell or node: whom a change of it concerns directly. The order is not
// specified. It is nil if nothing alive read it.
func (e *Engine) Readers(of Ref) []Ref {
	n := e.lookup(of)
	if n == nil {
		return nil
	}
	return refs(n.readers)
}

// Nodes yields every derived node that is alive, in no particular order: for tests that state a law over all of them. The
// engine must not be used to settle, commit or watch meanwhile.
func (e *Engine) Nodes() iter.Seq[Ref] {
	return func(yield func(Ref) bool) {
		for _, t := range e.tables {
			more := t.each(func(n *node) bool { return n.memo == nil || yield(n.ref()) })
			if !more {
				return
			}
		}
	}
}

func (e *Engine) lookup(ref Ref) *node {
	t := e.names[ref.Name]
	if t == nil {
		return nil
	}
	n, _ := t.find(ref.Key)
	return n
}

func refs(edges []edge) []Ref {
	out := make([]Ref, 0, len(edges))
	seen := make(map[*node]bool, len(edges))
	for _, x := range edges {
		if !seen[x.node] {
			seen[x.node] = true
			out = append(out, x.node.ref())
		}
	}
	return out
}

// CycleError says that a value depends on itself. Functions declared in package variables cannot form a circle, but data
// can send them round (a route that delegates to a route that delegates back), and data comes from users, so this is
// an error and not a panic.
type CycleError struct {
	// Path is the cycle, each node reading the next and the last the first. It begins with the name that sorts first,
	// whoever found it.
	Path []Ref
}

// Error names the cycle.
func (c *CycleError) Error() string {
	var b strings.Builder
	b.WriteString("derived value depends on itself: ")
	for _, r := range c.Path {
		b.WriteString(r.String())
		b.WriteString(" → ")
	}
	b.WriteString(c.Path[0].String())
	return b.String()
}

// cycleBelow follows each failed node's failing read until a node comes again. Which read fails a node is the same for
// any schedule, so the cycle is too.
func cycleBelow(n *node) *CycleError {
	place := make(map[*node]int)
	var walk []*node
	for {
		if from, seen := place[n]; seen {
			walk = walk[from:]
			break
		}
		place[n] = len(walk)
		walk = append(walk, n)
		n = n.failed
	}
	path := make([]Ref, len(walk))
	first := 0
	for i, n := range walk {
		path[i] = n.ref()
		if path[i].String() < path[first].String() {
			first = i
		}
	}
	return &CycleError{Path: slices.Concat(path[first:], path[:first])}
}
