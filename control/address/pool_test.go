package address

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// memory is a store with the transactions of the real one.
type memory struct {
	mu       sync.Mutex
	revision int64
	objects  map[store.Key]store.Object
	// before, where set, is called once before a batch is judged: what another replica does meanwhile.
	before func()
	writes int
}

func newMemory() *memory { return &memory{objects: map[store.Key]store.Object{}} }

func (m *memory) Get(_ context.Context, k store.Key) (store.Object, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.objects[k]
	if !ok {
		return o, &store.Error{Op: "get", Key: k, Kind: store.ErrNotFound}
	}
	return o, nil
}

func (m *memory) List(_ context.Context, s store.Scope) ([]store.Object, int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []store.Object
	for k, o := range m.objects {
		if k.Kind == s.Kind {
			out = append(out, o)
		}
	}
	slices.SortFunc(out, func(a, b store.Object) int { return cmp.Compare(a.Name, b.Name) })
	return out, m.revision, nil
}

func (m *memory) Batch(_ context.Context, ops []store.Op) (int64, error) {
	if f := m.before; f != nil {
		m.before = nil
		f()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(ops) > store.BatchMax {
		return 0, &store.Error{Op: "batch", Kind: store.ErrTooLarge}
	}
	for _, o := range ops {
		have, ok := m.objects[o.Object.Key]
		switch {
		case o.Pre == store.Any() && !o.Delete:
		case o.Pre == store.MustNotExist() && ok:
			return 0, &store.Error{Op: "batch", Key: o.Object.Key, Kind: store.ErrExists}
		case o.Pre == store.MustNotExist():
		case !ok:
			return 0, &store.Error{Op: "batch", Key: o.Object.Key, Kind: store.ErrNotFound}
		case o.Pre != store.Any() && o.Pre != store.AtRevision(have.Revision):
			return 0, &store.Error{Op: "batch", Key: o.Object.Key, Kind: store.ErrConflict}
		}
	}
	m.revision++
	m.writes++
	for _, o := range ops {
		if o.Delete {
			delete(m.objects, o.Object.Key)
			continue
		}
		o.Object.Revision = m.revision
		m.objects[o.Object.Key] = o.Object
	}
	return m.revision, nil
}

// owners are what is stored, by address.
func (m *memory) owners(t testing.TB) map[string]string {
	objects, _, _ := m.List(t.Context(), store.Scope{Kind: Kind})
	out := map[string]string{}
	for _, o := range objects {
		v, err := Decode(o)
		if err != nil {
			t.Fatal(err)
		}
		out[v.Address.String()] = v.Service.Name
	}
	return out
}

// clock is a time that tests move.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

func newPool(t testing.TB, m *memory, from string) (*Pool, *clock) {
	c := &clock{time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	p, err := New(Config{Range: netip.MustParsePrefix(from), Store: m, Now: c.Now})
	if err != nil {
		t.Fatal(err)
	}
	return p, c
}

func svc(name string) mesh.ServiceName { return mesh.ServiceName{Namespace: "shop", Name: name} }

// claim asks for addresses of any kind and returns them.
func claim(t testing.TB, p *Pool, names ...string) []string {
	t.Helper()
	var asks []Ask
	for _, n := range names {
		asks = append(asks, Ask{Service: svc(n)})
	}
	answers, err := p.Claim(context.Background(), asks, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, a := range answers {
		if a.Refused != None {
			out = append(out, fmt.Sprint("refused ", a.Refused))
			continue
		}
		out = append(out, a.Address.String())
	}
	return out
}

func want(t testing.TB, got any, text string) {
	t.Helper()
	if fmt.Sprint(got) != text {
		t.Errorf("got %v, want %s", got, text)
	}
}

func everything(mesh.ServiceName) bool { return true }
func nothing(mesh.ServiceName) bool    { return false }

func TestAServiceHasOneAddressForGood(t *testing.T) {
	m := newMemory()
	p, _ := newPool(t, m, "127.11.0.0/24")
	want(t, claim(t, p, "a", "b"), "[127.11.0.10 127.11.0.11]")
	writes := m.writes
	again, _ := newPool(t, m, "127.11.0.0/24") // another process over the same store
	want(t, claim(t, again, "c", "b", "a"), "[127.11.0.12 127.11.0.11 127.11.0.10]")
	if m.writes != writes+1 {
		t.Errorf("%d writes for one new service, want 1", m.writes-writes)
	}
}

func TestWhatStandsGoesBeforeWhatIsAskedForByNumberAndThatBeforeTheRest(t *testing.T) {
	p, _ := newPool(t, newMemory(), "127.11.0.0/24")
	claim(t, p, "imported")
	ten, eleven := netip.MustParseAddr("127.11.0.10"), netip.MustParseAddr("127.11.0.11")
	answers, err := p.Claim(t.Context(), []Ask{
		{Service: svc("imported")},
		{Service: svc("rest")},
		{Service: svc("picky"), Want: ten},
		{Service: svc("flexible"), Want: ten, OrAny: true},
		{Service: svc("number"), Want: eleven},
		{Service: svc("own"), Want: ten, Stands: true},
		{Service: svc("far"), Want: netip.MustParseAddr("10.0.0.1")},
		{Service: svc("host"), Want: netip.MustParseAddr("127.11.0.2")},
	}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, a := range answers {
		got = append(got, fmt.Sprintf("%v %d %s", a.Address, a.Refused, a.Owner.Name))
	}
	want(t, got, "[127.11.0.12 0  127.11.0.13 0  invalid IP 1 own 127.11.0.14 1 own 127.11.0.11 0  127.11.0.10 0  invalid IP 3  invalid IP 3 ]")
	// The newest counts: the own service that moves to another number leaves the old one behind.
	moved, err := p.Claim(t.Context(), []Ask{{Service: svc("own"), Want: netip.MustParseAddr("127.11.0.20"), Stands: true}}, Options{})
	if err != nil || moved[0].Refused != None {
		t.Fatal(moved, err)
	}
	want(t, claim(t, p, "own", "new"), "[127.11.0.20 127.11.0.15]")
}

// TestAnAddressIsTakenOverOnlyAsAsked: an ask that takes has what was given to another or is held back, but not what
// an own service states; and what is of no use in the range is not kept.
func TestAnAddressIsTakenOverOnlyAsAsked(t *testing.T) {
	m := newMemory()
	p, _ := newPool(t, m, "127.11.0.0/24")
	claim(t, p, "gone", "imported")
	at := func(host byte) netip.Addr { return netip.AddrFrom4([4]byte{127, 11, 0, host}) }
	stated := map[netip.Addr]mesh.ServiceName{at(30): svc("own")}
	answers, err := p.Claim(t.Context(), []Ask{
		{Service: svc("asks"), Want: at(10)},
		{Service: svc("takes"), Want: at(10), Takes: true},
		{Service: svc("robs"), Want: at(11), Takes: true},
		{Service: svc("fails"), Want: at(30), Takes: true},
	}, Options{Stated: stated})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, a := range answers {
		got = append(got, fmt.Sprintf("%v %d %s", a.Address, a.Refused, a.Owner.Name))
	}
	want(t, got, "[invalid IP 1 gone 127.11.0.10 0  127.11.0.11 0  invalid IP 1 own]")
	want(t, m.owners(t), "map[127.11.0.10:takes 127.11.0.11:robs]")
	want(t, claim(t, p, "imported"), "[127.11.0.12]") // it gets another
	// The cluster has another network now: an address of the old one is of no use.
	moved, _ := newPool(t, m, "127.12.0.0/24")
	want(t, claim(t, moved, "imported"), "[127.12.0.10]")
	want(t, claim(t, moved, "imported"), "[127.12.0.10]")
}

func TestNothingIsWrittenOfAPlanThatIsRefusedOrDry(t *testing.T) {
	m := newMemory()
	p, _ := newPool(t, m, "127.11.0.8/29") // .10 to .15
	asks := make([]Ask, 7)
	for i := range asks {
		asks[i].Service = svc(fmt.Sprint("s", i))
	}
	answers, err := p.Claim(t.Context(), asks, Options{All: true})
	if err != nil || answers[6].Refused != Exhausted || len(m.objects) != 0 {
		t.Errorf("all or nothing: %+v, %v, stored %v", answers, err, m.owners(t))
	}
	if _, err = p.Claim(t.Context(), asks[:2], Options{Dry: true}); err != nil || len(m.objects) != 0 {
		t.Errorf("dry: %v, stored %v", err, m.owners(t))
	}
	want(t, claim(t, p, "s0", "s1", "s2", "s3", "s4", "s5", "s6"), "[127.11.0.10 127.11.0.11 127.11.0.12 127.11.0.13 127.11.0.14 127.11.0.15 refused 2]")
	text := p.Text(asks[6], Answer{Refused: Exhausted}, nothing)
	want(t, text, "no address is left in 127.11.0.8/29; those of services that have gone are held back for 24h0m0s")
}

func TestAnAddressIsHeldBackAsLongAsACertificateLives(t *testing.T) {
	m := newMemory()
	p, c := newPool(t, m, "127.11.0.0/24")
	claim(t, p, "stays", "goes")
	stays := func(s mesh.ServiceName) bool { return s.Name == "stays" }
	sweep := func() {
		t.Helper()
		if err := p.Sweep(t.Context(), stays, true); err != nil {
			t.Fatal(err)
		}
	}
	for range 29 { // it was last noted as long ago as it can be
		c.now = c.now.Add(time.Hour)
		sweep()
		want(t, m.owners(t), "map[127.11.0.10:stays 127.11.0.11:goes]")
		want(t, claim(t, p, "stays"), "[127.11.0.10]")
	}
	c.now = c.now.Add(time.Hour + time.Millisecond)
	if err := p.Sweep(t.Context(), stays, false); err != nil {
		t.Fatal(err)
	}
	want(t, m.owners(t), "map[127.11.0.10:stays 127.11.0.11:goes]") // who has just started frees nothing
	sweep()
	want(t, m.owners(t), "map[127.11.0.10:stays]")
	want(t, claim(t, p, "new"), "[127.11.0.11]")
}

// TestAReplicaThatKnowsLessTakesNothing lets one replica see no service at all while another sees them.
func TestAReplicaThatKnowsLessTakesNothing(t *testing.T) {
	m := newMemory()
	knows, c1 := newPool(t, m, "127.11.0.0/24")
	blind, c2 := newPool(t, m, "127.11.0.0/24")
	claim(t, knows, "a")
	for range 24 * 7 {
		c1.now, c2.now = c1.now.Add(time.Hour), c2.now.Add(time.Hour)
		if err := blind.Sweep(t.Context(), nothing, true); err != nil {
			t.Fatal(err)
		}
		if err := knows.Sweep(t.Context(), everything, true); err != nil {
			t.Fatal(err)
		}
	}
	want(t, m.owners(t), "map[127.11.0.10:a]")
}

// TestTwoReplicasAtOnce lets another replica write between what a claim read and what it writes: also where
// the two write no key in common but the guard.
func TestTwoReplicasAtOnce(t *testing.T) {
	for _, story := range []struct {
		name  string
		other func(p *Pool)
		want  string
	}{
		{"one service", func(p *Pool) {
			_, _ = p.Claim(context.Background(), []Ask{{Service: svc("a"), Want: netip.MustParseAddr("127.11.0.77")}}, Options{})
		}, "[127.11.0.77] map[127.11.0.77:a]"},
		{"one address", func(p *Pool) {
			_, _ = p.Claim(context.Background(), []Ask{{Service: svc("b")}}, Options{})
		}, "[127.11.0.11] map[127.11.0.10:b 127.11.0.11:a]"},
	} {
		t.Run(story.name, func(t *testing.T) {
			m := newMemory()
			p, _ := newPool(t, m, "127.11.0.0/24")
			q, _ := newPool(t, m, "127.11.0.0/24")
			claim(t, p, "first") // the guard exists
			m.objects = map[store.Key]store.Object{rangeKey: m.objects[rangeKey]}
			m.before = func() { story.other(q) }
			got := claim(t, p, "a")
			want(t, fmt.Sprint(got, m.owners(t)), story.want)
		})
	}
}

// TestReplicasNeverDisagree runs claims of several replicas at once: every service has one address, which all
// were told.
func TestReplicasNeverDisagree(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := newMemory()
		replicas := rapid.IntRange(2, 4).Draw(rt, "replicas")
		told := make([]map[string]string, replicas)
		var orders [][]string
		for range replicas {
			orders = append(orders, rapid.Permutation([]string{"a", "b", "c", "d", "e", "f", "g", "h"}).Draw(rt, "order"))
		}
		var all sync.WaitGroup
		for i := range replicas {
			p, _ := newPool(t, m, "127.11.0.0/24")
			told[i] = map[string]string{}
			all.Go(func() {
				for _, s := range orders[i] {
					told[i][s] = claim(t, p, s)[0]
				}
			})
		}
		all.Wait()
		for i := range told {
			if !maps.Equal(told[0], told[i]) {
				rt.Fatalf("replica 0 was told %v, replica %d %v", told[0], i, told[i])
			}
		}
		if n := len(m.owners(t)); n != 8 {
			rt.Fatalf("%d addresses for 8 services: %v", n, m.owners(t))
		}
	})
}

func TestManyServicesAtOnce(t *testing.T) {
	m := newMemory()
	p, _ := newPool(t, m, "10.96.0.0/20")
	var names []string
	for i := range 1000 {
		names = append(names, fmt.Sprint("s", i))
	}
	got := claim(t, p, names...)
	slices.Sort(got)
	if len(slices.Compact(got)) != 1000 || len(m.owners(t)) != 1000 {
		t.Errorf("%d distinct addresses, %d stored, want 1000", len(slices.Compact(got)), len(m.owners(t)))
	}
	for _, a := range got {
		if h := netip.MustParseAddr(a).As4()[3]; h < firstHost || h > lastHost {
			t.Errorf("address %s", a)
		}
	}
}

func TestConfigSaysEveryFault(t *testing.T) {
	_, err := New(Config{Range: netip.MustParsePrefix("fd00::/64"), Hold: -1})
	want(t, err, "addresses of services: range fd00::/64: want a prefix of IPv4 addresses\naddresses of services: hold -1ns is negative\naddresses of services: Store and Now must be set")
}

func TestAProblemIsKeptUntilItIsGone(t *testing.T) {
	p, _ := newPool(t, newMemory(), "127.11.0.0/24")
	p.Note(svc("a"), "no address is left")
	want(t, p.Problem(svc("a")), "no address is left")
	p.Note(svc("a"), "")
	want(t, p.Problem(svc("a")), "")
}
