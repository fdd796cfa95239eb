package filestore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/internal/failpoint"
	"github.com/isthmus-mesh/isthmus/trust"
	"pgregory.net/rapid"
)

// open opens the objects of a test.
func open(t interface {
	Helper()
	Fatal(...any)
}, cfg Config) *Store {
	t.Helper()
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func config(dir string) Config {
	key, err := trust.ParseSealKey(make([]byte, trust.SealKeyBytes))
	if err != nil {
		panic(err)
	}
	return Config{Path: filepath.Join(dir, "objects"), Key: key}
}

func key(n int) store.Key {
	return store.Key{Kind: "Service", Namespace: "shop", Name: fmt.Sprint(n)}
}

func object(n int, value string) store.Object { return store.Object{Key: key(n), Value: []byte(value)} }

// state is all objects, and where the history is.
func state(s *Store) (map[store.Key]store.Object, store.Position) {
	out := map[store.Key]store.Object{}
	all, _, _ := s.List(context.Background(), store.Scope{})
	for _, o := range all {
		out[o.Key] = o
	}
	at, _ := s.Now(context.Background())
	return out, at
}

// TestPreconditions: as store.Store, which tests ask the same of etcd.
func TestPreconditions(t *testing.T) {
	s, ctx := open(t, config(t.TempDir())), t.Context()
	defer s.Close()
	first, err := s.Put(ctx, object(1, "1"), store.MustNotExist())
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		do   func() (int64, error)
		want error
	}{
		{"made twice", func() (int64, error) { return s.Put(ctx, object(1, "2"), store.MustNotExist()) }, store.ErrExists},
		{"of another revision", func() (int64, error) { return s.Put(ctx, object(1, "2"), store.AtRevision(first+7)) }, store.ErrConflict},
		{"of what is not there", func() (int64, error) { return s.Put(ctx, object(2, "2"), store.AtRevision(first)) }, store.ErrNotFound},
		{"deleted and not there", func() (int64, error) { return s.Delete(ctx, key(2), store.Any()) }, store.ErrNotFound},
		{"too large", func() (int64, error) {
			return s.Put(ctx, object(2, string(make([]byte, store.ValueBytesMax+1))), store.Any())
		}, store.ErrTooLarge},
		{"one of a batch", func() (int64, error) {
			return s.Batch(ctx, []store.Op{{Object: object(3, "3")}, {Object: object(1, "2"), Pre: store.MustNotExist()}})
		}, store.ErrExists},
	} {
		if _, err := tt.do(); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
	if _, at := state(s); at.Revision != first {
		t.Errorf("revision %d after refused writes, want %d", at.Revision, first)
	}
	second, err := s.Put(ctx, object(1, "2"), store.AtRevision(first))
	if err != nil || second != first+1 {
		t.Errorf("revision %d, %v; want %d", second, err, first+1)
	}
	if o, err := s.Get(ctx, key(1)); err != nil || o.Created != first || o.Revision != second || string(o.Value) != "2" {
		t.Errorf("got %+v, %v", o, err)
	}
}

// TestAFollowerHasWhatTheStoreHas: whatever is written, wherever a follower goes on from, over restarts and new whole states.
func TestAFollowerHasWhatTheStoreHas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "filestore")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		cfg := config(dir)
		cfg.LogMax = 700 // a new whole state after a few writes
		s, ctx := open(t, cfg), context.Background()
		defer func() { s.Close() }()
		copied, at := map[store.Key]store.Object{}, store.Position{}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			switch n := rapid.IntRange(0, 4).Draw(t, "key"); rapid.SampledFrom([]string{"put", "put", "delete", "follow", "restart"}).Draw(t, "step") {
			case "put":
				if _, err := s.Put(ctx, object(n, rapid.StringN(0, 200, 200).Draw(t, "value")), store.Any()); err != nil {
					t.Fatal(err)
				}
			case "delete":
				if _, err := s.Delete(ctx, key(n), store.Any()); err != nil && !errors.Is(err, store.ErrNotFound) {
					t.Fatal(err)
				}
			case "follow":
				at = follow(t, s, copied, at)
			case "restart":
				before, was := state(s)
				s.Close()
				s = open(t, cfg)
				after, is := state(s)
				if diff := cmp.Diff(before, after); diff != "" || was != is {
					t.Fatalf("%v became %v over a restart:\n%s", was, is, diff)
				}
			}
		}
		follow(t, s, copied, at)
		if have, _ := state(s); cmp.Diff(have, copied) != "" {
			t.Fatalf("the follower's copy differs:\n%s", cmp.Diff(have, copied))
		}
	})
}

// follow brings a copy up to date.
func follow(t *rapid.T, s *Store, copied map[store.Key]store.Object, at store.Position) store.Position {
	now, _ := s.Now(context.Background())
	if at == now {
		return at
	}
	heard := errors.New("heard")
	err := s.Watch(context.Background(), at, func(_ context.Context, e store.Events) error {
		if e.Resync {
			clear(copied)
		}
		for _, o := range e.Puts {
			copied[o.Key] = o
		}
		for _, d := range e.Deletes {
			delete(copied, d.Key)
		}
		at = e.Position
		return heard
	})
	if !errors.Is(err, heard) || at != now {
		t.Fatalf("followed to %v, %v; want %v", at, err, now)
	}
	return at
}

// TestNothingAcknowledgedIsLost: a process that ends at any point, or whose disk fails there, has on its disk all that it
// acknowledged. What was being written may be there or not.
func TestNothingAcknowledgedIsLost(t *testing.T) {
	for _, point := range Failpoints() {
		for _, what := range []failpoint.Action{failpoint.Panic(), failpoint.Error(errors.New("the disk failed"))} {
			for after := range 3 {
				t.Run(fmt.Sprintf("%s after %d", point, after), func(t *testing.T) {
					cfg := config(t.TempDir())
					cfg.LogMax = 500
					cfg.Failpoints = failpoint.New(Failpoints()...)
					s := open(t, cfg)
					if err := cfg.Failpoints.Enable(point, what.After(after).Times(1)); err != nil {
						t.Fatal(err)
					}
					acked, failed := map[store.Key]string{}, 0
					for n := 0; n < 20 && put(s, object(n, fmt.Sprint("value ", n)), acked, &failed); n++ {
					}
					// No Close: the process is gone.
					cfg.Failpoints = nil
					again := open(t, cfg)
					defer again.Close()
					have, _ := state(again)
					for k, v := range acked {
						if string(have[k].Value) != v {
							t.Errorf("%s: %q, acknowledged was %q", k, have[k].Value, v)
						}
					}
					if len(have) > len(acked)+failed {
						t.Errorf("%d objects, of which %d were acknowledged and %d failed", len(have), len(acked), failed)
					}
				})
			}
		}
	}
}

// put writes one object; false if that ended the process.
func put(s *Store, o store.Object, acked map[store.Key]string, failed *int) (alive bool) {
	defer func() {
		if recover() != nil {
			*failed++
		}
	}()
	if _, err := s.Put(context.Background(), o, store.Any()); err != nil {
		*failed++
	} else {
		acked[o.Key] = string(o.Value)
	}
	return true
}

// TestDamageIsNeverBelieved flips and cuts the log at every byte: what is read is a beginning of what was written, and
// if anything acknowledged may be missing, of another epoch.
func TestDamageIsNeverBelieved(t *testing.T) {
	origin := t.TempDir()
	cfg := config(origin)
	s := open(t, cfg)
	for n := range 3 {
		if _, err := s.Put(t.Context(), object(n, fmt.Sprint(n)), store.Any()); err != nil {
			t.Fatal(err)
		}
	}
	_, was := state(s)
	s.Close()
	whole, err := os.ReadFile(cfg.Path)
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(cfg.Path + ".log")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	damaged := func(what string, b []byte, cut bool) {
		n++
		c := config(t.TempDir())
		if err := errors.Join(os.WriteFile(c.Path, whole, 0o600), os.WriteFile(c.Path+".log", b, 0o600)); err != nil {
			t.Fatal(err)
		}
		s := open(t, c)
		have, at := state(s)
		for n := range 3 {
			if o, ok := have[key(n)]; ok && string(o.Value) != fmt.Sprint(n) || !ok && have[key(n+1)].Value != nil {
				t.Fatalf("%s: %v", what, have)
			}
		}
		if !cut && at.Epoch == was.Epoch && len(have) < 3 {
			t.Fatalf("%s: %d objects in the epoch of three", what, len(have))
		}
		s.Close()
		again := open(t, c)
		if after, then := state(again); cmp.Diff(have, after) != "" || then != at {
			t.Fatalf("%s: %v became %v at the next start", what, at, then)
		}
		again.Close()
	}
	for i := 0; i < len(log); i += 3 {
		b := append([]byte(nil), log...)
		b[i] ^= 0x40
		// A length that says more than there is looks as if the process had been interrupted.
		damaged(fmt.Sprintf("byte %d of %d flipped", i, len(log)), b, i%(len(log)/3) < 4)
		damaged(fmt.Sprintf("cut to %d of %d", i, len(log)), log[:i], true)
	}
	t.Logf("%d damages of %d bytes looked at", n, len(log))
}

// TestFilesPutBackBeginAnotherEpoch: who knows more of the history than the files makes them begin another.
func TestFilesPutBackBeginAnotherEpoch(t *testing.T) {
	s := open(t, config(t.TempDir()))
	defer s.Close()
	if _, err := s.Put(t.Context(), object(1, "1"), store.Any()); err != nil {
		t.Fatal(err)
	}
	_, was := state(s)
	heard := errors.New("heard")
	ahead := was
	ahead.Revision += 5
	err := s.Watch(t.Context(), ahead, func(_ context.Context, e store.Events) error {
		if !e.Resync || e.Epoch == was.Epoch || len(e.Puts) != 1 {
			t.Errorf("events %+v, want all of another epoch", e)
		}
		return heard
	})
	if !errors.Is(err, heard) {
		t.Fatal(err)
	}
}

// TestTheLastWholeStateMayBeLost: the one before it and the logs hold everything.
func TestTheLastWholeStateMayBeLost(t *testing.T) {
	cfg := config(t.TempDir())
	cfg.LogMax = 500
	s := open(t, cfg)
	for n := range 9 {
		if _, err := s.Put(t.Context(), object(n, "some text"), store.Any()); err != nil {
			t.Fatal(err)
		}
	}
	before, was := state(s)
	s.Close()
	if err := os.WriteFile(cfg.Path, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	again := open(t, cfg)
	defer again.Close()
	if after, is := state(again); cmp.Diff(before, after) != "" || is != was {
		t.Errorf("%v became %v:\n%s", was, is, cmp.Diff(before, after))
	}
	if err := os.WriteFile(cfg.Path+".prev", []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cfg.Path, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(cfg); err == nil {
		t.Error("two damaged files were taken for an empty cluster")
	}
}
