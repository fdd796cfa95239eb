package plane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/isthmus-mesh/isthmus/control/address"
	"github.com/isthmus-mesh/isthmus/control/claim"
	"github.com/isthmus-mesh/isthmus/control/object"
	"github.com/isthmus-mesh/isthmus/control/peer"
	"github.com/isthmus-mesh/isthmus/control/recall"
	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Kinds that a control plane stores for itself.
const (
	kindSlotTable = "SlotTable.isthmus.dev"
	kindEpoch     = "Epoch.isthmus.dev"
)

// follow turns the store's changes into edits of the world, for as long as ctx lasts.
func (p *Plane) follow(ctx context.Context) error {
	if err := p.promote(ctx); err != nil {
		return err
	}
	f := &follower{plane: p, known: map[store.Key]mesh.Key{}, away: map[replica.Name]bool{}}
	return p.store.Watch(ctx, store.Position{}, f.apply)
}

// follower is what following the store must remember.
type follower struct {
	plane *Plane
	// known are the objects that are facts of the world.
	known map[store.Key]mesh.Key
	// away are those that peers were told of.
	away  map[replica.Name]bool
	epoch mesh.Epoch
	// of is the store's name of epoch.
	of string
	// read is up to where the state was read after another history had begun: steps up to there are no news.
	read int64
}

// apply takes one consistent step of the store into the world.
func (f *follower) apply(ctx context.Context, e store.Events) error {
	p, before := f.plane, f.epoch
	e, ok, err := f.begin(ctx, e)
	if err != nil || !ok {
		return err
	}
	p.mirror.apply(e)
	p.siblings.Apply(e)
	p.authority.Heard(e)
	at := mesh.Position{Epoch: f.epoch, Revision: e.Revision}
	var lineage replica.Lineage
	var edits []world.Edit
	told := map[replica.Name]*replica.Resource{}
	drop := func(k store.Key) {
		if key, ok := f.known[k]; ok {
			delete(f.known, k)
			edits = append(edits, world.Remove(key))
			if n := replica.NameOf(key); f.away[n] {
				delete(f.away, n)
				told[n] = nil
				// What a new history lacks may have been lost and was not deleted, unless it says so.
				if replica.Tightens(key.Kind) && before == f.epoch {
					told[n] = replica.NewGone(n, at, p.gone(ctx, n, f.stampOf(key)))
				}
			}
		}
	}
	stated := f.deletions(e)
	for _, k := range f.absent(e) {
		drop(k)
	}
	for _, o := range e.Puts {
		if o.Key == recall.LineageKey {
			var err error
			if lineage, err = recall.DecodeLineage(o.Value); err != nil {
				p.log.Error("what is known of earlier histories cannot be read", "error", err)
			}
			continue
		}
		fact := f.decode(o)
		if fact == nil {
			continue
		}
		f.known[o.Key] = fact.Key
		edits = append(edits, world.Put(fact))
		if !fact.Kind.Replicated() {
			continue
		}
		r, ok := peer.Resource(fact)
		if !ok { // it may have been told once and stays home now
			r = nil
		}
		n := replica.NameOf(fact.Key)
		told[n], f.away[n] = r, r != nil
	}
	for _, d := range e.Deletes {
		drop(d.Key)
	}
	f.state(at, stated, told)
	p.position.Store(&at)
	owners := f.owners(edits)
	if err := p.state(ctx, edits, at, lineage, told); err != nil {
		return err
	}
	p.addresses.touched(owners...)
	p.peers.update(edits)
	p.readOnce.Do(func() { close(p.read) })
	return nil
}

// owners are the services that have the addresses which are about to be another's, or nobody's.
func (f *follower) owners(edits []world.Edit) (out []mesh.ServiceName) {
	for _, e := range edits {
		if e.Key.Kind != mesh.KindServiceAddress {
			continue
		}
		if fact, ok := f.plane.loop.World().Get(e.Key); ok {
			out = append(out, fact.Value.(*mesh.ServiceAddress).Service)
		}
	}
	return out
}

// absent are the objects that a whole state lacks.
func (f *follower) absent(e store.Events) (out []store.Key) {
	if !e.Resync {
		return nil
	}
	here := make(map[store.Key]bool, len(e.Puts))
	for _, o := range e.Puts {
		here[o.Key] = true
	}
	for k := range f.known {
		if !here[k] {
			out = append(out, k)
		}
	}
	return out
}

// deletions are what a step says of deletions of policies; the zero stamp is of one that is no longer stated.
func (f *follower) deletions(e store.Events) map[replica.Name]mesh.Stamp {
	stated := map[replica.Name]mesh.Stamp{}
	for _, o := range e.Puts {
		n, ok := recall.Gone(o.Key)
		if !ok {
			continue
		}
		stamp, err := recall.Stamp(o.Value)
		if err != nil {
			f.plane.log.Error("the deletion of a policy cannot be read", "policy", n.String(), "error", err)
			continue
		}
		f.plane.bury(n, stamp)
		stated[n] = stamp
	}
	for _, d := range e.Deletes {
		if n, ok := recall.Gone(d.Key); ok {
			f.plane.unbury(n)
			stated[n] = mesh.Stamp{}
		}
	}
	return stated
}

// state tells of deletions, but of what was made again.
func (f *follower) state(at mesh.Position, stated map[replica.Name]mesh.Stamp, told map[replica.Name]*replica.Resource) {
	for n, stamp := range stated {
		switch {
		case f.away[n]:
		case stamp == mesh.Stamp{}:
			told[n] = nil
		default:
			told[n] = replica.NewGone(n, at, stamp)
		}
	}
}

// stampOf is the stamp of a fact as the world has it.
func (f *follower) stampOf(k mesh.Key) mesh.Stamp {
	if fact, ok := f.plane.loop.World().Get(k); ok {
		return fact.Stamp
	}
	return mesh.Stamp{}
}

// decode reads one stored object; nil for what is no fact. What cannot be read leaves what
// was known of it in force.
func (f *follower) decode(o store.Object) *mesh.Fact {
	p := f.plane
	switch o.Kind {
	case kindSlotTable:
		t := &mesh.SlotTable{}
		if err := json.Unmarshal(o.Value, t); err != nil {
			p.log.Error("a stored slot table cannot be read", "name", o.Name, "error", err)
			return nil
		}
		return &mesh.Fact{Key: mesh.Key{Kind: mesh.KindSlotTable, Origin: p.cfg.Cluster, Namespace: o.Namespace, Name: o.Name}, Value: t,
			Digest: ir.DigestOf(t), Position: mesh.Position{Epoch: f.epoch, Revision: o.Revision}}
	case address.Kind:
		a, err := address.Decode(o)
		if err != nil {
			p.log.Error("what is stored of an address cannot be read", "name", o.Name, "error", err)
			return nil
		}
		return &mesh.Fact{Key: mesh.Key{Kind: mesh.KindServiceAddress, Origin: p.cfg.Cluster, Name: o.Name}, Value: a,
			Digest: ir.DigestOf(a), Position: mesh.Position{Epoch: f.epoch, Revision: o.Revision}}
	case kindEpoch, claim.Kind:
		return nil
	}
	fact, _, meta, err := object.Decode(o, p.cfg.Cluster, f.epoch)
	if err != nil {
		if !errors.Is(err, object.ErrNotManifest) {
			p.log.Error("a stored object cannot be read; what was known of it stays in force", "object", o.Key.String(), "error", err)
		}
		return nil
	}
	p.hlcMu.Lock()
	ahead := !p.hlc.Observe(p.clock.Now(), meta.Stamp)
	p.hlcMu.Unlock()
	if ahead {
		p.log.Warn("a stored object bears a stamp of the future", "object", o.Key.String())
	}
	return fact
}

// knowEpoch gives the store's epoch a beginning that is the same for every replica and
// restart: whoever comes first writes it down.
func (f *follower) knowEpoch(ctx context.Context, e store.Events) error {
	if f.of == e.Epoch {
		return nil
	}
	p := f.plane
	if err := p.claim.Insist(ctx); err != nil {
		return err
	}
	key := store.Key{Kind: kindEpoch, Name: e.Epoch}
	begins := []byte(strconv.FormatInt(beginning(p.clock.Now(), e), 10))
	for {
		_, err := p.store.Put(ctx, store.Object{Key: key, Value: begins}, store.MustNotExist())
		if err == nil || errors.Is(err, store.ErrExists) {
			var o store.Object
			if o, err = p.store.Get(ctx, key); err == nil {
				ms, perr := strconv.ParseInt(string(o.Value), 10, 64)
				if perr != nil {
					return fmt.Errorf("the beginning of epoch %s: %w", e.Epoch, perr)
				}
				f.epoch, f.of = mesh.Epoch{StartMillis: ms, ID: e.Epoch}, e.Epoch
				return nil
			}
		}
		p.log.Warn("the epoch's beginning could not be written down; trying again", "error", err)
		if err := clock.Wait(ctx, p.clock, 200*time.Millisecond); err != nil {
			return err
		}
	}
}

// beginning is when an epoch begins, in Unix milliseconds: now, but after the epochs that a whole state of the store knows of, or
// peers would take it for one of the past and refuse it for good. A clock that was set back, or that another replica had ahead, does
// that. One that lies further ahead than anybody believes was refused itself, and counts for nothing.
func beginning(now time.Time, e store.Events) int64 {
	begins, most := now.UnixMilli(), now.Add(mesh.MaxStampAhead).UnixMilli()
	for _, o := range e.Puts {
		if ms, err := strconv.ParseInt(string(o.Value), 10, 64); o.Kind == kindEpoch && o.Name != e.Epoch && err == nil && ms < most {
			begins = max(begins, ms+1)
		}
	}
	return begins
}
