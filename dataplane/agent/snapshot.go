package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
	"github.com/isthmus-mesh/isthmus/xds"
)

// keeper writes the snapshot: soon after a change, and not more often than the disk
// should be asked.
type keeper struct {
	file   *trust.SealedFile // nil: nothing is kept
	store  *store
	source *trust.Source
	clock  clock.Clock
	log    *slog.Logger
	due    chan struct{}
	maxAge time.Duration
}

const (
	snapshotDelay  = 200 * time.Millisecond
	snapshotMaxAge = 24 * time.Hour
	// section names the resources in a snapshot.
	section = "resources"
)

// kept is the section's content.
type kept struct {
	Vector    string
	Resources []xds.Resource
}

func newKeeper(cfg *Config, s *store, source *trust.Source, c clock.Clock, log *slog.Logger) (*keeper, error) {
	k := &keeper{store: s, source: source, clock: c, log: log, due: make(chan struct{}, 1), maxAge: cfg.SnapshotMaxAge}
	if k.maxAge == 0 {
		k.maxAge = snapshotMaxAge
	}
	if cfg.SealFD == 0 {
		return k, nil
	}
	key, err := trust.SealKeyFromFD(cfg.SealFD)
	if err != nil {
		return nil, err
	}
	k.file = trust.SnapshotFile(cfg.Snapshot, key)
	return k, nil
}

// boot restores the last snapshot, if there is one. A damaged or stale one is said and
// not used: the proxy then starts as if it were new.
func (k *keeper) boot() []xds.Resource {
	if k.file == nil {
		return nil
	}
	snap, err := trust.ReadSnapshot(k.file, k.clock.Now(), k.maxAge)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && snap.FellBack != nil {
		k.log.Warn("the newest snapshot cannot be used; the one before it is", "error", snap.FellBack)
	}
	var content kept
	var v mesh.Vector
	if err == nil {
		err = json.Unmarshal(snap.Sections[section], &content)
	}
	if err == nil {
		v, err = mesh.ParseVector(content.Vector)
	}
	if err == nil {
		err = snap.Restore(k.source)
	}
	if err != nil {
		k.log.Error("the snapshot cannot be used; the proxy starts as new", "error", err)
		return nil
	}
	k.store.restore(content.Resources, v)
	k.log.Info("started from the snapshot", "generation", snap.Generation, "written", snap.Created, "ready", k.store.state.Load().Ready)
	return content.Resources
}

// dirty asks for a write; it never waits.
func (k *keeper) dirty() {
	select {
	case k.due <- struct{}{}:
	default:
	}
}

// run writes until ctx ends, and once more then.
func (k *keeper) run(ctx context.Context) error {
	if k.file == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	_, renewed := k.source.Watch()
	for {
		select {
		case <-k.due:
		case <-renewed:
			_, renewed = k.source.Watch()
		case <-ctx.Done():
			k.write()
			return ctx.Err()
		}
		if err := clock.Wait(ctx, k.clock, snapshotDelay); err != nil {
			k.write()
			return err
		}
		k.write()
	}
}

func (k *keeper) write() {
	state := k.store.state.Load()
	if !state.Ready {
		return // the one on the disk is better
	}
	b, err := json.Marshal(kept{state.Vector.String(), k.store.snapshot()})
	if err == nil {
		var snap trust.Snapshot
		if snap, err = k.source.Current().Snapshot(map[string][]byte{section: b}); err == nil {
			_, err = trust.WriteSnapshot(k.file, snap, k.clock.Now())
		}
	}
	if err != nil {
		k.log.Warn("the snapshot could not be written; the one before it stays", "error", fmt.Errorf("write the snapshot: %w", err))
	}
}
