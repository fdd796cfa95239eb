package filestore

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/internal/failpoint"
	"github.com/isthmus-mesh/isthmus/trust"
)

// Points of this package at which a test may make things go wrong.
const (
	// PointAppend is before a write is appended; PointSync when it is in the file and may not be on the disk.
	PointAppend failpoint.Point = "filestore.append"
	PointSync   failpoint.Point = "filestore.sync"
	// PointCompact is when all is in the sealed file, and still in the log too.
	PointCompact failpoint.Point = "filestore.compact"
)

// Failpoints lists the points of this package, for failpoint.New.
func Failpoints() []failpoint.Point {
	return []failpoint.Point{PointAppend, PointSync, PointCompact}
}

// Config is what a Store works with; Path and Key are required.
type Config struct {
	// Path is the file of the whole state. Beside it are Path+".log", what was written since, and the
	// predecessors of both.
	Path  string
	Key   trust.SealKey
	Clock clock.Clock
	Log   *slog.Logger
	// LogMax is the length of the log, in bytes, at which all is written anew; 0 is 4 MiB. A state that is
	// larger than that is written anew when the log is as long as the state.
	LogMax int64
	// Failpoints may be nil, and is in production.
	Failpoints *failpoint.Set
}

// historyMax is how many changes a watch may be behind before it is told the whole state.
const historyMax = 8192

// Store is the objects of one cluster. Its methods are safe for concurrent use.
type Store struct {
	cfg Config

	// write is held by who writes; it stands above the files.
	write   sync.Mutex
	log     *os.File
	logSize int64
	written int64 // octets of the last whole state

	mu      sync.RWMutex
	at      store.Position
	objects map[store.Key]store.Object
	// history is what changed since floor, in order.
	history []past
	floor   int64
	changed chan struct{} // closed at the next change
	closed  bool
}

// past is a key that changed at a revision.
type past struct {
	revision int64
	key      store.Key
}

// Open reads what the files hold. Where nothing is, an empty history begins.
func Open(cfg Config) (*Store, error) {
	s := &Store{cfg: cfg, objects: map[store.Key]store.Object{}, changed: make(chan struct{})}
	s.defaults()
	if err := s.load(); err != nil {
		return nil, fmt.Errorf("open the objects in %s: %w", cfg.Path, err)
	}
	return s, nil
}

func (s *Store) defaults() {
	if s.cfg.Clock == nil {
		s.cfg.Clock = clock.Real{}
	}
	if s.cfg.Log == nil {
		s.cfg.Log = slog.New(slog.DiscardHandler)
	}
	if s.cfg.LogMax == 0 {
		s.cfg.LogMax = 4 << 20
	}
}

// Create makes the files of objects, as the beginning of a history; it replaces what is there.
func Create(cfg Config, objects []store.Object) error {
	s := &Store{cfg: cfg, objects: map[store.Key]store.Object{}, changed: make(chan struct{})}
	s.defaults()
	for _, o := range objects {
		o.Revision, o.Created = 1, 1
		s.objects[o.Key] = o
	}
	s.begin()
	if err := s.compact(context.Background()); err != nil {
		return fmt.Errorf("make the objects in %s: %w", cfg.Path, err)
	}
	return s.Close()
}

// Close ends it; writes fail afterwards.
func (s *Store) Close() error {
	s.write.Lock()
	defer s.write.Unlock()
	s.mu.Lock()
	closed := s.closed
	s.closed = true
	s.mu.Unlock()
	if closed {
		return nil
	}
	return s.log.Close()
}

// Heard is now: a file is never away.
func (s *Store) Heard() time.Time { return s.cfg.Clock.Now() }

// Now returns the position.
func (s *Store) Now(context.Context) (store.Position, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.at, nil
}

// Get returns the object of key, or store.ErrNotFound.
func (s *Store) Get(_ context.Context, key store.Key) (store.Object, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	o, ok := s.objects[key]
	if !ok {
		return store.Object{}, &store.Error{Op: "get", Key: key, Kind: store.ErrNotFound}
	}
	return o, nil
}

// List returns the objects of scope in order, and the revision.
func (s *Store) List(_ context.Context, scope store.Scope) ([]store.Object, int64, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []store.Object
	for k, o := range s.objects {
		if (scope.Kind == "" || scope.Kind == k.Kind) && (scope.Namespace == "" || scope.Namespace == k.Namespace) {
			out = append(out, o)
		}
	}
	slices.SortFunc(out, func(a, b store.Object) int { return compare(a.Key, b.Key) })
	return out, s.at.Revision, nil
}

func compare(a, b store.Key) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// Put writes an object, as store.Store does.
func (s *Store) Put(ctx context.Context, o store.Object, pre store.Precondition) (int64, error) {
	return s.commit(ctx, "put", []store.Op{{Object: o, Pre: pre}})
}

// Delete removes an object, as store.Store does.
func (s *Store) Delete(ctx context.Context, key store.Key, pre store.Precondition) (int64, error) {
	return s.commit(ctx, "delete", []store.Op{{Object: store.Object{Key: key}, Delete: true, Pre: pre}})
}

// Batch writes all of ops at one revision or none, as store.Store does.
func (s *Store) Batch(ctx context.Context, ops []store.Op) (int64, error) {
	return s.commit(ctx, "batch", ops)
}

func (s *Store) commit(ctx context.Context, op string, ops []store.Op) (int64, error) {
	if err := store.CheckOps(op, ops); err != nil {
		return 0, err
	}
	s.write.Lock()
	defer s.write.Unlock()
	if err := ctx.Err(); err != nil {
		return 0, &store.Error{Op: op, Key: ops[0].Object.Key, Cause: err}
	}
	for _, o := range ops {
		if err := o.Refusal(op, s.objects[o.Object.Key].Revision); err != nil {
			return 0, err
		}
	}
	r := record{Epoch: s.at.Epoch, Revision: s.at.Revision + 1}
	for _, o := range ops {
		if o.Delete {
			r.Deletes = append(r.Deletes, o.Object.Key)
			continue
		}
		put := store.Object{Key: o.Object.Key, Value: slices.Clone(o.Object.Value), Revision: r.Revision, Created: r.Revision}
		if old, ok := s.objects[put.Key]; ok {
			put.Created = old.Created
		}
		r.Puts = append(r.Puts, put)
	}
	if err := s.append(ctx, r); err != nil {
		return 0, fail(op, ops[0].Object.Key, err)
	}
	s.mu.Lock()
	s.take(r)
	s.mu.Unlock()
	if s.logSize > max(s.cfg.LogMax, s.written) {
		if err := s.compact(ctx); err != nil { // the write is safe in the log
			s.cfg.Log.Warn("the objects could not be written anew; their log grows", "path", s.cfg.Path, "error", err)
		}
	}
	return r.Revision, nil
}

// fail says what a write failed of.
func fail(op string, key store.Key, err error) error {
	e := &store.Error{Op: op, Key: key, Kind: store.ErrUnavailable, Cause: err}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		e.Kind = store.ErrFull
	}
	return e
}

// take brings a record into memory. The caller holds mu, or is alone.
func (s *Store) take(r record) {
	for _, o := range r.Puts {
		s.objects[o.Key] = o
		s.history = append(s.history, past{r.Revision, o.Key})
	}
	for _, k := range r.Deletes {
		delete(s.objects, k)
		s.history = append(s.history, past{r.Revision, k})
	}
	if over := len(s.history) - historyMax; over >= historyMax { // in large steps: a step moves all that stays
		s.floor = s.history[over-1].revision
		s.history = slices.Clone(s.history[over:])
	}
	s.at.Revision = r.Revision
	s.wake()
}

// wake tells those who watch. The caller holds mu, or is alone.
func (s *Store) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Watch calls deliver with everything that happens after from, as store.Store does. A position of this epoch that
// has not been reached yet means that the files were put back: another epoch begins, for everybody.
func (s *Store) Watch(ctx context.Context, from store.Position, deliver func(context.Context, store.Events) error) error {
	if now, _ := s.Now(ctx); from.Epoch == now.Epoch && from.Revision > now.Revision {
		if err := s.restart(ctx); err != nil {
			return fmt.Errorf("watch the objects in %s: %w", s.cfg.Path, err)
		}
	}
	for {
		e, changed := s.since(from)
		if e.Position != from || e.Resync {
			if err := deliver(ctx, e); err != nil {
				return err
			}
			from = e.Position
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// since is what happened after from, and a channel that closes when more does.
func (s *Store) since(from store.Position) (store.Events, <-chan struct{}) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	e := store.Events{Position: s.at}
	if from.Epoch != s.at.Epoch || from.Revision < s.floor {
		e.Resync = true
		for _, o := range s.objects {
			e.Puts = append(e.Puts, o)
		}
	} else {
		i, _ := slices.BinarySearchFunc(s.history, from.Revision+1, func(p past, r int64) int { return cmp.Compare(p.revision, r) })
		seen := map[store.Key]bool{}
		for _, p := range slices.Backward(s.history[i:]) {
			if seen[p.key] {
				continue
			}
			seen[p.key] = true
			if o, ok := s.objects[p.key]; ok {
				e.Puts = append(e.Puts, o)
			} else {
				e.Deletes = append(e.Deletes, store.Deletion{Key: p.key, Revision: p.revision})
			}
		}
	}
	slices.SortFunc(e.Puts, func(a, b store.Object) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), compare(a.Key, b.Key))
	})
	slices.SortFunc(e.Deletes, func(a, b store.Deletion) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), compare(a.Key, b.Key))
	})
	return e, s.changed
}

// restart begins another history with what is there.
func (s *Store) restart(ctx context.Context) error {
	s.write.Lock()
	defer s.write.Unlock()
	s.mu.Lock()
	s.begin()
	s.mu.Unlock()
	return s.compact(ctx)
}

// begin gives the history another name; the caller writes it down.
func (s *Store) begin() {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	s.at = store.Position{Epoch: hex.EncodeToString(id[:]), Revision: s.at.Revision + 1}
	s.history, s.floor = nil, s.at.Revision
	s.wake()
}
