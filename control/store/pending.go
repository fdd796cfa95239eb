package store

import (
	"cmp"
	"maps"
	"slices"
)

// Events is what happened between the position a watch last delivered and the
// one this carries. Each key appears once: a key that changed several times is
// here as it was left. Applied as a whole, it takes a copy of the store from the
// one position to the other; in between there is no order to keep.
type Events struct {
	Position
	// Resync says that Puts is the whole state at Position, and everything not
	// in it is gone; Deletes is empty. It comes first when watching from the
	// zero Position, and whenever the changes since are not to be had.
	Resync bool
	// Puts and Deletes are ordered by revision. Both are empty when other keys
	// than objects moved the store, or nothing did: then only Position counts.
	Puts    []Object
	Deletes []Deletion
}

// A Deletion is an object that is gone since Revision. The receiver need not
// ever have seen it.
type Deletion struct {
	Key
	Revision int64
}

// A change is the last thing known of one key.
type change struct {
	object  Object // Key and Revision always, the rest unless deleted
	deleted bool
}

// pending is what a watch received and its consumer has not taken, one change a
// key. It is a value to be guarded by its owner.
//
// When its bounds are exceeded it forgets everything and is overflowed: what it
// would have held is then given as a Resync, once the consumer asks for more.
// Blocking instead would move the queue into etcd, which bounds it in no better
// way than ending the watch. A whole state is not bounded here: it is as large as
// the store, which has a quota, and is held once.
type pending struct {
	keysMax, bytesMax int

	at         Position // everything up to here is in changes or was taken
	news       bool     // at or changes differ from what was taken
	resync     bool     // changes is a whole state
	overflowed bool
	changes    map[Key]change
	bytes      int
}

// reset makes p hold a whole state.
func (p *pending) reset(at Position, all []Object) {
	*p = pending{keysMax: p.keysMax, bytesMax: p.bytesMax, at: at, news: true, resync: true, changes: make(map[Key]change, len(all))}
	for _, o := range all {
		p.set(change{object: o})
	}
}

// advance adds changes, in the order of their revisions, and says that all up to
// revision are in. It reports whether p still holds them.
func (p *pending) advance(changes []change, revision int64) bool {
	if p.overflowed {
		return false
	}
	if p.changes == nil {
		p.changes = make(map[Key]change)
	}
	for _, c := range changes {
		if c.deleted && p.resync {
			p.drop(c.object.Key)
			continue
		}
		p.set(c)
	}
	if revision > p.at.Revision {
		p.at.Revision = revision
		p.news = true
	}
	if !p.resync && (len(p.changes) > p.keysMax || p.bytes > p.bytesMax) {
		*p = pending{keysMax: p.keysMax, bytesMax: p.bytesMax, at: p.at, overflowed: true}
		return false
	}
	return true
}

func (p *pending) set(c change) {
	p.drop(c.object.Key)
	p.changes[c.object.Key] = c
	p.bytes += len(c.object.Value)
}

func (p *pending) drop(k Key) {
	p.bytes -= len(p.changes[k].object.Value)
	delete(p.changes, k)
}

// take hands out what p holds, if there is anything new.
func (p *pending) take() (Events, bool) {
	if !p.news {
		return Events{}, false
	}
	e := Events{Position: p.at, Resync: p.resync}
	sorted := slices.SortedFunc(maps.Values(p.changes), func(a, b change) int {
		return cmp.Or(
			cmp.Compare(a.object.Revision, b.object.Revision),
			cmp.Compare(a.object.Kind, b.object.Kind), // a batch is one revision
			cmp.Compare(a.object.Namespace, b.object.Namespace),
			cmp.Compare(a.object.Name, b.object.Name),
		)
	})
	for _, c := range sorted {
		if c.deleted {
			e.Deletes = append(e.Deletes, Deletion{Key: c.object.Key, Revision: c.object.Revision})
		} else {
			e.Puts = append(e.Puts, c.object)
		}
	}
	*p = pending{keysMax: p.keysMax, bytesMax: p.bytesMax, at: p.at}
	return e, true
}
