package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// Reasons to leave a stream that ask for something else than waiting.
var (
	errCompacted  = errors.New("the history since then was compacted")
	errOverflow   = errors.New("the consumer fell too far behind")
	errOtherEpoch = errors.New("the store began another history")
)

// Watch calls deliver with everything that happens after from, until ctx ends
// or deliver fails, and returns ctx's or deliver's error. The zero Position
// begins with the whole state; a Position from Events, kept over a restart if
// the caller likes, goes on from there. deliver is called from the calling
// goroutine only, never twice at a time.
//
// Positions only grow within an epoch: nothing is delivered twice, and nothing
// is left out. The store being away, killed or restarted delays events and does
// no more. A Resync comes instead of changes where these cannot be had: when
// they were compacted, when the store is not the one of from's epoch, when its
// revision is behind one seen before or the last write that was seen is not in it (an
// old copy of its disk was put back; it then begins a new epoch, for everybody),
// or when the consumer is too slow.
//
// While deliver runs, changes wait, one a key, and the later replaces the
// earlier. Beyond Config.PendingMax keys or PendingBytesMax bytes they are
// forgotten, the stream is closed, and the next call is a Resync.
func (s *Store) Watch(ctx context.Context, from Position, deliver func(context.Context, Events) error) error {
	var seed [16]byte
	if err := s.random(seed[:]); err != nil {
		return &Error{Op: "watch", Cause: err}
	}
	w := &watcher{
		store:  s,
		jitter: rand.New(rand.NewPCG(binary.LittleEndian.Uint64(seed[:8]), binary.LittleEndian.Uint64(seed[8:]))),
		ready:  make(chan struct{}, 1),
		hungry: make(chan struct{}, 1),
		held:   pending{keysMax: s.cfg.PendingMax, bytesMax: s.cfg.PendingBytesMax, at: from},
		resync: from.Epoch == "",
		seen:   from,
	}
	rctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.receive(rctx)
	}()
	defer func() {
		cancel()
		<-done
	}()
	for {
		events, ok := w.take()
		if !ok {
			select {
			case <-w.ready:
				continue
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		if err := deliver(ctx, events); err != nil {
			return err
		}
	}
}

// A watcher is one call of Watch: a goroutine that receives, and the caller's,
// which delivers.
type watcher struct {
	store  *Store
	jitter *rand.Rand    // the receiver's
	ready  chan struct{} // there may be something to take
	hungry chan struct{} // the consumer found an overflow, and waits

	// The receiver's own: whether the next attempt begins with the whole state,
	// the furthest position received, and the last write.
	resync bool
	seen   Position
	mark   mark

	mu   sync.Mutex
	held pending // guarded by mu
}

// take is the consumer's side of held.
func (w *watcher) take() (Events, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.held.overflowed {
		signal(w.hungry)
	}
	return w.held.take()
}

// advance is the receiver's side of held.
func (w *watcher) advance(changes []change, revision int64) error {
	w.store.heard.Store(time.Now().UnixNano())
	w.mu.Lock()
	defer w.mu.Unlock()
	defer signal(w.ready)
	if !w.held.advance(changes, revision) {
		return errOverflow
	}
	w.seen.Revision = max(w.seen.Revision, revision)
	if n := len(changes); n > 0 {
		w.mark = markOf(changes[n-1])
	}
	return nil
}

// signal wakes the reader of c, if it is not already awake.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// receive keeps a stream open until ctx ends.
func (w *watcher) receive(ctx context.Context) {
	s := w.store
	failures := 0
	for ctx.Err() == nil {
		before := w.seen
		err := w.attempt(ctx)
		if ctx.Err() != nil {
			return
		}
		if w.seen != before {
			failures = 0 // it got somewhere
		}
		switch {
		case errors.Is(err, errOverflow):
			s.cfg.Log.Warn("watch consumer is slow; it gets the whole state next", "revision", w.seen.Revision)
			w.resync = true
			select {
			case <-w.hungry:
			case <-ctx.Done():
			}
			continue
		case errors.Is(err, errCompacted):
			w.resync = true
		}
		if failures == 0 && !errors.Is(err, errCompacted) && !errors.Is(err, errOtherEpoch) {
			s.cfg.Log.Warn("watch interrupted; it resumes when the store is back", "store", s.where, "revision", w.seen.Revision, "error", err)
		}
		failures++
		if w.wait(ctx, failures) != nil {
			return
		}
	}
}

// wait waits before attempt number failures+1: from a sixteenth of BackoffMax,
// doubling, each drawn from its upper half.
func (w *watcher) wait(ctx context.Context, failures int) error {
	d := min(w.store.cfg.BackoffMax>>4<<min(failures-1, 4), w.store.cfg.BackoffMax)
	d = d/2 + time.Duration(w.jitter.Int64N(int64(d/2)+1))
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// attempt makes sure that the store still continues the history that was seen,
// fetches the whole state where it does not, and then follows one stream until
// it ends.
func (w *watcher) attempt(ctx context.Context) error {
	s := w.store
	if err := s.cfg.Failpoints.Hit(ctx, PointWatchOpen); err != nil {
		return err
	}
	h, err := s.history(ctx)
	if err != nil {
		return fmt.Errorf("read epoch: %w", s.reason(err))
	}
	if h, err = w.continued(ctx, h); err != nil {
		return err
	}
	if w.resync || h.Epoch != w.seen.Epoch {
		if err := w.fetch(ctx, h); err != nil {
			return err
		}
	}
	return w.follow(ctx, h.cluster)
}

// continued makes sure that a history is the one that was seen, and begins another if it is so by name only.
func (w *watcher) continued(ctx context.Context, h history) (history, error) {
	if h.Epoch != w.seen.Epoch {
		return h, nil
	}
	s, holds := w.store, h.Revision >= w.seen.Revision
	if holds {
		var err error
		if holds, err = s.holds(ctx, w.mark); err != nil {
			return h, fmt.Errorf("read what was seen last: %w", s.reason(err))
		}
	}
	if holds {
		return h, nil
	}
	s.cfg.Log.Error("the store lost revisions it had acknowledged, as when an old copy of its disk is put back; a new epoch begins",
		"store", s.where, "revision", h.Revision, "seen", w.seen.Revision)
	ctx, cancel := s.bound(ctx)
	defer cancel()
	return s.beginEpoch(ctx, h.writtenA)
}

// fetch makes the whole state what the consumer gets next.
func (w *watcher) fetch(ctx context.Context, h history) error {
	all, revision, err := w.store.List(ctx, Scope{})
	if err != nil {
		return err
	}
	// The list is of the history it is said to be of only if that still
	// stands after it; revisions tell a rollback, the epoch the rest.
	after, err := w.store.history(ctx)
	if err != nil {
		return err
	}
	if after.Epoch != h.Epoch || after.cluster != h.cluster || after.Revision < revision || revision < h.Revision {
		return errOtherEpoch
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held.reset(Position{Epoch: h.Epoch, Revision: revision}, all)
	w.seen, w.resync, w.mark = w.held.at, false, lastOf(all)
	signal(w.ready)
	return nil
}
