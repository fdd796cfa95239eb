package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"github.com/isthmus-mesh/isthmus/bench/report"
	"github.com/isthmus-mesh/isthmus/bench/rig"
	"github.com/isthmus-mesh/isthmus/core/ir"
)

// contestant is ours or the peer.
type contestant struct {
	name   string
	server server
	cpu    func() (time.Duration, error)
	kib    func(field string) (float64, error)
	// endpoint, route and add make one change each: of service i, a version that was not there before.
	endpoint, route, add func(i, version int) error
	types                map[string]string // of the resource that shows a change, by its kind
}

// beside is what is measured beside the peer.
func (b *bench) beside(ctx context.Context) (err error) {
	b.Say("starting a control plane with %d services, and what it is held against", b.size.services)
	p, err := startPlane(ctx, rig.Options{Bin: b.bin, Dir: b.dir, Name: "plane", Base: b.base}, b.size.services, b.size.endpoints)
	if err != nil {
		return err
	}
	defer p.m.Down(&err)
	ours := b.ours(ctx, p)
	var theirs *contestant
	if b.baseline != "" {
		old, err2 := startPlane(ctx, rig.Options{Bin: b.baseline, Dir: b.dir, Name: "baseline", Base: b.base + 6}, b.size.services, b.size.endpoints)
		if err2 != nil {
			return err2
		}
		defer old.m.Down(&err)
		theirs = b.ours(ctx, old)
		theirs.name = "baseline"
	} else {
		c, at, err2 := startPeer(b.size.services, b.size.endpoints)
		if err2 != nil {
			return err2
		}
		defer func() { err = errors.Join(err, c.end()) }()
		theirs = b.theirs(c, at)
	}
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
	return func() (time.Duration, error) { return rig.Spent(pid) }
}

func kibOf(pid int) func(string) (float64, error) {
	return func(field string) (float64, error) { return rig.KiB("status", field, pid) }
}

func (b *bench) ours(ctx context.Context, p *plane) *contestant {
	return &contestant{name: "ours", server: p.serve, cpu: cpuOf(p.pid), kib: kibOf(p.pid),
		endpoint: func(i, version int) error { return p.apply(ctx, workloadYAML(i, 0, version)) },
		route:    func(i, version int) error { return p.apply(ctx, routeYAML(i, version)) },
		add:      func(i, _ int) error { return p.apply(ctx, serviceYAML(i)) },
		types:    map[string]string{"endpoint": string(ir.TypeEndpoints), "route": string(ir.TypeService), "add": string(ir.TypeName)}}
}

func (b *bench) theirs(c *child, at server) *contestant {
	return &contestant{name: "go-control-plane", server: at, cpu: cpuOf(c.cmd.Process.Pid), kib: kibOf(c.cmd.Process.Pid),
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
		for k, c := range []*contestant{ours, theirs} { // in turn
			before, err := c.cpu()
			if err != nil {
				return err
			}
			began := time.Now()
			f, err := connect(ctx, c.server, b.size.proxies)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
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
	b.Add(report.Row{Row: "C4-first-cpu-s", Unit: "s", Title: "C4: CPU of the first configuration of all proxies"}.Of(cpu[0]).Against(theirs.name, cpu[1]).Within(1.65))
	b.Add(report.Row{Row: "L4-all-at-once-s", Unit: "s", Title: "L4: all proxies connect at once → the last is served"}.Of(wall[0]).Against(theirs.name, wall[1]).Within(5))
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
		b.Add(report.Row{Row: kind.cpuRow, Unit: "ms", Title: kind.cpuTitle}.Of(cpu[0]).Against(theirs.name, cpu[1]).Within(kind.cpuMax))
		row := report.Row{Row: kind.row + "-p50-ms", Unit: "ms", Title: kind.title + ", median"}.Of(p50[0]).Against(theirs.name, p50[1])
		if limit, ok := kind.limits["p50"]; ok {
			row = row.Within(limit)
		}
		b.Add(row)
		b.Add(report.Row{Row: kind.row + "-last-ms", Unit: "ms", Title: kind.title + ", the last"}.Of(last[0]).Against(theirs.name, last[1]).Within(kind.limits["last"]))
	}
	if b.baseline == "" {
		all = all[:1] // of the others it would say nothing
	}
	if err := b.idle(ctx, all); err != nil {
		return err
	}
	if err := b.steady(ctx, all, fleets[:], &version); err != nil {
		return err
	}
	return b.memory(ours, theirs)
}

// idle measures what nothing costs.
func (b *bench) idle(ctx context.Context, all []*contestant) error {
	b.Say("idle for %v", b.size.idle)
	var before, spent []time.Duration
	for _, c := range all {
		cpu, err := c.cpu()
		if err != nil {
			return err
		}
		before = append(before, cpu)
	}
	if err := rig.Pause(ctx, b.size.idle); err != nil {
		return err
	}
	for k, c := range all {
		cpu, err := c.cpu()
		if err != nil {
			return err
		}
		spent = append(spent, cpu-before[k])
	}
	percent := func(k int) []float64 { return []float64{100 * spent[k].Seconds() / b.size.idle.Seconds()} }
	row := report.Row{Row: "I1-idle-percent", Unit: "% of a core", Title: "I1: idle, all proxies connected"}.Of(percent(0)).Within(0.1)
	if len(all) > 1 {
		row = row.Against(all[1].name, percent(1))
	}
	b.Add(row)
	return nil
}

// steadily is what a steady stream of changes was like.
type steadily struct{ reached, p99, cores float64 }

// steady changes endpoints at a rate, of one service after the other, and measures how old what proxies have is when it
// changes. Contestants have their turns one after the other.
func (b *bench) steady(ctx context.Context, all []*contestant, fleets []*fleet, version *int) error {
	b.Say("%d endpoint changes a second for %v", b.size.rate, b.size.steady)
	var of []steadily
	for k, c := range all {
		one, err := b.rated(ctx, c, fleets[k], *version)
		if err != nil {
			return err
		}
		of = append(of, one)
	}
	*version += int(b.size.steady.Seconds() * float64(b.size.rate))
	age := report.Row{Row: "S1-staleness-p99-ms", Unit: "ms", Title: fmt.Sprintf("S1: %d endpoint changes a second (%.0f reached), p99 from change to proxy", b.size.rate, of[0].reached)}.
		Of([]float64{of[0].p99}).Within(300)
	cores := report.Row{Row: "S1-cpu-cores", Unit: "cores", Title: "S1: CPU at that rate"}.Of([]float64{of[0].cores}).Within(0.5)
	if len(of) > 1 {
		age, cores = age.Against(all[1].name, []float64{of[1].p99}), cores.Against(all[1].name, []float64{of[1].cores})
	}
	b.Add(age)
	b.Add(cores)
	return nil
}

// rated is one contestant's turn of steady.
func (b *bench) rated(ctx context.Context, c *contestant, f *fleet, version int) (out steadily, err error) {
	s := &staleness{typ: c.types["endpoint"], index: map[string]int{}, changed: make([]atomic.Int64, b.size.services), began: time.Now()}
	for i := range b.size.services {
		s.index[name(i)] = i
	}
	f.stale.Store(s)
	defer f.stale.Store(nil)
	before, err := c.cpu()
	if err != nil {
		return out, err
	}
	var writers sync.WaitGroup
	var failed atomic.Pointer[error]
	slots := make(chan struct{}, 32)
	total := int(b.size.steady.Seconds() * float64(b.size.rate))
	began := time.Now()
	for n := range total {
		if err := rig.Pause(ctx, time.Until(began.Add(time.Duration(n)*time.Second/time.Duration(b.size.rate)))); err != nil {
			return out, err
		}
		i, v := n%b.size.services, version+1+n
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
	if err := failed.Load(); err != nil {
		return out, *err
	}
	after, err := c.cpu()
	if err != nil {
		return out, err
	}
	if err := rig.Pause(ctx, 2*time.Second); err != nil { // for what is on its way
		return out, err
	}
	p99, n := s.quantile(0.99)
	p50, _ := s.quantile(0.5)
	b.Say("%s: %d changes in %v, %d arrivals, half of them within %v, 99 of 100 within %v", c.name, total, took.Round(time.Millisecond), n, p50, p99)
	return steadily{float64(total) / took.Seconds(), report.Milliseconds(p99), (after - before).Seconds() / took.Seconds()}, nil
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
		b.Add(report.Row{Row: r.row, Unit: "MB", Title: r.title}.Of(mb[0]).Against(theirs.name, mb[1]).Within(r.max))
	}
	return nil
}
