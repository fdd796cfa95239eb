package plane

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/codec/manifest"
	"github.com/isthmus-mesh/isthmus/control/loop"
	"github.com/isthmus-mesh/isthmus/control/object"
	"github.com/isthmus-mesh/isthmus/control/peer"
	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/xds"
)

// stored is a plane of nothing but its store, its loop and what it tells peers.
func stored(t *testing.T, accepts ...mesh.Accept) *Plane {
	t.Helper()
	dir, err := os.MkdirTemp("", "plane") // a Unix socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelError}))
	p := &Plane{cfg: Config{Cluster: "eu", Domain: mesh.DefaultDomain, StateDir: dir}, log: log, clock: clock.Real{}, exports: peer.NewExports("eu"),
		read: make(chan struct{}), hlc: replica.HLC{Origin: "eu"}, deleted: map[replica.Name]mesh.Stamp{}}
	p.recover = &recovery{plane: p, began: time.Now(), asking: map[string]bool{}}
	p.peers, p.siblings, p.load = newPeers(p), p.newSiblings(), p.newLoad()
	p.loop = loop.New(loop.Config{Self: "eu", Network: "eu", Now: time.Now, Log: log, Export: func(loop.Export) {}, SaveSlots: func(mesh.SlotTable) {},
		Publish: func(mesh.Vector, []xds.Update) {}})
	if p.store, err = store.Open(store.Config{Endpoints: []string{"unix://" + p.cfg.StoreSocket()}}); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	for _, run := range []func(context.Context) error{p.runStore, p.loop.Run, p.follow} {
		parts.Go(func() { _ = run(ctx) }) // ends with ctx
	}
	t.Cleanup(func() {
		stop()
		parts.Wait()
		p.store.Close()
		os.RemoveAll(dir)
	})
	select {
	case <-p.read:
	case <-time.After(time.Minute):
		t.Fatal("the store was not read")
	}
	own := &mesh.Cluster{Name: "eu", Accepts: accepts}
	if err := p.loop.EditAndWait(ctx, []world.Edit{world.Put(&mesh.Fact{Key: mesh.Key{Kind: mesh.KindCluster, Origin: "eu", Name: "eu"}, Value: own, Digest: ir.DigestOf(own)})}, nil); err != nil {
		t.Fatal(err)
	}
	return p
}

// deny is a policy as a person wrote it, and as it travels.
func deny(t *testing.T, name string, stamp mesh.Stamp) (manifest.Object, *replica.Resource) {
	t.Helper()
	r := manifest.Parse("test", []byte(fmt.Sprintf(`{"apiVersion":"isthmus.dev/v1alpha1","kind":"AccessPolicy","metadata":{"name":%q,"namespace":"shop"},
		"spec":{"targetRefs":[{"group":"","kind":"Service","name":"web"}],"action":"Deny","rules":[{"from":[{"namespaces":["ops"]}]}]}}`, name)), manifest.Options{})
	for _, f := range r.Faults {
		t.Fatal(f)
	}
	f, _ := r.Objects[0].Fact("eu")
	f.Raw, f.Stamp = r.Objects[0].JSON, stamp
	out, ok := peer.Resource(&f)
	if !ok {
		t.Fatal("it does not travel")
	}
	return r.Objects[0], out
}

func (p *Plane) write(t *testing.T, name string) *replica.Resource {
	t.Helper()
	stamp := p.Stamp()
	o, r := deny(t, name, stamp)
	value, err := object.Encode(o, object.Meta{UID: "u", Created: time.Now(), Generation: 1, Stamp: stamp})
	if err == nil {
		_, err = p.store.Put(t.Context(), store.Object{Key: object.Key(o), Value: value}, store.Any())
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// within waits until something holds.
func within(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !holds(); {
		if time.Now().After(end) {
			t.Fatal("not within a minute: " + what)
		}
		<-time.After(10 * time.Millisecond)
	}
}

func (p *Plane) holds(name string) bool {
	_, ok := p.loop.World().Get(mesh.Key{Kind: mesh.KindAccessPolicy, Origin: "eu", Namespace: "shop", Name: name})
	return ok
}

var lostEpoch = mesh.Epoch{StartMillis: 1, ID: "lost"}

func TestWitnessBringsBackWhatTheStoreLost(t *testing.T) {
	p := stored(t, mesh.Accept{Origin: "us", Kind: "*", Namespace: "*"})
	_, lost := deny(t, "lost", mesh.Stamp{WallMillis: 1, Origin: "eu"})
	_, older := deny(t, "kept", mesh.Stamp{WallMillis: 1, Origin: "eu"})
	p.write(t, "kept")
	p.write(t, "dropped")
	within(t, "written", func() bool { return p.holds("kept") && p.holds("dropped") })
	before := p.write(t, "gone")
	within(t, "written", func() bool { return p.holds("gone") })
	if _, err := p.store.Delete(t.Context(), store.Key{Kind: "AccessPolicy.isthmus.dev", Namespace: "shop", Name: "gone"}, store.Any()); err != nil {
		t.Fatal(err)
	}
	within(t, "a deletion stated", func() bool { _, ok := p.goneAt(before.Name); return ok })
	deletion := replica.NewGone(replica.Name{Kind: mesh.KindAccessPolicy, Namespace: "shop", Name: "dropped"}, mesh.Position{}, p.Stamp())

	p.recover.witness(t.Context(), "us", &replica.Witness{Crossed: replica.Lineage{lostEpoch: 9}, Orphans: []*replica.Resource{lost, older, before, deletion}})
	within(t, "restored", func() bool { return p.holds("lost") && !p.holds("dropped") })
	if p.holds("gone") {
		t.Error("a policy that was deleted since came back")
	}
	l, _, err := p.readLineage(t.Context())
	if err != nil || l[lostEpoch] != 9 {
		t.Errorf("lineage %v, %v: want the lost history up to 9", l, err)
	}
	stored, err := p.store.Get(t.Context(), store.Key{Kind: "AccessPolicy.isthmus.dev", Namespace: "shop", Name: "lost"})
	if err != nil {
		t.Fatal(err)
	}
	if f, _, m, err := object.Decode(stored, "eu", mesh.Epoch{}); err != nil || m.Stamp != lost.Stamp || f.Digest != lost.Digest {
		t.Errorf("restored with stamp %v, %v: want it as it was", m.Stamp, err)
	}
}

func TestWitnessOfWhoIsNotAcceptedChangesNothing(t *testing.T) {
	p := stored(t)
	_, lost := deny(t, "lost", mesh.Stamp{WallMillis: 1, Origin: "eu"})
	now, err := p.store.Now(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p.recover.witness(t.Context(), "us", &replica.Witness{Crossed: replica.Lineage{lostEpoch: 9}, Orphans: []*replica.Resource{lost}})
	p.recover.witness(t.Context(), "us", &replica.Witness{Crossed: replica.Lineage{p.position.Load().Epoch: 9}})
	if after, err := p.store.Now(t.Context()); err != nil || after != now {
		t.Errorf("the store is at %v, was at %v (%v)", after, now, err)
	}
}

func TestStoreThatWasRolledBackBeginsAnotherHistory(t *testing.T) {
	p := stored(t)
	p.write(t, "kept")
	within(t, "written", func() bool { return p.holds("kept") })
	at := *p.position.Load()
	lag := at
	p.recover.ahead(t.Context(), "us", lag)
	if now, err := p.store.Now(t.Context()); err != nil || now.Epoch != at.Epoch.ID {
		t.Fatalf("another history %v (%v) for a position that the store has", now, err)
	}
	p.recover.began = p.recover.began.Add(-2 * trustAhead)
	beyond := mesh.Position{Epoch: at.Epoch, Revision: at.Revision + 1000}
	p.recover.ahead(t.Context(), "us", beyond)
	if now, err := p.store.Now(t.Context()); err != nil || now.Epoch != at.Epoch.ID {
		t.Fatalf("a peer was believed long after the start: %v, %v", now, err)
	}
	p.recover.began = time.Now()
	p.recover.ahead(t.Context(), "us", beyond)
	within(t, "in another history", func() bool { return p.exports.Position().Epoch.Newer(at.Epoch) })
	if got := p.exports.Position(); got.Compare(beyond) <= 0 {
		t.Errorf("position %v is told, a peer that knows %v will refuse it", got, beyond)
	}
	if !p.holds("kept") || len(p.deleted) != 0 {
		t.Errorf("held %v, deletions stated %v: a new history deletes nothing", p.holds("kept"), p.deleted)
	}
}

// TestAHistoryBeginsAfterOneByAClockThatWasAhead: over a store, which keeps when its histories began.
func TestAHistoryBeginsAfterOneByAClockThatWasAhead(t *testing.T) {
	p := stored(t)
	ahead := time.Now().Add(time.Minute).UnixMilli()
	if _, err := p.store.Put(t.Context(), store.Object{Key: store.Key{Kind: kindEpoch, Name: "before"}, Value: []byte(strconv.FormatInt(ahead, 10))}, store.MustNotExist()); err != nil {
		t.Fatal(err)
	}
	at := *p.position.Load()
	p.recover.ahead(t.Context(), "us", mesh.Position{Epoch: at.Epoch, Revision: at.Revision + 1000})
	within(t, "in another history", func() bool { return p.exports.Position().Epoch.ID != at.Epoch.ID })
	if got := p.exports.Position().Epoch; got.StartMillis != ahead+1 {
		t.Errorf("the history begins at %d, want it after %d, that of the one before", got.StartMillis, ahead)
	}
}

// TestALaterHistoryThatAPeerKnowsIsFollowedByAnother: of a store that lost all, by a clock that was behind. A peer that knows one
// beyond what anybody believes is not followed, and long after the start nobody is.
func TestALaterHistoryThatAPeerKnowsIsFollowedByAnother(t *testing.T) {
	p := stored(t)
	at := *p.position.Load()
	lost := mesh.Position{Epoch: mesh.Epoch{StartMillis: time.Now().Add(time.Minute).UnixMilli(), ID: "lost"}, Revision: 7}
	wild := mesh.Position{Epoch: mesh.Epoch{StartMillis: time.Now().Add(time.Hour).UnixMilli(), ID: "wild"}, Revision: 7}
	stays := func(why string) {
		t.Helper()
		if now, err := p.store.Now(t.Context()); err != nil || now.Epoch != at.Epoch.ID {
			t.Fatalf("%s: another history, %v (%v)", why, now, err)
		}
	}
	p.recover.ahead(t.Context(), "us", wild)
	stays("an epoch of the future")
	p.recover.ahead(t.Context(), "us", mesh.Position{Epoch: mesh.Epoch{StartMillis: lost.Epoch.StartMillis, ID: "../x"}})
	stays("an epoch that is none")
	p.recover.began = p.recover.began.Add(-2 * trustAhead)
	p.recover.ahead(t.Context(), "us", lost)
	stays("long after the start")
	p.recover.began = time.Now()
	p.recover.ahead(t.Context(), "us", lost)
	within(t, "in a history after the lost one", func() bool { return p.exports.Position().Compare(lost) > 0 })
	if got := p.exports.Position().Epoch; got.StartMillis != lost.Epoch.StartMillis+1 {
		t.Errorf("the history begins at %d, want it after %d, that of the lost one", got.StartMillis, lost.Epoch.StartMillis)
	}
}

// TestAnEpochBeginsAfterThoseBeforeIt: whatever the clock says, unless it is beyond what anybody believes. Seed 39 of simulated meshes
// restored a store by a clock that was behind the one of the history that was lost.
func TestAnEpochBeginsAfterThoseBeforeIt(t *testing.T) {
	now := time.UnixMilli(10_000_000)
	ahead := now.Add(mesh.MaxStampAhead).UnixMilli()
	epoch := func(name, begins string) store.Object {
		return store.Object{Key: store.Key{Kind: kindEpoch, Name: name}, Value: []byte(begins)}
	}
	for _, c := range []struct {
		name string
		puts []store.Object
		want int64
	}{
		{"the first", nil, 10_000_000},
		{"after an earlier one", []store.Object{epoch("a", "9000000")}, 10_000_000},
		{"after one by a clock that was ahead", []store.Object{epoch("a", "10060000"), epoch("b", "10030000")}, 10_060_001},
		{"not after one that nobody believed", []store.Object{epoch("a", strconv.FormatInt(ahead, 10)), epoch("b", "10000000")}, 10_000_001},
		{"not after itself", []store.Object{epoch("now", "10060000")}, 10_000_000},
		{"of what cannot be read nothing follows", []store.Object{epoch("a", "?"), {Key: store.Key{Kind: "Service", Name: "a"}, Value: []byte("10060000")}}, 10_000_000},
	} {
		if got := beginning(now, store.Events{Position: store.Position{Epoch: "now"}, Resync: true, Puts: c.puts}); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}
