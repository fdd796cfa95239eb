package world

import (
	"iter"
	"slices"

	"github.com/isthmus-mesh/isthmus/core/derive"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// World is all facts at one revision. It is immutable and safe for concurrent use.
type World struct {
	self    mesh.ClusterName
	facts   table[mesh.Key, *mesh.Fact]
	indexes table[Bucket, []mesh.Key]
}

// New is the empty world of the cluster self.
func New(self mesh.ClusterName) *World { return &World{self: self} }

// Self is the cluster whose world this is.
func (w *World) Self() mesh.ClusterName { return w.self }

// Get looks up one fact.
func (w *World) Get(k mesh.Key) (*mesh.Fact, bool) { return w.facts.get(k) }

// Members returns the keys of an index bucket in order; the slice must not be
// changed.
func (w *World) Members(b Bucket) []mesh.Key {
	keys, _ := w.indexes.get(b)
	return keys
}

// Len is the number of facts.
func (w *World) Len() int { return w.facts.size }

// All yields every fact in no order. It is for people's questions and for tests:
// a derived function cannot reach it, because it is given a context and no World.
func (w *World) All() iter.Seq[*mesh.Fact] {
	return func(yield func(*mesh.Fact) bool) {
		for _, f := range w.facts.all() {
			if !yield(f) {
				return
			}
		}
	}
}

// Edit is one change of one fact: Fact replaces what stands under Key, or removes it
// when nil.
type Edit struct {
	Key  mesh.Key
	Fact *mesh.Fact
}

// Put is the edit that states f.
func Put(f *mesh.Fact) Edit { return Edit{f.Key, f} }

// Remove is the edit that takes the fact under k back.
func Remove(k mesh.Key) Edit { return Edit{Key: k} }

// Edit returns the world after all edits, in order, and the cells that read
// differently, in the order of their first change. A fact replaced by one of equal content
// changes no cell: only its position moves on.
func (w *World) Edit(edits []Edit) (*World, []derive.Ref) {
	next := *w
	var changed []derive.Ref
	seen := map[derive.Ref]bool{}
	note := func(r derive.Ref) {
		if !seen[r] {
			seen[r] = true
			changed = append(changed, r)
		}
	}
	for _, e := range edits {
		old, had := next.facts.get(e.Key)
		switch {
		case e.Fact == nil && !had:
			continue
		case e.Fact == nil:
			next.facts = next.facts.del(e.Key)
		default:
			next.facts = next.facts.set(e.Key, e.Fact)
			if had && old.Digest == e.Fact.Digest && old.Stamp == e.Fact.Stamp && old.Home == e.Fact.Home {
				continue
			}
		}
		note(Facts.Ref(e.Key))
		next.reindex(e.Key, old, e.Fact, note)
	}
	return &next, changed
}

// reindex moves a key between the buckets of its old and its new fact.
func (w *World) reindex(k mesh.Key, old, new *mesh.Fact, note func(derive.Ref)) {
	before, after := bucketsOf(old), bucketsOf(new)
	for _, b := range before {
		if !slices.Contains(after, b) {
			w.indexes = without(w.indexes, b, k)
			note(Index.Ref(b))
		}
	}
	for _, b := range after {
		if !slices.Contains(before, b) {
			w.indexes = with(w.indexes, b, k)
			note(Index.Ref(b))
		}
	}
}

func with(t table[Bucket, []mesh.Key], b Bucket, k mesh.Key) table[Bucket, []mesh.Key] {
	keys, _ := t.get(b)
	i, found := slices.BinarySearchFunc(keys, k, mesh.Key.Compare)
	if found {
		return t
	}
	grown := make([]mesh.Key, 0, len(keys)+1)
	grown = append(append(append(grown, keys[:i]...), k), keys[i:]...)
	return t.set(b, grown)
}

func without(t table[Bucket, []mesh.Key], b Bucket, k mesh.Key) table[Bucket, []mesh.Key] {
	keys, _ := t.get(b)
	i, found := slices.BinarySearchFunc(keys, k, mesh.Key.Compare)
	if !found {
		return t
	}
	if len(keys) == 1 {
		return t.del(b)
	}
	return t.set(b, append(append(make([]mesh.Key, 0, len(keys)-1), keys[:i]...), keys[i+1:]...))
}
