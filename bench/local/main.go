// Command local measures the whole: the built binaries in a local mesh of three regions, as
// `isthmus up` runs them. Its one idea is that a figure of a shared machine means
// something only beside another of the same minute: what is compared is measured in turns,
// round by round, and told as medians and ratios with their ranges.
//
// It measures the time to ready and memory of the default mesh, then in a mesh of its own:
// CPU and latency of a request through a pair of sidecars against the same through a pair
// of HAProxy (configurations in bench/peer), the way through gateway and link, and how long a
// change of endpoints takes to reach a proxy of another cluster. What cannot be measured here is
// a row with its reason. It does not measure many connections, big bodies or many cores.
//
// The figures go to bench/results/local.json and, between two markers, into
// docs/benchmarks.md. Read run first, then row.
//
//	go run ./bench/local -bin bin -out docs          # 6 minutes on two cores
//	go run ./bench/local -bin bin -out docs -quick   # under 3 minutes
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
	"syscall"
	"time"

	"github.com/isthmus-mesh/isthmus/bench/load"
	"github.com/isthmus-mesh/isthmus/bench/report"
	"github.com/isthmus-mesh/isthmus/bench/rig"
)

// bench is one run: its options, and the rows so far.
type bench struct {
	*report.Report
	bin, peerDir, profiles string
	base                   int
	size                   size
	logs                   netip.AddrPort
	dir                    string // of everything that the run writes and removes
}

// size is how much is measured.
type size struct {
	starts   int           // of the default mesh
	settle   time.Duration // before memory is read
	rounds   int           // of CPU
	requests int           // a round
	turns    int           // of latency
	turn     time.Duration // each
	changes  int           // of endpoints
	crossing time.Duration
}

func main() {
	b := bench{}
	flag.StringVar(&b.bin, "bin", "bin", "folder of the built binaries")
	out := flag.String("out", "docs", "folder of benchmarks.md; empty: print only")
	results := flag.String("results", "bench/results", "folder for local.json")
	quick := flag.Bool("quick", false, "fewer rounds: under 3 minutes")
	flag.IntVar(&b.base, "address-base", 90, "address base of the meshes, as of isthmus up")
	flag.StringVar(&b.peerDir, "peer", "bench/peer", "folder of HAProxy's configurations")
	flag.StringVar(&b.profiles, "profiles", "", "folder for CPU profiles of both sidecars; they are taken in a round of their own")
	be := flag.String("be", "", "run as a part: app")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	b.size = size{starts: 5, settle: 30 * time.Second, rounds: 9, requests: 40_000, turns: 7, turn: 5 * time.Second, changes: 200, crossing: 10 * time.Second}
	if *quick {
		b.size = size{starts: 5, settle: 10 * time.Second, rounds: 5, requests: 12_000, turns: 3, turn: 3 * time.Second, changes: 60, crossing: 4 * time.Second}
	}
	var err error
	switch *be {
	case "app":
		err = load.App(ctx, os.Getenv("HOST")+":"+os.Getenv("PORT"))
	case "":
		err = b.measure(ctx, *out, *results)
	default:
		err = fmt.Errorf("no such part: %q", *be)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/local:", err)
		os.Exit(1)
	}
}

// measure runs everything and writes the report. Nothing is written after a failure.
func (b *bench) measure(ctx context.Context, out, results string) (err error) {
	if b.bin, err = filepath.Abs(b.bin); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(b.bin, "isthmus")); err != nil {
		return fmt.Errorf("%w: run make build first", err)
	}
	if b.dir, err = os.MkdirTemp("", "isthmus-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	b.Report = report.Begin(ctx, "local")
	b.How = how
	if err := b.run(ctx); err != nil {
		return err
	}
	return b.Write(results, out)
}

// how is said above the table.
const how = "Written by `make bench-local` (`QUICK=1` for under 3 minutes; `go run ./bench/local -h`), HAProxy as configured in\n" +
	"[haproxy-client.cfg](../bench/peer/haproxy-client.cfg) and [haproxy-server.cfg](../bench/peer/haproxy-server.cfg)."

// up starts a mesh in the run's folder.
func (b *bench) up(ctx context.Context, name, file string) (*rig.Mesh, error) {
	return rig.Up(ctx, rig.Options{Bin: b.bin, Dir: b.dir, Name: name, Base: b.base, File: file})
}

// run measures in two meshes, one after the other: the default one, and one whose
// workloads answer as fast as they can.
func (b *bench) run(ctx context.Context) (err error) {
	if err := b.footprint(ctx); err != nil {
		return err
	}
	b.Say("starting the mesh of the figures")
	m, err := b.up(ctx, "figures", b.meshFile())
	if err != nil {
		return err
	}
	defer m.Down(&err)
	t, err := b.targets(ctx, m)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	for _, part := range []func(context.Context, *rig.Mesh, *targets) error{b.cpu, b.latency, b.crossing, b.changes, b.profile} {
		if err = part(ctx, m, t); err != nil {
			return err
		}
	}
	return err
}
