package sibling

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-mesh/isthmus/control/peer"
	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shelf is a store of replicas' objects that tells every set of each change, in order.
type shelf struct {
	mu       sync.Mutex
	revision int64
	objects  map[store.Key]store.Object
	sets     []*Set
	fails    bool
}

var errAway = errors.New("the store is away")

func (s *shelf) Put(_ context.Context, o store.Object, _ store.Precondition) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fails {
		return 0, errAway
	}
	s.revision++
	o.Revision = s.revision
	s.objects[o.Key] = o
	s.tell(store.Events{Puts: []store.Object{o}})
	return s.revision, nil
}

func (s *shelf) Delete(_ context.Context, k store.Key, pre store.Precondition) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.objects[k]
	switch {
	case s.fails:
		return 0, errAway
	case !ok:
		return 0, store.ErrNotFound
	case pre != store.Any() && pre != store.AtRevision(o.Revision):
		return 0, store.ErrConflict
	}
	s.revision++
	delete(s.objects, k)
	s.tell(store.Events{Deletes: []store.Deletion{{Key: k, Revision: s.revision}}})
	return s.revision, nil
}

func (s *shelf) tell(e store.Events) {
	for _, x := range s.sets {
		x.Apply(e)
	}
}

// at is a replica's federation port.
func at(i int) netip.AddrPort { return netip.MustParseAddrPort(fmt.Sprintf("10.0.0.%d:15012", i)) }

// group is replicas over one store, in virtual time.
type group struct {
	shelf
	dead map[netip.AddrPort]bool // guarded by shelf.mu
	// cut are those that one replica does not reach.
	cut map[[2]netip.AddrPort]bool
}

func (g *group) set(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f()
}

func (g *group) replica(i int) *Set {
	s := New(Config{Cluster: "eu", Self: Replica{Federation: at(i), Started: int64(i)}, Shared: true, Store: g, Clock: clock.Real{},
		Log: slog.New(slog.DiscardHandler), Links: func() map[mesh.ClusterName]*peer.Follower { return nil },
		Ask: func(_ context.Context, r Replica) (err error) {
			g.set(func() {
				if g.dead[r.Federation] || g.cut[[2]netip.AddrPort{at(i), r.Federation}] {
					err = errors.New("no answer")
				}
			})
			return err
		}})
	g.set(func() {
		g.sets = append(g.sets, s)
		for _, o := range g.objects {
			s.Apply(store.Events{Puts: []store.Object{o}})
		}
	})
	return s
}

// run runs f beside replicas 1 to n; the sets are theirs.
func run(t *testing.T, n int, f func(g *group, sets []*Set, stop []context.CancelFunc)) {
	synctest.Test(t, func(t *testing.T) {
		g := &group{shelf: shelf{objects: map[store.Key]store.Object{}}, dead: map[netip.AddrPort]bool{}, cut: map[[2]netip.AddrPort]bool{}}
		var sets []*Set
		var stops []context.CancelFunc
		var running sync.WaitGroup
		for i := range n {
			s := g.replica(i + 1)
			ctx, stop := context.WithCancel(t.Context())
			sets, stops = append(sets, s), append(stops, stop)
			running.Go(func() { _ = s.Run(ctx) })
		}
		synctest.Wait()
		f(g, sets, stops)
		for _, stop := range stops {
			stop()
		}
		running.Wait()
	})
}

func (g *group) listed(s *Set) string {
	var out []string
	for _, r := range s.All() {
		out = append(out, strings.TrimPrefix(strings.TrimSuffix(r.Name, "-15012"), "10.0.0."))
	}
	return strings.Join(out, " ")
}

func pass(d time.Duration) { <-time.After(d) }

// TestAKilledReplicaIsForgotten: by those that live, once it has been silent for long, and not before; the control is one that answers.
func TestAKilledReplicaIsForgotten(t *testing.T) {
	run(t, 3, func(g *group, sets []*Set, stops []context.CancelFunc) {
		if got := g.listed(sets[0]); got != "1 2 3" {
			t.Fatalf("listed %q", got)
		}
		// Killed: it says nothing any more and takes nothing back.
		g.set(func() { g.dead[at(3)] = true; g.fails = true })
		stops[2]()
		synctest.Wait()
		pass(2 * time.Second)
		g.set(func() { g.fails = false })
		pass(forgetAfter - time.Minute)
		if got := g.listed(sets[0]); got != "1 2 3" || sets[0].Silent("10.0.0.3-15012") < forgetAfter-3*time.Minute || sets[0].Silent("10.0.0.2-15012") != 0 {
			t.Errorf("listed %q, 3 silent for %v, 2 for %v", got, sets[0].Silent("10.0.0.3-15012"), sets[0].Silent("10.0.0.2-15012"))
		}
		pass(5 * time.Minute)
		for _, s := range sets[:2] {
			if got := g.listed(s); got != "1 2" {
				t.Errorf("listed %q after it was silent for long", got)
			}
		}
		pass(time.Hour)
		if got := g.listed(sets[0]); got != "1 2" {
			t.Errorf("listed %q an hour later", got)
		}
	})
}

// TestAReplicaThatLivesIsListedAgain: one that is not reached from another, and is taken out for it, sees that.
func TestAReplicaThatLivesIsListedAgain(t *testing.T) {
	run(t, 3, func(g *group, sets []*Set, _ []context.CancelFunc) {
		before := int64(0)
		g.set(func() { g.cut[[2]netip.AddrPort{at(1), at(3)}] = true; before = g.revision })
		pass(forgetAfter + 5*time.Minute)
		synctest.Wait()
		g.set(func() {
			if g.revision == before {
				t.Error("it was not taken out: this proves nothing")
			}
		})
		for _, s := range sets {
			if got := g.listed(s); got != "1 2 3" {
				t.Errorf("listed %q", got)
			}
		}
	})
}

// TestAReplicaThatStartsAnewIsNoLongerSilent, also between the question and the word that takes it out.
func TestAReplicaThatStartsAnewIsNoLongerSilent(t *testing.T) {
	run(t, 2, func(g *group, sets []*Set, _ []context.CancelFunc) {
		const name = "10.0.0.2-15012"
		for range askedTimes {
			sets[0].Answered(name, errors.New("no answer"))
		}
		pass(forgetAfter)
		lost := sets[0].longSilent()
		value, _ := json.Marshal(Replica{Federation: at(2), Started: 99})
		if _, err := g.Put(t.Context(), store.Object{Key: store.Key{Kind: Kind, Name: name}, Value: value}, store.Any()); err != nil {
			t.Fatal(err)
		}
		if len(lost) == 1 {
			if _, err := g.Delete(t.Context(), store.Key{Kind: Kind, Name: name}, store.AtRevision(lost[0].revision)); !errors.Is(err, store.ErrConflict) {
				t.Errorf("its new life was taken out for the silence of the old one: %v", err)
			}
		}
		if got := sets[0].Silent(name); got != 0 || len(sets[0].longSilent()) > 0 {
			t.Errorf("silent for %v after it started anew", got)
		}
	})
}

// TestAStopTakesItsWordBack, and one of whom nobody can know writes nothing.
func TestAStopTakesItsWordBack(t *testing.T) {
	run(t, 2, func(g *group, sets []*Set, stops []context.CancelFunc) {
		stops[1]()
		synctest.Wait()
		if got := g.listed(sets[0]); got != "1" {
			t.Errorf("listed %q after 2 stopped", got)
		}
	})
	alone := New(Config{Self: Replica{Federation: netip.MustParseAddrPort("0.0.0.0:15012")}, Shared: true})
	if alone.Sharing() || len(alone.All()) != 1 {
		t.Errorf("a replica at no address of its own shares: %v, %v", alone.Sharing(), alone.All())
	}
}

// TestThePlaceOfALinkMovesOnlyWithWhoComesOrGoes: each peer has one replica that ranks first, the ranks are of one mind, and one
// that goes moves its own links only.
func TestThePlaceOfALinkMovesOnlyWithWhoComesOrGoes(t *testing.T) {
	g := &group{shelf: shelf{objects: map[store.Key]store.Object{}}}
	var sets []*Set
	for i := range 4 {
		sets = append(sets, g.replica(i+1))
	}
	for i, s := range sets {
		value, _ := json.Marshal(Replica{Federation: at(i + 1)})
		if _, err := g.Put(t.Context(), store.Object{Key: store.Key{Kind: Kind, Name: s.Self().Name}, Value: value}, store.Any()); err != nil {
			t.Fatal(err)
		}
	}
	first := func(n mesh.ClusterName) (out []string) {
		for _, s := range sets {
			if _, known := s.known[s.Self().Name]; known && len(s.before(n)) == 0 {
				out = append(out, s.Self().Name)
			}
		}
		return out
	}
	places := map[mesh.ClusterName]string{}
	has := map[string]int{}
	for i := range 200 {
		n := mesh.ClusterName(fmt.Sprint("peer-", i))
		f := first(n)
		if len(f) != 1 {
			t.Fatalf("%s is to be followed by %v", n, f)
		}
		places[n] = f[0]
		has[f[0]]++
	}
	for n, links := range has {
		if links < 20 {
			t.Errorf("%s has %d of 200 links", n, links)
		}
	}
	gone := sets[1].Self().Name
	if _, err := g.Delete(t.Context(), store.Key{Kind: Kind, Name: gone}, store.Any()); err != nil {
		t.Fatal(err)
	}
	for n, was := range places {
		if f := first(n); len(f) != 1 || was != gone && f[0] != was {
			t.Errorf("%s was with %s and is with %v though %s went", n, was, f, gone)
		}
	}
}

// TestAResyncIsTheWholeList, and what cannot be read is no replica.
func TestAResyncIsTheWholeList(t *testing.T) {
	g := &group{shelf: shelf{objects: map[store.Key]store.Object{}}}
	s := g.replica(1)
	object := func(i int) store.Object {
		value, _ := json.Marshal(Replica{Federation: at(i)})
		return store.Object{Key: store.Key{Kind: Kind, Name: fmt.Sprintf("10.0.0.%d-15012", i)}, Value: value, Revision: int64(i)}
	}
	s.Apply(store.Events{Puts: []store.Object{object(1), object(2), object(3)}})
	s.Answered("10.0.0.2-15012", errors.New("no answer"))
	garbage := store.Object{Key: store.Key{Kind: Kind, Name: "garbage"}, Value: []byte("{")}
	other := store.Object{Key: store.Key{Kind: "Service", Name: "web"}, Value: []byte("{}")}
	s.Apply(store.Events{Resync: true, Puts: []store.Object{object(1), object(2), garbage, other}})
	if got := slices.Sorted(maps.Keys(s.known)); !slices.Equal(got, []string{"10.0.0.1-15012", "10.0.0.2-15012"}) {
		t.Errorf("known after a resync: %v", got)
	}
	if s.Silent("10.0.0.2-15012") == 0 {
		t.Error("a replica that says nothing new is taken to have answered")
	}
	if _, ok := s.Other(0); !ok {
		t.Error("no other replica is known")
	}
	s.Apply(store.Events{Resync: true, Puts: []store.Object{object(1)}})
	if r, ok := s.Other(0); ok {
		t.Errorf("another replica is known: %v", r)
	}
}
