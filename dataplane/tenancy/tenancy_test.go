package tenancy_test

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/tenancy"
	"github.com/isthmus-mesh/isthmus/mesh"
)

func caller(name string) mesh.Identity {
	return mesh.Identity{TrustDomain: "a.isthmus.local", Namespace: "shop", ServiceAccount: name}
}

// place is a tenant and whether it was made to go.
type place struct {
	tenancy.Tenant
	table   *tenancy.Table
	mu      sync.Mutex
	evicted int
}

// enter takes places for n requests that leave when they are evicted.
func enter(t *testing.T, table *tenancy.Table, who string, n int) []*place {
	t.Helper()
	var all []*place
	for range n {
		p := &place{table: table}
		p.Evict = func() {
			p.mu.Lock()
			p.evicted++
			p.mu.Unlock()
			go table.Leave(&p.Tenant)
		}
		if err := table.Enter(&p.Tenant, caller(who), time.Time{}, nil); err != nil {
			t.Fatalf("place %d of %d for %s: %v", len(all), n, who, err)
		}
		all = append(all, p)
	}
	return all
}

func evicted(all []*place) (n int) {
	for _, p := range all {
		p.mu.Lock()
		n += p.evicted
		p.mu.Unlock()
	}
	return n
}

func TestNoCallerTakesTheLastQuarterAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := tenancy.New(tenancy.Config{Most: 40, Now: time.Now})
		enter(t, table, "greedy", 30)
		var late tenancy.Tenant
		if err := table.Enter(&late, caller("greedy"), time.Time{}, nil); !errors.Is(err, tenancy.ErrFull) {
			t.Errorf("the greedy one got a place of the last quarter: %v", err)
		}
		began := time.Now()
		enter(t, table, "other", 10)
		if took := time.Since(began); took > 0 {
			t.Errorf("others waited %v for the last quarter", took)
		}
		if table.Held() != 40 {
			t.Errorf("%d places are taken", table.Held())
		}
	})
}

// TestWhoMustWaitHoldsUpNoOther: requests of a caller who has his share wait, and one of another takes
// what is left at once.
func TestWhoMustWaitHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := tenancy.New(tenancy.Config{Most: 40, Now: time.Now})
		enter(t, table, "greedy", 30)
		waits := make(chan error, 1)
		go func() {
			var late tenancy.Tenant
			waits <- table.Enter(&late, caller("greedy"), time.Time{}, nil)
		}()
		<-time.After(time.Second) // by now it is known that no client keeps a place for nothing
		began := time.Now()
		enter(t, table, "other", 10)
		if took := time.Since(began); took > 0 {
			t.Errorf("others waited %v", took)
		}
		if err := <-waits; !errors.Is(err, tenancy.ErrFull) {
			t.Errorf("the greedy one got a place of the last quarter: %v", err)
		}
	})
}

func TestThoseWhoseClientsDoNotMoveGiveTheirPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := tenancy.New(tenancy.Config{Most: 8, Grace: time.Second, Wait: 10 * time.Second, Now: time.Now})
		busy, moving, stuck, dribbles := enter(t, table, "a", 2), enter(t, table, "b", 2), enter(t, table, "c", 2), enter(t, table, "d", 2)
		stop := make(chan struct{})
		var all sync.WaitGroup
		for _, m := range moving { // takes a little every now and then
			m.Giving()
			all.Go(func() {
				tick := time.NewTicker(300 * time.Millisecond)
				defer tick.Stop()
				for {
					select {
					case <-tick.C:
						m.Given()
						m.Giving()
					case <-stop:
						return
					}
				}
			})
		}
		for _, s := range stuck {
			s.Giving()
		}
		<-time.After(100 * time.Millisecond)
		for _, d := range dribbles {
			d.Asking()
		}
		began := time.Now()
		enter(t, table, "e", 1)
		if took := time.Since(began); took < 900*time.Millisecond || took > 1100*time.Millisecond {
			t.Errorf("a place was made after %v, want what is left of the grace", took)
		}
		if evicted(stuck) != 1 || evicted(dribbles) != 0 {
			t.Errorf("%d stuck and %d dribbling ones had to go, want the longest stuck one", evicted(stuck), evicted(dribbles))
		}
		enter(t, table, "e", 3)
		if evicted(stuck) != 2 || evicted(dribbles) != 2 {
			t.Errorf("%d stuck and %d dribbling ones had to go, want all", evicted(stuck), evicted(dribbles))
		}
		var late tenancy.Tenant
		began = time.Now()
		if err := table.Enter(&late, caller("e"), time.Time{}, nil); !errors.Is(err, tenancy.ErrFull) || time.Since(began) != 10*time.Second {
			t.Errorf("%v after %v, want that one who moves and one whom the application keeps waiting are left alone", err, time.Since(began))
		}
		if n := evicted(busy) + evicted(moving); n > 0 {
			t.Errorf("%d that move, or wait for the application, had to go", n)
		}
		close(stop)
		all.Wait()
	})
}

// TestOneCallersOwnGiveWay has honest requests behind the same identity as those that hold: a gateway's.
func TestOneCallersOwnGiveWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := tenancy.New(tenancy.Config{Most: 40, Now: time.Now})
		held := enter(t, table, "gateway", 30)
		other := enter(t, table, "other", 1)
		other[0].Giving()
		for _, h := range held {
			h.Giving()
		}
		began := time.Now()
		enter(t, table, "gateway", 5)
		if took := time.Since(began); took > time.Second {
			t.Errorf("five requests waited %v", took)
		}
		if evicted(held) < 5 || evicted(other) > 0 {
			t.Errorf("%d of its own and %d of another had to go", evicted(held), evicted(other))
		}
	})
}

func TestWaitsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := tenancy.New(tenancy.Config{Most: 4, Now: time.Now})
		first := enter(t, table, "a", 2)
		enter(t, table, "b", 2)
		var n tenancy.Tenant
		began := time.Now()
		if err := table.Enter(&n, caller("c"), began.Add(30*time.Millisecond), nil); err == nil || time.Since(began) != 30*time.Millisecond {
			t.Errorf("%v after %v, want the deadline", err, time.Since(began))
		}
		gone := make(chan struct{}, 1)
		gone <- struct{}{}
		if err := table.Enter(&n, caller("c"), time.Time{}, gone); err == nil {
			t.Error("a request whose client has gone got a place")
		}
		var order []string
		var mu sync.Mutex
		var all sync.WaitGroup
		for _, who := range []string{"c", "d"} {
			all.Go(func() {
				var n tenancy.Tenant
				if table.Enter(&n, caller(who), time.Time{}, nil) == nil {
					mu.Lock()
					order = append(order, who)
					mu.Unlock()
				}
			})
			synctest.Wait()
		}
		for _, p := range first {
			table.Leave(&p.Tenant)
			synctest.Wait()
		}
		all.Wait()
		if len(order) != 2 || order[0] != "c" {
			t.Errorf("places went to %q, want the order of arrival", order)
		}
	})
}

// TestWaitersAreBounded has one caller ask far more often than may wait.
func TestWaitersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := tenancy.New(tenancy.Config{Most: 8, Now: time.Now})
		enter(t, table, "a", 4)
		enter(t, table, "b", 4)
		began := time.Now()
		var atOnce, late int
		var mu sync.Mutex
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				var n tenancy.Tenant
				err := table.Enter(&n, caller("a"), time.Time{}, nil)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					t.Error("a place was given that nobody left")
				case time.Since(began) == 0:
					atOnce++
				default:
					late++
				}
			})
		}
		all.Wait()
		if atOnce != 96 || late != 4 {
			t.Errorf("%d were refused at once and %d after a wait, want 96 and 4", atOnce, late)
		}
	})
}

func BenchmarkEnter(b *testing.B) {
	table := tenancy.New(tenancy.Config{Now: time.Now})
	var n tenancy.Tenant
	who := caller("a")
	b.ReportAllocs()
	for b.Loop() {
		if err := table.Enter(&n, who, time.Time{}, nil); err != nil {
			b.Fatal(err)
		}
		n.Giving()
		n.Given()
		table.Leave(&n)
	}
}
