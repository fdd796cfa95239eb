package peer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/codec/wire"
	"github.com/isthmus-mesh/isthmus/codec/wire/wirepb"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/internal/failpoint"
	"github.com/isthmus-mesh/isthmus/mesh"
	"google.golang.org/protobuf/proto"
)

// The cache is a CachedPeer message behind its SHA-256. A file that does not match is no
// cache; losing one costs a transfer, an old one the difference. It is therefore never synced to
// the disk: after a crash the digest tells whether it is whole.

func readCache(path string, owner mesh.ClusterName) (*replica.Saved, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if len(b) < sha256.Size || sha256.Sum256(b[sha256.Size:]) != [sha256.Size]byte(b[:sha256.Size]) {
		return nil, fmt.Errorf("read %s: damaged", path)
	}
	m := &wirepb.CachedPeer{}
	if err := proto.Unmarshal(b[sha256.Size:], m); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	saved, err := wire.DecodeSaved(owner, m)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return saved, nil
}

// writeCache replaces the file whole: what is there is always one saved state. A path has
// one writer.
func (w *saver) writeCache(ctx context.Context, s *replica.Saved) error {
	if err := w.failpoints.Hit(ctx, PointCacheWrite); err != nil {
		return err
	}
	b, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, sha256.Size), wire.EncodeSaved(s))
	if err != nil {
		return err
	}
	sum := sha256.Sum256(b[sha256.Size:])
	copy(b, sum[:])
	tmp := w.path + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if err := w.failpoints.Hit(ctx, PointCacheRename); err != nil {
		return err
	}
	if err := os.Rename(tmp, w.path); err != nil {
		return err
	}
	return w.failpoints.Hit(ctx, PointCacheWritten)
}

// lastHeard is when the peer was last heard, to touchEvery, as the cache says: it is the file's time of modification. Zero
// is unknown.
func lastHeard(path string) time.Time {
	info, err := os.Stat(path)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// touchEvery is how far the cache may be behind in saying when the peer was last heard.
const touchEvery = 10 * time.Second

// Writing costs time in proportion to the partition, not to the change, so a saver takes at most a
// twentieth of a core and does not write what differs by the revision only. Where services can be reached changes all the time, and of
// that an old cache costs the difference at the next contact: it is written down later than what forbids or whom to believe.
const (
	saveEvery  = 2 * time.Second
	saveLate   = 10 * time.Second
	savePacing = 20
)

// saver writes the newest state to the cache.
type saver struct {
	path       string
	clock      clock.Clock
	log        *slog.Logger
	failpoints *failpoint.Set
	wake       chan struct{}

	mu     sync.Mutex
	newest *replica.Saved
	// soon says that newest has more news than where services can be reached.
	soon bool
	// heard is when the peer was last heard, zero for never.
	heard time.Time
}

func newSaver(cfg FollowerConfig, heard time.Time, log *slog.Logger) *saver {
	return &saver{path: cfg.Cache, clock: cfg.Clock, log: log, failpoints: cfg.Failpoints, wake: make(chan struct{}, 1), heard: heard}
}

// save never waits; the latest state wins. e is what changed.
func (s *saver) save(v *replica.Saved, e *replica.Edit) {
	s.mu.Lock()
	s.soon = s.soon || s.newest == nil || pressing(s.newest, v, e)
	s.newest = v
	s.mu.Unlock()
	s.stir()
}

// pressing reports whether a state has more news than where services can be reached.
func pressing(before, v *replica.Saved, e *replica.Edit) bool {
	if len(e.Set)+len(e.Removed) == 0 {
		return !same(before, v)
	}
	return before.Stated.Position.Epoch != v.Stated.Position.Epoch || !before.Crossed.Covers(v.Crossed) || !v.Crossed.Covers(before.Crossed) ||
		slices.ContainsFunc(e.Set, func(r *replica.Resource) bool { return r.Kind != mesh.KindRemoteService }) ||
		slices.ContainsFunc(e.Removed, func(n replica.Name) bool { return n.Kind != mesh.KindRemoteService })
}

// touch says when the peer was last heard; it never waits either.
func (s *saver) touch(heard time.Time) {
	s.mu.Lock()
	s.heard = heard
	s.mu.Unlock()
	s.stir()
}

func (s *saver) stir() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run writes until ctx ends, and then what is left.
func (s *saver) run(ctx context.Context) {
	var written *replica.Saved
	var later time.Time // when what is not pressing is written
	timer := s.clock.NewTimer(saveLate)
	defer timer.Stop()
	for {
		select {
		case <-s.wake:
		case <-timer.C():
		case <-ctx.Done():
			s.write(context.WithoutCancel(ctx), &written)
			return
		}
		began := s.clock.Now()
		if heard, soon := s.waits(); !soon && began.Before(later) {
			s.date(heard)
			timer.Reset(later.Sub(began))
			continue
		}
		s.write(ctx, &written)
		later = began.Add(saveLate)
		_ = clock.Wait(ctx, s.clock, max(saveEvery, savePacing*s.clock.Now().Sub(began))) // an end is seen above
	}
}

// waits is when the peer was last heard, and whether what waits is pressing.
func (s *saver) waits() (heard time.Time, soon bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.heard, s.soon
}

func (s *saver) write(ctx context.Context, written **replica.Saved) {
	s.mu.Lock()
	v, heard := s.newest, s.heard
	s.soon = false
	s.mu.Unlock()
	defer s.date(heard)
	if v == nil || *written != nil && same(v, *written) {
		return
	}
	if err := s.writeCache(ctx, v); err != nil {
		s.log.Warn("a peer's facts could not be cached; a restart will fetch them again", "error", err)
		return
	}
	*written = v
}

// date sets the file's time of modification. A cache that is not there yet is dated when it is written.
func (s *saver) date(heard time.Time) {
	if heard.IsZero() {
		return
	}
	if err := os.Chtimes(s.path, time.Time{}, heard); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("when a peer was last heard could not be written down", "error", err)
	}
}

// same reports whether two states differ by no more than the revision.
func same(a, b *replica.Saved) bool {
	return a.Stated.Position.Epoch == b.Stated.Position.Epoch && a.Stated.Equal(b.Stated) && a.InForce.Equal(b.InForce) &&
		a.Crossed.Covers(b.Crossed) && b.Crossed.Covers(a.Crossed)
}
