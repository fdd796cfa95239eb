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
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"github.com/isthmus-mesh/isthmus/bench/report"
	"github.com/isthmus-mesh/isthmus/bench/rig"
	"github.com/isthmus-mesh/isthmus/core/ir"
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
	parts := flag.String("parts", strings.Join(allParts, ","), "what is measured; with less than all nothing is written")
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
	var err error
	switch *be {
	case "peer":
		err = peerMain(ctx, os.Stdin, os.Stdout, *address, *services, *endpoints)
	case "world":
		err = worldMain(ctx, os.Stdout, worldSize{*clusters, *services, *endpoints})
	case "":
		b.parts = strings.Split(*parts, ",")
		if len(b.parts) < len(allParts) {
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
	if b.dir, err = os.MkdirTemp("", "isthmus-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	b.Report = report.Begin(ctx, "controlplane")
	b.How = fmt.Sprintf("Written by `make bench-controlplane`: %d proxies, %d services of %d endpoints. CPU is that of the control plane's process, without its store; a latency\n"+
		"begins before the API is called, and the store's disk is in it. The peer is a server over go-control-plane's linear caches, changed by a function call.",
		b.size.proxies, b.size.services, b.size.endpoints)
	if err := b.run(ctx); err != nil || out == "" {
		return err
	}
	return b.Write(results, out)
}

// contestant is ours or the peer.
type contestant struct {
	server server
	cpu    func() (time.Duration, error)
	kib    func(field string) (float64, error)
	// endpoint, route and add make one change each: of service i, a version that was not there before.
	endpoint, route, add func(i, version int) error
	types                map[string]string // of the resource that shows a change, by its kind
}

func (b *bench) run(ctx context.Context) error {
	for _, part := range []struct {
		names []string
		run   func(context.Context) error
	}{
		{[]string{"first", "changes"}, b.beside}, {[]string{"scaling"}, b.scaling}, {[]string{"clusters"}, b.clusters}, {[]string{"world"}, b.world},
	} {
		if slices.ContainsFunc(part.names, func(n string) bool { return slices.Contains(b.parts, n) }) {
			if err := part.run(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// beside is what is measured beside the peer.
func (b *bench) beside(ctx context.Context) (err error) {
	b.Say("starting a control plane with %d services, and the peer", b.size.services)
	p, err := startPlane(ctx, rig.Options{Bin: b.bin, Dir: b.dir, Name: "plane", Base: b.base}, b.size.services, b.size.endpoints)
	if err != nil {
		return err
	}
	defer p.m.Down(&err)
	c, at, err := startPeer(b.size.services, b.size.endpoints)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.end()) }()
	ours, theirs := b.ours(ctx, p), b.theirs(c, at)
	if slices.Contains(b.parts, "first") {
		if err := b.first(ctx, ours, theirs); err != nil {
			return err
		}
	}
	if slices.Contains(b.parts, "changes") {
		if err := b.changes(ctx, ours, theirs); err != nil {
			return err
		}
	}
	return nil
}

func cpuOf(pid int) func() (time.Duration, error) {
	return func() (time.Duration, error) {
		u, err := rig.CPUOf(pid)
		return u.Total(), err
	}
}

func kibOf(pid int) func(string) (float64, error) {
	return func(field string) (float64, error) { return rig.KiB("status", field, pid) }
}

func (b *bench) ours(ctx context.Context, p *plane) *contestant {
	return &contestant{server: p.serve, cpu: cpuOf(p.pid), kib: kibOf(p.pid),
		endpoint: func(i, version int) error { return p.apply(ctx, workloadYAML(i, 0, version)) },
		route:    func(i, version int) error { return p.apply(ctx, routeYAML(i, version)) },
		add:      func(i, _ int) error { return p.apply(ctx, serviceYAML(i)) },
		types:    map[string]string{"endpoint": string(ir.TypeEndpoints), "route": string(ir.TypeService), "add": string(ir.TypeName)}}
}

func (b *bench) theirs(c *child, at server) *contestant {
	return &contestant{server: at, cpu: cpuOf(c.cmd.Process.Pid), kib: kibOf(c.cmd.Process.Pid),
		endpoint: func(i, _ int) error { return c.do("endpoint %d", i) },
		route:    func(i, _ int) error { return c.do("route %d", i) },
		add:      func(i, _ int) error { return c.do("add %d", i) },
		types:    map[string]string{"endpoint": resource.EndpointType, "route": resource.RouteType, "add": resource.ClusterType}}
}

// first has all proxies connect at once, in turns.
func (b *bench) first(ctx context.Context, ours, theirs *contestant) error {
	b.Say("first configurations: %d turns of %d proxies at once", b.size.turns, b.size.proxies)
	var cpu, wall [2][]float64
	for range b.size.turns {
		for k, c := range []*contestant{ours, theirs} {
			before, err := c.cpu()
			if err != nil {
				return err
			}
			began := time.Now()
			f, err := connect(ctx, c.server, b.size.proxies)
			if err != nil {
				return fmt.Errorf("%s: %w", [...]string{"ours", "the peer"}[k], err)
			}
			took := time.Since(began)
			after, err := c.cpu()
			f.close()
			if err != nil {
				return err
			}
			cpu[k], wall[k] = append(cpu[k], (after-before).Seconds()), append(wall[k], took.Seconds())
			if err := rig.Pause(ctx, time.Second); err != nil {
				return err
			}
		}
	}
	const caches = "go-control-plane"
	b.Add(report.Row{Row: "C4-first-cpu-s", Unit: "s", Title: "C4: CPU of the first configuration of all proxies"}.Of(cpu[0]).Against(caches, cpu[1]).Within(1.65))
	b.Add(report.Row{Row: "L4-all-at-once-s", Unit: "s", Title: "L4: all proxies connect at once → the last is served"}.Of(wall[0]).Against(caches, wall[1]).Within(5))
	return nil
}

// changes measures each kind of change beside the peer, then a steady stream of them, memory and idleness.
func (b *bench) changes(ctx context.Context, ours, theirs *contestant) (err error) {
	var fleets [2]*fleet
	all := []*contestant{ours, theirs}
	for k, c := range all {
		if fleets[k], err = connect(ctx, c.server, b.size.proxies); err != nil {
			return err
		}
		defer fleets[k].close()
	}
	version := 0
	for _, kind := range []struct {
		name, cpuRow, cpuTitle, row, title string
		cpuMax                             float64
		limits                             map[string]float64
		change                             func(*contestant) func(i, v int) error
		of                                 func(round int) int
	}{
		{"endpoint", "C1-endpoint-cpu-ms", "C1: CPU an endpoint change", "L1-endpoint", "L1: an endpoint changes → proxies", 27, map[string]float64{"p50": 30, "last": 60},
			func(c *contestant) func(int, int) error { return c.endpoint }, func(r int) int { return r % b.size.services }},
		{"add", "C2-service-cpu-ms", "C2: CPU a service added", "L3-service", "L3: a service is added → proxies", 69, map[string]float64{"last": 250},
			func(c *contestant) func(int, int) error { return c.add }, func(r int) int { return b.size.services + r }},
		{"route", "C3-route-cpu-ms", "C3: CPU a route change", "L3-route", "L3: a route changes → proxies", 31, map[string]float64{"last": 250},
			func(c *contestant) func(int, int) error { return c.route }, func(r int) int { return r % b.size.services }},
	} {
		b.Say("%d changes of kind %s", b.size.rounds, kind.name)
		var cpu, p50, last [2][]float64
		for round := range b.size.rounds {
			version++
			for k, c := range all {
				before, err := c.cpu()
				if err != nil {
					return err
				}
				i := kind.of(round)
				took, err := fleets[k].spread(c.types[kind.name], name(i), func() error { return kind.change(c)(i, version) })
				if err != nil {
					return err
				}
				if err := rig.Pause(ctx, 300*time.Millisecond); err != nil { // what follows the change: status, its own bookkeeping
					return err
				}
				after, err := c.cpu()
				if err != nil {
					return err
				}
				cpu[k] = append(cpu[k], report.Milliseconds(after-before))
				p50[k] = append(p50[k], report.Milliseconds(report.Quantile(took, 0.5)))
				last[k] = append(last[k], report.Milliseconds(took[len(took)-1]))
			}
		}
		const caches = "go-control-plane"
		b.Add(report.Row{Row: kind.cpuRow, Unit: "ms", Title: kind.cpuTitle}.Of(cpu[0]).Against(caches, cpu[1]).Within(kind.cpuMax))
		row := report.Row{Row: kind.row + "-p50-ms", Unit: "ms", Title: kind.title + ", median"}.Of(p50[0]).Against(caches, p50[1])
		if limit, ok := kind.limits["p50"]; ok {
			row = row.Within(limit)
		}
		b.Add(row)
		b.Add(report.Row{Row: kind.row + "-last-ms", Unit: "ms", Title: kind.title + ", the last"}.Of(last[0]).Against(caches, last[1]).Within(kind.limits["last"]))
	}
	if err := b.idle(ctx, ours); err != nil {
		return err
	}
	if err := b.steady(ctx, ours, fleets[0], &version); err != nil {
		return err
	}
	return b.memory(ours, theirs)
}

// idle measures what nothing costs.
func (b *bench) idle(ctx context.Context, c *contestant) error {
	b.Say("idle for %v", b.size.idle)
	before, err := c.cpu()
	if err != nil {
		return err
	}
	if err := rig.Pause(ctx, b.size.idle); err != nil {
		return err
	}
	after, err := c.cpu()
	if err != nil {
		return err
	}
	b.Add(report.Row{Row: "I1-idle-percent", Unit: "% of a core", Title: "I1: idle, all proxies connected"}.
		Of([]float64{100 * (after - before).Seconds() / b.size.idle.Seconds()}).Within(0.1))
	return nil
}

// steady changes endpoints at a rate, of one service after the other, and measures how old what proxies have is when it
// changes.
func (b *bench) steady(ctx context.Context, c *contestant, f *fleet, version *int) error {
	b.Say("%d endpoint changes a second for %v", b.size.rate, b.size.steady)
	s := &staleness{typ: c.types["endpoint"], index: map[string]int{}, changed: make([]atomic.Int64, b.size.services), began: time.Now()}
	for i := range b.size.services {
		s.index[name(i)] = i
	}
	f.stale.Store(s)
	defer f.stale.Store(nil)
	before, err := c.cpu()
	if err != nil {
		return err
	}
	var writers sync.WaitGroup
	var failed atomic.Pointer[error]
	slots := make(chan struct{}, 32)
	total := int(b.size.steady.Seconds() * float64(b.size.rate))
	began := time.Now()
	for n := range total {
		if err := rig.Pause(ctx, time.Until(began.Add(time.Duration(n)*time.Second/time.Duration(b.size.rate)))); err != nil {
			return err
		}
		i, v := n%b.size.services, *version+1+n
		slots <- struct{}{}
		writers.Go(func() {
			defer func() { <-slots }()
			s.changed[i].Store(max(int64(time.Since(s.began)), 1))
			if err := c.endpoint(i, v); err != nil {
				failed.CompareAndSwap(nil, &err)
			}
		})
	}
	writers.Wait()
	took := time.Since(began)
	*version += total
	if err := failed.Load(); err != nil {
		return *err
	}
	if err := rig.Pause(ctx, 2*time.Second); err != nil {
		return err
	}
	after, err := c.cpu()
	if err != nil {
		return err
	}
	p99, n := s.quantile(0.99)
	b.Say("%d changes in %v, %d arrivals", total, took.Round(time.Millisecond), n)
	b.Add(report.Row{Row: "S1-staleness-p99-ms", Unit: "ms", Title: fmt.Sprintf("S1: %d endpoint changes a second (%.0f reached), p99 from change to proxy", b.size.rate, float64(total)/took.Seconds())}.
		Of([]float64{report.Milliseconds(p99)}).Within(300))
	b.Add(report.Row{Row: "S1-cpu-cores", Unit: "cores", Title: "S1: CPU at that rate"}.Of([]float64{(after - before).Seconds() / took.Seconds()}).Within(0.5))
	return nil
}

// memory is read after everything.
func (b *bench) memory(ours, theirs *contestant) error {
	for _, r := range []struct {
		row, field, title string
		max               float64
	}{{"M1-rss-mb", "VmRSS", "M1: resident, all proxies connected", 250}, {"M1-peak-mb", "VmHWM", "M1: the most that was resident", 320}} {
		var mb [2][]float64
		for k, c := range []*contestant{ours, theirs} {
			kib, err := c.kib(r.field)
			if err != nil {
				return err
			}
			mb[k] = []float64{kib * 1024 / 1e6}
		}
		b.Add(report.Row{Row: r.row, Unit: "MB", Title: r.title}.Of(mb[0]).Against("go-control-plane", mb[1]).Within(r.max))
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
