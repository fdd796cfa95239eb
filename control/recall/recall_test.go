package recall

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/codec/manifest"
	"github.com/isthmus-mesh/isthmus/control/object"
	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
)

func at(ms int64) mesh.Stamp { return mesh.Stamp{WallMillis: ms, Origin: "eu"} }

func named(name string) replica.Name {
	return replica.Name{Kind: mesh.KindAccessPolicy, Namespace: "shop", Name: name}
}

// there is a stored policy of a time; the revision is that of the time.
func there(t *testing.T, name string, ms int64) store.Object {
	t.Helper()
	r := manifest.Parse("test", fmt.Appendf(nil, `{"apiVersion":"isthmus.dev/v1alpha1","kind":"AccessPolicy","metadata":{"name":%q,"namespace":"shop"},
		"spec":{"targetRefs":[{"group":"","kind":"Service","name":"web"}],"action":"Deny","rules":[{"from":[{"namespaces":["ops"]}]}]}}`, name), manifest.Options{})
	value, err := object.Encode(r.Objects[0], object.Meta{UID: "u", Generation: 1, Stamp: at(ms)})
	if err != nil {
		t.Fatal(err)
	}
	return store.Object{Key: object.Key(r.Objects[0]), Value: value, Revision: ms}
}

// gone is a stored statement of deletion.
func gone(t *testing.T, name string, ms int64) store.Object {
	t.Helper()
	o, ok := Statement(named(name), at(ms))
	if !ok {
		t.Fatal("no statement")
	}
	o.Revision = ms
	return o
}

func TestTheLaterWordCounts(t *testing.T) {
	service := store.Object{Key: store.Key{Kind: "Service", Namespace: "shop", Name: "a"}, Value: []byte("{}"), Revision: 1}
	broken := there(t, "a", 1)
	broken.Value = []byte("?")
	one := func(o ...store.Object) []store.Object { return o }
	for _, c := range []struct {
		name              string
		remembered, state []store.Object
		want              string // of each write: + is put, - is deleted, with the revision that must be there
	}{
		{"a policy that is not known", one(there(t, "a", 5)), nil, "+AccessPolicy.isthmus.dev"},
		{"one that is known as it is", one(there(t, "a", 5)), one(there(t, "a", 5)), ""},
		{"an older version is known", one(there(t, "a", 5)), one(there(t, "a", 4)), "+AccessPolicy.isthmus.dev"},
		{"a later version is known", one(there(t, "a", 5)), one(there(t, "a", 6)), ""},
		{"deleted since", one(there(t, "a", 5)), one(gone(t, "a", 6)), ""},
		{"deleted before it was made again", one(gone(t, "a", 4), there(t, "a", 5)), one(gone(t, "a", 4)), "+AccessPolicy.isthmus.dev"},
		{"a deletion that is not known", one(gone(t, "a", 5)), one(there(t, "a", 4)), "+Gone-AccessPolicy.isthmus.dev -AccessPolicy.isthmus.dev"},
		{"a deletion of what is not there", one(gone(t, "a", 5)), nil, "+Gone-AccessPolicy.isthmus.dev"},
		{"a deletion, and it was made again since", one(gone(t, "a", 5)), one(there(t, "a", 6)), ""},
		{"what cannot be read is brought back as it was", one(broken), nil, "+AccessPolicy.isthmus.dev"},
		{"what cannot be read is older than anything", one(broken), one(there(t, "a", 1)), ""},
		{"what is no policy is the store's affair", one(service), nil, ""},
		{"what nobody remembers stays", nil, one(there(t, "a", 5)), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := ""
			groups, names := Lost(c.remembered, c.state)
			for _, g := range groups {
				for _, op := range g {
					sign := " +"
					if op.Delete {
						sign = " -"
					}
					got += sign + op.Object.Kind
				}
			}
			if got != "" {
				got = got[1:]
			}
			if got != c.want || len(groups) != len(names) {
				t.Errorf("writes %q of %v, want %q", got, names, c.want)
			}
			f := fake(c.state...)
			for _, g := range groups {
				if _, err := f.Batch(t.Context(), g); err != nil {
					t.Error(err)
				}
			}
			if again, _ := Lost(c.remembered, f.all()); len(again) > 0 {
				t.Errorf("after the writes there are more: %v", again)
			}
		})
	}
}

// memory is a store in memory.
type memory struct {
	objects  map[store.Key]store.Object
	revision int64
	batches  []int
	// before is called before each batch, and may write or fail.
	before func(n int) error
}

func fake(all ...store.Object) *memory {
	m := &memory{objects: map[store.Key]store.Object{}, revision: 1000, before: func(int) error { return nil }}
	for _, o := range all {
		m.objects[o.Key] = o
	}
	return m
}

func (m *memory) all() []store.Object { return slices.Collect(maps.Values(m.objects)) }

func (m *memory) List(context.Context, store.Scope) ([]store.Object, int64, error) {
	return m.all(), m.revision, nil
}

func (m *memory) Now(context.Context) (store.Position, error) {
	return store.Position{Epoch: "now", Revision: m.revision}, nil
}

func (m *memory) Batch(_ context.Context, ops []store.Op) (int64, error) {
	m.batches = append(m.batches, len(ops))
	if err := m.before(len(m.batches)); err != nil {
		return 0, err
	}
	if err := store.CheckOps("batch", ops); err != nil {
		return 0, err
	}
	for _, op := range ops {
		if err := op.Refusal("batch", m.objects[op.Object.Key].Revision); err != nil {
			return 0, err
		}
	}
	m.revision++
	for _, op := range ops {
		if op.Delete {
			delete(m.objects, op.Object.Key)
			continue
		}
		o := op.Object
		o.Revision = m.revision
		m.objects[o.Key] = o
	}
	return m.revision, nil
}

func (m *memory) recall() *Recall {
	return &Recall{Objects: m, Clock: clock.Real{}, Log: slog.New(slog.DiscardHandler), Along: func(state []store.Object) (store.Op, bool) {
		_, pre, _ := LineageOf(state)
		_, done := m.objects[LineageKey]
		return store.Op{Object: store.Object{Key: LineageKey, Value: []byte("[]")}, Pre: pre}, !done
	}}
}

// TestADeletionDuringTheRecallStays: somebody deletes a policy between the look and the write.
func TestADeletionDuringTheRecallStays(t *testing.T) {
	m := fake(there(t, "a", 1))
	m.before = func(n int) error {
		if n == 1 {
			delete(m.objects, there(t, "a", 1).Key)
			g := gone(t, "a", 9)
			m.objects[g.Key] = g
		}
		return nil
	}
	state, _, names, err := m.recall().Insist(t.Context(), []store.Object{there(t, "a", 5)})
	if err != nil || len(names) != 0 {
		t.Errorf("written back: %v, %v", names, err)
	}
	if read(state)[named("a")].policy != 0 {
		t.Error("the policy that was deleted is back")
	}
}

// TestRecallInsists: a store that is away is asked again, until it ends; what is written along comes last.
func TestRecallInsists(t *testing.T) {
	m := fake()
	away := errors.New("away")
	m.before = func(n int) error {
		if n < 3 {
			return away
		}
		if _, early := m.objects[LineageKey]; early {
			t.Error("the lineage came before the policies")
		}
		return nil
	}
	var remembered []store.Object
	for i := range 250 {
		remembered = append(remembered, there(t, fmt.Sprint("p", i), 5), gone(t, fmt.Sprint("g", i), 5))
	}
	state, at, names, err := m.recall().Insist(t.Context(), remembered)
	if err != nil || len(names) != 500 || len(state) != 501 || at.Epoch != "now" || at.Revision != m.revision {
		t.Errorf("%d names, %d objects at %v, %v", len(names), len(state), at, err)
	}
	if _, ok := m.objects[LineageKey]; !ok || slices.Max(m.batches) > batchMax {
		t.Errorf("batches %v, lineage written: %v", m.batches, ok)
	}
	ctx, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	m.before = func(int) error { return away }
	if _, _, _, err := m.recall().Insist(ctx, []store.Object{there(t, "more", 5)}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want that of the context", err)
	}
}

func TestWhatIsWrittenOfLineagesIsRead(t *testing.T) {
	l := replica.Lineage{{StartMillis: 2, ID: "b"}: 7, {StartMillis: 1, ID: "a"}: 9}
	b, err := EncodeLineage(l)
	if err != nil {
		t.Fatal(err)
	}
	got, pre, err := LineageOf([]store.Object{{Key: LineageKey, Value: b, Revision: 4}})
	if err != nil || !maps.Equal(got, l) || pre != store.AtRevision(4) {
		t.Errorf("%v %v %v", got, pre, err)
	}
	if _, _, err := LineageOf([]store.Object{{Key: LineageKey, Value: []byte("?"), Revision: 4}}); err == nil {
		t.Error("what cannot be read is read")
	}
	if _, pre, err := LineageOf(nil); err != nil || pre != store.MustNotExist() {
		t.Errorf("%v %v", pre, err)
	}
}
