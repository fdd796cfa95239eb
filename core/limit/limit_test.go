package limit_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/limit"
	"pgregory.net/rapid"
)

func hash(x uint64) uint64 { return rand.New(rand.NewPCG(x, 7)).Uint64() }

// model is the leaky bucket that the algorithm is the same as (ITU-T I.371, Annex A.2), of
// one stream and in rational numbers.
type model struct {
	level, last int64 // in nanoseconds · Requests
}

func (m *model) take(r limit.Rate, now int64) bool {
	level := max(0, m.level-(now-m.last)*int64(r.Requests))
	if level+int64(r.Per) > int64(r.Burst)*int64(r.Per) {
		return false
	}
	m.level, m.last = level+int64(r.Per), now
	return true
}

// TestTakeIsTheLeakyBucket: with room for all keys each stream is that of a bucket of its
// own, but for the precision of the clock, a thousandth of an interval.
func TestTakeIsTheLeakyBucket(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := limit.Rate{Requests: rapid.IntRange(1, 5000).Draw(rt, "requests"), Per: rapid.SampledFrom([]time.Duration{time.Second, time.Minute, time.Hour, 333333333}).Draw(rt, "per"),
			Burst: rapid.IntRange(1, 20).Draw(rt, "burst")}
		table := limit.NewTable(r, 1<<12)
		interval := int64(r.Per) / int64(r.Requests)
		models := map[uint64]*model{}
		now := rapid.Int64Range(0, 1<<60).Draw(rt, "start")
		admitted := 0
		for range 300 {
			now += rapid.Int64Range(0, 2*interval).Draw(rt, "step")
			key := hash(rapid.Uint64Range(0, 3).Draw(rt, "key"))
			m := models[key]
			if m == nil {
				m = &model{last: now}
				models[key] = m
			}
			before := *m
			want := m.take(r, now)
			wait := table.Take(key, now)
			if got := wait == 0; got != want {
				// Either verdict stands within the precision.
				early, late := before, before
				slack := max(interval/256, 2)
				if early.take(r, now-slack) == late.take(r, now+slack) {
					rt.Fatalf("%+v at %d: waits %v, the bucket says %v", r, now, wait, want)
				}
				if *m = before; got {
					m.level, m.last = max(0, before.level-(now-before.last)*int64(r.Requests))+int64(r.Per), now
				}
			}
			if wait == 0 {
				admitted++
			}
		}
		if admitted == 0 {
			rt.Fatal("nothing was let through")
		}
	})
}

// TestWaitIsKept: who waits as long as it was told is let through, and not before.
func TestWaitIsKept(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := limit.Rate{Requests: rapid.IntRange(1, 1000).Draw(rt, "requests"), Per: time.Second, Burst: rapid.IntRange(1, 5).Draw(rt, "burst")}
		table := limit.NewTable(r, 0)
		now := rapid.Int64Range(0, 1<<60).Draw(rt, "start")
		for table.Take(1, now) == 0 {
		}
		wait := table.Take(1, now)
		precision := int64(time.Second)/int64(r.Requests)/512 + 2
		if table.Take(1, now+int64(wait)-precision) == 0 {
			rt.Errorf("%+v: let through %d ns before %v", r, precision, wait)
		}
		if again := table.Take(1, now+int64(wait)+precision); again != 0 {
			rt.Errorf("%+v: refused for %v after waiting %v", r, again, wait)
		}
	})
}

// TestNoKeyIsFasterThanItsRate: however many keys press into a small table, and however often
// one is evicted and comes back, it gets its burst and its rate at most.
func TestNoKeyIsFasterThanItsRate(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := limit.Rate{Requests: 100, Per: time.Second, Burst: rapid.IntRange(1, 10).Draw(rt, "burst")}
		table := limit.NewTable(r, 8) // one set
		keys := rapid.IntRange(1, 60).Draw(rt, "keys")
		draw := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0))
		admitted := make([]int, keys)
		all := 0
		const steps, step = 20_000, int64(100 * time.Microsecond)
		for i := range int64(steps) {
			k := draw.IntN(keys)
			if draw.IntN(3) == 0 {
				k = 0
			}
			if table.Take(hash(uint64(k)), i*step) == 0 {
				admitted[k]++
				all++
			}
		}
		most := r.Burst + steps*int(step)*r.Requests/int(time.Second) + 1
		for k, n := range admitted {
			if n > most {
				rt.Fatalf("%d keys: key %d was let through %d times, want at most %d", keys, k, n, most)
			}
		}
		if all > 8*most {
			rt.Fatalf("%d keys: %d let through, want at most %d", keys, all, 8*most)
		}
	})
}

// TestOldStreamsAreNew: a stream that was silent for longer than its time can tell has its burst.
func TestOldStreamsAreNew(t *testing.T) {
	r := limit.Rate{Requests: 1000, Per: time.Second, Burst: 3}
	for _, silent := range []time.Duration{time.Second, time.Hour, 24 * time.Hour, 6 * 24 * time.Hour, 7 * 24 * time.Hour, 12 * 24 * time.Hour, 300 * 24 * time.Hour} {
		table := limit.NewTable(r, 0)
		for table.Take(1, 0) == 0 {
		}
		for range 3 {
			if w := table.Take(1, int64(silent)); w != 0 {
				t.Errorf("after %v: refused for %v", silent, w)
			}
		}
		if table.Take(1, int64(silent)) == 0 {
			t.Errorf("after %v: more than the burst", silent)
		}
	}
}

// TestConcurrentTakers let through what one would have.
func TestConcurrentTakers(t *testing.T) {
	table := limit.NewTable(limit.Rate{Requests: 1, Per: time.Hour, Burst: 50}, 100)
	var admitted atomic.Int64
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 1000 {
				if table.Take(42, 1) == 0 {
					admitted.Add(1)
				}
			}
		})
	}
	all.Wait()
	if admitted.Load() != 50 {
		t.Errorf("%d let through, want 50", admitted.Load())
	}
}

func TestGauge(t *testing.T) {
	var g limit.Gauge
	for i, want := range []bool{true, true, false, false} {
		if got := g.Enter(2); got != want {
			t.Errorf("entry %d: %v", i, got)
		}
	}
	if g.Now() != 2 || !g.Enter(0) {
		t.Errorf("%d", g.Now())
	}
	g.Leave()
	g.Leave()
	if !g.Enter(2) || g.Now() != 2 {
		t.Errorf("%d", g.Now())
	}
}

func BenchmarkTake(b *testing.B) {
	for _, keys := range []int{1, 1000, 100_000} {
		b.Run(fmt.Sprint(keys), func(b *testing.B) {
			table := limit.NewTable(limit.Rate{Requests: 1000, Per: time.Second, Burst: 10}, 4096)
			hashes := make([]uint64, keys)
			for i := range hashes {
				hashes[i] = hash(uint64(i))
			}
			now, i := int64(0), 0
			b.ReportAllocs()
			for b.Loop() {
				now += 1000
				table.Take(hashes[i%keys], now)
				i++
			}
		})
	}
}
