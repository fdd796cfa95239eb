package plane

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/codec/manifest"
	"github.com/isthmus-mesh/isthmus/control/object"
	"github.com/isthmus-mesh/isthmus/control/peer"
	"github.com/isthmus-mesh/isthmus/control/recall"
	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Bounds of what peers may say of our own history.
const (
	// trustAhead is for how long after a start a peer is believed to know more of our history: a
	// store rolls back when it is restored, and then this process is started too.
	trustAhead = 10 * time.Minute
	// aheadMax bounds the histories that peers may make us begin.
	aheadMax = 3
	// farBeyond is more than a store is written while it is asked.
	farBeyond = 1 << 20
	// askMax bounds the work done for one message of a peer, whose stream waits for it.
	askMax = 3 * time.Second
	// batchMax leaves room in a transaction of store.BatchMax.
	batchMax = 100
)

// recovery is what brings back what a lost history knew: a store that was restored from an old
// copy is told by peers how far it had been, and which policies they hold over.
type recovery struct {
	plane *Plane
	began time.Time

	mu     sync.Mutex
	begun  int
	asking map[string]bool // what a person was asked, so that it is asked once

	// forgets is the control of tests: what was in force is not recalled.
	forgets atomic.Bool
}

// ahead hears that a peer knows a position of ours that we do not. If the store itself is behind, its
// history was rolled back and another begins; otherwise this process only lags.
func (r *recovery) ahead(ctx context.Context, from mesh.ClusterName, known mesh.Position) {
	p := r.plane
	if !r.mu.TryLock() {
		return // somebody else's word is being looked into; the peer says it again
	}
	defer r.mu.Unlock()
	ctx, stop := context.WithTimeout(ctx, askMax)
	defer stop()
	now, err := p.store.Now(ctx) // linearizable
	if err != nil || now.Epoch == known.Epoch.ID && now.Revision >= known.Revision {
		return // the store is away, or we lag: the peer asks again
	}
	log := p.log.With("peer", from, "known", fmt.Sprint(known), "store", fmt.Sprint(now))
	beyond := store.Position{Epoch: known.Epoch.ID, Revision: known.Revision}
	switch {
	case p.clock.Now().Sub(r.began) > trustAhead || r.begun >= aheadMax:
		log.Error("a peer says that our store was rolled back, long after it was started: it is not believed; restart this control plane if it is true")
		return
	case now.Epoch == known.Epoch.ID:
		log.Error("our store is behind what a peer knows of it: it was rolled back, and begins another history")
	default:
		// Ours began by a clock that was behind, in a store that had lost all: it would be refused for good.
		log.Error("a peer knows a later history of our store than the store itself, which begins another one after that")
		if err := r.note(ctx, known.Epoch); err != nil {
			log.Error("the later history could not be noted; the peer will say it again", "error", err)
			return
		}
		beyond = store.Position{Epoch: now.Epoch, Revision: now.Revision + farBeyond}
	}
	r.begun++
	// A watch from a position that the store has lost makes it begin a new epoch for everybody.
	heard := errors.New("heard")
	if err := p.store.Watch(ctx, beyond, func(context.Context, store.Events) error { return heard }); !errors.Is(err, heard) {
		log.Error("the store did not begin another history", "error", err)
	}
}

// note writes down when an epoch began that the store does not know, so that the next begins after it (beginning).
func (r *recovery) note(ctx context.Context, e mesh.Epoch) error {
	if !mesh.IsLabel(e.ID) {
		return fmt.Errorf("epoch %q is none", e.ID)
	}
	if e.StartMillis >= r.plane.clock.Now().Add(mesh.MaxStampAhead).UnixMilli() {
		return fmt.Errorf("epoch %s begins further ahead of our clock than is believed", e)
	}
	_, err := r.plane.store.Put(ctx, store.Object{Key: store.Key{Kind: kindEpoch, Name: e.ID}, Value: []byte(strconv.FormatInt(e.StartMillis, 10))}, store.MustNotExist())
	if errors.Is(err, store.ErrExists) {
		return nil
	}
	return err
}

// witness hears what a peer holds over from a history of ours that was lost. What the peer may loosen
// here anyway (accepts) is written back, with the lineage; of the rest a person is asked.
func (r *recovery) witness(ctx context.Context, from mesh.ClusterName, w *replica.Witness) {
	if !r.mu.TryLock() {
		return // as above
	}
	defer r.mu.Unlock()
	ctx, stop := context.WithTimeout(ctx, askMax)
	defer stop()
	if err := r.adopt(ctx, from, w); err != nil {
		r.plane.log.Error("what a peer holds over could not be taken back; it will say it again", "peer", from, "error", err)
	}
}

func (r *recovery) adopt(ctx context.Context, from mesh.ClusterName, w *replica.Witness) error {
	p := r.plane
	at := p.position.Load()
	if at == nil {
		return nil
	}
	for e := range w.Crossed {
		if !at.Epoch.Newer(e) {
			return fmt.Errorf("a witness of epoch %s, which is not before ours", e)
		}
	}
	lineage, pre, err := p.readLineage(ctx)
	if err != nil || lineage.Covers(w.Crossed) {
		return err
	}
	var ops []store.Op
	for _, o := range w.Orphans {
		if !replica.Accepts(p.accepts(), from, o.Kind, o.Namespace) {
			if id := string(from) + " " + o.Name.String(); !r.asking[id] && len(r.asking) < goneMax {
				r.asking[id] = true
				p.log.Error("a peer holds over a policy that our store lost and may not restore it here: apply it again, or delete it by applying and deleting it; or let accepts name the peer",
					"peer", from, "policy", o.Name.String(), "deleted", o.Gone)
			}
			return nil // the lineage stays: the policy goes on being held over
		}
		op, ok, err := p.restore(ctx, o)
		if err != nil {
			return err
		}
		if ok {
			ops = append(ops, op)
		}
		if at, known := p.goneAt(o.Name); o.Gone && (!known || at.Compare(o.Stamp) < 0) {
			if stated, ok := recall.Statement(o.Name, o.Stamp); ok {
				ops = append(ops, store.Op{Object: stated})
			}
		}
	}
	value, err := recall.EncodeLineage(lineage.Union(w.Crossed))
	if err != nil {
		return err
	}
	// One transaction as long as they fit; the lineage always comes with the last.
	for len(ops) > batchMax {
		if _, err := p.store.Batch(ctx, ops[:batchMax]); err != nil {
			return err
		}
		ops = ops[batchMax:]
	}
	if _, err := p.store.Batch(ctx, append(ops, store.Op{Object: store.Object{Key: recall.LineageKey, Value: value}, Pre: pre})); err != nil {
		return err
	}
	p.log.Warn("what a peer knew of a lost history was taken back", "peer", from, "policies", len(w.Orphans))
	return nil
}

// restore is the write that brings an orphan back; false if what is stored is as new.
func (p *Plane) restore(ctx context.Context, o *replica.Resource) (store.Op, bool, error) {
	kind, ok := manifest.KindNamed(string(o.Kind))
	if !ok {
		return store.Op{}, false, fmt.Errorf("an orphan of kind %s", o.Kind)
	}
	op := store.Op{Object: store.Object{Key: store.Key{Kind: object.KindKey(kind), Namespace: o.Namespace, Name: o.Name.Name}}, Delete: o.Gone, Pre: store.MustNotExist()}
	if stamp, ok := p.goneAt(o.Name); ok && stamp.Compare(o.Stamp) >= 0 {
		return op, false, nil // deleted since
	}
	stored, err := p.store.Get(ctx, op.Object.Key)
	switch {
	case errors.Is(err, store.ErrNotFound):
		if o.Gone {
			return op, false, nil
		}
	case err != nil:
		return op, false, err
	default:
		_, _, meta, err := object.Decode(stored, p.cfg.Cluster, mesh.Epoch{})
		if err != nil || meta.Stamp.Compare(o.Stamp) >= 0 {
			return op, false, err
		}
		op.Pre = store.AtRevision(stored.Revision)
	}
	if o.Gone {
		return op, true, nil
	}
	if _, err := peer.Fact(p.cfg.Cluster, p.cfg.TrustDomain(), o); err != nil {
		return op, false, fmt.Errorf("restore %s: %w", o.Name, err)
	}
	parsed := manifest.Parse("witness", o.Body, manifest.Options{Stored: true})
	op.Object.Value, err = object.Encode(parsed.Objects[0], object.Meta{UID: strings.ToLower(rand.Text()), Created: p.clock.Now(), Generation: 1, Stamp: o.Stamp})
	return op, err == nil, err
}

// accepts lists whom the own Cluster object lets loosen what is allowed here.
func (p *Plane) accepts() []mesh.Accept {
	f, ok := p.loop.World().Get(mesh.Key{Kind: mesh.KindCluster, Origin: p.cfg.Cluster, Name: string(p.cfg.Cluster)})
	if !ok {
		return nil
	}
	return f.Value.(*mesh.Cluster).Accepts
}

func (p *Plane) readLineage(ctx context.Context) (replica.Lineage, store.Precondition, error) {
	o, err := p.store.Get(ctx, recall.LineageKey)
	if errors.Is(err, store.ErrNotFound) {
		return nil, store.MustNotExist(), nil
	}
	if err != nil {
		return nil, store.Precondition{}, err
	}
	l, err := recall.DecodeLineage(o.Value)
	return l, store.AtRevision(o.Revision), err
}
