package secret_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/control/filestore"
	"github.com/isthmus-mesh/isthmus/control/secret"
	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/trust"
)

const canary = "CANARY-of-a-private-key"

// below is a store, and what stands before it.
func below(t *testing.T, key trust.SealKey) (*filestore.Store, *secret.Sealed) {
	t.Helper()
	inner, err := filestore.Open(filestore.Config{Path: filepath.Join(t.TempDir(), "objects"), Key: trust.NewSealKey()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { inner.Close() })
	return inner, secret.Seal(inner, secret.Config{Key: key, Clock: clock.Real{}, Log: slog.New(slog.DiscardHandler)})
}

func named(name string) store.Key { return store.Key{Kind: secret.Kind, Namespace: "shop", Name: name} }

var value = []byte(`{"object":{"data":{"k":"` + canary + `"}}}`)

// TestTheStoreHoldsNoSecret writes by every way there is, and reads what lies below and what comes back. The control is an object
// of another kind, which lies there as it was written.
func TestTheStoreHoldsNoSecret(t *testing.T) {
	inner, s := below(t, trust.NewSealKey())
	ctx := t.Context()
	config := store.Key{Kind: "ConfigMap", Namespace: "shop", Name: "put"}
	at, err := s.Put(ctx, store.Object{Key: named("put"), Value: value}, store.MustNotExist())
	if err == nil {
		_, err = s.Put(ctx, store.Object{Key: named("put"), Value: value}, store.AtRevision(at))
	}
	if err == nil {
		_, err = s.Batch(ctx, []store.Op{{Object: store.Object{Key: named("batch"), Value: value}}, {Object: store.Object{Key: config, Value: value}}})
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []store.Key{named("put"), named("batch"), config} {
		low, err := inner.Get(ctx, k)
		high, err2 := s.Get(ctx, k)
		if err != nil || err2 != nil || string(high.Value) != string(value) || high.Revision != low.Revision {
			t.Errorf("%s: %v %v: %q, want what was written", k, err, err2, high.Value)
		}
		if lies := strings.Contains(string(low.Value), canary); lies != (k == config) {
			t.Errorf("%s: the store holds it in the clear: %v", k, lies)
		}
	}
	all, _, err := s.List(ctx, store.Scope{})
	if err != nil || len(all) != 3 {
		t.Fatal(all, err)
	}
	for _, o := range all {
		if string(o.Value) != string(value) {
			t.Errorf("listed %s: %q", o.Key, o.Value)
		}
	}
	enough := errors.New("enough")
	err = s.Watch(ctx, store.Position{}, func(_ context.Context, e store.Events) error {
		for _, o := range e.Puts {
			if string(o.Value) != string(value) {
				t.Errorf("watched %s: %q", o.Key, o.Value)
			}
		}
		return enough
	})
	if !errors.Is(err, enough) {
		t.Error(err)
	}
}

// TestASealedSecretOpensInItsPlaceAlone moves a value to another name, changes it, and reads it by another key: none of them comes
// open. The control is the value where it belongs.
func TestASealedSecretOpensInItsPlaceAlone(t *testing.T) {
	inner, s := below(t, trust.NewSealKey())
	ctx := t.Context()
	if _, err := s.Put(ctx, store.Object{Key: named("a"), Value: value}, store.Any()); err != nil {
		t.Fatal(err)
	}
	a, err := inner.Get(ctx, named("a"))
	if err != nil {
		t.Fatal(err)
	}
	torn := append([]byte(nil), a.Value...)
	torn[len(torn)-1] ^= 1
	for name, v := range map[string][]byte{"b": a.Value, "torn": torn} {
		if _, err := inner.Put(ctx, store.Object{Key: named(name), Value: v}, store.Any()); err != nil {
			t.Fatal(err)
		}
	}
	stranger := secret.Seal(inner, secret.Config{Key: trust.NewSealKey(), Clock: clock.Real{}, Log: slog.New(slog.DiscardHandler)})
	for _, c := range []struct {
		by    *secret.Sealed
		name  string
		opens bool
	}{{s, "a", true}, {s, "b", false}, {s, "torn", false}, {stranger, "a", false}} {
		o, err := c.by.Get(ctx, named(c.name))
		if err != nil || strings.Contains(string(o.Value), canary) != c.opens {
			t.Errorf("%s: %v, open %v, want %v", c.name, err, !c.opens, c.opens)
		}
	}
	// What was sealed is not sealed again: a relay's files become a store's objects as they are.
	if _, err := s.Put(ctx, store.Object{Key: named("a"), Value: a.Value}, store.Any()); err != nil {
		t.Fatal(err)
	}
	if o, err := s.Get(ctx, named("a")); err != nil || string(o.Value) != string(value) {
		t.Errorf("%q %v", o.Value, err)
	}
}

// TestWhatLiesInTheClearIsSealed is a Secret of a version that did not seal.
func TestWhatLiesInTheClearIsSealed(t *testing.T) {
	inner, s := below(t, trust.NewSealKey())
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	if _, err := inner.Put(ctx, store.Object{Key: named("old"), Value: value}, store.Any()); err != nil {
		t.Fatal(err)
	}
	refused := errors.New("not ours")
	if err := s.Watch(ctx, store.Position{}, func(context.Context, store.Events) error { return refused }); !errors.Is(err, refused) {
		t.Fatal(err)
	}
	if o, _ := inner.Get(ctx, named("old")); string(o.Value) != string(value) {
		t.Error("a store was written to that its reader refused")
	}
	steps := 0
	_ = s.Watch(ctx, store.Position{}, func(_ context.Context, e store.Events) error {
		for _, o := range e.Puts {
			if string(o.Value) != string(value) {
				t.Errorf("delivered %q", o.Value)
			}
		}
		if steps++; steps == 2 { // the sealed one comes as another step
			stop()
		}
		return nil
	})
	if o, err := inner.Get(t.Context(), named("old")); err != nil || strings.Contains(string(o.Value), canary) {
		t.Errorf("it lies there still: %v", err)
	}
}
