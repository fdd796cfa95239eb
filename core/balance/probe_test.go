package balance

import (
	"slices"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// probed is a view whose ejections are counted, as one whose endpoints somebody probes.
func probed(eu, us int, told *int) *View {
	return NewView(Config{Endpoints: groups(eu, us, 0), Clusters: clusters(nil), Cluster: "eu", Ejected: func() { *told++ }})
}

func due(t *testing.T, v *View, now int64, wantNext int64, want ...*Endpoint) {
	t.Helper()
	got, next := v.Due(now, nil)
	if !slices.Equal(got, want) || next != wantNext {
		t.Errorf("due are %d endpoints, the next at %d; want %d, and %d", len(got), next, len(want), wantNext)
	}
}

// TestOnlyAProbeLetsARequestTry: when its time is over, an endpoint that is out is probed; requests pass it over until it has
// answered, and then one of them tries it. Each probe without an answer doubles the time.
func TestOnlyAProbeLetsARequestTry(t *testing.T) {
	told := 0
	v := probed(3, 0, &told)
	e, now := v.groups[0].all.endpoints[1], int64(time.Hour)
	due(t, v, now, 0)
	for range mesh.DefaultEjectAfter {
		p := e.begin(&Ask{Now: now})
		p.Done(NeverExecuted, now)
	}
	if told != 1 {
		t.Fatalf("told of %d ejections, want 1", told)
	}
	drawn := func() (n int) {
		for i := range 200 {
			p := pick(t, v, Ask{Now: now, Rand: uint64(i) * 0x9e3779b97f4a7c15})
			if p.Endpoint == e {
				n++
			}
			p.Done(Abandoned, now)
		}
		return n
	}
	for _, hold := range []time.Duration{ejectFirst, 2 * ejectFirst, 4 * ejectFirst} {
		until := now + int64(hold)
		due(t, v, now, until)
		now = until
		due(t, v, now, 0, e)
		if n := drawn(); n > 0 {
			t.Fatalf("%d requests were sent there before it answered a probe", n)
		}
		e.Probed(false, now)
	}
	now += int64(8 * ejectFirst)
	e.Probed(true, now)
	due(t, v, now, 0)
	trial := e.begin(&Ask{Now: now})
	if !trial.trial || drawn() > 0 {
		t.Fatal("more than one request tries it")
	}
	trial.Done(Served, now)
	if drawn() == 0 || told != 4 {
		t.Errorf("it is not back after an answer, or told of %d ejections, want 4", told)
	}
}

// TestATrialThatTimesOutIsNoReturn: the next request would wait as long.
func TestATrialThatTimesOutIsNoReturn(t *testing.T) {
	told := 0
	v := probed(3, 0, &told)
	e, now := v.groups[0].all.endpoints[1], int64(time.Hour)
	e.eject(now, outRefused, &e.health.ejections)
	now += int64(ejectFirst)
	e.Probed(true, now)
	trial := e.begin(&Ask{Now: now})
	trial.Done(TimedOut, now)
	if !e.ejected(now) {
		t.Error("it is tried again at once")
	}
	due(t, v, now, now+int64(2*ejectFirst))
}

// TestATrippedClusterIsProbedFirst: some of its endpoints, and one that answers is enough.
func TestATrippedClusterIsProbedFirst(t *testing.T) {
	told := 0
	v := probed(1, 20, &told)
	g, now := v.groups[1], int64(time.Hour)
	for _, e := range g.all.endpoints[:tripAfter] {
		p := e.begin(&Ask{Now: now})
		p.Done(NeverExecuted, now)
	}
	if told != 1 || g.unwise(&Ask{Now: now}) != DropTripped {
		t.Fatalf("told %d times, %q: want a tripped cluster", told, g.unwise(&Ask{Now: now}))
	}
	due(t, v, now, now+int64(ejectFirst))
	now += int64(ejectFirst)
	asked, next := v.Due(now, nil)
	if len(asked) != clusterProbes || next != 0 || g.unwise(&Ask{Now: now}) != DropTripped {
		t.Fatalf("%d probes due, %q", len(asked), g.unwise(&Ask{Now: now}))
	}
	for _, e := range asked {
		e.Probed(false, now)
	}
	due(t, v, now, now+int64(2*ejectFirst)) // once, not for each
	now += int64(2 * ejectFirst)
	again, _ := v.Due(now, nil)
	if slices.Equal(again, asked) {
		t.Error("the same endpoints are asked each time")
	}
	again[0].Probed(false, now)
	again[1].Probed(true, now)
	if d := g.unwise(&Ask{Now: now}); d != Kept {
		t.Errorf("%q though one answered", d)
	}
	due(t, v, now, 0)
}

// TestTheLawBindsProbes: what requests may not be sent to is not probed; what cannot be reached, not yet.
func TestTheLawBindsProbes(t *testing.T) {
	away := map[mesh.ClusterName]mesh.Reachability{"us": mesh.Unreachable}
	for name, c := range map[string]struct {
		change func(*ir.Group)
		reach  map[mesh.ClusterName]mesh.Reachability
	}{
		"forbidden":    {func(g *ir.Group) { g.Forbidden = "ResidencyPolicy shop/eu" }, nil},
		"not exported": {func(g *ir.Group) { g.Exported = false }, nil},
		"unreachable":  {func(*ir.Group) {}, away},
	} {
		told := 0
		before := probed(1, 2, &told)
		far := before.groups[1].all.endpoints[0]
		far.eject(1, outRefused, &far.health.ejections)
		due(t, before, int64(time.Hour), 0, far)
		e := groups(1, 2, 0)
		us := slices.IndexFunc(e.Groups, func(g ir.Group) bool { return g.Cluster == "us" })
		c.change(&e.Groups[us])
		v := NewView(Config{Prev: before, Endpoints: e, Clusters: clusters(c.reach), Cluster: "eu", Ejected: func() {}})
		if v.groups[1].all.endpoints[0] != far {
			t.Fatal("another endpoint")
		}
		if d, _ := v.Due(int64(time.Hour), nil); len(d) > 0 {
			t.Errorf("%s: it is probed", name)
		}
	}
}
