package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/bench/load"
	"github.com/isthmus-mesh/isthmus/bench/report"
	"github.com/isthmus-mesh/isthmus/bench/rig"
)

// way is one way that load takes, and the processes whose CPU counts.
type way struct {
	name string
	load.Way
	authority string // of gRPC
	pids      []int
	missing   string // why it cannot be measured
	admins    []string
}

// fail says why a way is not measured, or no more.
func (w *way) fail(err error) {
	w.missing = strings.ReplaceAll(fmt.Sprintf("%s: %v", w.name, err), "\n", "; ")
}

// contest is a row that compares ways by CPU.
type contest struct {
	row, unit, title string
	target           float64
	ours, baseline   *way
	peers            []*way
	run              runner
}

// runner puts load on a way, once per call, and returns how many units it did.
type runner func(ctx context.Context, w *way, n int) (int, error)

const (
	connections = 16
	// roundMax bounds a round of a closed loop.
	roundMax = 30 * time.Second
)

// Loads. The number is of what a round of a quick run does.
var (
	requests = func(ctx context.Context, w *way, n int) (int, error) {
		cs, err := load.DialAll(ctx, connections, &w.Way)
		if err != nil {
			return 0, err
		}
		defer load.CloseAll(cs)
		return load.ClosedLoop(cs, n*16_000, roundMax)
	}
	bulk = func(ctx context.Context, w *way, n int) (int, error) {
		c, err := load.DialBulk(ctx, &w.Way)
		if err != nil {
			return 0, err
		}
		defer c.Close()
		return n * 1024, c.Send(n * 1024)
	}
	conns = func(ctx context.Context, w *way, n int) (int, error) {
		return load.Connections(ctx, &w.Way, connections/2, n*1500)
	}
	calls = func(ctx context.Context, w *way, n int) (int, error) {
		dial, stop := context.WithTimeout(ctx, 10*time.Second)
		defer stop()
		g, err := load.DialGRPC(dial, 2, w.Target, w.authority)
		if err != nil {
			return 0, err
		}
		defer g.Close()
		return g.Unary(ctx, connections/2, n*10_000)
	}
)

// compete measures a contest, all ways in turn in each round, another first each time.
func (b *bench) compete(ctx context.Context, c *contest) error {
	r := report.Row{Row: c.row, Unit: c.unit, Title: c.title, RatioTarget: true}.Within(c.target)
	ways := []*way{c.ours}
	if c.baseline != nil {
		ways = append(ways, c.baseline)
	}
	ways = append(ways, c.peers...)
	for _, w := range ways { // warm up, and see who answers
		if w.missing != "" {
			continue
		}
		if _, err := c.run(ctx, w, 1); err != nil {
			w.fail(err)
			b.Say("%s: %s", c.row, w.missing)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	costs := make([][]float64, len(ways))
	for round := range b.size.rounds {
		for k := range ways {
			i := (round + k) % len(ways)
			if ways[i].missing != "" {
				continue
			}
			cost, err := b.cost(ctx, c, ways[i])
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil { // the other rows are worth having all the same
				ways[i].fail(err)
				b.Say("%s: %s", c.row, ways[i].missing)
				continue
			}
			costs[i] = append(costs[i], cost)
		}
	}
	if c.ours.missing != "" {
		r.Reason = c.ours.missing
		b.Add(r)
		return nil
	}
	b.Add(b.compare(r.Of(costs[0]), ways, costs, c.baseline != nil))
	return b.profile(ctx, c)
}

// cost is CPU a unit, in microseconds.
func (b *bench) cost(ctx context.Context, c *contest, w *way) (float64, error) {
	before, err := rig.CPUOf(w.pids...)
	if err != nil {
		return 0, err
	}
	done, err := c.run(ctx, w, b.size.factor)
	if err != nil {
		return 0, err
	}
	after, err := rig.CPUOf(w.pids...)
	if err != nil {
		return 0, err
	}
	return after.Minus(before).Total().Seconds() * 1e6 / float64(max(done, 1)), context.Cause(ctx)
}

// compare holds our row against the cheaper peer, and says what the other one cost.
func (b *bench) compare(r report.Row, ways []*way, costs [][]float64, baseline bool) report.Row {
	first := 1
	if baseline {
		old := report.Row{Row: r.Row, Unit: r.Unit}.Of(costs[0]).Against("the baseline", costs[1])
		b.Say("%s", old)
		first = 2
	}
	best, others := 0, ""
	for i := first; i < len(ways); i++ {
		if ways[i].missing == "" && (best == 0 || report.Median(costs[i]) < report.Median(costs[best])) {
			best = i
		}
	}
	if best == 0 {
		r.Reason = "no ratio: " + ways[len(ways)-1].missing
		return r
	}
	for i := first; i < len(ways); i++ {
		if i != best && ways[i].missing == "" {
			others += fmt.Sprintf("; %s: %.3g %s", ways[i].name, report.Median(costs[i]), r.Unit)
		}
	}
	return r.Against(ways[best].name+others, costs[best])
}

// profile takes CPU profiles of our processes under the load of a contest, if asked to.
func (b *bench) profile(ctx context.Context, c *contest) error {
	if b.profiles == "" {
		return nil
	}
	if err := os.MkdirAll(b.profiles, 0o755); err != nil {
		return err
	}
	const seconds = 5
	ended := make(chan error, len(c.ours.admins))
	for i, admin := range c.ours.admins {
		go func() {
			f, err := os.Create(filepath.Join(b.profiles, fmt.Sprintf("%s.%d.pprof", c.row, i)))
			if err == nil {
				err = rig.Fetch(ctx, fmt.Sprintf("%s/debug/pprof/profile?seconds=%d", admin, seconds), f)
				_ = f.Close()
			}
			ended <- err
		}()
	}
	for until := time.Now().Add((seconds + 1) * time.Second); time.Now().Before(until); {
		if _, err := c.run(ctx, c.ours, 1); err != nil {
			return err
		}
	}
	for range c.ours.admins {
		if err := <-ended; err != nil {
			return err
		}
	}
	return nil
}
