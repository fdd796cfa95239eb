package tally_test

import (
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/sim/tally"
)

func run(seed uint64) tally.Run {
	r := tally.Run{Seed: seed, Clusters: 3, Proxies: 10, Counts: map[string]int{"kill": int(seed)}, Checked: map[string]int{"torn": 2},
		Made: map[string]int{"Service": 1}, Imported: map[string]int{"Bundle": 1}, Converged: time.Duration(seed%7) * time.Second, Trace: string(rune('a' + seed))}
	if seed == 5 {
		r.Complaints = []string{"torn: so it was"}
	}
	return r
}

func sum(t *testing.T, build string, first, last uint64) *tally.Tally {
	t.Helper()
	s := tally.New()
	for seed := first; seed <= last; seed++ {
		if err := s.Add(build, run(seed)); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// TestPiecesAddUpToTheWhole: whichever pieces a run is cut into, and in whichever order they are added, by way of files.
func TestPiecesAddUpToTheWhole(t *testing.T) {
	whole := sum(t, "b", 1, 12)
	if len(whole.Pieces) != 1 || whole.Seeds != 12 || whole.Counts["kill"] != 78 || whole.Worst != 6*time.Second || whole.WorstSeed != 6 || len(whole.Failing) != 1 {
		t.Fatalf("the whole is %+v", whole)
	}
	got := tally.New()
	for i, p := range []*tally.Tally{sum(t, "b", 9, 12), sum(t, "b", 1, 4), sum(t, "b", 5, 8)} {
		file := filepath.Join(t.TempDir(), "piece.json")
		if err := p.Save(file); err != nil {
			t.Fatal(err)
		}
		read, err := tally.Load(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := got.Merge(read); err != nil {
			t.Fatalf("piece %d: %v", i, err)
		}
	}
	if !reflect.DeepEqual(got, whole) {
		t.Errorf("three pieces add up to\n%+v, the whole is\n%+v", got, whole)
	}
}

// TestNoSeedIsCountedTwice, or a long run would say more than was run.
func TestNoSeedIsCountedTwice(t *testing.T) {
	s := sum(t, "b", 1, 4)
	if err := s.Merge(sum(t, "c", 4, 5)); err == nil || s.Seeds != 4 {
		t.Errorf("seed 4 was counted twice: %v, %d seeds", err, s.Seeds)
	}
	if err := s.Merge(sum(t, "c", 5, 6)); err != nil || len(s.Pieces) != 2 {
		t.Errorf("pieces of two builds: %v, %v", err, s.Pieces)
	}
}

// TestAPieceGoesOnWhereItWas: the next seed is the first that no piece has.
func TestAPieceGoesOnWhereItWas(t *testing.T) {
	s := sum(t, "b", 1, 4)
	if err := s.Merge(sum(t, "c", 5, 6)); err != nil {
		t.Fatal(err)
	}
	for from, want := range map[uint64]uint64{1: 7, 5: 7, 7: 7, 9: 9} {
		if got := s.Next(from); got != want {
			t.Errorf("from %d on the next is %d: want %d", from, got, want)
		}
	}
}

// TestTracesTellBuildsApart: two builds that play one seed otherwise have other sums.
func TestTracesTellBuildsApart(t *testing.T) {
	a, b, c := sum(t, "b", 1, 4), tally.New(), sum(t, "c", 1, 4)
	for seed := uint64(1); seed <= 4; seed++ {
		r := run(seed)
		if seed == 3 {
			r.Trace = "otherwise"
		}
		if err := b.Add("b", r); err != nil {
			t.Fatal(err)
		}
	}
	if a.Traces == b.Traces || a.Traces != c.Traces {
		t.Errorf("digests of traces: %s, %s of one that differs, %s of one that does not", a.Traces, b.Traces, c.Traces)
	}
}

// TestDamagedSummariesAreNamed, and one that is not there is empty.
func TestDamagedSummariesAreNamed(t *testing.T) {
	if s, err := tally.Load(filepath.Join(t.TempDir(), "none")); err != nil || s.Seeds != 0 {
		t.Errorf("a file that is not there: %v", err)
	}
	if _, err := tally.Load(t.TempDir()); err == nil {
		t.Error("a directory was read as a summary")
	}
	bad := tally.New()
	bad.Traces = "zz"
	if err := tally.New().Merge(bad); err == nil {
		t.Error("a summary with no digest was added")
	}
}
