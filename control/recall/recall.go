// Package recall brings back what a store lost of policies while this process had them in force: a store of which an older copy was
// put back says nothing of those that came later, and their absence would allow what they forbid. Its one idea is that the later word
// counts, by the stamps that the words bear: a policy, or the statement that it was deleted, is written back where the store knows
// nothing as late. So a deletion that was made since stays one. Of anything but policies the store is believed.
//
// It does not find out that a history ended (control/store does) and knows of no peers (what they hold over is for who was
// restarted meanwhile, and remembers nothing). Statements of deletions are stored as word.go says.
//
// Read Recall first, then Lost.
package recall

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/internal/clock"
)

// Bounds of one transaction: those of the store, less room for what is written along.
const (
	batchMax      = 100
	batchBytesMax = 1 << 20
	// retry is how long a store that did not take a write is left alone.
	retry = 200 * time.Millisecond
)

// Objects is the store, as far as it is used here.
type Objects interface {
	List(context.Context, store.Scope) ([]store.Object, int64, error)
	Batch(context.Context, []store.Op) (int64, error)
	Now(context.Context) (store.Position, error)
}

// Recall is one store's. All fields are required.
type Recall struct {
	Objects Objects
	// Along is written in the last transaction, if the state does not say it yet: that the lost history was taken into account.
	Along func(state []store.Object) (store.Op, bool)
	Clock clock.Clock
	Log   *slog.Logger
}

// Insist writes back what a state remembers of policies and the store lacks, again and again while the store is away, and
// returns the first whole state of the store that lacks nothing, and where it is: of the epoch that the store has after that was
// read. names are the policies of which something was written. It fails with ctx only.
func (r *Recall) Insist(ctx context.Context, remembered []store.Object) (state []store.Object, at store.Position, names []replica.Name, err error) {
	for {
		state, at, err = r.state(ctx)
		if err == nil {
			ops, lost := Lost(remembered, state)
			along, more := r.Along(state)
			if len(lost) == 0 && !more {
				slices.SortFunc(names, replica.Name.Compare)
				return state, at, slices.Compact(names), nil
			}
			if more {
				ops = append(ops, []store.Op{along})
			}
			if err = r.write(ctx, ops); err == nil {
				names = append(names, lost...)
				continue
			}
		}
		r.Log.Warn("policies that the store lost could not be written back yet; they stay in force, and it is tried again", "error", err)
		if err := clock.Wait(ctx, r.Clock, retry); err != nil {
			return nil, at, nil, err
		}
	}
}

// state is all that the store has, and where that is.
func (r *Recall) state(ctx context.Context) ([]store.Object, store.Position, error) {
	all, revision, err := r.Objects.List(ctx, store.Scope{})
	if err != nil {
		return nil, store.Position{}, err
	}
	now, err := r.Objects.Now(ctx)
	return all, store.Position{Epoch: now.Epoch, Revision: revision}, err
}

// write makes as few transactions as fit, in order: a group is never parted.
func (r *Recall) write(ctx context.Context, groups [][]store.Op) error {
	var batch []store.Op
	size := 0
	for i, g := range groups {
		batch, size = append(batch, g...), size+bytesOf(g)
		if i+1 < len(groups) && len(batch)+len(groups[i+1]) <= batchMax && size+bytesOf(groups[i+1]) <= batchBytesMax {
			continue
		}
		if _, err := r.Objects.Batch(ctx, batch); err != nil {
			return err
		}
		batch, size = nil, 0
	}
	return nil
}

func bytesOf(g []store.Op) (n int) {
	for _, op := range g {
		n += len(op.Object.Value)
	}
	return n
}

// Lost is what a state of the store lacks of what is remembered, by name: for each policy the writes that belong together, which
// fail if somebody else was faster.
func Lost(remembered, state []store.Object) (ops [][]store.Op, names []replica.Name) {
	have, want := read(state), read(remembered)
	for _, n := range slices.SortedFunc(maps.Keys(want), replica.Name.Compare) {
		w, h := want[n].last, have[n]
		if h.last.object.Value != nil && w.stamp.Compare(h.last.stamp) <= 0 {
			continue // the store says something as late
		}
		is := h.policy
		if w.gone {
			is = h.statement
		}
		group := []store.Op{{Object: store.Object{Key: w.object.Key, Value: w.object.Value}, Pre: unless(is)}}
		if w.gone && h.policy != 0 {
			key := w.object.Key
			key.Kind = key.Kind[len(kindGone):]
			group = append(group, store.Op{Object: store.Object{Key: key}, Delete: true, Pre: store.AtRevision(h.policy)})
		}
		ops, names = append(ops, group), append(names, n)
	}
	return ops, names
}

// unless is the precondition that nobody wrote since a revision, 0 for none.
func unless(revision int64) store.Precondition {
	if revision == 0 {
		return store.MustNotExist()
	}
	return store.AtRevision(revision)
}
