package derive

import "fmt"

// Kind says what a Ref names.
type Kind uint8

// The three kinds of input cell, and the derived node.
const (
	KindFact Kind = iota + 1
	KindBucket
	KindAggregate
	KindFunc
)

// String returns the kind's word in lower case.
func (k Kind) String() string {
	switch k {
	case KindFact:
		return "fact"
	case KindBucket:
		return "bucket"
	case KindAggregate:
		return "aggregate"
	case KindFunc:
		return "func"
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// Ref names one input cell or one derived node. It is comparable, so it can key a map, and prints stably as "name(key)":
// the key in the form of its String method if it has one.
type Ref struct {
	Kind Kind
	// Name is the handle's name; an engine refuses two handles of one name.
	Name string
	// Key is the K that was read. It is never nil.
	Key any
}

// String returns the printable name, such as "endpoints(shop/cart)".
func (r Ref) String() string { return fmt.Sprintf("%s(%v)", r.Name, r.Key) }

// family is what all cells or nodes of one handle share; its address is the handle's identity.
type family struct {
	kind Kind
	name string
}

// Fact is a handle on a keyed part of the world: at most one V for each K. Handles are immutable and belong to no engine;
// declare them as package variables of the world's package.
type Fact[K comparable, V any] struct {
	family
	read func(world any, k K) (V, bool)
}

// NewFact declares a keyed fact. read looks k up in one revision of the world and must be pure and safe for concurrent use.
// W must be the type of the worlds given to Engine.Commit.
func NewFact[W any, K comparable, V any](name string, read func(W, K) (V, bool)) *Fact[K, V] {
	return &Fact[K, V]{
		family: family{KindFact, name},
		read:   func(world any, k K) (V, bool) { return read(world.(W), k) },
	}
}

// Get returns the fact under k, and whether there is one. Absence is recorded as a read like any other: a fact that appears
// later reaches whoever looked for it in vain.
func (f *Fact[K, V]) Get(c *Ctx, k K) (V, bool) {
	return f.read(readCell(c, &f.family, k), k)
}

// Ref names the cell of k, for Engine.Commit and for provenance.
func (f *Fact[K, V]) Ref(k K) Ref { return Ref{f.kind, f.name, k} }

// Bucket is a handle on an index of the world. V is whatever the world hands out for one bucket, usually the sorted keys of
// its members; what the members say is read through their Fact. A bucket changes when a member joins or leaves it.
type Bucket[K comparable, V any] struct {
	family
	read func(world any, k K) V
}

// NewBucket declares an index; the conditions of NewFact hold.
func NewBucket[W any, K comparable, V any](name string, read func(W, K) V) *Bucket[K, V] {
	return &Bucket[K, V]{
		family: family{KindBucket, name},
		read:   func(world any, k K) V { return read(world.(W), k) },
	}
}

// Get returns the bucket under k, empty or not, and records the read.
func (b *Bucket[K, V]) Get(c *Ctx, k K) V { return b.read(readCell(c, &b.family, k), k) }

// Ref names the cell of k, for Engine.Commit and for provenance.
func (b *Bucket[K, V]) Ref(k K) Ref { return Ref{b.kind, b.name, k} }

// Aggregate is a handle on a figure that the world keeps over many facts: a count, a sum, a digest. It is the only way to
// learn something about a whole kind, and one changes only when its figure does.
type Aggregate[K comparable, V any] struct {
	family
	read func(world any, k K) V
}

// NewAggregate declares an aggregate; the conditions of NewFact hold.
func NewAggregate[W any, K comparable, V any](name string, read func(W, K) V) *Aggregate[K, V] {
	return &Aggregate[K, V]{
		family: family{KindAggregate, name},
		read:   func(world any, k K) V { return read(world.(W), k) },
	}
}

// Get returns the aggregate under k and records the read.
func (a *Aggregate[K, V]) Get(c *Ctx, k K) V { return a.read(readCell(c, &a.family, k), k) }

// Ref names the cell of k, for Engine.Commit and for provenance.
func (a *Aggregate[K, V]) Ref(k K) Ref { return Ref{a.kind, a.name, k} }

// Func is a handle on a memoised pure function of the world. Like the inputs' handles it is immutable and belongs to no
// engine. Declared as package variables, functions that call one another in a circle do not compile (Go reports an
// initialisation cycle); what remains possible is a circle through data, see CycleError.
type Func[K comparable, V any] struct {
	family
	equal func(a, b V) bool
	eval  func(*Ctx, K) V
}

// NewFunc declares a function. eval must be pure: its answer and its reads follow from k and from what it reads through
// its Ctx, and it reads nothing else that changes. It must be total: it may be called for a k that is about to lose its
// last reader, so no guard in a reader protects it. The V it returns is shared and must not be changed afterwards.
//
// equal decides whether a recomputed value stops the wave; when it answers true the older value is kept, so that whatever
// hangs on its identity stays shared. For a comparable V pass Same.
func NewFunc[K comparable, V any](name string, equal func(a, b V) bool, eval func(*Ctx, K) V) *Func[K, V] {
	return &Func[K, V]{family: family{KindFunc, name}, equal: equal, eval: eval}
}

// Same is ==, as the equality of a comparable V.
func Same[V comparable](a, b V) bool { return a == b }

// Get returns the value for k in the revision being settled, computing it first where needed, and records the read.
func (f *Func[K, V]) Get(c *Ctx, k K) V {
	n := lookup(c, &f.family, k, f.node)
	c.need(n)
	return n.memo.(*memo[K, V]).value
}

// Ref names the node of k.
func (f *Func[K, V]) Ref(k K) Ref { return Ref{f.kind, f.name, k} }

// Watch makes f(k) a root of e: the next completed settle reports its value as a Change with First set, later ones report
// what became of it. Watches are counted, each needs its Unwatch; only the first of several is reported as First.
func (f *Func[K, V]) Watch(e *Engine, k K) {
	e.mustBeIdle("Watch")
	n, born := tableOf[K](e, &f.family).getOrMake(k, f.node)
	if born {
		e.stats.Nodes++
	}
	e.watch(n)
}

// Unwatch takes back one Watch. What no root reads any more is freed by the next settle. Unwatch of what is not watched
// panics.
func (f *Func[K, V]) Unwatch(e *Engine, k K) {
	e.mustBeIdle("Unwatch")
	n := tableOf[K](e, &f.family).get(k)
	if n == nil || n.watches == 0 {
		panic(fmt.Sprintf("derive: Unwatch of %v, which nobody watches", f.Ref(k)))
	}
	e.unwatch(n)
}

// Value returns the last value computed for f(k), and whether there is one. For a root this is, after a completed settle,
// its value in the current revision or, if it failed, its last good one. Between slices it may be newer than the last
// published one.
func (f *Func[K, V]) Value(e *Engine, k K) (V, bool) {
	if n := tableOf[K](e, &f.family).get(k); n != nil {
		m := n.memo.(*memo[K, V])
		return m.value, m.known
	}
	var none V
	return none, false
}

// Change returns ch with its types, and false if it is another function's.
func (f *Func[K, V]) Change(ch Change) (k K, before, after V, ok bool) {
	if ch.Root.Kind != KindFunc || ch.Root.Name != f.name {
		return k, before, after, false
	}
	if !ch.First {
		before = as[V](ch.Old)
	}
	return ch.Root.Key.(K), before, as[V](ch.New), true
}

// as returns what was boxed from a V. A V that is an interface type holding nil arrives as a nil any, which no assertion
// accepts; its zero value is the same nil.
func as[V any](boxed any) V {
	v, _ := boxed.(V)
	return v
}

// Eval computes f(k) over world from nothing. It is the definition that an engine's incremental answer must equal, and
// serves tests and what-if questions. The error is a *CycleError.
func Eval[K comparable, V any](world any, f *Func[K, V], k K) (V, error) {
	e := New(world)
	f.Watch(e, k)
	res := e.Settle(1)
	for _, failed := range res.Failed {
		var none V
		return none, failed.Err
	}
	v, _ := f.Value(e, k)
	return v, nil
}
