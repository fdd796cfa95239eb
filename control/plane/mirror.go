package plane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/control/object"
	"github.com/isthmus-mesh/isthmus/control/store"
)

// mirror is what the store held when it was last heard, so that people can read while it is away. It is
// safe for concurrent use.
type mirror struct {
	mu       sync.RWMutex
	whole    bool // nothing is known before the first whole state
	revision int64
	objects  map[store.Key]store.Object
}

// apply takes one step of the store's watch.
func (m *mirror) apply(e store.Events) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e.Resync {
		m.whole, m.objects = true, make(map[store.Key]store.Object, len(e.Puts))
	}
	for _, o := range e.Puts {
		m.objects[o.Key] = o
	}
	for _, d := range e.Deletes {
		delete(m.objects, d.Key)
	}
	m.revision = e.Revision
}

func (m *mirror) get(k store.Key) (o store.Object, revision int64, found, whole bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	o, found = m.objects[k]
	return o, m.revision, found, m.whole
}

// list is ordered as store.Store's is.
func (m *mirror) list(s store.Scope) (out []store.Object, revision int64, whole bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for k, o := range m.objects {
		if (s.Kind == "" || s.Kind == k.Kind) && (s.Namespace == "" || s.Namespace == k.Namespace) {
			out = append(out, o)
		}
	}
	slices.SortFunc(out, func(a, b store.Object) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return out, m.revision, m.whole
}

// How long a person waits for the store before the mirror answers: once it has not answered it is
// asked again, but not waited for.
const (
	readWait = 2 * time.Second
	awayWait = 200 * time.Millisecond
)

// Objects is the store as people use it: reads go on while it is away, and the deletion of a policy is stated.
type Objects struct {
	objects
	plane *Plane
	// away says that the store did not answer the last read.
	away *atomic.Bool
}

// Objects is where configured objects are.
func (p *Plane) Objects() Objects { return Objects{p.store, p, &p.away} }

// Get is that of store.Store; while the store is away the error is a *store.StaleError, and the object what is
// known of it.
func (o Objects) Get(ctx context.Context, key store.Key) (store.Object, error) {
	rctx, stop := o.bound(ctx)
	defer stop()
	got, err := o.objects.Get(rctx, key)
	if !o.mirrored(ctx, err) {
		// What is written next must be stamped later than what another replica wrote, whose clock may be ahead.
		if stamp, ok := object.StampOf(got); ok && err == nil {
			o.plane.observe(stamp)
		}
		return got, err
	}
	got, revision, found, whole := o.plane.mirror.get(key)
	if !whole {
		return store.Object{}, err
	}
	if !found {
		return store.Object{}, &store.Error{Op: "get", Key: key, Kind: store.ErrNotFound, Cause: o.stale(revision, err)}
	}
	return got, o.stale(revision, err)
}

// List is that of store.Store; while the store is away the error is a *store.StaleError, and the list what is
// known.
func (o Objects) List(ctx context.Context, scope store.Scope) ([]store.Object, int64, error) {
	rctx, stop := o.bound(ctx)
	defer stop()
	got, at, err := o.objects.List(rctx, scope)
	if !o.mirrored(ctx, err) {
		return got, at, err
	}
	got, revision, whole := o.plane.mirror.list(scope)
	if !whole {
		return nil, 0, err
	}
	return got, revision, o.stale(revision, err)
}

func (o Objects) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if o.away.Load() {
		return context.WithTimeout(ctx, awayWait)
	}
	return context.WithTimeout(ctx, readWait)
}

// mirrored reports whether the mirror answers for a store that did not.
func (o Objects) mirrored(ctx context.Context, err error) bool {
	away := ctx.Err() == nil && store.Away(err)
	o.away.Store(away)
	return away
}

// stale is the error that says so.
func (o Objects) stale(revision int64, err error) error {
	why := o.plane.storeAway()
	if why == nil {
		why = errors.New("it does not answer")
		var e *store.Error
		if errors.As(err, &e) && e.Cause != nil && errors.Is(err, store.ErrUnavailable) {
			why = e.Cause
		}
	}
	return &store.StaleError{Revision: revision, Heard: o.Heard(), Cause: fmt.Errorf("%w: %w", store.ErrUnavailable, why)}
}
