package clock_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/clock"
)

func TestWaitTakesExactlyItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clock.Real{}
		start := c.Now()
		if err := clock.Wait(t.Context(), c, 3*time.Hour); err != nil {
			t.Fatal(err)
		}
		if got := c.Now().Sub(start); got != 3*time.Hour {
			t.Errorf("waited %v, want 3h", got)
		}
	})
}

func TestWaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		c := clock.Real{}
		start := c.Now()
		if err := clock.Wait(ctx, c, time.Hour); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("err %v, want deadline exceeded", err)
		}
		if got := c.Now().Sub(start); got != time.Minute {
			t.Errorf("waited %v, want 1m", got)
		}
		if err := clock.Wait(ctx, c, 0); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("an ended context: err %v, want deadline exceeded", err)
		}
	})
}

func TestTimerStopsAndResets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clock.Real{}
		start := c.Now()
		timer := c.NewTimer(time.Hour)
		if !timer.Stop() {
			t.Error("Stop of a running timer said it was not running")
		}
		timer.Reset(2 * time.Hour)
		<-timer.C()
		if got := c.Now().Sub(start); got != 2*time.Hour {
			t.Errorf("fired after %v, want 2h", got)
		}
	})
}

func TestShiftedReadsAnotherTimeAndWaitsTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		real := clock.Real{}
		c := clock.Shifted{Clock: real, By: -2 * time.Hour}
		if got := real.Now().Sub(c.Now()); got != 2*time.Hour {
			t.Errorf("shifted clock is %v behind, want 2h", got)
		}
		start := real.Now()
		if err := clock.Wait(t.Context(), c, time.Minute); err != nil {
			t.Fatal(err)
		}
		if got := real.Now().Sub(start); got != time.Minute {
			t.Errorf("waited %v, want 1m", got)
		}
	})
}

// TestEveryKeepsItsTime whatever the work takes, and ends with its context or with the first error.
func TestEveryKeepsItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, start := clock.Real{}, time.Now()
		var at []time.Duration
		failed := errors.New("failed")
		err := clock.Every(t.Context(), c, time.Second, func(ctx context.Context) error {
			at = append(at, c.Now().Sub(start))
			if len(at) == 3 {
				return failed
			}
			return clock.Wait(ctx, c, 700*time.Millisecond)
		})
		if want := []time.Duration{time.Second, 2 * time.Second, 3 * time.Second}; !errors.Is(err, failed) || !slices.Equal(at, want) {
			t.Errorf("done at %v, %v, want at %v", at, err, want)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		times := 0
		err = clock.Every(ctx, c, time.Second, func(context.Context) error { times++; return nil })
		if !errors.Is(err, context.DeadlineExceeded) || times != 1 {
			t.Errorf("done %d times, %v, want once", times, err)
		}
	})
}

// TestPartsInStepAreOneWaking: parts that begin at any time do what they do each second at the same instants, so that an idle process
// is woken once a second for all of them, and the first time within a second. The control is a clock by which each has its own.
func TestPartsInStepAreOneWaking(t *testing.T) {
	for _, c := range []struct {
		name    string
		clock   func() clock.Clock
		wakeups int
	}{
		{"in step", func() clock.Clock { return clock.NewInStep() }, 3},
		{"control", func() clock.Clock { return clock.Real{} }, 12},
	} {
		synctest.Test(t, func(t *testing.T) {
			start, by := time.Now(), c.clock()
			ctx, stop := context.WithCancel(t.Context())
			var parts sync.WaitGroup
			var mu sync.Mutex
			at := map[time.Duration]int{}
			for range 4 {
				time.Sleep(170 * time.Millisecond)
				parts.Go(func() {
					_ = clock.Every(ctx, by, time.Second, func(context.Context) error { // ends with ctx
						mu.Lock()
						defer mu.Unlock()
						at[time.Since(start)]++
						return nil
					})
				})
			}
			time.Sleep(time.Until(start.Add(3*time.Second + 900*time.Millisecond)))
			stop()
			parts.Wait()
			if len(at) != c.wakeups {
				t.Errorf("%s: done at %v, want %d instants", c.name, at, c.wakeups)
			}
		})
	}
}
