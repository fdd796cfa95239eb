// Command controlplane measures a control plane as its proxies load it: the built binary with its store, a thousand
// services of five endpoints, and a thousand proxies, each a connection with mutual TLS and a stream of delta discovery that asks
// for every service. Its one idea is that a configuration is paid for once and not once a proxy, so it counts the control
// plane's CPU for each kind of change, and when the change reached the first, the median and the last proxy.
//
// Beside it, in the same run, a server over go-control-plane's caches holds as much and is changed in the same way, by a
// function call rather than through an API and a store. The client counts and acknowledges and keeps nothing; it shares the
// machine with both. Then without the peer: what a change costs that crosses to another cluster, and the engine with a world of
// fifty clusters. It does not measure proxies.
//
// The figures go to bench/results/controlplane.json and, between two markers, into docs/benchmarks.md. Read run first,
// then fleet.
//
//	go run ./bench/controlplane -bin bin -out docs
//	go run ./bench/controlplane -bin bin -out docs -quick   # 200 proxies, 200 services
//	go run ./bench/controlplane -bin bin -baseline DIR -parts first,changes   # beside another build
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
	"time"

	"github.com/isthmus-mesh/isthmus/bench/report"
	"github.com/isthmus-mesh/isthmus/bench/rig"
)

// bench is one run: its options, and the rows so far.
type bench struct {
	*report.Report
	bin  string
	base int
	size size
	dir  string // of everything that the run writes and removes
	// parts are what is measured.
	parts []string
	// baseline is the folder of another build, which then is the peer.
	baseline string
}

// allParts are what a whole run measures.
var allParts = []string{"first", "changes", "scaling", "clusters", "world"}

// size is how much is measured.
type size struct {
	proxies, services, endpoints int
	rounds                       int // of each kind of change
	turns                        int // of first configurations
	few, many                    int // services, of the row that compares
	rate                         int // endpoint changes a second
	steady, idle                 time.Duration
	world                        worldSize
}

func main() {
	b := bench{}
	flag.StringVar(&b.bin, "bin", "bin", "folder of the built binaries")
	out := flag.String("out", "docs", "folder of benchmarks.md; empty: print only")
	results := flag.String("results", "bench/results", "folder for controlplane.json")
	quick := flag.Bool("quick", false, "a fifth of everything")
	parts := flag.String("parts", strings.Join(allParts, ","), "what is measured, or hop for X2 alone, hop-apart for the same between networks; with less than all nothing is written")
	flag.StringVar(&b.baseline, "baseline", "", "folder of another build's binaries, to be held against in place of go-control-plane's caches; nothing is written then")
	proxies := flag.Int("proxies", 0, "how many; 0 is as usual, else nothing is written")
	flag.IntVar(&b.base, "address-base", 95, "address base of the mesh, as of isthmus up")
	be := flag.String("be", "", "run as a part: peer or world")
	address := flag.String("peer-address", "", "where the peer listens")
	services := flag.Int("services", 1000, "services of the peer, or of each cluster of the world")
	endpoints := flag.Int("endpoints", 5, "endpoints a service of the peer or of the world")
	clusters := flag.Int("clusters", 50, "clusters of the world")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	b.size = size{proxies: 1000, services: 1000, endpoints: 5, rounds: 21, turns: 5, few: 100, many: 5000, rate: 200, steady: 20 * time.Second, idle: 20 * time.Second,
		world: worldSize{50, 200, 10}}
	if *quick {
		b.size = size{proxies: 200, services: 200, endpoints: 5, rounds: 7, turns: 3, few: 20, many: 1000, rate: 200, steady: 5 * time.Second, idle: 5 * time.Second,
			world: worldSize{10, 200, 10}}
	}
	if *proxies > 0 {
		b.size.proxies, *out = *proxies, ""
	}
	var err error
	switch *be {
	case "peer":
		err = peerMain(ctx, os.Stdin, os.Stdout, *address, *services, *endpoints)
	case "world":
		err = worldMain(ctx, os.Stdout, worldSize{*clusters, *services, *endpoints})
	case "":
		b.parts = strings.Split(*parts, ",")
		if len(b.parts) < len(allParts) || b.baseline != "" {
			*out = ""
		}
		err = b.measure(ctx, *out, *results)
	default:
		err = fmt.Errorf("no such part: %q", *be)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/controlplane:", err)
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
	if b.baseline != "" {
		if b.baseline, err = filepath.Abs(b.baseline); err != nil {
			return err
		}
	}
	if b.dir, err = os.MkdirTemp("", "isthmus-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	b.Report = report.Begin(ctx, "controlplane")
	b.Plot, b.PlotTargets = "controlplane.svg", true
	b.How = fmt.Sprintf("Written by `make bench-controlplane`: %d proxies, %d services of %d endpoints. CPU is that of the control plane's process, without its store; a latency\n"+
		"begins before the API is called, and the store's disk is in it. The peer is a server over go-control-plane's linear caches, changed by a function call.",
		b.size.proxies, b.size.services, b.size.endpoints)
	if err := b.run(ctx); err != nil || out == "" {
		return err
	}
	return b.Write(results, out)
}

func (b *bench) run(ctx context.Context) error {
	for _, part := range []struct {
		names []string
		run   func(context.Context) error
	}{
		{[]string{"first", "changes"}, b.beside}, {[]string{"scaling"}, b.scaling}, {[]string{"clusters", "hop", "hop-apart"}, b.clusters}, {[]string{"world"}, b.world},
	} {
		if slices.ContainsFunc(part.names, func(n string) bool { return slices.Contains(b.parts, n) }) {
			if err := part.run(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// scaling compares what an endpoint change costs with many services and with few, in two meshes of a fifth of the proxies.
func (b *bench) scaling(ctx context.Context) error {
	proxies := b.size.proxies / 5
	b.Say("an endpoint change with %d and with %d services, %d proxies", b.size.few, b.size.many, proxies)
	few, err := b.cost(ctx, "few", b.size.few, proxies)
	if err != nil {
		return err
	}
	many, err := b.cost(ctx, "many", b.size.many, proxies)
	if err != nil {
		return err
	}
	r := report.Row{Row: "C5-scaling", Unit: "ms", RatioTarget: true,
		Title: fmt.Sprintf("C5: CPU an endpoint change to %d proxies with %d services, against %d", proxies, b.size.many, b.size.few)}.Of(many)
	b.Add(r.Against(fmt.Sprintf("%d services", b.size.few), few).Within(1.25))
	return nil
}

// cost is the CPU of groups of ten changes, each a change's.
func (b *bench) cost(ctx context.Context, dir string, services, proxies int) (ms []float64, err error) {
	p, err := startPlane(ctx, rig.Options{Bin: b.bin, Dir: b.dir, Name: dir, Base: b.base + 3}, services, b.size.endpoints)
	if err != nil {
		return nil, err
	}
	defer p.m.Down(&err)
	c := b.ours(ctx, p)
	f, err := connect(ctx, c.server, proxies)
	if err != nil {
		return nil, err
	}
	defer f.close()
	const group = 10
	for round := range b.size.rounds {
		before, err := c.cpu()
		if err != nil {
			return nil, err
		}
		for k := range group {
			i := (round*group + k) % services
			if _, err := f.spread(c.types["endpoint"], name(i), func() error { return c.endpoint(i, round*group+k+1) }); err != nil {
				return nil, err
			}
		}
		after, err := c.cpu()
		if err != nil {
			return nil, err
		}
		ms = append(ms, report.Milliseconds(after-before)/group)
	}
	return ms, nil
}
