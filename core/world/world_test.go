package world

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/isthmus-mesh/isthmus/core/derive"
	"github.com/isthmus-mesh/isthmus/mesh"
	"pgregory.net/rapid"
)

func workload(name string, labels map[string]string, digest byte) *mesh.Fact {
	return &mesh.Fact{Key: mesh.Key{Kind: mesh.KindWorkload, Origin: "eu", Namespace: "shop", Name: name},
		Value: &mesh.Workload{Namespace: "shop", Name: name, Labels: labels}, Digest: [16]byte{digest}}
}

// drawEdits draws puts and removals over few names, so that they meet.
func drawEdits(t *rapid.T) []Edit {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Edit {
		name := fmt.Sprintf("w%d", rapid.IntRange(0, 5).Draw(t, "name"))
		f := workload(name, map[string]string{"app": rapid.SampledFrom([]string{"a", "b"}).Draw(t, "app")}, rapid.ByteRange(0, 3).Draw(t, "digest"))
		f.Digest[1] = f.Value.(*mesh.Workload).Labels["app"][0]
		if rapid.Bool().Draw(t, "remove") {
			return Remove(f.Key)
		}
		return Put(f)
	}), 0, 12).Draw(t, "edits")
}

// TestEditNamesExactlyTheCellsThatDiffer compares each cell before and after with a
// scratch world, and an old world with what it was.
func TestEditNamesExactlyTheCellsThatDiffer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, _ := New("eu").Edit(drawEdits(t))
		kept := snapshot(w)
		edits := drawEdits(t)
		next, changed := w.Edit(edits)
		if diff := cmp.Diff(kept, snapshot(w)); diff != "" {
			t.Fatalf("an edit changed the world it started from:\n%s", diff)
		}
		scratch := New("eu")
		for f := range next.All() {
			scratch, _ = scratch.Edit([]Edit{Put(f)})
		}
		if diff := cmp.Diff(snapshot(scratch), snapshot(next)); diff != "" {
			t.Fatalf("incremental differs from scratch:\n%s", diff)
		}
		after := snapshot(next)
		for cell := range union(kept, after) {
			if kept[cell] != after[cell] && !slices.ContainsFunc(changed, func(r derive.Ref) bool { return r.String() == cell }) {
				t.Fatalf("%s differs and was not named in %v", cell, changed)
			}
		}
	})
}

// snapshot prints every cell of a world.
func snapshot(w *World) map[string]string {
	out := map[string]string{}
	for f := range w.All() {
		out[Facts.Ref(f.Key).String()] = fmt.Sprint(f.Digest)
	}
	for b, keys := range w.indexes.all() {
		out[Index.Ref(b).String()] = fmt.Sprint(keys)
	}
	return out
}

func union(a, b map[string]string) map[string]bool {
	out := map[string]bool{}
	for k := range a {
		out[k] = true
	}
	for k := range b {
		out[k] = true
	}
	return out
}

func TestEqualContentChangesNoCell(t *testing.T) {
	f := workload("w", map[string]string{"app": "a"}, 1)
	w, _ := New("eu").Edit([]Edit{Put(f)})
	again := *f
	again.Position.Revision = 9
	next, changed := w.Edit([]Edit{Put(&again)})
	if len(changed) != 0 {
		t.Errorf("changed cells %v, want none", changed)
	}
	if got, _ := next.Get(f.Key); got.Position.Revision != 9 {
		t.Errorf("position %v, want the new one", got.Position)
	}
}

func TestTableHoldsMany(t *testing.T) {
	var tab table[int, int]
	for i := range 10_000 {
		tab = tab.set(i, i)
	}
	old := tab
	for i := range 5_000 {
		tab = tab.del(i)
	}
	if tab.size != 5_000 || old.size != 10_000 {
		t.Fatalf("sizes %d and %d, want 5000 and 10000", tab.size, old.size)
	}
	for i := range 10_000 {
		_, inOld := old.get(i)
		_, inNew := tab.get(i)
		if !inOld || inNew != (i >= 5_000) {
			t.Fatalf("entry %d: old %v new %v", i, inOld, inNew)
		}
	}
}

func BenchmarkEdit(b *testing.B) {
	w := New("eu")
	var edits []Edit
	for i := range 100_000 {
		edits = append(edits, Put(workload(fmt.Sprintf("w%d", i), map[string]string{"app": fmt.Sprint(i / 5)}, 0)))
	}
	w, _ = w.Edit(edits)
	one := []Edit{Put(workload("w7", map[string]string{"app": "1"}, 1))}
	b.ReportAllocs()
	for b.Loop() {
		w.Edit(one)
	}
}
