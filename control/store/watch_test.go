package store_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/internal/failpoint"
)

// A mirror is a copy of a store made of nothing but a watch, which checks the
// promises of Watch at every delivery.
type mirror struct {
	t       testing.TB
	changed chan struct{}

	mu      sync.Mutex
	at      store.Position
	objects map[store.Key]store.Object
	resyncs int
	changes int
	busy    chan struct{} // deliveries wait while it is not nil
}

// watch starts a mirror of st, and ends it with the test.
func watch(t testing.TB, st *store.Store, from store.Position) *mirror {
	m := &mirror{t: t, changed: make(chan struct{}, 1), objects: make(map[store.Key]store.Object), at: from}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- st.Watch(ctx, from, m.deliver) }()
	t.Cleanup(func() {
		cancel()
		m.hold(false)
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Watch ended with %v", err)
		}
	})
	return m
}

func (m *mirror) deliver(ctx context.Context, e store.Events) error {
	m.mu.Lock()
	busy := m.busy
	m.mu.Unlock()
	if busy != nil {
		select {
		case <-busy:
		case <-ctx.Done():
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if e.Epoch == m.at.Epoch && e.Revision <= m.at.Revision && !e.Resync {
		m.t.Errorf("position went from %v to %v", m.at, e.Position)
	}
	if e.Resync {
		m.resyncs++
		m.objects = make(map[store.Key]store.Object)
	} else if e.Epoch != m.at.Epoch {
		m.t.Errorf("epoch changed from %v to %v without a resync", m.at, e.Position)
	}
	for _, o := range e.Puts {
		if old, ok := m.objects[o.Key]; ok && old.Revision >= o.Revision {
			m.t.Errorf("%v delivered at %d after %d", o.Key, o.Revision, old.Revision)
		}
		if o.Revision > e.Revision || (!e.Resync && o.Revision <= m.at.Revision) {
			m.t.Errorf("%v at %d is outside %v to %v", o.Key, o.Revision, m.at, e.Position)
		}
		m.objects[o.Key] = o
	}
	for _, d := range e.Deletes {
		delete(m.objects, d.Key)
	}
	m.changes += len(e.Puts) + len(e.Deletes)
	m.at = e.Position
	select {
	case m.changed <- struct{}{}:
	default:
	}
	return nil
}

// hold makes deliveries wait, or lets them go on.
func (m *mirror) hold(yes bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if yes && m.busy == nil {
		m.busy = make(chan struct{})
	} else if !yes && m.busy != nil {
		close(m.busy)
		m.busy = nil
	}
}

// until waits until ok holds of the mirror.
func (m *mirror) until(what string, ok func() bool) {
	m.t.Helper()
	deadline := time.After(waitMax)
	for {
		m.mu.Lock()
		now := ok()
		m.mu.Unlock()
		if now {
			return
		}
		select {
		case <-m.changed:
		case <-deadline:
			m.mu.Lock()
			defer m.mu.Unlock()
			m.t.Fatalf("watch did not see %s; it is at %v with %d objects, %d resyncs", what, m.at, len(m.objects), m.resyncs)
		}
	}
}

func (m *mirror) reaches(revision int64) {
	m.t.Helper()
	m.until(fmt.Sprintf("revision %d", revision), func() bool { return m.at.Revision >= revision })
}

// equals checks the mirror against a list at a later revision.
func (m *mirror) equals(st *store.Store) {
	m.t.Helper()
	all, revision, err := st.List(context.Background(), store.Scope{})
	if err != nil {
		m.t.Fatal(err)
	}
	m.reaches(revision)
	want := make(map[store.Key]store.Object)
	for _, o := range all {
		want[o.Key] = o
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !reflect.DeepEqual(want, m.objects) { // cmp takes its time over large values
		m.t.Errorf("watch and list differ (-list +watch):\n%s", cmp.Diff(want, m.objects))
	}
}

func service(name string) store.Key { return store.Key{Kind: "Service", Namespace: "shop", Name: name} }

func put(t testing.TB, st *store.Store, key store.Key, value string) int64 {
	t.Helper()
	revision, err := st.Put(t.Context(), store.Object{Key: key, Value: []byte(value)}, store.Any())
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

func TestWatchBeginsWithTheStateAndFollows(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	st := s.open()
	put(t, st, service("cart"), `1`)
	m := watch(t, st, store.Position{})
	m.until("the first object", func() bool { return m.resyncs == 1 && len(m.objects) == 1 })
	put(t, st, service("pay"), `1`)
	last, err := st.Delete(t.Context(), service("cart"), store.Any())
	if err != nil {
		t.Fatal(err)
	}
	m.reaches(last)
	m.equals(st)
	if m.resyncs != 1 {
		t.Errorf("%d resyncs, want the first only", m.resyncs)
	}
}

func TestWatchGoesOnOverKill(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	st := s.open()
	m := watch(t, st, store.Position{})
	m.until("the beginning", func() bool { return m.resyncs == 1 })
	for round := range 3 {
		m.reaches(put(t, st, service("cart"), fmt.Sprint(round)))
		s.kill()
		s.start()
		put(t, st, service("pay"), fmt.Sprint(round))
		m.equals(st)
	}
	if m.resyncs != 1 {
		t.Errorf("%d resyncs over three kills, want none but the first", m.resyncs)
	}
	// A control plane that was restarted goes on from what it wrote down.
	again := watch(t, s.open(), m.at)
	again.reaches(put(t, st, service("cart"), "last"))
	if again.resyncs != 0 || again.changes != 1 {
		t.Errorf("resuming gave %d resyncs, %d changes; want one change", again.resyncs, again.changes)
	}
}

func TestRevisionAdvancesWhenOthersWrite(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	st, other := s.open(), s.open(func(c *store.Config) { c.Prefix = "/other/" })
	m := watch(t, st, store.Position{})
	m.until("the beginning", func() bool { return m.resyncs == 1 })
	m.reaches(put(t, other, service("cart"), `1`))
	if len(m.objects) != 0 {
		t.Errorf("saw objects of another prefix: %v", m.objects)
	}
}

func TestCompactionResyncs(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	st := s.open()
	m := watch(t, st, store.Position{})
	m.until("the beginning", func() bool { return m.resyncs == 1 })
	old := m.at
	put(t, st, service("gone"), `1`)
	if _, err := st.Delete(t.Context(), service("gone"), store.Any()); err != nil {
		t.Fatal(err)
	}
	revision := put(t, st, service("cart"), `1`)
	raw, err := clientv3.New(clientv3.Config{Endpoints: []string{s.endpoint()}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if _, err := raw.Compact(t.Context(), revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	late := watch(t, st, old)
	late.until("a resync", func() bool { return late.resyncs == 1 })
	late.reaches(put(t, st, service("pay"), `1`))
	late.equals(st)
}

func TestNoAcknowledgedWriteIsLost(t *testing.T) {
	t.Parallel()
	const writes = 1000
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	s := newServer(t)
	st := s.open(func(c *store.Config) { c.RequestTimeout = 500 * time.Millisecond })
	m := watch(t, st, store.Position{})
	m.until("the beginning", func() bool { return m.resyncs == 1 })

	// One writer, so that the order of what it wrote is known, and a killer.
	next := make(chan struct{}, 1)
	killed := make(chan int, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		n := 0
		defer func() { killed <- n }()
		for {
			select {
			case <-next:
			case <-ctx.Done():
				return
			}
			s.kill()
			if err := s.run(); err != nil {
				t.Error(err)
				return
			}
			n++
		}
	}()
	sent, acked := make(map[store.Key]int), make(map[store.Key]int)
	lost := 0
	for i := 1; i <= writes; i++ {
		key := service(fmt.Sprint("s", rng.IntN(50)))
		if rng.IntN(100) == 0 {
			select {
			case next <- struct{}{}:
			default:
			}
		}
		sent[key] = i
		_, err := st.Put(t.Context(), store.Object{Key: key, Value: fmt.Append(nil, i)}, store.Any())
		switch {
		case err == nil:
			acked[key] = i
		case errors.Is(err, store.ErrUnavailable):
			lost++
		default:
			t.Fatal(err)
		}
	}
	cancel()
	n := <-killed
	for key, want := range acked {
		o, err := st.Get(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		var got int
		if _, err := fmt.Sscan(string(o.Value), &got); err != nil {
			t.Fatal(err)
		}
		// An unacknowledged write may have happened, but never an older one
		// than the last acknowledged.
		if got < want || got > sent[key] {
			t.Errorf("%v holds write %d; %d was acknowledged, %d sent", key, got, want, sent[key])
		}
	}
	m.equals(st)
	if m.resyncs != 1 {
		t.Errorf("the watch lost its place: %d resyncs", m.resyncs)
	}
	if n == 0 {
		t.Error("the server was never killed: nothing was proven")
	}
	t.Logf("%d writes, %d not acknowledged, server killed %d times", writes, lost, n)
}

func TestSlowConsumerGetsOneChangeAKey(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	st := s.open()
	m := watch(t, st, store.Position{})
	m.until("the beginning", func() bool { return m.resyncs == 1 })
	m.hold(true)
	for i := range 200 {
		put(t, st, service(fmt.Sprint("s", i%4)), fmt.Sprint(i))
	}
	m.hold(false)
	m.equals(st)
	if m.resyncs != 1 || m.changes > 3*4 {
		t.Errorf("%d resyncs, %d changes for 200 writes to 4 keys", m.resyncs, m.changes)
	}
}

func TestConsumerThatIsTooSlowResyncs(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	st := s.open(func(c *store.Config) { c.PendingMax = 8 })
	m := watch(t, st, store.Position{})
	m.until("the beginning", func() bool { return m.resyncs == 1 })
	m.hold(true)
	for i := range 30 {
		put(t, st, service(fmt.Sprint("s", i)), fmt.Sprint(i))
	}
	m.hold(false)
	m.until("a resync", func() bool { return m.resyncs >= 2 })
	m.reaches(put(t, st, service("after"), `1`))
	m.equals(st)
}

func TestWipedStoreIsAnotherEpoch(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	st := s.open()
	m := watch(t, st, store.Position{})
	m.reaches(put(t, st, service("cart"), `1`))
	before := m.at
	s.kill()
	if err := os.RemoveAll(filepath.Join(s.dir, "data")); err != nil {
		t.Fatal(err)
	}
	s.start()
	// Written before the watch is back, and beyond the revision it was at: what
	// a watcher that only remembers a revision would wait past.
	for i := range int(before.Revision) + 3 {
		put(t, st, service(fmt.Sprint("new", i)), `1`)
	}
	m.until("another epoch", func() bool { return m.at.Epoch != before.Epoch })
	m.equals(st)
}

func TestRestoredDiskBeginsAnEpoch(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	st := s.open()
	first := watch(t, st, store.Position{})
	second := watch(t, s.open(), store.Position{})
	first.reaches(put(t, st, service("cart"), `1`))
	data, backup := filepath.Join(s.dir, "data"), filepath.Join(s.dir, "backup")
	if err := s.stop(); err != nil {
		t.Fatalf("stop: %v", err)
	}
	if out, err := exec.Command("cp", "-a", data, backup).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s.start()
	for i := range 20 {
		second.reaches(put(t, st, service("later"), fmt.Sprint(i)))
	}
	first.equals(st)
	old := first.at.Epoch
	s.kill()
	if err := errors.Join(os.RemoveAll(data), os.Rename(backup, data)); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	s.start()
	for _, m := range []*mirror{first, second} {
		m.until("another epoch", func() bool { return m.at.Epoch != old })
		t.Logf("another epoch %v after the older disk was started", time.Since(began).Round(time.Millisecond))
		m.equals(st)
	}
	if first.at.Epoch != second.at.Epoch {
		t.Errorf("two watchers, two epochs: %v, %v", first.at, second.at)
	}
}

// TestAHistoryThatWasWrittenOverBeginsAnEpoch: an old copy of the disk is put back and written on, as far and beyond, by
// who does not know, before a watcher asks again that had seen what is lost. Its revisions are all there, and others.
func TestAHistoryThatWasWrittenOverBeginsAnEpoch(t *testing.T) {
	t.Parallel()
	for name, last := range map[string]func(*testing.T, *store.Store) int64{
		"a write": func(t *testing.T, st *store.Store) int64 { return put(t, st, service("later"), `3`) },
		"a deletion": func(t *testing.T, st *store.Store) int64 {
			revision, err := st.Delete(t.Context(), service("later"), store.Any())
			if err != nil {
				t.Fatal(err)
			}
			return revision
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			st, points := s.open(), failpoint.New(store.Failpoints()...)
			m := watch(t, s.open(func(c *store.Config) { c.Failpoints = points }), store.Position{})
			m.reaches(put(t, st, service("later"), `1`))
			data, backup := filepath.Join(s.dir, "data"), filepath.Join(s.dir, "backup")
			if err := s.stop(); err != nil {
				t.Fatalf("stop: %v", err)
			}
			if out, err := exec.Command("cp", "-a", data, backup).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			s.start()
			put(t, st, service("later"), `2`)
			m.reaches(last(t, st))
			before, gate := m.at, failpoint.NewGate()
			if err := points.Enable(store.PointWatchOpen, failpoint.Block(gate)); err != nil {
				t.Fatal(err)
			}
			s.kill()
			<-gate.Reached()
			if err := errors.Join(os.RemoveAll(data), os.Rename(backup, data)); err != nil {
				t.Fatal(err)
			}
			s.start()
			for i := int64(0); i <= before.Revision; i = put(t, st, service("other"), fmt.Sprint(i)) {
			}
			gate.Release()
			m.until("another epoch", func() bool { return m.at.Epoch != before.Epoch })
			m.equals(st)
		})
	}
}

func TestWatchFaultsDelayAndLoseNothing(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	points := failpoint.New(store.Failpoints()...)
	st := s.open(func(c *store.Config) { c.Failpoints = points })
	m := watch(t, st, store.Position{})
	m.until("the beginning", func() bool { return m.resyncs == 1 })
	fire := errors.New("cut")
	if err := errors.Join(
		points.Enable(store.PointWatchReceive, failpoint.Error(fire).After(1).Times(5)),
		points.Enable(store.PointWatchOpen, failpoint.Error(fire).Times(2)),
	); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		put(t, st, service(fmt.Sprint("s", i)), `1`)
	}
	m.equals(st)
	m.until("the faults", func() bool { return points.Hits(store.PointWatchReceive) > 6 })
	if m.resyncs != 1 {
		t.Errorf("%d resyncs, want the first only", m.resyncs)
	}
}

func TestWatchEndsWithItsConsumer(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	full := errors.New("disk full")
	err := s.open().Watch(t.Context(), store.Position{}, func(context.Context, store.Events) error { return full })
	if !errors.Is(err, full) {
		t.Errorf("Watch = %v, want the consumer's error", err)
	}
}

func TestLargeBatchesArriveWhole(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	st := s.open()
	m := watch(t, st, store.Position{})
	m.until("the beginning", func() bool { return m.resyncs == 1 })
	from := m.at
	big := []byte(`"` + strings.Repeat("x", 9000) + `"`)
	var ops []store.Op
	for i := range store.BatchMax {
		ops = append(ops, store.Op{Object: store.Object{Key: service(fmt.Sprint("s", i)), Value: big}})
	}
	for range 4 {
		if _, err := st.Batch(t.Context(), ops); err != nil {
			t.Fatal(err)
		}
	}
	m.equals(st)
	late := watch(t, st, from) // comes as fragments
	late.equals(st)
	if late.resyncs != 0 {
		t.Errorf("%d resyncs", late.resyncs)
	}
}
