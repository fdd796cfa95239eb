// Package snapshot keeps what a proxy knows on its disk, so that it starts without a control plane. Its one idea is that a disk has its
// own pace: what changes is gathered for a moment and written once a second at most, and only what forbids something is waited
// for, and not for long.
//
// It knows neither what is kept (dataplane/agent does) nor how it is sealed (package trust). Read Writer.
package snapshot

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/trust"
)

const (
	// gather is for how long what changes is gathered, and pause the least time between two writes: a lost second is fetched again, a
	// disk that is always written to is not.
	gather = 200 * time.Millisecond
	pause  = time.Second
	// keepMax is how long Keep waits. A slow disk must not hold up the configuration.
	keepMax = 250 * time.Millisecond
)

// Config is what a Writer works with.
type Config struct {
	// File is where; nil, nothing is kept.
	File *trust.SealedFile
	// Content is what is kept beside Source's certificate and roots, by section; nil, what is on the disk is better.
	Content func() (map[string][]byte, error)
	Source  *trust.Source
	Clock   clock.Clock
	Log     *slog.Logger
}

// Writer writes snapshots. It is safe for concurrent use.
type Writer struct {
	cfg Config
	due chan struct{}
	// urgent asks for a write now; what is sent is closed after it.
	urgent chan chan struct{}

	mu     sync.Mutex // serialises writes
	frozen bool
}

// New returns a writer, which writes once it runs.
func New(cfg Config) *Writer {
	return &Writer{cfg: cfg, due: make(chan struct{}, 1), urgent: make(chan chan struct{})}
}

// Dirty asks for a write; it never waits.
func (w *Writer) Dirty() {
	select {
	case w.due <- struct{}{}:
	default:
	}
}

// Keep returns when what is known is on the disk, or cannot be, or has not got there in keepMax.
func (w *Writer) Keep() {
	if w.cfg.File == nil {
		return
	}
	late := w.cfg.Clock.NewTimer(keepMax)
	defer late.Stop()
	done := make(chan struct{})
	select {
	case w.urgent <- done:
	case <-late.C(): // it is writing, or does not run yet, or any more
		return
	}
	select {
	case <-done:
	case <-late.C():
	}
}

// Run writes until ctx ends, and once more then.
func (w *Writer) Run(ctx context.Context) error {
	if w.cfg.File == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	_, renewed := w.cfg.Source.Watch()
	for {
		select {
		case <-w.due:
		case done := <-w.urgent:
			w.Write()
			close(done)
			continue
		case <-renewed:
			_, renewed = w.cfg.Source.Watch()
		case <-ctx.Done():
			w.Write()
			return ctx.Err()
		}
		err := w.wait(ctx, gather)
		w.Write()
		if err == nil {
			err = w.wait(ctx, pause-gather)
		}
		if err != nil {
			w.Write()
			return err
		}
	}
}

// wait lets time go by, and writes meanwhile what is urgent.
func (w *Writer) wait(ctx context.Context, d time.Duration) error {
	t := w.cfg.Clock.NewTimer(d)
	defer t.Stop()
	for {
		select {
		case <-t.C():
			return nil
		case done := <-w.urgent:
			w.Write()
			close(done)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Freeze lets nothing be written any more: another process does.
func (w *Writer) Freeze() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.frozen = true
}

// Write writes now. What fails is said, and the snapshot before it stays.
func (w *Writer) Write() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cfg.File == nil || w.frozen {
		return
	}
	sections, err := w.cfg.Content()
	if sections == nil && err == nil {
		return
	}
	if err == nil {
		var snap trust.Snapshot
		if snap, err = w.cfg.Source.Current().Snapshot(sections); err == nil {
			_, err = trust.WriteSnapshot(w.cfg.File, snap, w.cfg.Clock.Now())
		}
	}
	if err != nil {
		w.cfg.Log.Warn("the snapshot could not be written; the one before it stays", "error", fmt.Errorf("write the snapshot: %w", err))
	}
}
