package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/quarantine"
	"github.com/isthmus-mesh/isthmus/dataplane/snapshot"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
	"github.com/isthmus-mesh/isthmus/xds"
)

// keeper is the snapshot on the disk, with the ledger of what was taken since.
type keeper struct {
	*snapshot.Writer
	file   *trust.SealedFile // nil: nothing is kept
	key    trust.SealKey
	store  *store
	source *trust.Source
	clock  clock.Clock
	log    *slog.Logger
	maxAge time.Duration
	ledger *quarantine.Ledger
}

const (
	snapshotMaxAge = 24 * time.Hour
	// section names the resources in a snapshot.
	section = "resources"
)

func newKeeper(cfg *Config, s *store, source *trust.Source, c clock.Clock, log *slog.Logger) (*keeper, error) {
	k := &keeper{store: s, source: source, clock: c, log: log, maxAge: cfg.SnapshotMaxAge}
	if k.maxAge == 0 {
		k.maxAge = snapshotMaxAge
	}
	if cfg.SealFD == 0 {
		k.Writer = snapshot.New(snapshot.Config{})
		return k, nil
	}
	key, err := trust.SealKeyFromFD(cfg.SealFD)
	if err != nil {
		return nil, err
	}
	k.file, k.key = trust.SnapshotFile(cfg.Snapshot, key), key
	k.ledger = quarantine.Open(quarantine.Config{Path: cfg.Snapshot + ".taken", Key: key.Reveal(), Now: c.Now, Log: log})
	s.ledger = k.ledger
	content := func() (map[string][]byte, error) {
		if !s.state.Load().Ready {
			return nil, nil // the one on the disk is better
		}
		b, err := json.Marshal(s.snapshot())
		return map[string][]byte{section: b}, err
	}
	k.Writer = snapshot.New(snapshot.Config{File: k.file, Content: content, Source: source, Clock: c, Log: log})
	return k, nil
}

// boot restores the last snapshot, if there is one. A damaged or stale one is said and
// not used: the proxy then starts as if it were new.
func (k *keeper) boot(want mesh.Identity) []xds.Resource {
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
	var held content
	var v mesh.Vector
	if err == nil {
		err = json.Unmarshal(snap.Sections[section], &held)
	}
	if err == nil {
		v, err = mesh.ParseVector(held.Vector)
	}
	if err == nil {
		err = restoreIdentity(&snap, k.source, want)
	}
	if err != nil {
		k.log.Error("the snapshot cannot be used; the proxy starts as new", "error", err)
		return nil
	}
	held.Resources = k.ledger.Instead(held.Resources, held.Former)
	k.store.restore(held, v)
	k.log.Info("started from the snapshot", "generation", snap.Generation, "written", snap.Created, "ready", k.store.state.Load().Ready)
	// What this version could not use is not held: it is to be sent again.
	return k.store.snapshot().Resources
}

// restoreIdentity puts the snapshot's certificate and bundles in force, if they are of
// whom the proxy is to be.
func restoreIdentity(snap *trust.Snapshot, source *trust.Source, want mesh.Identity) error {
	svid, err := snap.SVID()
	if err != nil {
		return err
	}
	if svid.Identity != want {
		return fmt.Errorf("it is of %s and this proxy is to be %s", svid.Identity, want)
	}
	return snap.Restore(source)
}

// durable is the store to a client of discovery, which acknowledges a batch when Apply returns: of what tightens who may be asked,
// or come in, only once it is on the disk.
type durable struct {
	store  *store
	keeper func() *keeper
}

// Apply takes a batch.
func (d durable) Apply(b xds.Batch) map[string]error {
	tightens := d.store.mayTighten(&b)
	rejected := d.store.Apply(b)
	if tightens && d.store.state.Load().Ready {
		d.keeper().Keep()
	}
	return rejected
}

// mayTighten reports whether a batch may forbid what is allowed now: rules of access, roots, listeners, and services that are used, whose law
// may have changed. What is told for the first time forbids nothing that was done before.
func (s *store) mayTighten(b *xds.Batch) bool {
	switch t := ir.Type(b.Type); t {
	case ir.TypeAccess, ir.TypeBundle, ir.TypeGateway:
		return true
	case ir.TypeService:
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(b.Removed) > 0 || slices.ContainsFunc(b.Resources, func(r xds.Resource) bool { return s.told[t][r.Name] })
	}
	return false
}

// run writes until ctx ends.
func (k *keeper) run(ctx context.Context) error {
	if k.file != nil {
		defer k.ledger.Close()
	}
	return k.Run(ctx)
}

// freeze lets nothing be written any more: another process does.
func (k *keeper) freeze() {
	k.Freeze()
	k.ledger.Close()
}

// content is what a snapshot holds of the store.
type content struct {
	Resources []xds.Resource
	// Absent are names, by type, that were answered with: there is none.
	Absent map[string][]string
	Vector string
	// Former are what was in force before resources that came in the last minutes.
	Former []xds.Resource `json:",omitempty"`
}

// snapshot is what the disk is to keep.
func (s *store) snapshot() content {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := content{Absent: map[string][]string{}, Vector: s.vector.String(), Former: s.ledger.Former()}
	for _, t := range slices.Sorted(maps.Keys(s.raw)) {
		for _, n := range slices.Sorted(maps.Keys(s.raw[t])) {
			out.Resources = append(out.Resources, s.raw[t][n])
		}
		for _, n := range slices.Sorted(maps.Keys(s.told[t])) {
			if _, there := s.raw[t][n]; !there {
				out.Absent[string(t)] = append(out.Absent[string(t)], n)
			}
		}
	}
	return out
}

// restore applies a snapshot, whole. Services that it holds are asked for again, so that
// they follow the control plane as they did; those that it does not hold, and does not know to be
// absent, wait for one. What did not make a complete configuration, for a part of it is not understood any more, says of
// no type that it is whole: else the proxy would be ready with the first part that comes, and take what it does not know
// yet for what there is not.
func (s *store) restore(c content, v mesh.Vector) {
	byType := map[ir.Type][]xds.Resource{}
	for _, r := range c.Resources {
		byType[ir.Type(r.Type)] = append(byType[ir.Type(r.Type)], r)
	}
	s.mu.Lock()
	s.restored = true
	s.mu.Unlock()
	for _, t := range applyOrder {
		s.Apply(xds.Batch{Type: string(t), Resources: byType[t], Removed: c.Absent[string(t)], Vector: v, Complete: true})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := range s.services {
		s.ask(n)
	}
	if !s.state.Load().Ready {
		clear(s.complete)
	}
	s.restored = false
}

// applyOrder is targets before what refers to them.
var applyOrder = []ir.Type{ir.TypeBundle, ir.TypeCluster, ir.TypeEndpoints, ir.TypeService, ir.TypeAccess, ir.TypeSlots, ir.TypeName, ir.TypeProxy, ir.TypeSplit, ir.TypeGateway}
