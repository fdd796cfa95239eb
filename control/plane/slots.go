package plane

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Bounds of one write of slot tables.
const (
	slotsMax      = 64
	slotsBytesMax = 512 << 10
)

// slots are tables on their way to the store, the newest of each service. What queued up while one write was made is one write.
type slots struct {
	plane *Plane
	wake  chan struct{}

	mu      sync.Mutex
	pending map[mesh.ServiceName]mesh.SlotTable
}

func newSlots(p *Plane) *slots {
	return &slots{plane: p, wake: make(chan struct{}, 1), pending: map[mesh.ServiceName]mesh.SlotTable{}}
}

// save takes a table from the loop; it never waits.
func (s *slots) save(t mesh.SlotTable) {
	s.mu.Lock()
	s.pending[t.Service] = t
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// take takes out what is to be written, by name.
func (s *slots) take() []mesh.SlotTable {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := slices.SortedFunc(maps.Values(s.pending), func(a, b mesh.SlotTable) int { return a.Service.Compare(b.Service) })
	clear(s.pending)
	return out
}

// run writes tables to the store until ctx ends. Another replica may have been first: its table then comes back by the watch, and the
// loop goes on from it.
func (s *slots) run(ctx context.Context) error {
	for {
		select {
		case <-s.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
		for tables := s.take(); len(tables) > 0; {
			n, err := s.write(ctx, tables)
			if err != nil {
				s.plane.log.Warn("slot tables could not be stored; trying again", "tables", len(tables), "error", err)
				if err := clock.Wait(ctx, s.plane.clock, 200*time.Millisecond); err != nil {
					return err
				}
			}
			tables = tables[n:]
		}
	}
}

// write writes the first of the tables, and returns how many it need not be given again. That the stored ones are older is first taken
// from the world, in one write for all; where somebody was faster, the store is asked of each.
func (s *slots) write(ctx context.Context, tables []mesh.SlotTable) (n int, err error) {
	var ops []store.Op
	for size := 0; n < len(tables) && n < slotsMax; n++ {
		o, err := slotObject(tables[n])
		if err != nil {
			return 0, err
		}
		if size += len(o.Value); size > slotsBytesMax && n > 0 {
			break
		}
		if pre, older := s.known(tables[n]); older {
			ops = append(ops, store.Op{Object: o, Pre: pre})
		}
	}
	if len(ops) == 0 {
		return n, nil
	}
	_, err = s.plane.store.Batch(ctx, ops)
	if !errors.Is(err, store.ErrExists) && !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrNotFound) {
		if err != nil {
			n = 0
		}
		return n, err
	}
	for i, t := range tables[:n] {
		if err := s.put(ctx, t); err != nil {
			return i, err
		}
	}
	return n, nil
}

// known is the precondition that what is stored of a service is what the world shows, and whether that is older than t.
func (s *slots) known(t mesh.SlotTable) (pre store.Precondition, older bool) {
	f, ok := s.plane.loop.World().Get(mesh.Key{Kind: mesh.KindSlotTable, Origin: s.plane.cfg.Cluster, Namespace: t.Service.Namespace, Name: t.Service.Name})
	if !ok {
		return store.MustNotExist(), true
	}
	return store.AtRevision(f.Position.Revision), f.Value.(*mesh.SlotTable).Generation < t.Generation
}

// put replaces an older table by a newer one, and does nothing if what is stored is as new.
func (s *slots) put(ctx context.Context, t mesh.SlotTable) error {
	next, err := slotObject(t)
	if err != nil {
		return err
	}
	pre := store.MustNotExist()
	o, err := s.plane.store.Get(ctx, next.Key)
	switch {
	case err == nil:
		var have mesh.SlotTable
		if json.Unmarshal(o.Value, &have) == nil && have.Generation >= t.Generation {
			return nil
		}
		pre = store.AtRevision(o.Revision)
	case !errors.Is(err, store.ErrNotFound):
		return err
	}
	_, err = s.plane.store.Put(ctx, next, pre)
	return err
}

// slotObject is a table as it is stored.
func slotObject(t mesh.SlotTable) (store.Object, error) {
	b, err := json.Marshal(t)
	return store.Object{Key: store.Key{Kind: kindSlotTable, Namespace: t.Service.Namespace, Name: t.Service.Name}, Value: b}, err
}
