package plane

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/control/store"
)

// TestReadsGoOnWhileTheStoreIsAway stops the store's process: what is known of it is read, as of a revision and said
// to be so; a write fails, and once the store goes on its own word counts again.
func TestReadsGoOnWhileTheStoreIsAway(t *testing.T) {
	p := stored(t)
	p.write(t, "kept")
	within(t, "known", func() bool { return p.holds("kept") })
	pid, err := os.ReadFile(p.cfg.path("store.pid"))
	if err != nil {
		t.Fatal(err)
	}
	process, err := strconv.Atoi(strings.TrimSpace(string(pid)))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(process, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	resume := func() { _ = syscall.Kill(process, syscall.SIGCONT) } // it may have ended
	defer resume()

	key := store.Key{Kind: "AccessPolicy.isthmus.dev", Namespace: "shop", Name: "kept"}
	objects := p.Objects()
	within(t, "stopped", func() bool { // all of its threads, which takes an instant
		_, err := objects.Get(t.Context(), key)
		return err != nil
	})
	for range 2 {
		o, err := objects.Get(t.Context(), key)
		stale := (*store.StaleError)(nil)
		if !errors.As(err, &stale) || !errors.Is(err, store.ErrUnavailable) || o.Key != key || len(o.Value) == 0 {
			t.Fatalf("get: %v, %v: want what is known, and that it is old", o, err)
		}
		if stale.Revision < o.Revision || stale.Heard.IsZero() {
			t.Errorf("as of revision %d, heard %v, of an object of revision %d", stale.Revision, stale.Heard, o.Revision)
		}
	}
	all, at, err := objects.List(t.Context(), store.Scope{Kind: key.Kind, Namespace: "shop"})
	if stale := (*store.StaleError)(nil); !errors.As(err, &stale) || len(all) != 1 || all[0].Key != key || at != stale.Revision {
		t.Errorf("list: %v at %d, %v", all, at, err)
	}
	_, err = objects.Get(t.Context(), store.Key{Kind: key.Kind, Namespace: "shop", Name: "none"})
	if stale := (*store.StaleError)(nil); !errors.Is(err, store.ErrNotFound) || !errors.As(err, &stale) {
		t.Errorf("get of what is not known: %v, want not found, as of then", err)
	}
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	if _, err := objects.Put(ctx, store.Object{Key: key, Value: []byte("{}")}, store.Any()); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("put: %v, want %v", err, store.ErrUnavailable)
	}

	resume()
	within(t, "fresh again", func() bool {
		_, err := objects.Get(t.Context(), key)
		return err == nil
	})
}

// TestNothingIsReadOfAStoreThatWasNeverHeard keeps an empty mirror from being taken for an empty store.
func TestNothingIsReadOfAStoreThatWasNeverHeard(t *testing.T) {
	st, err := store.Open(store.Config{Endpoints: []string{"unix://" + t.TempDir() + "/none"}, RequestTimeout: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	p := &Plane{store: st}
	if all, _, err := p.Objects().List(t.Context(), store.Scope{}); err == nil || len(all) > 0 {
		t.Errorf("list: %v, %v", all, err)
	} else if stale := (*store.StaleError)(nil); errors.As(err, &stale) {
		t.Errorf("%v: want that the store is away, and no answer", err)
	}
}
