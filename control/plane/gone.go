package plane

import (
	"context"
	"errors"
	"time"

	"github.com/isthmus-mesh/isthmus/control/recall"
	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// The deletion of a policy is a statement of its own (replica.NewGone): who comes from a history of
// ours that ended holds over what it lacks here, for it may have been lost. So the statement must
// outlive this process. It is stored beside the policies, written in the transaction that deletes, and is
// never taken back: a policy that is made again bears a later stamp.

// Bounds of what is kept of deletions.
const (
	// goneMax bounds the deletions of policies that are stated; the oldest go first.
	goneMax = 4096
	// buryMax bounds the write of a deletion that was not made through Objects.
	buryMax = time.Second
)

// Delete removes an object as store.Store does; of a policy that travelled it leaves the statement of its
// deletion behind, in the same transaction.
func (o Objects) Delete(ctx context.Context, key store.Key, pre store.Precondition) (int64, error) {
	n, ok := recall.Policy(key)
	if !ok || o.plane.home(n) {
		return o.objects.Delete(ctx, key, pre)
	}
	gone, ok := recall.Statement(n, o.plane.Stamp())
	if !ok {
		return o.objects.Delete(ctx, key, pre)
	}
	at, err := o.Batch(ctx, []store.Op{{Object: store.Object{Key: key}, Delete: true, Pre: pre}, {Object: gone}})
	if err == nil {
		o.plane.forgetOldest(ctx)
	}
	return at, err
}

// home reports whether a policy is one that stays here.
func (p *Plane) home(n replica.Name) bool {
	f, ok := p.loop.World().Get(n.Key(p.cfg.Cluster))
	return ok && f.Home
}

// forgetOldest makes room for the next deletion once there are as many as are kept. Who comes from
// before the forgotten one holds its policy over until a person says otherwise: tight, never loose.
func (p *Plane) forgetOldest(ctx context.Context) {
	p.goneMu.Lock()
	var oldest replica.Name
	var since mesh.Stamp
	over := len(p.deleted) >= goneMax
	for n, at := range p.deleted {
		if over && (since == (mesh.Stamp{}) || at.Compare(since) < 0) {
			oldest, since = n, at
		}
	}
	p.goneMu.Unlock()
	if !over {
		return
	}
	if o, ok := recall.Statement(oldest, since); ok {
		if _, err := p.store.Delete(ctx, o.Key, store.Any()); err != nil && !errors.Is(err, store.ErrNotFound) {
			p.log.Warn("an old deletion of a policy could not be forgotten", "policy", oldest.String(), "error", err)
		}
	}
}

// bury remembers a deletion; the latest of a name counts.
func (p *Plane) bury(n replica.Name, at mesh.Stamp) {
	p.goneMu.Lock()
	defer p.goneMu.Unlock()
	if have, ok := p.deleted[n]; ok && have.Compare(at) >= 0 {
		return
	}
	p.deleted[n] = at
}

// unbury forgets one that the store no longer states.
func (p *Plane) unbury(n replica.Name) {
	p.goneMu.Lock()
	defer p.goneMu.Unlock()
	delete(p.deleted, n)
}

// goneAt is when a policy was deleted last.
func (p *Plane) goneAt(n replica.Name) (mesh.Stamp, bool) {
	p.goneMu.Lock()
	defer p.goneMu.Unlock()
	s, ok := p.deleted[n]
	return s, ok
}

// gone is the deletion of a policy whose last stamp was given: the stored one, or, of a policy that was
// deleted behind the API's back, one that is written down now. Another replica may be first: its
// statement then comes back by the watch and is the one that counts.
func (p *Plane) gone(ctx context.Context, n replica.Name, last mesh.Stamp) mesh.Stamp {
	if at, ok := p.goneAt(n); ok && at.Compare(last) > 0 {
		return at
	}
	at := p.Stamp()
	if o, ok := recall.Statement(n, at); ok {
		ctx, stop := context.WithTimeout(ctx, buryMax)
		defer stop()
		if _, err := p.store.Put(ctx, o, store.Any()); err != nil {
			p.log.Warn("the deletion of a policy is stated until this process ends: it could not be stored", "policy", n.String(), "error", err)
		}
	}
	p.bury(n, at)
	return at
}
