package traffic

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"

	"github.com/isthmus-mesh/isthmus/codec/manifest"
)

// Policies are the names that a scenario and --policy may give, in the order of tables.
func Policies() []string {
	return []string{"isthmus", "round-robin", "local", "istio", "l3", "p2c", "waterfall-0.6", "waterfall", "waterfall-0.95", "oracle-fluid", "oracle-queue"}
}

// blind is the product without what is called below, ungated without gates on the way back, deaf with gates that hear of no trips, for control runs.
const (
	blind   = "isthmus-blind"
	ungated = "isthmus-ungated"
	deaf    = "isthmus-deaf"
	// undeclared is the product where no endpoint declares its lanes.
	undeclared = "isthmus-undeclared"
)

// newPolicy makes a policy, nil for a name that nobody knows.
func newPolicy(name string) policy {
	switch name {
	case "isthmus":
		return &product{}
	case blind:
		return &product{blind: true}
	case deaf:
		return &product{deaf: true}
	case undeclared:
		return &product{undeclared: true}
	case ungated:
		return &product{ungated: true}
	case "round-robin":
		return &roundRobin{}
	case "local":
		return &local{}
	case "istio":
		return &istio{}
	case "l3":
		return &l3{}
	case "p2c":
		return &p2c{}
	case "waterfall-0.6":
		return &waterfall{upTo: 0.6}
	case "waterfall":
		return &waterfall{upTo: 0.8}
	case "waterfall-0.95":
		return &waterfall{upTo: 0.95}
	case "oracle-fluid":
		return &fluid{}
	case "oracle-queue":
		return &clairvoyant{}
	}
	return nil
}

// Line is what a policy did in all seeds of a scenario.
type Line struct {
	Policy string
	// First is the seed of the first of Runs; the others follow it.
	First  int
	Runs   []*Measured
	Pooled *Measured
}

// Run is RunSeeds from seed 1 on: the seeds that constants were chosen with.
func Run(ctx context.Context, m *manifest.Simulation, policies []string, seeds int) ([]Line, error) {
	return RunSeeds(ctx, m, policies, 1, seeds)
}

// RunSeeds runs a scenario for each policy and so many seeds from first on, as many at a time as there are processors. The lines come in
// the order of the policies.
func RunSeeds(ctx context.Context, m *manifest.Simulation, policies []string, first, seeds int) ([]Line, error) {
	lines := make([]Line, len(policies))
	for i, name := range policies {
		if newPolicy(name) == nil {
			return nil, fmt.Errorf("simulate %s: policy %q is not known; write one of %v", m.Name, name, Policies())
		}
		lines[i] = Line{Policy: name, First: first, Runs: make([]*Measured, seeds)}
	}
	type job struct{ line, seed int }
	jobs := make(chan job)
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for j := range jobs {
				lines[j.line].Runs[j.seed] = newWorld(m, policies[j.line], uint64(first+j.seed)).run()
			}
		})
	}
	for s := range seeds {
		for l := range lines {
			select {
			case jobs <- job{l, s}:
			case <-ctx.Done():
			}
		}
	}
	close(jobs)
	workers.Wait()
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("simulate %s: %w", m.Name, err)
	}
	for i := range lines {
		lines[i].Pooled = pool(lines[i].Runs)
	}
	return lines, nil
}

// Interval is a mean over seeds with the half width of its 95 % interval (Student's t).
type Interval struct{ Mean, Half float64 }

// over computes it; values that are NaN make it NaN.
func over(values []float64) Interval {
	n := float64(len(values))
	mean := 0.0
	for _, v := range values {
		mean += v / n
	}
	if n < 2 {
		return Interval{mean, math.NaN()}
	}
	squares := 0.0
	for _, v := range values {
		squares += (v - mean) * (v - mean)
	}
	return Interval{mean, student(len(values)-1) * math.Sqrt(squares/(n-1)/n)}
}

// student is the 97.5 % quantile of Student's t.
func student(freedom int) float64 {
	table := []float64{12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086}
	if freedom <= len(table) {
		return table[freedom-1]
	}
	return 1.96 + 2.4/float64(freedom)
}

// Each maps the runs of a line.
func (l *Line) Each(f func(*Measured) float64) []float64 {
	out := make([]float64, len(l.Runs))
	for i, r := range l.Runs {
		out[i] = f(r)
	}
	return out
}

// Over is the mean of a figure over seeds with its interval.
func (l *Line) Over(f func(*Measured) float64) Interval { return over(l.Each(f)) }

// Ratio compares a figure with another line's, seed by seed, as both saw the same requests.
func (l *Line) Ratio(to *Line, f func(*Measured) float64) Interval {
	a, b := l.Each(f), to.Each(f)
	for i := range a {
		a[i] /= b[i]
	}
	return over(a)
}

// Find is the line of a policy, nil if it was not run.
func Find(lines []Line, policy string) *Line {
	if i := slices.IndexFunc(lines, func(l Line) bool { return l.Policy == policy }); i >= 0 {
		return &lines[i]
	}
	return nil
}

// Oracle is the better of the oracles that were run: by errors, then by p99; nil if none was. (The fluid one
// knows nothing of what is on its way when an endpoint dies.)
func Oracle(lines []Line) *Line {
	a, b := Find(lines, "oracle-fluid"), Find(lines, "oracle-queue")
	if a == nil || b == nil {
		if a == nil {
			return b
		}
		return a
	}
	const same = 1e-3
	ea, eb := a.Pooled.ErrorRate(), b.Pooled.ErrorRate()
	if eb < ea-same || eb < ea+same && b.Pooled.P99() < a.Pooled.P99() {
		return b
	}
	return a
}
