package sim_test

import (
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/sim"
	"github.com/isthmus-mesh/isthmus/sim/defence"
	"github.com/isthmus-mesh/isthmus/sim/facts"
	"github.com/isthmus-mesh/isthmus/sim/tally"
)

var (
	seeds   = flag.Int("seeds", 20, "how many seeds to run")
	first   = flag.Uint64("seed", 1, "the first seed; with -seeds=1 it replays one")
	control = flag.String("control", "", "the defence that a replayed control run does without")
	summary = flag.String("summary", "", "a file to keep the sum in: a run that was ended goes on after the seeds that are in it")
	build   = flag.String("build", "", "what is run, to be noted in the summary")
	pieces  = flag.String("pieces", "", "summaries to add to the sum, separated by spaces; -seeds=0 runs nothing")
)

// TestStateAcrossReplicas plays seeds of whole meshes, of which one in twenty is large, prints what happened how often, and fails on
// any complaint and on a fault kind or a checker that never came to anything.
func TestStateAcrossReplicas(t *testing.T) {
	total, began, n := tally.New(), *first, *seeds
	if *summary != "" {
		var err error
		if total, err = tally.Load(*summary); err != nil {
			t.Fatal(err)
		}
		began = total.Next(*first)
		n -= int(min(began-*first, uint64(n)))
	}
	save := func() {
		if *summary == "" {
			return
		}
		if err := total.Save(*summary); err != nil {
			t.Fatal(err)
		}
	}
	play(began, n, func(seed uint64, r sim.Result) {
		if err := total.Add(*build, run(seed, r)); err != nil {
			t.Fatal(err)
		}
		for _, c := range r.Complaints {
			t.Errorf("seed %d (%d clusters): %s: %s", seed, r.Clusters, c.Checker, c.Detail)
		}
		if len(r.Complaints) > 0 {
			t.Errorf("replay: go test ./sim -run TestStateAcrossReplicas -seed=%d -seeds=1", seed)
		}
		if seed%20 == 0 {
			save()
		}
	})
	save()
	for _, file := range strings.Fields(*pieces) {
		piece, err := tally.Load(file)
		if err == nil {
			err = total.Merge(piece)
		}
		if err != nil {
			t.Fatalf("add %s: %v", file, err)
		}
	}
	judge(t, total)
}

// run is a result as it is added up.
func run(seed uint64, r sim.Result) tally.Run {
	out := tally.Run{Seed: seed, Clusters: r.Clusters, Proxies: r.Proxies, Counts: r.Counts, Checked: r.Checked, Made: named(r.Made), Imported: named(r.Imported),
		Converged: r.Converged, Trace: r.Trace}
	for _, c := range r.Complaints {
		out.Complaints = append(out.Complaints, c.Checker+": "+c.Detail)
	}
	return out
}

func named(m map[mesh.Kind]int) map[string]int {
	out := map[string]int{}
	for k, n := range m {
		out[string(k)] = n
	}
	return out
}

// judge prints a sum and fails on what is missing in it.
func judge(t *testing.T, s *tally.Tally) {
	for _, p := range s.Pieces {
		t.Logf("seeds   %d to %d %s", p.First, p.Last, p.Build)
	}
	t.Logf("%d seeds: %d clusters, %d proxies, converged after %v at worst (seed %d); traces %.16s", s.Seeds, s.Clusters, s.Proxies, s.Worst, s.WorstSeed, s.Traces)
	faults := sim.Faults()
	for _, k := range faults {
		t.Logf("fault   %-28s %8d", k, s.Counts[k])
	}
	for _, k := range slices.Sorted(maps.Keys(s.Counts)) {
		if !slices.Contains(faults, k) {
			t.Logf("seen    %-28s %8d", k, s.Counts[k])
		}
	}
	for _, k := range slices.Sorted(maps.Keys(s.Checked)) {
		t.Logf("checked %-28s %8d", k, s.Checked[k])
	}
	if len(s.Failing) > 0 {
		t.Errorf("%d seeds failed: %v", len(s.Failing), slices.Sorted(maps.Keys(s.Failing)))
	}
	if s.Seeds < 20 {
		return
	}
	for _, k := range faults {
		if s.Counts[k] == 0 {
			t.Errorf("fault %s never fired in %d seeds", k, s.Seeds)
		}
	}
	for k := range sim.Checkers() {
		if s.Checked[k] == 0 {
			t.Errorf("checker %s never looked in %d seeds", k, s.Seeds)
		}
	}
}

// play plays seeds on all cores, for a run shares nothing with another, and hands out results in order.
func play(first uint64, n int, take func(uint64, sim.Result)) {
	results := make([]chan sim.Result, n)
	for i := range results {
		results[i] = make(chan sim.Result, 1)
	}
	var next atomic.Int64
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				results[i] <- sim.Run(sim.Config{Seed: first + uint64(i), Without: defence.Control(*control)})
			}
		})
	}
	for i, r := range results {
		take(first+uint64(i), <-r)
		results[i] = nil
	}
	workers.Wait()
}

// TestControlRunsComplain switches off one defence at a time: a checker must notice,
// or the checkers prove nothing.
func TestControlRunsComplain(t *testing.T) {
	for c, checkers := range defence.Controls() {
		t.Run(string(c), func(t *testing.T) {
			t.Parallel()
			silent := slices.Clone(checkers)
			for seed := uint64(1); seed <= 200 && len(silent) > 0; seed++ {
				for _, complaint := range sim.Run(sim.Config{Seed: seed, Clusters: 4, Without: c}).Complaints {
					if i := slices.Index(silent, complaint.Checker); i >= 0 {
						t.Logf("seed %d: %s: %s", seed, complaint.Checker, complaint.Detail)
						silent = slices.Delete(silent, i, i+1)
					}
				}
			}
			if len(silent) > 0 {
				t.Errorf("200 seeds without %s and the checkers %q did not complain", c, silent)
			}
		})
	}
}

// TestEveryCheckerHasAControl keeps a checker from never having been seen to complain.
func TestEveryCheckerHasAControl(t *testing.T) {
	complained := map[string]bool{}
	for _, checkers := range defence.Controls() {
		for _, c := range checkers {
			complained[c] = true
		}
	}
	for c := range sim.Checkers() {
		if !complained[c] {
			t.Errorf("no control run makes the checker %q complain", c)
		}
	}
}

// TestSeedsThatFoundBugs plays what once failed; the stories are in docs/reliability.md. A change of the simulator makes
// other runs of them, so that each has a test in its package too.
func TestSeedsThatFoundBugs(t *testing.T) {
	for _, seed := range []uint64{190, 198} {
		for _, c := range sim.Run(sim.Config{Seed: seed}).Complaints {
			t.Errorf("seed %d: %s: %s", seed, c.Checker, c.Detail)
		}
	}
}

// TestSameSeedSameRun keeps failures replayable.
func TestSameSeedSameRun(t *testing.T) {
	runs := make(chan sim.Result, 2)
	for range 2 { // beside each other, so that the race detector sees what two runs share
		go func() { runs <- sim.Run(sim.Config{Seed: 7}) }()
	}
	a, b := <-runs, <-runs
	if a.Trace != b.Trace || !maps.Equal(a.Counts, b.Counts) || !maps.Equal(a.Checked, b.Checked) {
		t.Errorf("two runs of seed 7 differ:\n%s\n%v\n%s\n%v", a.Trace, a.Counts, b.Trace, b.Counts)
	}
}

// TestEveryKindOfFactIsMade reads the kinds off the source of package mesh, so that one that is added there is missed
// here: clusters must state it, and what travels must arrive.
func TestEveryKindOfFactIsMade(t *testing.T) {
	total := tally.New()
	play(1, 4, func(seed uint64, r sim.Result) {
		if err := total.Add("", run(seed, r)); err != nil {
			t.Fatal(err)
		}
	})
	made, computed := facts.Kinds(), facts.Computed()
	for _, k := range kindsOfMesh(t) {
		if computed[k] == "" && !slices.Contains(made, k) {
			t.Errorf("facts of kind %s are neither made by sim/facts nor named as computed by the mesh", k)
		}
		if total.Made[string(k)] == 0 {
			t.Errorf("no cluster stated a fact of kind %s in 4 seeds", k)
		}
		if travels := k.Replicated() || k == mesh.KindRemoteService || k == mesh.KindBundle; travels && total.Imported[string(k)] == 0 {
			t.Errorf("no fact of kind %s came to another cluster in 4 seeds", k)
		}
	}
}

// kindsOfMesh are the constants of type Kind in package mesh.
func kindsOfMesh(t *testing.T) []mesh.Kind {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "../mesh/fact.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var out []mesh.Kind
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if id, ok := spec.Type.(*ast.Ident); !ok || id.Name != "Kind" {
			return true
		}
		for _, v := range spec.Values {
			s, err := strconv.Unquote(v.(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, mesh.Kind(s))
		}
		return true
	})
	if len(out) < 20 {
		t.Fatalf("found %d kinds in the source of package mesh", len(out))
	}
	return out
}
