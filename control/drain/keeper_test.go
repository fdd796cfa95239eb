package drain

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/isthmus-mesh/isthmus/control/load"
	"github.com/isthmus-mesh/isthmus/control/object"
	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// bench is a keeper over a store whose objects are in the world at once, and over forecasts of the test's.
type bench struct {
	*Keeper
	t         *testing.T
	mu        sync.Mutex
	world     *world.World
	objects   map[store.Key]store.Object
	revision  int64
	stamp     int64
	forecasts []load.Forecast
	unused    []load.Forecast // of services that no proxy has asked for
	unheard   []mesh.ClusterName
	// before is called ahead of each write, once.
	before func()
}

var catalog = mesh.ServiceName{Namespace: "shop", Name: "catalog"}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, world: world.New("eu"), objects: map[store.Key]store.Object{}}
	for _, n := range []mesh.ClusterName{"eu", "us"} {
		b.world, _ = b.world.Edit([]world.Edit{world.Put(&mesh.Fact{Key: mesh.Key{Kind: mesh.KindCluster, Origin: "eu", Name: string(n)}, Value: &mesh.Cluster{Name: n}})})
	}
	b.Keeper = New(Config{Cluster: "eu", Objects: b, Clock: clock.Real{}, Random: bytes.NewReader(make([]byte, 1<<10)), Log: slog.New(slog.DiscardHandler),
		World: func() *world.World {
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.world
		},
		Unheard: func() []mesh.ClusterName { return b.unheard },
		Forecast: func(l load.Loss) []load.Forecast {
			b.mu.Lock()
			defer b.mu.Unlock()
			if l.All {
				return append(b.forecasts[:len(b.forecasts):len(b.forecasts)], b.unused...)
			}
			return b.forecasts
		},
		Stamp: func() mesh.Stamp {
			b.stamp++
			return mesh.Stamp{WallMillis: b.stamp, Origin: "eu"}
		}})
	b.forecast(0.3, 0.6)
	return b
}

// forecast is of a cluster that takes over, and has and will have so much to do.
func (b *bench) forecast(now, then float64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.forecasts = []load.Forecast{{Service: catalog, Left: true, Clusters: []load.ClusterForecast{
		{Cluster: "eu", Now: 100, RhoNow: 0.3, RhoThen: -1}, {Cluster: "us", Now: 100 * now, Then: 100 * then, RhoNow: now, RhoThen: then}}}}
}

func (b *bench) Get(_ context.Context, key store.Key) (store.Object, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	o, ok := b.objects[key]
	if !ok {
		return o, store.ErrNotFound
	}
	return o, nil
}

func (b *bench) Put(_ context.Context, o store.Object, pre store.Precondition) (int64, error) {
	if f := b.before; f != nil {
		b.before = nil
		f()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	old, had := b.objects[o.Key]
	if had && pre != store.AtRevision(old.Revision) || !had && pre != store.MustNotExist() {
		return 0, store.ErrConflict
	}
	b.revision++
	o.Revision = b.revision
	f, _, _, err := object.Decode(o, "eu", mesh.Epoch{})
	if err != nil {
		b.t.Errorf("what was written cannot be read: %v", err)
		return 0, err
	}
	b.objects[o.Key] = o
	b.world, _ = b.world.Edit([]world.Edit{world.Put(f)})
	return o.Revision, nil
}

func (b *bench) begin(goal mesh.DrainGoal, over time.Duration, force bool) (*Answer, error) {
	return b.Begin(b.t.Context(), Request{Target: mesh.DrainTarget{Cluster: "eu"}, Goal: goal, Over: over, Force: force})
}

// only is the one drain that there is.
func (b *bench) only() State {
	b.t.Helper()
	all := b.List()
	if len(all) != 1 {
		b.t.Fatalf("%d drains: %+v", len(all), all)
	}
	return all[0]
}

// TestADrainIsBegunOnceAndTurnedRound from where it is.
func TestADrainIsBegunOnceAndTurnedRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		if a, err := b.begin(mesh.GoalServing, 0, false); err != nil || !a.Attached || len(b.List()) != 0 {
			t.Errorf("what was never drained was taken back: %+v, %v", a, err)
		}
		first, err := b.begin(mesh.GoalDrained, 10*time.Second, false)
		if err != nil || first.Attached || len(first.Plan.Receivers) != 1 {
			t.Fatalf("begin: %+v, %v", first, err)
		}
		time.Sleep(4 * time.Second)
		again, err := b.begin(mesh.GoalDrained, time.Minute, false)
		if err != nil || !again.Attached || again.State.Share != 0.6 || !again.State.Since.Equal(first.State.Since) {
			t.Errorf("asked again: %+v, %v", again, err)
		}
		back, err := b.begin(mesh.GoalServing, 10*time.Second, false)
		if err != nil || back.State.Share != 0.6 {
			t.Errorf("turned round: %+v, %v", back, err)
		}
		time.Sleep(5 * time.Second)
		if s := b.only(); s.Share != 0.8 || s.Done || s.Goal != mesh.GoalServing {
			t.Errorf("half way back: %+v", s)
		}
		time.Sleep(5 * time.Second)
		if s := b.only(); s.Share != 1 || !s.Done {
			t.Errorf("back: %+v", s)
		}
		if _, err = b.begin(mesh.GoalDrained, time.Second, false); err != nil || b.only().Goal != mesh.GoalDrained {
			t.Errorf("drained again: %v", err)
		}
		time.Sleep(time.Second)
		if a, err := b.begin(mesh.GoalServing, 0, false); err != nil || a.State.Share != 0.1 {
			t.Errorf("from nothing it gets a tenth at once: %+v, %v", a, err)
		}
	})
}

// TestADrainIsRefusedWhereSomebodyGetsTooMuch, unless it is forced, and a question changes nothing.
func TestADrainIsRefusedWhereSomebodyGetsTooMuch(t *testing.T) {
	for name, spoil := range map[string]func(*bench){
		"shop/catalog in us would be at 90%": func(b *bench) { b.forecast(0.5, 0.9) },
		"nobody else may or can serve":       func(b *bench) { b.forecasts[0].Left = false },
		"nobody else may or can serve shop/unused": func(b *bench) {
			b.unused = []load.Forecast{{Service: mesh.ServiceName{Namespace: "shop", Name: "unused"}}}
		},
		"cluster us is not heard": func(b *bench) { b.unheard = []mesh.ClusterName{"us"} },
	} {
		b := newBench(t)
		spoil(b)
		_, err := b.begin(mesh.GoalDrained, 0, false)
		var refused *RefusedError
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), name) || len(b.List()) != 0 {
			t.Errorf("%q: %v", name, err)
		}
		a, err := b.Begin(t.Context(), Request{Target: mesh.DrainTarget{Cluster: "eu"}, Goal: mesh.GoalDrained, DryRun: true})
		if err != nil || len(a.Plan.Problems) != 1 || len(b.List()) != 0 {
			t.Errorf("asked: %+v, %v", a, err)
		}
		if _, err := b.begin(mesh.GoalDrained, 0, true); err != nil || !b.only().Force {
			t.Errorf("forced: %v", err)
		}
	}
}

// TestADrainIsGivenUpWhenSomebodyGetsTooMuch for some time, and not one that is forced, nor for who had too much before.
func TestADrainIsGivenUpWhenSomebodyGetsTooMuch(t *testing.T) {
	for _, c := range []struct {
		name   string
		force  bool
		before [2]float64
		then   func(*bench)
		given  bool
	}{
		{"it is measured", false, [2]float64{0.3, 0.6}, func(b *bench) { b.forecast(0.9, 0.6) }, true},
		{"it is to be expected", false, [2]float64{0.3, 0.6}, func(b *bench) { b.forecast(0.4, 0.9) }, true},
		{"nothing happens", false, [2]float64{0.3, 0.6}, func(b *bench) {}, false},
		{"it is forced", true, [2]float64{0.3, 0.6}, func(b *bench) { b.forecast(0.9, 1.2) }, false},
		{"it had too much before", false, [2]float64{0.9, 0.9}, func(b *bench) {}, false},
		{"it was chance", false, [2]float64{0.3, 0.6}, func(b *bench) {
			b.forecast(0.9, 0.6)
			time.Sleep(every)
			b.forecast(0.3, 0.6)
		}, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			go b.Run(ctx)
			b.forecast(c.before[0], c.before[1])
			if _, err := b.begin(mesh.GoalDrained, 20*time.Second, c.force); err != nil {
				var refused *RefusedError
				if !errors.As(err, &refused) {
					t.Fatalf("%s: %v", c.name, err)
				}
			}
			time.Sleep(5 * time.Second)
			c.then(b)
			time.Sleep(4 * time.Second)
			s := b.only()
			if got := s.Goal == mesh.GoalServing; got != c.given || got && (!strings.Contains(s.Reason, "catalog in us") || s.Share < 0.7) {
				t.Errorf("%s: %+v", c.name, s)
			}
			stop()
			synctest.Wait()
		})
	}
}

// TestAPersonIsFasterThanTheKeeper: what a person writes meanwhile is not turned round.
func TestAPersonIsFasterThanTheKeeper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		ctx, stop := context.WithCancel(t.Context())
		go b.Run(ctx)
		if _, err := b.begin(mesh.GoalDrained, 20*time.Second, false); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		b.before = func() { // between what the keeper read and what it writes
			if err := b.write(t.Context(), &mesh.Drain{Target: mesh.DrainTarget{Cluster: "eu"}, Goal: mesh.GoalDrained, SinceMillis: time.Now().UnixMilli(), Over: time.Second, Force: true}, nil); err != nil {
				t.Error(err)
			}
		}
		b.forecast(0.9, 0.9)
		time.Sleep(5 * time.Second)
		if s := b.only(); s.Goal != mesh.GoalDrained || !s.Force {
			t.Errorf("%+v", s)
		}
		stop()
		synctest.Wait()
	})
}

// TestTheObjectSaysTheDrain whatever it is.
func TestTheObjectSaysTheDrain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.SampledFrom([]string{"eu", "zone/a@eu", "zone/Zone 1@eu", "gateway/0@eu", "gateway/7@eu", "w-1.shop@eu", "vm.db.shop@eu"}).Draw(t, "target")
		target, err := ParseTarget(text)
		if err != nil {
			t.Fatal(err)
		}
		want := &mesh.Drain{Target: target, Goal: rapid.SampledFrom([]mesh.DrainGoal{mesh.GoalDrained, mesh.GoalServing}).Draw(t, "goal"),
			SinceMillis: rapid.Int64Range(1, 1<<42).Draw(t, "since"), Over: time.Duration(rapid.Int64Range(1, 86_400).Draw(t, "over")) * time.Second,
			From: uint32(rapid.IntRange(0, 100).Draw(t, "from")) * 100, Force: rapid.Bool().Draw(t, "force"), Reason: rapid.SampledFrom([]string{"", "too much: \"x\""}).Draw(t, "reason")}
		o, err := objectOf(want)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, o.Value); d != "" {
			t.Error(d)
		}
		if again, err := ParseTarget(target.String()); err != nil || again != target {
			t.Errorf("%s is read as %+v, %v", target, again, err)
		}
	})
	for _, bad := range []string{"", "@eu", "eu/west", "zone/@eu", "gateway/x@eu", "gateway/300@eu", "a/b@eu", "w.shop@EU!", ".@eu"} {
		if target, err := ParseTarget(bad); err == nil {
			t.Errorf("%q is read as %+v", bad, target)
		}
	}
}

// TestUnknownTargetsAreRefused before anything is written.
func TestUnknownTargetsAreRefused(t *testing.T) {
	b := newBench(t)
	for _, s := range []string{"in", "zone/x@eu", "gateway/0@eu", "w.shop@eu"} {
		target, err := ParseTarget(s)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Begin(t.Context(), Request{Target: target, Goal: mesh.GoalDrained}); !errors.Is(err, ErrUnknown) {
			t.Errorf("%s: %v", s, err)
		}
	}
}

// TestWhatNobodySaysRefusesNothing: a receiver that would have too much by its owner's word, or by what was learnt when it met its limit, refuses
// a drain; one that is only taken for as good as others warns.
func TestWhatNobodySaysRefusesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		for source, words := range map[mesh.CapacitySource]string{mesh.CapacityDeclared: "would be at 95% of what it can serve, from", mesh.CapacityLearnt: "as was learnt",
			mesh.CapacityReported: "as its applications report", mesh.CapacityAssumed: "if its endpoints are as good as others"} {
			b.forecast(0.3, 0.95)
			b.forecasts[0].Clusters[1].Source = source
			p, err := b.Plan(mesh.DrainTarget{Cluster: "eu"})
			if err != nil {
				t.Fatal(err)
			}
			said, other := p.Problems, p.Warnings
			if source == mesh.CapacityAssumed {
				said, other = other, said
			}
			if len(said) != 1 || len(other) != 0 || !strings.Contains(said[0], words) || p.Receivers[0].Source != source.String() {
				t.Errorf("%s: problems %q, warnings %q, receivers %+v", source, p.Problems, p.Warnings, p.Receivers)
			}
		}
	})
}
