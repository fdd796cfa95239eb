package plane

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/isthmus-mesh/isthmus/control/recall"
	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// begin takes a step into account as far as it is of another history: what the one before knew of policies is in the store again before
// anything of the new one is believed, and the step that is returned is of after that. Until then all that was in force stays so.
// false is a step that says nothing new.
func (f *follower) begin(ctx context.Context, e store.Events) (store.Events, bool, error) {
	if e.Epoch == f.of {
		return e, e.Resync || e.Revision > f.read, nil
	}
	p, of, before := f.plane, f.of, f.epoch
	if err := f.knowEpoch(ctx, e); err != nil {
		return e, false, err
	}
	f.read = 0
	if of == "" || p.recover.forgets.Load() {
		return e, true, nil
	}
	remembered, _, _ := p.mirror.list(store.Scope{})
	r := recall.Recall{Objects: p.store, Clock: p.clock, Log: p.log, Along: func(state []store.Object) (store.Op, bool) { return f.covers(before, remembered, state) }}
	state, at, names, err := r.Insist(ctx, remembered)
	if err != nil {
		return e, false, err
	}
	if len(names) > 0 {
		p.log.Warn("policies that the store had lost were in force here and are written back", "policies", len(names), "names", fmt.Sprint(names[:min(len(names), 20)]))
		p.events.Recalled(len(names))
	}
	if at.Epoch != e.Epoch { // yet another history began meanwhile: its step comes, and what is remembered is so until then
		f.of, f.epoch = of, before
		return e, false, nil
	}
	slices.SortStableFunc(state, func(a, b store.Object) int { return cmp.Compare(a.Revision, b.Revision) })
	f.read = at.Revision
	return store.Events{Position: at, Resync: true, Puts: state}, true, nil
}

// covers is the write by which peers learn that what this process knew of the history before is taken into account, and hold nothing
// over from there; false if the store says so.
func (f *follower) covers(before mesh.Epoch, remembered, state []store.Object) (store.Op, bool) {
	at := f.plane.position.Load()
	if at == nil || at.Epoch != before || !f.epoch.Newer(before) {
		return store.Op{}, false
	}
	have, pre, err := recall.LineageOf(state)
	if err != nil {
		return store.Op{}, false // apply says so; peers go on holding over
	}
	earlier, _, _ := recall.LineageOf(remembered)
	all := have.Union(earlier).Union(replica.Lineage{before: at.Revision})
	if maps.Equal(all, have) {
		return store.Op{}, false
	}
	value, err := recall.EncodeLineage(all)
	return store.Op{Object: store.Object{Key: recall.LineageKey, Value: value}, Pre: pre}, err == nil
}
