package snapshot

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/trust"
)

// counted is a writer of nothing, which counts how often it was asked what there is.
func counted(t *testing.T) (*Writer, *atomic.Int64) {
	n := new(atomic.Int64)
	return New(Config{File: trust.SnapshotFile(filepath.Join(t.TempDir(), "snapshot"), trust.NewSealKey()), Source: trust.NewSource(clock.Real{}), Clock: clock.Real{},
		Log: slog.New(slog.DiscardHandler), Content: func() (map[string][]byte, error) { n.Add(1); return nil, nil }}), n
}

// TestChangesAreGatheredAndWhatForbidsIsNot: of a hundred changes in a second there is a write after a moment and one after the pause,
// and what is to be kept is written each time, at once.
func TestChangesAreGatheredAndWhatForbidsIsNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n := counted(t)
		ctx, end := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.Run(ctx) }()
		for range 100 {
			w.Dirty()
			time.Sleep(10 * time.Millisecond)
		}
		synctest.Wait()
		if got := n.Load(); got != 1 {
			t.Errorf("%d writes in a second, want 1", got)
		}
		time.Sleep(pause)
		before := n.Load()
		for range 3 { // while it pauses, gathers and waits
			for range 5 {
				began := time.Now()
				w.Keep()
				if took := time.Since(began); took != 0 {
					t.Errorf("kept after %s, want at once", took)
				}
			}
			w.Dirty()
			time.Sleep(gather / 2)
		}
		if got := n.Load() - before; got < 15 {
			t.Errorf("%d writes for 15 that were to be kept", got)
		}
		end()
		<-done
	})
}

// TestADiskThatDoesNotAnswerHoldsUpNobody, nor does a writer that does not run.
func TestADiskThatDoesNotAnswerHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n := counted(t)
		began := time.Now()
		w.Keep()
		if took := time.Since(began); took != keepMax || n.Load() != 0 {
			t.Errorf("waited for %s, with %d writes; want %s and none", took, n.Load(), keepMax)
		}
		ctx, end := context.WithCancel(t.Context())
		slow := w.cfg.Content
		w.cfg.Content = func() (map[string][]byte, error) { time.Sleep(time.Minute); return slow() }
		done := make(chan error, 1)
		go func() { done <- w.Run(ctx) }()
		synctest.Wait()
		began = time.Now()
		w.Keep()
		if took := time.Since(began); took != keepMax {
			t.Errorf("a write of a minute was waited for %s, want %s", took, keepMax)
		}
		end()
		<-done
	})
}

// TestFrozen writes nothing: another process does.
func TestFrozen(t *testing.T) {
	w, n := counted(t)
	w.Write()
	w.Freeze()
	w.Write()
	if got := n.Load(); got != 1 {
		t.Errorf("%d writes, want that before it was frozen", got)
	}
}
