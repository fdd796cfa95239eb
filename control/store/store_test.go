package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/internal/failpoint"
)

func wantKind(t *testing.T, what string, err, kind error, current int64) {
	t.Helper()
	var e *store.Error
	if !errors.As(err, &e) || !errors.Is(err, kind) || e.Current != current {
		t.Errorf("%s: got %v, want %v at revision %d", what, err, kind, current)
	}
}

func TestPreconditionsDecideWrites(t *testing.T) {
	t.Parallel()
	st := newServer(t).open()
	ctx := t.Context()
	o := store.Object{Key: service("cart"), Value: []byte(`{"a":1}`)}

	_, err := st.Get(ctx, o.Key)
	wantKind(t, "get of nothing", err, store.ErrNotFound, 0)
	_, err = st.Put(ctx, o, store.AtRevision(1))
	wantKind(t, "update of nothing", err, store.ErrNotFound, 0)
	_, err = st.Delete(ctx, o.Key, store.Any())
	wantKind(t, "delete of nothing", err, store.ErrNotFound, 0)

	created, err := st.Put(ctx, o, store.MustNotExist())
	if err != nil {
		t.Fatal(err)
	}
	_, err = st.Put(ctx, o, store.MustNotExist())
	wantKind(t, "second create", err, store.ErrExists, created)
	o.Value = []byte(`{"a":2}`)
	updated, err := st.Put(ctx, o, store.AtRevision(created))
	if err != nil || updated <= created {
		t.Fatalf("update: revision %d, %v", updated, err)
	}
	_, err = st.Put(ctx, o, store.AtRevision(created))
	wantKind(t, "stale update", err, store.ErrConflict, updated)
	_, err = st.Delete(ctx, o.Key, store.AtRevision(created))
	wantKind(t, "stale delete", err, store.ErrConflict, updated)

	got, err := st.Get(ctx, o.Key)
	if err != nil || !bytes.Equal(got.Value, o.Value) || got.Revision != updated || got.Created != created {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := st.Delete(ctx, o.Key, store.AtRevision(updated)); err != nil {
		t.Error(err)
	}
	_, err = st.Get(ctx, o.Key)
	wantKind(t, "get after delete", err, store.ErrNotFound, 0)
}

func TestBatchIsAllOrNothing(t *testing.T) {
	t.Parallel()
	st := newServer(t).open()
	ctx := t.Context()
	at := put(t, st, service("b"), `1`)
	op := func(name string, pre store.Precondition) store.Op {
		return store.Op{Object: store.Object{Key: service(name), Value: []byte(`2`)}, Pre: pre}
	}
	_, err := st.Batch(ctx, []store.Op{op("a", store.MustNotExist()), op("b", store.MustNotExist()), op("c", store.AtRevision(9))})
	wantKind(t, "batch", err, store.ErrExists, at)
	if !strings.Contains(err.Error(), "Service shop/b") {
		t.Errorf("the error does not say which: %v", err)
	}
	all, _, err := st.List(ctx, store.Scope{})
	if err != nil || len(all) != 1 {
		t.Errorf("a refused batch left %v, %v", all, err)
	}
	gone := store.Op{Object: store.Object{Key: service("b")}, Delete: true, Pre: store.AtRevision(at)}
	revision, err := st.Batch(ctx, []store.Op{op("a", store.MustNotExist()), gone})
	if err != nil {
		t.Fatal(err)
	}
	all, _, err = st.List(ctx, store.Scope{Kind: "Service", Namespace: "shop"})
	if err != nil || len(all) != 1 || all[0].Key != service("a") || all[0].Revision != revision {
		t.Errorf("list after batch: %v, %v", all, err)
	}
}

func TestListIsOneRevisionOfItsScope(t *testing.T) {
	t.Parallel()
	st := newServer(t).open()
	ctx := t.Context()
	for i := range 150 { // three pages
		put(t, st, service(fmt.Sprintf("s%03d", i)), fmt.Sprint(i))
	}
	put(t, st, store.Key{Kind: "Service", Namespace: "shopping", Name: "x"}, `1`)
	put(t, st, store.Key{Kind: "ServiceImport.multicluster.x-k8s.io", Namespace: "shop", Name: "x"}, `1`)
	last := put(t, st, store.Key{Kind: "Cluster.isthmus.dev", Name: "eu-west"}, `1`)
	for _, c := range []struct {
		scope store.Scope
		want  int
	}{
		{store.Scope{}, 153},
		{store.Scope{Kind: "Service"}, 151},
		{store.Scope{Kind: "Service", Namespace: "shop"}, 150},
		{store.Scope{Kind: "Cluster.isthmus.dev"}, 1},
		{store.Scope{Kind: "Serv"}, 0},
	} {
		all, revision, err := st.List(ctx, c.scope)
		if err != nil || len(all) != c.want || revision != last {
			t.Errorf("List(%+v): %d objects at %d, %v; want %d at %d", c.scope, len(all), revision, err, c.want, last)
		}
		for i := 1; i < len(all); i++ {
			if all[i-1].Key.String() >= all[i].Key.String() && all[i-1].Kind == all[i].Kind {
				t.Errorf("List(%+v): %v before %v", c.scope, all[i-1].Key, all[i].Key)
			}
		}
	}
}

func TestFaultsOfTheCallerReachNoServer(t *testing.T) {
	t.Parallel()
	st, err := store.Open(store.Config{Endpoints: []string{"unix:///nowhere.sock"}})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	ctx := t.Context()
	big := make([]byte, store.ValueBytesMax+1)
	_, err = st.Put(ctx, store.Object{Key: service("big"), Value: big}, store.Any())
	wantKind(t, "large value", err, store.ErrTooLarge, 0)
	_, err = st.Batch(ctx, make([]store.Op, store.BatchMax+1))
	wantKind(t, "large batch", err, store.ErrTooLarge, 0)
	half := store.Object{Value: big[:800<<10]}
	a, b := half, half
	a.Key, b.Key = service("a"), service("b")
	_, err = st.Batch(ctx, []store.Op{{Object: a}, {Object: b}})
	wantKind(t, "heavy batch", err, store.ErrTooLarge, 0)

	for name, ops := range map[string][]store.Op{
		"empty":       nil,
		"twice":       {{Object: store.Object{Key: service("a")}}, {Object: store.Object{Key: service("a")}}},
		"no name":     {{Object: store.Object{Key: store.Key{Kind: "Service"}}}},
		"slash":       {{Object: store.Object{Key: service("a/b")}}},
		"control":     {{Object: store.Object{Key: service("a\x00b")}}},
		"no text":     {{Object: store.Object{Key: service("\xff")}}},
		"long":        {{Object: store.Object{Key: service(strings.Repeat("x", 254))}}},
		"contrary":    {{Object: store.Object{Key: service("a")}, Delete: true, Pre: store.MustNotExist()}},
		"before time": {{Object: store.Object{Key: service("a")}, Pre: store.AtRevision(-1)}},
	} {
		if _, err := st.Batch(ctx, ops); err == nil || errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s: got %v, want a refusal", name, err)
		}
	}
}

func TestConfigReportsAllFaults(t *testing.T) {
	t.Parallel()
	_, err := store.Open(store.Config{
		Endpoints: []string{"unix://relative", "ftp://x", "nothing"}, Prefix: "x", RequestTimeout: -1, PendingMax: -1,
	})
	if err == nil || strings.Count(err.Error(), "\n") != 5 {
		t.Errorf("want 6 faults, got:\n%v", err)
	}
	if _, err := store.Open(store.Config{}); err == nil {
		t.Error("a store without endpoints was accepted")
	}
}

func TestStoreAwayFailsInTimeAndSaysWhy(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	st := s.open(func(c *store.Config) { c.RequestTimeout = 600 * time.Millisecond })
	put(t, s.open(), service("cart"), `1`)
	s.kill()
	ctx, cancel := context.WithTimeout(t.Context(), waitMax)
	defer cancel()
	check := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), s.endpoint()) {
			t.Errorf("%s: %v", what, err)
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s does not say why: %v", what, err)
		}
	}
	_, err := st.Get(ctx, service("cart"))
	check("get", err)
	_, err = st.Put(ctx, store.Object{Key: service("cart")}, store.Any())
	check("put", err)
	_, _, err = st.List(ctx, store.Scope{})
	check("list", err)
	_, err = st.Now(ctx)
	check("now", err)

	given, giveUp := context.WithCancel(ctx)
	giveUp()
	if _, err := st.Get(given, service("cart")); !errors.Is(err, context.Canceled) || errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a caller that gave up is told %v", err)
	}
	s.start()
	for _, err = st.Get(ctx, service("cart")); err != nil && ctx.Err() == nil; {
		_, err = st.Get(ctx, service("cart"))
	}
	if err != nil {
		t.Errorf("after the store is back: %v", err)
	}
}

func TestStoreThatHangsFailsInTime(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	st := s.open(func(c *store.Config) { c.RequestTimeout = 200 * time.Millisecond })
	put(t, s.open(), service("cart"), `1`)
	m := watch(t, s.open(), store.Position{})
	m.until("the object", func() bool { return len(m.objects) == 1 })
	pid := s.cmd.Process.Pid
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var status syscall.WaitStatus // stopping takes a moment; this is when it is done
	if _, err := syscall.Wait4(pid, &status, syscall.WUNTRACED, nil); err != nil || !status.Stopped() {
		t.Fatalf("wait for the stop: %v, %v", status, err)
	}
	_, err := st.Get(t.Context(), service("cart"))
	wantKind(t, "get", err, store.ErrUnavailable, 0)
	if err := s.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	m.reaches(put(t, s.open(), service("pay"), `1`))
	m.equals(st)
}

func TestFailpointsOfAWrite(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	points := failpoint.New(store.Failpoints()...)
	st := s.open(func(c *store.Config) { c.Failpoints = points })
	cut := errors.New("cut")
	for _, c := range []struct {
		point   failpoint.Point
		written bool
	}{{store.PointSend, false}, {store.PointAck, true}} {
		key := service(strings.ReplaceAll(string(c.point), ".", "-"))
		if err := points.Enable(c.point, failpoint.Error(cut)); err != nil {
			t.Fatal(err)
		}
		if _, err := st.Put(t.Context(), store.Object{Key: key, Value: []byte(`1`)}, store.MustNotExist()); !errors.Is(err, cut) {
			t.Errorf("%s: %v", c.point, err)
		}
		points.Disable(c.point)
		if _, err := st.Get(t.Context(), key); (err == nil) != c.written {
			t.Errorf("%s: written %v, want %v", c.point, err == nil, c.written)
		}
	}
}

func TestTwoStoresSideBySide(t *testing.T) {
	t.Parallel()
	a, b := newServer(t), newServer(t)
	sa, sb := a.open(), b.open()
	put(t, sa, service("a"), `1`)
	put(t, sb, service("b"), `1`)
	na, err := sa.Now(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	nb, err := sb.Now(t.Context())
	if err != nil || na.Epoch == nb.Epoch || len(na.Epoch) != 32 {
		t.Errorf("epochs %q and %q, %v", na.Epoch, nb.Epoch, err)
	}
	a.kill()
	all, _, err := sb.List(t.Context(), store.Scope{})
	if err != nil || len(all) != 1 || all[0].Key != service("b") {
		t.Errorf("the other store: %v, %v", all, err)
	}
}

func TestFullStoreRefusesAndHealsWhenThereIsRoom(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	st := s.open()
	m := watch(t, st, store.Position{})
	m.until("the beginning", func() bool { return m.resyncs == 1 })
	big := make([]byte, store.ValueBytesMax-16)
	n := 0
	for ; n < 64; n++ {
		_, err := st.Put(t.Context(), store.Object{Key: service(fmt.Sprint("s", n)), Value: big}, store.Any())
		if err != nil {
			wantKind(t, "put into a full store", err, store.ErrFull, 0)
			break
		}
	}
	if n == 64 {
		t.Fatal("64 MiB fitted into a store of 32")
	}
	if _, err := st.Get(t.Context(), service("s0")); err != nil {
		t.Errorf("a full store does not read: %v", err)
	}
	deadline := time.Now().Add(waitMax)
	for i := range n {
		_, err := st.Delete(t.Context(), service(fmt.Sprint("s", i)), store.Any())
		// On a slow disk an answer may be late, and the deletion done nevertheless.
		for errors.Is(err, store.ErrUnavailable) && time.Now().Before(deadline) {
			if _, err = st.Delete(t.Context(), service(fmt.Sprint("s", i)), store.Any()); errors.Is(err, store.ErrNotFound) {
				err = nil
			}
		}
		if err != nil {
			t.Fatalf("a full store does not delete: %v", err)
		}
	}
	for {
		_, err := st.Put(t.Context(), store.Object{Key: service("after"), Value: big}, store.Any())
		if err == nil {
			break
		}
		if !errors.Is(err, store.ErrFull) && !errors.Is(err, store.ErrUnavailable) || time.Now().After(deadline) {
			t.Fatalf("%d objects deleted, and still: %v", n, err)
		}
		<-time.After(50 * time.Millisecond)
	}
	m.equals(st)
}

func TestSocketPathLongerThanAnAddress(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.kill()
	s.dir = filepath.Join(s.dir, strings.Repeat("d", 120))
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s.start()
	st := s.open()
	m := watch(t, st, store.Position{})
	m.reaches(put(t, st, service("cart"), `1`))
}

// TestFootprint holds the store to its share of what a control plane with its
// store may use, 120 MB, and reports the figures.
func TestFootprint(t *testing.T) {
	s := newServer(t)
	st := s.open()
	put(t, st, service("cart"), `1`)
	fresh := s.took
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	s.start()
	if _, err := st.Get(t.Context(), service("cart")); err != nil {
		t.Fatal(err)
	}
	var disk int64
	err := filepath.WalkDir(s.dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil {
			disk += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	pss := s.pss()
	t.Logf("process to ready: %v on an empty directory, %v again; PSS %.1f MB; disk %.1f MB",
		fresh.Round(time.Millisecond), s.took.Round(time.Millisecond), float64(pss)/1e6, float64(disk)/1e6)
	if pss > 100e6 { // with the race detector, which multiplies it
		t.Errorf("PSS %d", pss)
	}
	if disk > 12<<20 {
		t.Errorf("an almost empty store takes %d bytes of disk", disk)
	}
}
