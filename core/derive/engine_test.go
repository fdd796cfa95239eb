package derive_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/isthmus-mesh/isthmus/core/derive"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shop is a world small enough to reason about: endpoints of services, and whether each is ready.
type shop struct {
	ready   map[string]bool     // by endpoint
	members map[string][]string // endpoints by service
}

// with returns a copy in which endpoint is as stated, and the cells that differ.
func (s shop) with(endpoint string, ready bool) (shop, []derive.Ref) {
	next := shop{maps.Clone(s.ready), s.members}
	next.ready[endpoint] = ready
	return next, []derive.Ref{endpoints.Ref(endpoint)}
}

var (
	endpoints = derive.NewFact("endpoint", func(s shop, k string) (bool, bool) { r, ok := s.ready[k]; return r, ok })
	members   = derive.NewBucket("members", func(s shop, k string) []string { return s.members[k] })
	// healthy lists a service's ready endpoints.
	healthy = derive.NewFunc("healthy", slices.Equal[[]string], func(c *derive.Ctx, service string) []string {
		var out []string
		for _, m := range members.Get(c, service) {
			if ready, ok := endpoints.Get(c, m); ok && ready {
				out = append(out, m)
			}
		}
		return out
	})
	// up says whether a service can be called at all.
	up = derive.NewFunc("up", derive.Same[bool], func(c *derive.Ctx, service string) bool {
		return len(healthy.Get(c, service)) > 0
	})
	// page is what one client shows: it wants to know whether the cart is up, as all of them do.
	page = derive.NewFunc("page", derive.Same[string], func(c *derive.Ctx, client int) string {
		return fmt.Sprintf("page %d: cart up %v", client, up.Get(c, "cart"))
	})
)

func newShop() shop {
	return shop{
		ready:   map[string]bool{"c1": true, "c2": true},
		members: map[string][]string{"cart": {"c1", "c2"}},
	}
}

func TestFlipCostsAHandfulHoweverManyRoots(t *testing.T) {
	for _, roots := range []int{1, 1000, 20_000} {
		w := newShop()
		e := derive.New(w)
		healthy.Watch(e, "cart")
		for i := range roots {
			page.Watch(e, i)
		}
		e.Settle(2)
		before := e.Stats()

		w, changed := w.with("c1", false)
		e.Commit(w, changed...)
		res := e.Settle(2)

		after := e.Stats()
		got := derive.Stats{
			Evaluated: after.Evaluated - before.Evaluated,
			CutOff:    after.CutOff - before.CutOff,
			Dirtied:   after.Dirtied - before.Dirtied,
		}
		want := derive.Stats{Evaluated: 2, CutOff: 1, Dirtied: 2} // healthy, which changes, and up, which does not
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%d roots: (-want +got)\n%s", roots, d)
		}
		if len(res.Changed) != 1 || res.Changed[0].Root != healthy.Ref("cart") {
			t.Errorf("%d roots: changed %v, want healthy(cart) only", roots, res.Changed)
		}

		// The last endpoint gone concerns everyone.
		w, changed = w.with("c2", false)
		e.Commit(w, changed...)
		if res := e.Settle(2); len(res.Changed) != roots+1 {
			t.Errorf("%d roots: %d changed when the service went down, want all and healthy", roots, len(res.Changed))
		}
	}
}

func TestChangeCarriesWhatWasReportedAndWhatIs(t *testing.T) {
	w := newShop()
	e := derive.New(w)
	healthy.Watch(e, "cart")
	first := e.Settle(1)
	if len(first.Changed) != 1 || !first.Changed[0].First {
		t.Fatalf("first settle says %v, want one first report", first.Changed)
	}
	// Two revisions before the next settle, the first of them seen by a slice: one report, from what was last told.
	w, changed := w.with("c1", false)
	e.Commit(w, changed...)
	if _, done := e.Slice(1, func() bool { return true }); done {
		t.Fatal("a slice that yields at once says it is done")
	}
	w, changed = w.with("c2", false)
	e.Commit(w, changed...)
	res := e.Settle(1)
	if len(res.Changed) != 1 {
		t.Fatalf("changed %v, want one", res.Changed)
	}
	k, before, after, ok := healthy.Change(res.Changed[0])
	if !ok || k != "cart" || !slices.Equal(before, []string{"c1", "c2"}) || len(after) != 0 {
		t.Errorf("change is %v: %v → %v (%v), want cart: [c1 c2] → []", k, before, after, ok)
	}
	if _, _, _, ok := page.Change(res.Changed[0]); ok {
		t.Error("another function's handle accepts the change")
	}
	// There and back before anyone settles: nothing to tell.
	back, changed := w.with("c1", true)
	e.Commit(back, changed...)
	e.Slice(1, func() bool { return true })
	e.Commit(w, changed...)
	if res := e.Settle(1); len(res.Changed) != 0 {
		t.Errorf("changed %v after a change taken back, want none", res.Changed)
	}
}

func TestNodesWithoutWatchersAreFreed(t *testing.T) {
	e := derive.New(newShop())
	for i := range 300 {
		page.Watch(e, i)
	}
	page.Watch(e, 7) // a second watcher of the same
	e.Settle(2)
	if s := e.Stats(); s.Nodes != 302 || s.Cells != 3 || s.Edges != 300+1+3 {
		t.Fatalf("alive: %+v, want 302 nodes, 3 cells, 304 edges", s)
	}
	for i := range 300 {
		page.Unwatch(e, i)
	}
	e.Settle(1)
	if s := e.Stats(); s.Nodes != 3 || s.Cells != 3 || s.Edges != 5 {
		t.Errorf("with one watcher left: %+v, want 3 nodes, 3 cells, 5 edges", s)
	}
	page.Unwatch(e, 7)
	for {
		if _, done := e.Slice(1, func() bool { return true }); done {
			break
		}
	}
	if s := e.Stats(); s.Nodes != 0 || s.Cells != 0 || s.Edges != 0 {
		t.Errorf("with no watcher left: %+v, want nothing alive", s)
	}
	if r := e.Reads(up.Ref("cart")); r != nil {
		t.Errorf("a freed node still says it read %v", r)
	}
}

func TestProvenanceIsReadable(t *testing.T) {
	e := derive.New(newShop())
	page.Watch(e, 1)
	e.Settle(1)
	got := fmt.Sprint(e.Reads(page.Ref(1)), e.Reads(healthy.Ref("cart")), e.Readers(endpoints.Ref("c2")))
	if want := "[up(cart)] [members(cart) endpoint(c1) endpoint(c2)] [healthy(cart)]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if k := e.Reads(healthy.Ref("cart"))[0].Kind; k != derive.KindBucket {
		t.Errorf("members is a %v, want a bucket", k)
	}
}

func TestRepeatedReadsAreOneEdge(t *testing.T) {
	loop := derive.NewFunc("loop", derive.Same[int], func(c *derive.Ctx, n int) int {
		sum := 0
		for i := range n {
			if up.Get(c, "cart") {
				sum++
			}
			endpoints.Get(c, fmt.Sprint("e", i))
		}
		return sum
	})
	e := derive.New(newShop())
	loop.Watch(e, 100)
	e.Settle(1)
	if got := len(e.Reads(loop.Ref(100))); got != 101 {
		t.Errorf("%d reads, want 101", got)
	}
	if s := e.Stats(); s.Edges != 101+1+3 {
		t.Errorf("%d edges, want 105", s.Edges)
	}
}

func TestAValueEqualToTheOlderOneKeepsItsIdentity(t *testing.T) {
	boxed := derive.NewFunc("boxed", func(a, b *bool) bool { return *a == *b }, func(c *derive.Ctx, k string) *bool {
		v := up.Get(c, k) || len(healthy.Get(c, k)) > 5
		return &v
	})
	w := newShop()
	e := derive.New(w)
	boxed.Watch(e, "cart")
	e.Settle(1)
	before, _ := boxed.Value(e, "cart")
	w, changed := w.with("c1", false)
	e.Commit(w, changed...)
	e.Settle(1)
	after, ok := boxed.Value(e, "cart")
	if !ok || before != after {
		t.Error("an equal value took the place of the older one")
	}
}

func TestMisuseIsNamed(t *testing.T) {
	var kept *derive.Ctx
	leak := derive.NewFunc("leak", derive.Same[int], func(c *derive.Ctx, _ int) int { kept = c; return 0 })
	other := derive.NewFact("endpoint", func(shop, int) (int, bool) { return 0, false })
	clash := derive.NewFunc("clash", derive.Same[int], func(c *derive.Ctx, k int) int {
		endpoints.Get(c, "c1")
		v, _ := other.Get(c, k)
		return v
	})
	var inner *derive.Engine
	commits := derive.NewFunc("commits", derive.Same[int], func(*derive.Ctx, int) int { inner.Commit(shop{}); return 0 })
	settle := func(w interface{ Watch(*derive.Engine, int) }) *derive.Engine {
		e := derive.New(newShop())
		inner = e
		w.Watch(e, 1)
		e.Settle(1)
		return e
	}
	for name, tc := range map[string]struct {
		want string
		do   func()
	}{
		"read after the end": {"derive: endpoint(c1) read through the Ctx of an evaluation that has ended",
			func() { settle(leak); endpoints.Get(kept, "c1") }},
		"two handles of one name": {`derive: two handles are named "endpoint"`, func() { settle(clash) }},
		"unwatch of a stranger": {"derive: Unwatch of up(cart), which nobody watches",
			func() { up.Unwatch(derive.New(newShop()), "cart") }},
		"commit of a derived node": {"derive: Commit names up(cart), which is derived",
			func() { derive.New(newShop()).Commit(newShop(), up.Ref("cart")) }},
		"commit of a wrong key": {"derive: Commit names endpoint(1) with a key of type int, which is not the handle's",
			func() { settle(page).Commit(newShop(), other.Ref(1)) }},
		"commit from a function": {"derive: Commit called by a derived function", func() { settle(commits) }},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if got := fmt.Sprint(recover()); got != tc.want {
					t.Errorf("panic says %q, want %q", got, tc.want)
				}
			}()
			tc.do()
		})
	}
}

// A root that a reader evaluated while it stood last in the queue, and that then became dirty, must not keep its old place:
// its readers would overtake it and read what is stale.
func TestARootReadBeforeItsTurnIsNotOvertaken(t *testing.T) {
	type world = map[string]int
	number := derive.NewFact("number", func(w world, k string) (int, bool) { v, ok := w[k]; return v, ok })
	low := derive.NewFunc("low", derive.Same[int], func(c *derive.Ctx, k string) int { v, _ := number.Get(c, k); return v })
	middle := derive.NewFunc("middle", derive.Same[int], func(c *derive.Ctx, k string) int { return low.Get(c, k) })
	high := derive.NewFunc("high", derive.Same[int], func(c *derive.Ctx, k string) int {
		if on, _ := number.Get(c, "on"); on == 0 {
			return -1
		}
		return middle.Get(c, k)
	})
	e := derive.New(world{"x": 1})
	high.Watch(e, "x")
	e.Settle(1)
	e.Commit(world{"x": 1, "on": 1}, number.Ref("on"))
	low.Watch(e, "x")
	if _, done := e.Slice(1, func() bool { return true }); done {
		t.Fatal("the slice was not cut")
	}
	e.Commit(world{"x": 2, "on": 2}, number.Ref("x"), number.Ref("on"))
	e.Settle(1)
	if v, _ := high.Value(e, "x"); v != 2 {
		t.Errorf("high = %d, want 2", v)
	}
}
