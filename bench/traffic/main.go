// Command traffic runs the committed scenarios of sim/traffic for the product, the policies of
// others and the oracles, and writes the rows that docs/benchmarks.md shows. Its one idea is that
// all of them see the same requests: a ratio is of one run's p99 to another's of the same seeds.
//
// It measures a model, on virtual time: how busy the machine is changes how long that takes, and no figure. It
// drives no process. Read rows first.
//
//	go run ./bench/traffic -out docs          # every scenario, every policy: 15 minutes on two idle cores
//	go run ./bench/traffic -out docs -quick   # ours and the oracles, the table's rows: under 3 minutes
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/isthmus-mesh/isthmus/bench/report"
	"github.com/isthmus-mesh/isthmus/codec/manifest"
	"github.com/isthmus-mesh/isthmus/sim/traffic"
)

// heldOut is the first of the seeds that figures are of: those that constants were chosen with are below it.
const heldOut = 11

// bench is one run.
type bench struct {
	*report.Report
	scenarios, docs string
	first, seeds    int
	quick           bool
	only            []string        // policies
	page            strings.Builder // of all tables
	// unlawful tries of the product, over all scenarios.
	unlawful, tries int
}

func main() {
	b := bench{}
	out := flag.String("out", "docs", "folder of benchmarks.md and traffic.md; empty: print only")
	results := flag.String("results", "bench/results", "folder for traffic.json")
	flag.StringVar(&b.scenarios, "scenarios", "sim/traffic/scenarios", "folder of scenarios")
	flag.IntVar(&b.seeds, "seeds", 5, "seeds a policy and scenario")
	flag.IntVar(&b.first, "first", heldOut, "the first of the seeds; constants were chosen with 1 to 5")
	flag.BoolVar(&b.quick, "quick", false, "ours and the oracles on the table's rows: under 3 minutes")
	flag.Func("policy", "a policy beside ours and the oracles, instead of all; may be repeated", func(name string) error {
		b.only = append(b.only, name)
		return nil
	})
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	b.docs = *out
	b.Report = report.Begin(ctx, "traffic")
	b.How = fmt.Sprintf("Written by `make bench-traffic` (`QUICK=1`: ours and the oracles only; `go run ./bench/traffic -h`) from [scenarios](../sim/traffic/scenarios) on virtual\n"+
		"time: load of the machine changes no figure. Figures are of all seeds pooled, in brackets the range over seeds; ratios are of pooled figures.\n"+
		"The seeds, from %d on, are none that a constant was chosen with.", b.first)
	err := b.run(ctx)
	if err == nil {
		err = b.Write(*results, *out)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "traffic:", err)
		os.Exit(1)
	}
}

// target is a row of the table with the ratio to the better oracle that its p99 is to stay below, or the part
// of errors.
type target struct {
	scenario, row string
	p99, errors   float64
}

// rows are the table's, in its order.
func rows() []target {
	return []target{{"t3-steady", "steady", 1.03, 0}, {"t3-slowdown", "slowdown", 1.07, 0}, {"t3-brownout", "brownout", 1.04, 0}, {"t3-refuse", "refuse", 0, 1e-4},
		{"t3-blackhole", "blackhole", 0, 5e-4}, {"t3-burst", "burst", 1.04, 0}, {"t3-overload", "overload", 0, 0}}
}

// further scenarios are compared with the best baseline.
func further() []string {
	return []string{"t3-gradual", "t3-flapping", "t3-partition", "t3-loss", "t3-shift", "t3-day", "t3-fault-in-burst", "t3-return", "t3-residency", "t4-tree", "t10-lost"}
}

func (b *bench) run(ctx context.Context) error {
	for _, t := range rows() {
		m, lines, err := b.simulate(ctx, t.scenario, b.policies(), b.seeds)
		if err != nil {
			return err
		}
		b.common(t, m, lines)
		switch t.row {
		case "steady":
			b.Add(plain("converged", "Σ\\|Δx\\| a minute and source, after convergence", "", traffic.Find(lines, "isthmus").Over(turned).Mean, 0.05))
		case "overload":
			b.overload(m, traffic.Find(lines, "isthmus"))
		}
	}
	if err := errors.Join(b.far(ctx), b.cost(ctx)); err != nil {
		return err
	}
	if !b.quick {
		for _, name := range further() {
			if _, _, err := b.simulate(ctx, name, b.policies(), b.seeds); err != nil {
				return err
			}
		}
	} else if _, _, err := b.simulate(ctx, "t3-residency", []string{"isthmus"}, b.seeds); err != nil {
		return err
	}
	b.Add(plain("residency", fmt.Sprintf("tries against the law, of %d under every fault above", b.tries), "tries", float64(b.unlawful), 0))
	return b.writePage()
}

func turned(m *traffic.Measured) float64 { return m.Turned }

func (b *bench) policies() []string {
	if b.quick || len(b.only) > 0 {
		return append(append([]string{"isthmus"}, b.only...), "oracle-fluid", "oracle-queue")
	}
	return traffic.Policies()
}

// simulate runs a scenario and keeps its table, and its plot where there are other policies to see.
func (b *bench) simulate(ctx context.Context, name string, policies []string, seeds int) (*manifest.Simulation, []traffic.Line, error) {
	m, err := b.read(name)
	if err != nil {
		return nil, nil, err
	}
	lines, err := traffic.RunSeeds(ctx, m, policies, b.first, seeds)
	if err != nil {
		return nil, nil, err
	}
	if own := traffic.Find(lines, "isthmus"); own != nil {
		b.unlawful, b.tries = b.unlawful+own.Pooled.Unlawful, b.tries+own.Pooled.Tries
	}
	fmt.Fprintf(&b.page, "\n## %s\n\n", name)
	if !b.quick && b.docs != "" {
		picture := "traffic-" + name + ".svg"
		f, err := os.Create(filepath.Join(b.docs, picture))
		if err != nil {
			return nil, nil, err
		}
		if err := errors.Join(traffic.WriteSVG(f, m, lines), f.Close()); err != nil {
			return nil, nil, err
		}
		fmt.Fprintf(&b.page, "![p99 and errors by second](%s)\n\n", picture)
	}
	b.page.WriteString("```\n")
	if err := traffic.WriteTable(&b.page, m, lines); err != nil {
		return nil, nil, err
	}
	b.page.WriteString("```\n")
	b.Say("%s: %d policies, %d seeds", name, len(policies), seeds)
	return m, lines, nil
}

func (b *bench) read(name string) (*manifest.Simulation, error) {
	path := filepath.Join(b.scenarios, name+".yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the scenario: %w", err)
	}
	r := manifest.Parse(path, text, manifest.Options{})
	if len(r.Faults) > 0 || len(r.Objects) != 1 {
		return nil, fmt.Errorf("read %s: want one Simulation without faults, %d faults", path, len(r.Faults))
	}
	return r.Objects[0].Value.(*manifest.Simulation), nil
}

// common adds a scenario's p99, mean and errors beside the better oracle.
func (b *bench) common(t target, m *manifest.Simulation, lines []traffic.Line) {
	own, oracle := traffic.Find(lines, "isthmus"), traffic.Oracle(lines)
	ratio := own.Ratio(oracle, (*traffic.Measured).P99)
	p99 := row(t.row+"/p99", fmt.Sprintf("p99: %s; ratio ± %.3f over seeds", m.Description, ratio.Half), "ms", own, oracle, (*traffic.Measured).P99)
	if t.p99 > 0 {
		p99 = p99.Within(t.p99)
		p99.RatioTarget = true
	} else if t.row == "blackhole" {
		p99 = p99.Within(400)
	}
	b.Add(p99)
	b.Add(row(t.row+"/mean", "mean", "ms", own, oracle, (*traffic.Measured).Mean))
	e := errorRow(t.row, own, oracle)
	if t.row != "overload" {
		e = e.Within(100 * t.errors)
	}
	b.Add(e)
}

func (b *bench) overload(m *manifest.Simulation, own *traffic.Line) {
	capacity := 0.0
	for _, r := range m.Regions {
		capacity += float64(r.Endpoints*r.Lanes) / r.Service.Seconds()
	}
	p := own.Pooled
	b.Add(plain("overload/lost", fmt.Sprintf("goodput missing of %.0f a second", capacity), "%", max(0, 100*(1-p.Goodput/capacity)), 2))
	b.Add(plain("overload/crossing", "crossing, which serves nobody, in a hundred requests", "%", 100*float64(p.Crossed)/float64(p.Requests), 1))
	b.Add(plain("overload/critical", "errors of the critical class, in a hundred of its requests", "%", 100*float64(p.CriticalErrors)/float64(p.Critical), 0.1))
}

// far is T50 with two regions lost, beside the optimum.
func (b *bench) far(ctx context.Context) error {
	policies, seeds := []string{"isthmus", "oracle-fluid"}, 1 // of 650,000 requests in the window
	if !b.quick {
		policies, seeds = append(policies, "istio", "waterfall", "waterfall-0.95"), b.seeds
	}
	m, lines, err := b.simulate(ctx, "t50-lost", policies, seeds)
	if err != nil {
		return err
	}
	own, oracle := traffic.Find(lines, "isthmus"), traffic.Find(lines, "oracle-fluid")
	r := row("t50/mean", "mean: "+m.Description, "ms", own, oracle, (*traffic.Measured).Mean).Within(1.02)
	r.RatioTarget = true
	b.Add(r)
	b.Add(errorRow("t50", own, oracle))
	return nil
}

// cost compares with the same demand where crossing has no price.
func (b *bench) cost(ctx context.Context) error {
	m, lines, err := b.simulate(ctx, "t3-cost", []string{"isthmus"}, b.seeds)
	if err != nil {
		return err
	}
	free := *m
	free.Beta = 0
	without, err := traffic.RunSeeds(ctx, &free, []string{"isthmus"}, b.first, b.seeds)
	if err != nil {
		return err
	}
	crossing := func(m *traffic.Measured) float64 { return 100 * float64(m.Crossed) / float64(m.Requests) }
	for _, r := range []report.Row{
		row("cost/crossing", "calls that cross: "+m.Description+", in a hundred requests", "%", &lines[0], &without[0], crossing).Within(0.8),
		row("cost/p99", "p99 of the same", "ms", &lines[0], &without[0], (*traffic.Measured).P99).Within(1.01),
	} {
		r.RatioTarget, r.PeerName = true, "without a price"
		b.Add(r)
	}
	return nil
}

// row is a figure of all seeds pooled beside that of a peer.
func row(name, title, unit string, own, peer *traffic.Line, f func(*traffic.Measured) float64) report.Row {
	values := own.Each(f)
	ours, theirs := f(own.Pooled), f(peer.Pooled)
	lo, hi := slices.Min(values), slices.Max(values)
	r := report.Row{Row: name, Title: title, Unit: unit, Ours: &ours, Peer: &theirs, PeerName: peer.Policy, Rounds: len(values), Min: &lo, Max: &hi}
	if theirs > 0 {
		ratio := ours / theirs
		r.Ratio = &ratio
	}
	return r
}

// errorRow has no ratio: it would be of nothing to nothing.
func errorRow(name string, own, oracle *traffic.Line) report.Row {
	e := row(name+"/errors", "errors, in a hundred requests", "%", own, oracle, func(m *traffic.Measured) float64 { return 100 * m.ErrorRate() })
	e.Reason = fmt.Sprintf("%.3f %% (%s)", *e.Peer, oracle.Policy)
	e.Peer, e.Ratio = nil, nil
	return e
}

func plain(name, title, unit string, value, within float64) report.Row {
	return report.Row{Row: name, Title: title, Unit: unit, Ours: &value, Rounds: 1}.Within(within)
}

func (b *bench) writePage() error {
	if b.docs == "" || b.quick {
		return nil
	}
	head := "# Traffic: every scenario, every policy\n\nWritten by `make bench-traffic` at commit " + b.Commit + " from [scenarios](../sim/traffic/scenarios); how to read it and what the policies are is in\n" +
		"[the guide](guides/simulate.md). `isthmus` is the product's balancer and split. What is missed is discussed in [benchmarks.md](benchmarks.md#traffic).\n"
	return os.WriteFile(filepath.Join(b.docs, "traffic.md"), []byte(head+b.page.String()), 0o644)
}
