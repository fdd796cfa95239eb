package parallel

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/clock"
)

func TestThreadsFollowTheLoad(t *testing.T) {
	for _, c := range []struct {
		name    string
		most    int
		threads int
		waited  time.Duration
		cores   []float64 // for a quarter of a second each
		want    []int
	}{
		{"one is enough", 4, 1, 2 * late, []float64{0.01, 0.5, 0.74}, []int{1, 1, 1}},
		{"a busy one gets company", 4, 1, 2 * late, []float64{0.8, 0.9}, []int{2, 2}},
		{"a busy pair gets company", 4, 2, 2 * late, []float64{1.6, 1.6}, []int{3, 3}},
		{"as many as are missing at once", 16, 8, 2 * late, []float64{8}, []int{11}},
		{"not more than there are", 2, 1, 2 * late, []float64{1, 2, 2}, []int{2, 2, 2}},
		{"one goes after a second of calm", 2, 2, 2 * late, []float64{0.4, 0.4, 0.4, 0.4, 0.4}, []int{2, 2, 2, 1, 1}},
		{"a burst ends the calm", 2, 2, 2 * late, []float64{0.4, 0.4, 0.4, 0.6, 0.4, 0.4, 0.4}, []int{2, 2, 2, 2, 2, 2, 2}},
		{"nobody waits for a busy one", 4, 1, late, []float64{0.8, 1, 1}, []int{1, 1, 1}},
		{"the last stays", 2, 1, 2 * late, []float64{0, 0, 0, 0, 0}, []int{1, 1, 1, 1, 1}},
	} {
		g := governor{most: c.most, threads: c.threads}
		for i, cores := range c.cores {
			was := g.threads
			said := g.next(cores, c.waited, 250*time.Millisecond)
			if g.threads != c.want[i] || (said != 0) != (g.threads != was) {
				t.Errorf("%s: after %v: %d threads, said %d; want %d", c.name, c.cores[:i+1], g.threads, said, c.want[i])
			}
		}
	}
}

func TestFollowTakesThreadsInABurstAndGivesThemBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		began := time.Now()
		busy := func(from, to time.Duration, cores float64) time.Duration { // CPU used by now
			d := min(max(time.Since(began)-from, 0), to-from)
			return time.Duration(float64(d) * cores)
		}
		var threads atomic.Int64
		ended := make(chan error, 1)
		go func() {
			ended <- Follow(ctx, Config{Clock: clock.Real{}, Max: 4, Waited: func() time.Duration { return 2 * late }, Set: func(n int) { threads.Store(int64(n)) },
				Used: func() (time.Duration, bool) { return busy(3*time.Second, 5*time.Second, 1.9), true }})
		}()
		for _, step := range []struct {
			at   time.Duration
			want int
		}{{100 * time.Millisecond, 1}, {2900 * time.Millisecond, 1}, {3500 * time.Millisecond, 3}, {5 * time.Second, 3}, {6500 * time.Millisecond, 2}, {9 * time.Second, 1}} {
			time.Sleep(step.at - time.Since(began)) // of the bubble
			synctest.Wait()
			if n := threads.Load(); n != int64(step.want) {
				t.Errorf("after %v: %d threads, want %d", step.at, n, step.want)
			}
		}
		stop()
		if err := <-ended; !errors.Is(err, context.Canceled) || threads.Load() != 4 {
			t.Errorf("ended with %v and %d threads; want all 4 back", err, threads.Load())
		}
	})
}

func TestWhereThereIsNothingToFollowThreadsStayAsTheyAre(t *testing.T) {
	for name, cfg := range map[string]Config{
		"one core":                    {Max: 1, Used: func() (time.Duration, bool) { return 0, true }},
		"a system that does not tell": {Max: 4, Used: func() (time.Duration, bool) { return 0, false }},
	} {
		ctx, stop := context.WithCancel(t.Context())
		stop()
		cfg.Clock, cfg.Set = clock.Real{}, func(n int) { t.Errorf("%s: set to %d", name, n) }
		if err := Follow(ctx, cfg); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestThisProcessTellsWhatItUsed(t *testing.T) {
	if d, ok := used(); ok && d <= 0 {
		t.Errorf("this process has used %v", d)
	}
}

// TestWaitsAreThoseOfGoroutinesForAThread: many goroutines become ready behind one that keeps the only thread.
func TestWaitsAreThoseOfGoroutinesForAThread(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	w := newWaits()
	hop := func() { // many goroutines that become ready behind one that keeps the thread
		var all sync.WaitGroup
		for range 64 {
			all.Go(func() {})
		}
		for began := time.Now(); time.Since(began) < 4*late; {
		}
		all.Wait()
	}
	for range 20 {
		hop()
	}
	if got := w.upper(); got < 2*late {
		t.Errorf("three quarters of the waits behind a thread that was busy for %v were under %v", 4*late, got)
	}
}

func TestDuringEndsWithWhatItRuns(t *testing.T) {
	gone := errors.New("gone")
	if err := During(t.Context(), func(context.Context) error { return gone }); err != gone {
		t.Errorf("%v, want the error of what ran", err)
	}
}
