package plane

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/xds"
)

// teller tells peers how far the own history is, and what is replicated of it, once all that
// follows from it has been computed. Until then the position would be a lie: after a restart the
// world is read before the exports are derived from it, and a peer that was told of that position
// without them would take every service for deleted.
type teller struct {
	wake chan struct{}
	// marks tells that the loop has published a mark.
	marks chan struct{}

	mu      sync.Mutex
	at      mesh.Position
	lineage replica.Lineage
	// changed by name; nil is no longer told.
	changed map[replica.Name]*replica.Resource
}

func newTeller() *teller {
	return &teller{wake: make(chan struct{}, 1), marks: make(chan struct{}, 1), changed: map[replica.Name]*replica.Resource{}}
}

// add queues a step of the history; later ones overrule it by name. It never waits.
func (t *teller) add(at mesh.Position, l replica.Lineage, changed map[replica.Name]*replica.Resource) {
	t.mu.Lock()
	t.at = at
	if l != nil {
		t.lineage = l
	}
	maps.Copy(t.changed, changed)
	t.mu.Unlock()
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

func (t *teller) take() (at mesh.Position, l replica.Lineage, set []*replica.Resource, removed []replica.Name) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, n := range slices.SortedFunc(maps.Keys(t.changed), replica.Name.Compare) {
		if r := t.changed[n]; r != nil {
			set = append(set, r)
		} else {
			removed = append(removed, n)
		}
	}
	t.changed = map[replica.Name]*replica.Resource{}
	return t.at, t.lineage, set, removed
}

// tell runs until ctx ends.
func (p *Plane) tell(ctx context.Context) error {
	for {
		select {
		case <-p.teller.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
		at, lineage, set, removed := p.teller.take()
		if err := p.settled(ctx); err != nil {
			return err
		}
		p.exports.State(at, lineage, set, removed)
	}
}

// markType is of no resource: its updates mark that the loop has come so far.
const markType = "mark"

// settled returns when what is in the world now has been computed and handed out. The loop
// publishes a mark when it has computed all, and exports after that; so the second mark
// proves that the exports of the first are out.
func (p *Plane) settled(ctx context.Context) error {
	for range 2 {
		p.loop.Watch("", markType, "")
		select {
		case <-p.teller.marks:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// unmark takes marks out of updates.
func (t *teller) unmark(updates []xds.Update) []xds.Update {
	return slices.DeleteFunc(updates, func(u xds.Update) bool {
		if u.Type != markType {
			return false
		}
		select {
		case t.marks <- struct{}{}:
		default:
		}
		return true
	})
}
