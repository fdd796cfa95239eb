package sim_test

import (
	"flag"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/isthmus-mesh/isthmus/sim"
)

var (
	seeds = flag.Int("seeds", 40, "how many seeds to run")
	first = flag.Uint64("seed", 1, "the first seed; with -seeds=1 it replays one")
)

// TestStateAcrossReplicas plays seeds, prints what happened how often, and fails on
// any complaint and on a fault kind that never fired.
func TestStateAcrossReplicas(t *testing.T) {
	counts, checked := map[string]int{}, map[string]int{}
	for i, r := range runAll(*first, *seeds) {
		seed := *first + uint64(i)
		for k, v := range r.Counts {
			counts[k] += v
		}
		for k, v := range r.Checked {
			checked[k] += v
		}
		for _, c := range r.Complaints {
			t.Errorf("seed %d: %s: %s", seed, c.Checker, c.Detail)
		}
		if len(r.Complaints) > 0 {
			t.Errorf("replay: go test ./sim -run TestStateAcrossReplicas -seed=%d -seeds=1", seed)
		}
	}
	t.Logf("seeds %d to %d", *first, *first+uint64(*seeds)-1)
	for _, k := range slices.Sorted(maps.Keys(counts)) {
		t.Logf("%-28s %6d", k, counts[k])
	}
	for _, k := range slices.Sorted(maps.Keys(checked)) {
		t.Logf("checked %-20s %6d", k, checked[k])
	}
	if *seeds < 20 {
		return
	}
	for _, k := range sim.Faults() {
		if counts[k] == 0 {
			t.Errorf("fault %s never fired in %d seeds", k, *seeds)
		}
	}
}

// runAll plays seeds on all cores: a run shares nothing with another.
func runAll(first uint64, n int) []sim.Result {
	results := make([]sim.Result, n)
	var next atomic.Int64
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				results[i] = sim.Run(sim.Config{Seed: first + uint64(i)})
			}
		})
	}
	workers.Wait()
	return results
}

// TestControlRunsComplain switches off one defence at a time: a checker must notice,
// or the checkers prove nothing.
func TestControlRunsComplain(t *testing.T) {
	for c, checker := range sim.Controls() {
		t.Run(string(c), func(t *testing.T) {
			t.Parallel()
			for seed := uint64(1); seed <= 60; seed++ {
				for _, complaint := range sim.Run(sim.Config{Seed: seed, Without: c}).Complaints {
					if complaint.Checker == checker {
						t.Logf("seed %d: %s: %s", seed, complaint.Checker, complaint.Detail)
						return
					}
				}
			}
			t.Errorf("60 seeds without %s and the checker %q did not complain", c, checker)
		})
	}
}

// TestSameSeedSameRun keeps failures replayable.
func TestSameSeedSameRun(t *testing.T) {
	a, b := sim.Run(sim.Config{Seed: 7}), sim.Run(sim.Config{Seed: 7})
	if a.Trace != b.Trace || !maps.Equal(a.Counts, b.Counts) {
		t.Errorf("two runs of seed 7 differ:\n%s\n%s", a.Trace, b.Trace)
	}
}
