// Command emulation runs scenarios of sim/traffic on real processes, and the simulator at the same factor beside them.
// Its one idea is that a model is believed as far as something that is not a model agrees with it: all times of a scenario are
// stretched by a factor, and all rates divided by it, so that a few regions of forty servers fit on a machine that has two cores.
//
// The regions are clusters of a local mesh (built binaries, mTLS, gateways, links with the scenario's round trips). Servers are a
// process each, with the scenario's lanes, queue and work; requests are asked for by this program, open loop and by Poisson, at
// sidecars of their region, and are timed from when they were meant to begin. What a fault does to endpoints is done to processes.
// What cannot be done to processes is not run, and said.
//
// The figures go to bench/results/emulation.json and, between two markers, into docs/benchmarks.md. Read run first, then drive.
//
//	go run ./bench/emulation -bin bin -out docs            # five scenarios at a factor of 5: 27 minutes
//	go run ./bench/emulation -bin bin -factor 2 -out ''    # busier and sooner over
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/isthmus-mesh/isthmus/bench/report"
	"github.com/isthmus-mesh/isthmus/bench/rig"
	"github.com/isthmus-mesh/isthmus/codec/manifest"
	"github.com/isthmus-mesh/isthmus/sim/traffic"
)

// bench is one run.
type bench struct {
	*report.Report
	bin, dir, scenarios string
	base                int
	factor              float64
	seeds               int
}

func main() {
	var b bench
	flag.StringVar(&b.bin, "bin", "bin", "folder of the built binaries")
	out := flag.String("out", "docs", "folder of benchmarks.md; empty: print only")
	results := flag.String("results", "bench/results", "folder for emulation.json")
	flag.StringVar(&b.scenarios, "scenarios", "sim/traffic/scenarios", "folder of scenarios")
	names := flag.String("run", "t3-steady,t3-slowdown,t3-brownout,t3-burst,t3-overload", "scenarios, separated by commas")
	flag.Float64Var(&b.factor, "factor", 5, "how much longer everything takes than in the scenario, 1 to 20")
	flag.IntVar(&b.seeds, "seeds", 5, "seeds of the simulator")
	flag.IntVar(&b.base, "address-base", 93, "address base of the meshes, as of isthmus up")
	be := flag.String("be", "", "run as a part: server or caller")
	var s server
	flag.IntVar(&s.lanes, "lanes", 4, "of a server")
	flag.DurationVar(&s.service, "service", 20*time.Millisecond, "of a server: mean time of a request in a lane")
	flag.Float64Var(&s.variation, "variation", 1, "of a server: coefficient of variation of that time")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	switch {
	case *be == "server", *be == "caller": // of a caller its sidecar is what is wanted
		err = s.serve(ctx, os.Getenv("HOST")+":"+os.Getenv("PORT"))
	case *be != "":
		err = fmt.Errorf("no such part: %q", *be)
	case b.factor < 1 || b.factor > 20 || math.IsNaN(b.factor):
		err = fmt.Errorf("-factor %g: want 1 to 20", b.factor)
	default:
		err = b.measure(ctx, strings.Split(*names, ","), *out, *results)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/emulation:", err)
		os.Exit(1)
	}
}

// measure runs everything and writes the report. Nothing is written after a failure.
func (b *bench) measure(ctx context.Context, names []string, out, results string) (err error) {
	if b.bin, err = filepath.Abs(b.bin); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(b.bin, "isthmus")); err != nil {
		return fmt.Errorf("%w: run make build first", err)
	}
	if b.dir, err = os.MkdirTemp("", "isthmus-emulation-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	b.Report = report.Begin(ctx, "emulation")
	b.How = fmt.Sprintf("Scenarios of [sim/traffic](../sim/traffic/scenarios) on processes of a local mesh, all times stretched by %g, beside the simulator at the same factor (%d seeds).\n"+
		"Written by `go run ./bench/emulation` (`-h`), which `make bench-traffic` runs.", b.factor, b.seeds)
	for _, name := range names {
		if err := b.run(ctx, name); err != nil {
			return err
		}
	}
	return b.Write(results, out)
}

// run does a scenario on processes and by the simulator, and adds its rows.
func (b *bench) run(ctx context.Context, name string) (err error) {
	m, err := b.scenario(name)
	if err != nil {
		return err
	}
	b.Say("%s: %s of processes, %s measured", name, m.Duration, m.To-m.From)
	mesh, err := rig.Up(ctx, rig.Options{Bin: b.bin, Dir: b.dir, Name: name, Base: b.base, File: meshFile(m)})
	if err != nil {
		return err
	}
	defer mesh.Down(&err)
	busy, err := machine()
	if err != nil {
		return err
	}
	began := time.Now()
	got, err := drive(ctx, m, mesh)
	if err != nil {
		return err
	}
	after, err := machine()
	if err != nil {
		return err
	}
	lines, err := traffic.Run(ctx, m, []string{"isthmus"}, b.seeds)
	if err != nil {
		return err
	}
	want := traffic.Find(lines, "isthmus")
	b.Add(report.Row{Row: name + "-mean-ms", Unit: "ms", Title: name + ": mean of answers, beside the simulator's at the same factor (within 10 %)"}.
		Of([]float64{got.mean()}).Against("the simulator", []float64{want.Pooled.Mean()}))
	b.Add(report.Row{Row: name + "-p99-ms", Unit: "ms", Title: name + ": p99 of answers"}.
		Of([]float64{got.quantile(0.99)}).Against("the simulator", []float64{want.Pooled.P99()}))
	b.Add(report.Row{Row: name + "-errors", Unit: "%", Title: fmt.Sprintf("%s: errors, of %d requests", name, got.requests),
		Reason: fmt.Sprintf("the simulator %.3f %%", 100*want.Pooled.ErrorRate())}.Of([]float64{100 * got.errors()}))
	if got.critical > 0 {
		b.Add(report.Row{Row: name + "-critical", Unit: "%", Title: fmt.Sprintf("%s: errors of the most critical, of %d requests", name, got.critical),
			Reason: fmt.Sprintf("the simulator %.3f %%", 100*float64(want.Pooled.CriticalErrors)/float64(max(1, want.Pooled.Critical)))}.Of([]float64{100 * got.criticalErrors()}))
	}
	b.Add(report.Row{Row: name + "-crossed", Unit: "%", Title: name + ": answers from another region",
		Reason: fmt.Sprintf("the simulator %.1f %%", 100*float64(want.Pooled.Crossed)/float64(max(1, want.Pooled.Requests-want.Pooled.Errors)))}.Of([]float64{100 * got.crossed()}))
	b.Add(report.Row{Row: name + "-busy", Unit: "%", Title: name + ": of the machine that was busy, this program included"}.
		Of([]float64{100 * after.since(busy)}).Within(60))
	b.Say("%s: took %s; errors by kind: %v", name, time.Since(began).Round(time.Second), got.why)
	return nil
}

// scenario reads a scenario and stretches it. What cannot be done to processes is an error.
func (b *bench) scenario(name string) (*manifest.Simulation, error) {
	path := filepath.Join(b.scenarios, name+".yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := manifest.Parse(path, text, manifest.Options{})
	if len(r.Faults) > 0 || len(r.Objects) != 1 {
		return nil, fmt.Errorf("read %s: want one Simulation without faults: %v", path, r.Faults)
	}
	m, ok := r.Objects[0].Value.(*manifest.Simulation)
	if !ok {
		return nil, fmt.Errorf("read %s: it is no Simulation", path)
	}
	for _, f := range m.Faults {
		whole := f.Kind == manifest.FaultRefuse || f.Kind == manifest.FaultBlackHole
		if f.Kind != manifest.FaultSlow && (!whole || f.Endpoints > 0) || f.Every != 0 || f.Over != 0 {
			return nil, fmt.Errorf("%s: a fault of kind %s that is of a link, of some endpoints, or comes again or little by little, is not done to processes", name, f.Kind)
		}
	}
	for _, d := range m.Demand {
		if d.Wave != 0 {
			return nil, fmt.Errorf("%s: a day of demand is not done to processes", name)
		}
	}
	stretch(m, b.factor)
	return m, nil
}

// stretch makes all times of a scenario longer by a factor, and all rates smaller.
func stretch(m *manifest.Simulation, factor float64) {
	for _, d := range []*time.Duration{&m.Duration, &m.From, &m.To, &m.Requests.Try, &m.Requests.Deadline, &m.Requests.Shed} {
		*d = longer(*d, factor)
	}
	for i := range m.Regions {
		r := &m.Regions[i]
		r.Rate, r.Service = r.Rate/factor, longer(r.Service, factor)
	}
	for i := range m.Links {
		m.Links[i].RTT = longer(m.Links[i].RTT, factor)
	}
	for i := range m.Demand {
		d := &m.Demand[i]
		d.From, d.To, d.Rate = longer(d.From, factor), longer(d.To, factor), d.Rate/factor
	}
	for i := range m.Faults {
		f := &m.Faults[i]
		f.From, f.To = longer(f.From, factor), longer(f.To, factor)
	}
}

func longer(d time.Duration, factor float64) time.Duration {
	return time.Duration(float64(d) * factor)
}
