package peer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/codec/wire"
	"github.com/isthmus-mesh/isthmus/codec/wire/wirepb"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/internal/clock"
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
func writeCache(path string, s *replica.Saved) error {
	b, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, sha256.Size), wire.EncodeSaved(s))
	if err != nil {
		return err
	}
	sum := sha256.Sum256(b[sha256.Size:])
	copy(b, sum[:])
	tmp := path + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return os.Rename(tmp, path)
}

// Writing costs time in proportion to the partition, not to the change, so a saver takes at most a
// twentieth of a core and does not write what differs by the revision only.
const (
	saveEvery  = 2 * time.Second
	savePacing = 20
)

// saver writes the newest state to the cache.
type saver struct {
	path  string
	clock clock.Clock
	log   *slog.Logger
	wake  chan struct{}

	mu     sync.Mutex
	newest *replica.Saved
}

func newSaver(path string, c clock.Clock, log *slog.Logger) *saver {
	return &saver{path: path, clock: c, log: log, wake: make(chan struct{}, 1)}
}

// save never waits; the latest state wins.
func (s *saver) save(v *replica.Saved) {
	s.mu.Lock()
	s.newest = v
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run writes until ctx ends, and then what is left.
func (s *saver) run(ctx context.Context) {
	var written *replica.Saved
	for {
		select {
		case <-s.wake:
		case <-ctx.Done():
			s.write(&written)
			return
		}
		began := s.clock.Now()
		s.write(&written)
		_ = clock.Wait(ctx, s.clock, max(saveEvery, savePacing*s.clock.Now().Sub(began))) // an end is seen above
	}
}

func (s *saver) write(written **replica.Saved) {
	s.mu.Lock()
	v := s.newest
	s.mu.Unlock()
	if v == nil || *written != nil && same(v, *written) {
		return
	}
	if err := writeCache(s.path, v); err != nil {
		s.log.Warn("a peer's facts could not be cached; a restart will fetch them again", "error", err)
		return
	}
	*written = v
}

// same reports whether two states differ by no more than the revision.
func same(a, b *replica.Saved) bool {
	return a.Stated.Position.Epoch == b.Stated.Position.Epoch && a.Stated.Equal(b.Stated) && a.InForce.Equal(b.InForce) &&
		a.Crossed.Covers(b.Crossed) && b.Crossed.Covers(a.Crossed)
}
