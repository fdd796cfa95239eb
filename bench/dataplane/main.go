// Command dataplane measures what a proxy costs, beside HAProxy and nginx in the same run: CPU
// a request, a MiB, a connection; what two proxies add to a request's time; memory. Its one
// idea is that the ways are measured in turn, round by round, by whole processes from outside: the
// built binaries in a local mesh as `isthmus up` runs them, and the peers with the
// configurations in bench/peer, metrics and a log line for one request in a hundred on for all.
//
// A row that cannot be measured here says why. The figures go to bench/results/dataplane.json and,
// with a plot, between two markers of docs/benchmarks.md. It does not measure control
// planes, nor what needs more cores than the machine has; load and proxies have cores of their own
// where there are four or more. Read run first, then contest.
//
//	go run ./bench/dataplane -bin bin -out docs -quick     # under 5 minutes on two cores
//	go run ./bench/dataplane -rows h1 -baseline /tmp/old   # beside another build, prints only
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/isthmus-mesh/isthmus/bench/load"
	"github.com/isthmus-mesh/isthmus/bench/report"
	"github.com/isthmus-mesh/isthmus/bench/rig"
)

// bench is one run.
type bench struct {
	*report.Report
	bin, baseline, peerDir, profiles string
	base                             int
	procs                            int // GOMAXPROCS of our processes; 0: a thread a core
	size                             size
	only                             *regexp.Regexp
	dir                              string // of everything that the run writes and removes
	split                            bool   // load and proxies have cores of their own
}

// size is how much is measured.
type size struct {
	rounds   int
	factor   int // of requests a round
	turns    int // of latency
	turn     time.Duration
	settle   time.Duration // before memory is read
	requests int           // over which allocations are counted
}

func main() {
	b := bench{}
	flag.StringVar(&b.bin, "bin", "bin", "folder of the built binaries")
	flag.StringVar(&b.baseline, "baseline", "", "folder of the binaries of another build, to be measured beside ours; nothing is written")
	out := flag.String("out", "", "folder of benchmarks.md; empty: print only")
	results := flag.String("results", "bench/results", "folder for dataplane.json")
	quick := flag.Bool("quick", false, "fewer and shorter rounds: under 5 minutes")
	rows := flag.String("rows", "", "measure only the rows that match; nothing is written")
	flag.IntVar(&b.base, "address-base", 94, "address base of the mesh, as of isthmus up")
	flag.StringVar(&b.peerDir, "peer", "bench/peer", "folder of the peers' configurations")
	flag.StringVar(&b.profiles, "profiles", "", "folder for CPU profiles of our proxies; they are taken in a round of their own")
	flag.IntVar(&b.procs, "gomaxprocs", 0, "threads of each of our processes; 0: one a core. Nothing is written")
	rounds := flag.Int("rounds", 0, "rounds of each row, instead of 7 or, quick, 3")
	be := flag.String("be", "", "run as a part: app")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	b.size = size{rounds: 7, factor: 3, turns: 7, turn: 5 * time.Second, settle: 20 * time.Second, requests: 400_000}
	if *quick {
		b.size = size{rounds: 3, factor: 1, turns: 3, turn: 3 * time.Second, settle: 5 * time.Second, requests: 110_000}
	}
	if *rounds > 0 {
		b.size.rounds = *rounds
	}
	var err error
	if b.only, err = regexp.Compile(*rows); err == nil {
		if *rows != "" || b.baseline != "" || b.procs != 0 {
			*out = ""
		}
		switch *be {
		case "app":
			err = application(ctx, os.Getenv("HOST"))
		case "":
			err = b.measure(ctx, *out, *results)
		default:
			err = fmt.Errorf("no such part: %q", *be)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/dataplane:", err)
		os.Exit(1)
	}
}

// application is what stands behind all proxies.
func application(ctx context.Context, host string) error {
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return fmt.Errorf("HOST: %w", err)
	}
	at := func(port uint16) string { return netip.AddrPortFrom(addr, port).String() }
	ended := make(chan error, 3)
	go func() { ended <- load.App(ctx, at(rig.AppHTTP)) }()
	go func() { ended <- load.Sink(ctx, at(rig.AppSink)) }()
	go func() { ended <- load.Health(ctx, at(rig.AppHealth)) }()
	return <-ended // the first that fails ends the program
}

// measure runs everything and writes the report. Nothing is written if the stage cannot be set.
func (b *bench) measure(ctx context.Context, out, results string) (err error) {
	for _, dir := range []*string{&b.bin, &b.baseline} {
		if *dir == "" {
			continue
		}
		if *dir, err = filepath.Abs(*dir); err != nil {
			return err
		}
		if _, err := os.Stat(filepath.Join(*dir, "isthmus")); err != nil {
			return fmt.Errorf("%w: run make build first", err)
		}
	}
	if b.dir, err = os.MkdirTemp("", "isthmus-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	b.Report = report.Begin(ctx, "dataplane")
	b.Plot = "dataplane.svg"
	b.How = how
	if b.split, err = rig.PinSelf(); err != nil {
		return err
	}
	if b.split {
		b.How += " Load and application had one half of the cores, the proxies the other."
	}
	if err := b.run(ctx); err != nil {
		return err
	}
	return b.Write(results, out)
}

// how is said above the table.
const how = "CPU is of all processes of a way, user and kernel; the peer of a row is the cheaper of HAProxy and nginx, the other's figure stands in parentheses. " +
	"HAProxy has one thread and nginx one worker, which is what costs them least a request; ours takes threads as its load asks for, up to one a core. Metrics are on for all, and a log line for one request in a hundred for those that can. " +
	"Written by `make bench-dataplane` (`QUICK=1` for under 5 minutes; `go run ./bench/dataplane -h`), peers as configured in [bench/peer](../bench/peer)."

// run measures all rows in one mesh.
func (b *bench) run(ctx context.Context) (err error) {
	s, err := b.start(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	for _, c := range s.contests() {
		if !b.only.MatchString(c.row) {
			continue
		}
		if err := b.compete(ctx, &c); err != nil {
			return err
		}
	}
	for _, part := range []struct {
		rows string
		run  func(context.Context, *stage) error
	}{{"added-p50-ms added-p99-ms", b.latency}, {"allocs", b.allocations}, {"rss-idle-mib kib-per-idle-conn", b.memory}} {
		if b.only.MatchString(part.rows) {
			err := part.run(ctx, s)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil { // the other rows are worth having all the same
				for _, row := range strings.Fields(part.rows) {
					b.Add(report.Row{Row: row, Title: "not measured in this run", Reason: err.Error()})
				}
			}
		}
	}
	return nil
}
