package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
)

func TestSendThatNobodyReadsEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stream := make(chan int) // nobody receives
		var waiting sync.WaitGroup
		s := sender[int]{func(m int) error {
			select {
			case stream <- m:
			case <-t.Context().Done(): // as gRPC ends a Send with its stream
			}
			return nil
		}, clock.Real{}, &waiting}
		began := time.Now()
		if err := s.Send(t.Context(), 1); err == nil || time.Since(began) != sendMax {
			t.Errorf("a Send that nobody reads returned %v after %v, want an error after %v", err, time.Since(began), sendMax)
		}
		ctx, stop := context.WithCancelCause(t.Context())
		ended := errors.New("ended")
		stop(ended)
		if err := s.Send(ctx, 2); err != ended {
			t.Errorf("a Send on an ended session returned %v, want why it ended", err)
		}
		go func() { <-stream; <-stream }()
		waiting.Wait()
	})
}

func TestSilenceIsOfOctets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHeard(clock.Real{})
		far, near := net.Pipe()
		var octets Traffic
		l := listener{near, h, &octets}
		go func() { _, _ = far.Write([]byte("12")) }()
		pass(t, 3*time.Second)
		if got := h.silence(); got != 3*time.Second {
			t.Errorf("silent for %v, want 3s", got)
		}
		for want := time.Duration(0); want < 2; want++ {
			if _, err := l.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			if got := h.silence(); got != 0 {
				t.Errorf("silent for %v at an octet", got)
			}
			pass(t, time.Second)
		}
		if got := h.silence(); got != time.Second {
			t.Errorf("silent for %v, want 1s", got)
		}
		go func() { _, _ = far.Read(make([]byte, 3)) }()
		if _, err := l.Write([]byte("345")); err != nil {
			t.Fatal(err)
		}
		if in, out := octets.Octets(); in != 2 || out != 3 {
			t.Errorf("%d octets received and %d sent, want 2 and 3", in, out)
		}
	})
}

// pass lets virtual time go by.
func pass(t *testing.T, d time.Duration) {
	t.Helper()
	if err := clock.Wait(t.Context(), clock.Real{}, d); err != nil {
		t.Fatal(err)
	}
}

// state is a saved state of a position, with a policy if name is set.
func state(rev int64, name string) *replica.Saved { return stateOf(mesh.KindAccessPolicy, rev, name) }

func stateOf(kind mesh.Kind, rev int64, name string) *replica.Saved {
	p := replica.NewPartition("a")
	if name != "" {
		n := replica.Name{Kind: kind, Namespace: "shop", Name: name}
		p = p.With([]*replica.Resource{replica.NewResource(n, mesh.Position{}, mesh.Stamp{}, [16]byte{}, []byte("{}"))}, nil)
	}
	p = p.At(mesh.Position{Epoch: mesh.Epoch{StartMillis: 1, ID: "e"}, Revision: rev}, nil)
	return &replica.Saved{Stated: p, InForce: p}
}

// keep saves a state that follows what the saver has.
func keep(s *saver, v *replica.Saved) {
	e, before := &replica.Edit{}, replica.NewPartition("a")
	if s.newest != nil {
		before = s.newest.InForce
	}
	e.Set, e.Removed = replica.Diff(before, v.InForce)
	s.save(v, e)
}

// TestServicesAreCachedLater: a cache is written whole, and where services can be reached changes all the time. A minute of that is a handful of
// writes; the control is a policy that changes as often, which is one each two seconds. A policy that changes meanwhile is on the disk as soon as ever.
func TestServicesAreCachedLater(t *testing.T) {
	for _, c := range []struct {
		kind        mesh.Kind
		least, most int
	}{{mesh.KindRemoteService, 6, 7}, {mesh.KindAccessPolicy, 29, 31}} {
		synctest.Test(t, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "a")
			s := newSaver(FollowerConfig{Cache: path, Clock: clock.Real{}}, time.Time{}, slog.New(slog.DiscardHandler))
			ctx, stop := context.WithCancel(t.Context())
			var done sync.WaitGroup
			done.Go(func() { s.run(ctx) })
			written := func() int64 {
				saved, err := readCache(path, "a")
				if err != nil || saved == nil {
					return 0
				}
				return saved.Stated.Position.Revision
			}
			writes, last, rev := 0, int64(0), int64(0)
			for range 600 {
				rev++
				keep(s, stateOf(c.kind, rev, fmt.Sprint(rev)))
				pass(t, 100*time.Millisecond)
				if at := written(); at != last {
					writes, last = writes+1, at
				}
			}
			if writes < c.least || writes > c.most {
				t.Errorf("%d writes in a minute of changes of kind %s, want %d to %d", writes, c.kind, c.least, c.most)
			}
			keep(s, state(rev+1, "deny"))
			pass(t, saveEvery)
			synctest.Wait()
			if at := written(); at != rev+1 {
				t.Errorf("revision %d is on the disk %v after a policy changed, want %d", at, saveEvery, rev+1)
			}
			stop()
			done.Wait()
		})
	}
}

func TestCacheIsWrittenAtAPaceAndAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "a")
		s := newSaver(FollowerConfig{Cache: path, Clock: clock.Real{}}, time.Time{}, slog.New(slog.DiscardHandler))
		ctx, stop := context.WithCancel(t.Context())
		var done sync.WaitGroup
		done.Go(func() { s.run(ctx) })
		written := func() int64 {
			saved, err := readCache(path, "a")
			if err != nil {
				t.Fatal(err)
			}
			return saved.Stated.Position.Revision
		}
		keep(s, state(1, "one"))
		synctest.Wait()
		if got := written(); got != 1 {
			t.Errorf("revision %d on disk, want the first at once", got)
		}
		keep(s, state(2, "two"))
		keep(s, state(3, "three"))
		synctest.Wait()
		if got := written(); got != 1 {
			t.Errorf("revision %d on disk within %v", got, saveEvery)
		}
		pass(t, saveEvery)
		synctest.Wait()
		if got := written(); got != 3 {
			t.Errorf("revision %d on disk after %v, want the latest", got, saveEvery)
		}
		keep(s, state(4, "three"))
		pass(t, 2*saveEvery)
		synctest.Wait()
		if got := written(); got != 3 {
			t.Errorf("revision %d on disk: a file was written for a revision alone", got)
		}
		keep(s, state(5, "five"))
		keep(s, state(6, "six"))
		stop()
		done.Wait()
		if got := written(); got != 6 {
			t.Errorf("revision %d on disk after the end, want the latest", got)
		}
		if left, _ := filepath.Glob(path + "?*"); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v: want mode 0600", info.Mode(), err)
		}
	})
}

func TestWhatIsStillSoIsSaidOnceAMinute(t *testing.T) {
	var n int
	q := newQuiet(slog.New(count{&n}))
	now := time.Unix(0, 0)
	for range 130 { // seconds
		q.warn(now, "m", "k", "same")
		now = now.Add(time.Second)
	}
	if n != 3 {
		t.Errorf("said %d times in 130 s, want 3", n)
	}
	for i := range 10 * saidMax {
		q.warn(now, "m", "k", string(rune('a'+i)))
	}
	if len(q.said) > saidMax {
		t.Errorf("%d texts are remembered, want at most %d", len(q.said), saidMax)
	}
}

// count is a log handler that counts.
type count struct{ n *int }

func (c count) Enabled(context.Context, slog.Level) bool  { return true }
func (c count) WithGroup(string) slog.Handler             { return c }
func (c count) WithAttrs([]slog.Attr) slog.Handler        { return c }
func (c count) Handle(context.Context, slog.Record) error { *c.n++; return nil }

func TestStateIsToldInOneStep(t *testing.T) {
	x := NewExports("a")
	before, changed := x.current("b")
	lost := state(1, "lost").Stated
	var set []*replica.Resource
	for r := range lost.All() {
		set = append(set, r)
	}
	x.State(lost.Position, nil, set, nil)
	<-changed
	held, changed := x.current("b")
	if before.Len() != 0 || held.Len() != 1 || held.Position != lost.Position {
		t.Fatalf("%d, then %d resources at %v", before.Len(), held.Len(), held.Position)
	}
	second := mesh.Position{Epoch: mesh.Epoch{StartMillis: 2, ID: "f"}, Revision: 1}
	x.State(second, replica.Lineage{lost.Position.Epoch: 1}, nil, []replica.Name{set[0].Name})
	<-changed
	next, changed := x.current("b")
	if next.Len() != 0 || next.Position != second || next.Lineage[lost.Position.Epoch] != 1 {
		t.Errorf("%d resources at %v with lineage %v: a new history must come with its own content", next.Len(), next.Position, next.Lineage)
	}
	if late, _ := x.current("c"); late.Position != second || late.Len() != 0 || late.Root() != next.Root() {
		t.Errorf("who comes late is told %v, %d resources", late.Position, late.Len())
	}
	x.Advance(lost.Position)
	select {
	case <-changed:
		t.Error("an earlier position was told")
	default:
	}
}
