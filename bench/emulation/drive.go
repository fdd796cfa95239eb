package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/bench/rig"
	"github.com/isthmus-mesh/isthmus/codec/manifest"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// The service that is asked, and those who ask, in namespace bench.
const (
	service = "http://server.bench/"
	servers = "server"
	callers = "caller"
	// criticalityHeader says what a request is worth.
	criticalityHeader = "isthmus-criticality"
)

// meshFile is a scenario's mesh: a cluster a region, its servers and as many callers as it has proxies.
func meshFile(m *manifest.Simulation) string {
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0]
	}
	var b strings.Builder
	b.WriteString("apiVersion: isthmus.dev/v1alpha1\nkind: LocalMesh\nclusters:\n")
	for _, r := range m.Regions {
		fmt.Fprintf(&b, "  - {name: %s, region: r-%s}\n", r.Name, r.Name)
	}
	b.WriteString("links:\n")
	for _, l := range m.Links {
		fmt.Fprintf(&b, "  - {between: [%s, %s], rtt: %s}\n", l.Between[0], l.Between[1], l.RTT)
	}
	b.WriteString("workloads:\n")
	r := m.Regions[0] // all regions of a mesh file's workload are alike
	fmt.Fprintf(&b, "  - {name: %s, namespace: bench, replicas: %d, lanes: %d, run: [%q, -be, server, -lanes, %q, -service, %q, -variation, %q]}\n",
		servers, r.Endpoints, r.Lanes, self, fmt.Sprint(r.Lanes), r.Service, fmt.Sprint(r.Variation))
	fmt.Fprintf(&b, "  - {name: %s, namespace: bench, replicas: %d, export: false, run: [%q, -be, caller]}\n", callers, r.Proxies, self)
	return b.String()
}

// policyText is what the scenario says of requests. It is the server proxies that shed, by the same wait.
func policyText(m *manifest.Simulation) string {
	return fmt.Sprintf(`apiVersion: isthmus.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: emulation, namespace: bench}
spec:
  targetRefs: [{kind: Service, name: %s}]
  timeouts: {request: %dms, backendRequest: %dms}
  retry: {attempts: %d, budget: {percent: %d, burst: %d}}
  admission: {mode: Adaptive, maxWait: %dms}
`, servers, m.Requests.Deadline.Milliseconds(), m.Requests.Try.Milliseconds(), m.Requests.Retries, m.Requests.Budget, m.Requests.Burst, m.Requests.Shed.Milliseconds())
}

// outcome is of the requests that were meant to begin in the window.
type outcome struct {
	mu       sync.Mutex
	requests int
	took     []float64 // milliseconds, of answers
	away     int       // answers from another region
	// critical of the requests are, and so many of them failed.
	critical, criticalFailed int
	why                      map[string]int
}

func (o *outcome) mean() float64 {
	sum := 0.0
	for _, t := range o.took {
		sum += t
	}
	return sum / float64(len(o.took))
}

func (o *outcome) quantile(q float64) float64 {
	slices.Sort(o.took)
	return o.took[min(len(o.took)-1, int(q*float64(len(o.took))))]
}

func (o *outcome) errors() float64 {
	return float64(o.requests-len(o.took)) / float64(max(1, o.requests))
}
func (o *outcome) criticalErrors() float64 {
	return float64(o.criticalFailed) / float64(max(1, o.critical))
}
func (o *outcome) crossed() float64 { return float64(o.away) / float64(max(1, len(o.took))) }

// drive asks for the scenario's requests and does its faults, and returns what became of those in the window.
func drive(ctx context.Context, m *manifest.Simulation, under *rig.Mesh) (*outcome, error) {
	if err := under.Apply(ctx, m.Regions[0].Name, policyText(m)); err != nil {
		return nil, err
	}
	o := &outcome{why: map[string]int{}}
	var regions []*region
	for i, r := range m.Regions {
		regions = append(regions, newRegion(m, i, under, o))
		for _, p := range regions[i].proxies { // each has what it needs before the clock starts
			if err := p.ready(ctx); err != nil {
				return nil, fmt.Errorf("a caller of %s: %w", r.Name, err)
			}
		}
	}
	began := time.Now()
	ctx, end := context.WithDeadline(ctx, began.Add(m.Duration+2*m.Requests.Deadline))
	defer end()
	errs := make([]error, len(regions)+len(m.Faults))
	var all sync.WaitGroup
	for i, r := range regions {
		all.Go(func() { errs[i] = r.ask(ctx, began) })
	}
	for i, f := range m.Faults {
		all.Go(func() { errs[len(regions)+i] = fault(ctx, began, &f, under) })
	}
	all.Wait()
	if len(o.took) == 0 {
		errs = append(errs, fmt.Errorf("of %d requests none was answered: %v", o.requests, o.why))
	}
	return o, errors.Join(errs...)
}

// fault does a fault at its time, and ends it.
func fault(ctx context.Context, began time.Time, f *manifest.SimFault, m *rig.Mesh) error {
	for _, step := range []struct {
		at time.Duration
		on bool
	}{{f.From, true}, {f.To, false}} {
		if !step.on && f.To <= f.From {
			break // it lasts
		}
		if err := rig.Pause(ctx, time.Until(began.Add(step.at))); err != nil {
			return nil // the run is over
		}
		if err := harm(ctx, f, m, step.on); err != nil {
			return fmt.Errorf("%s of %s: %w", f.Kind, f.Region, err)
		}
	}
	return nil
}

// harm begins or ends a fault. A region that refuses has its servers killed; of one that is a black hole servers, their sidecars and the
// gateway stand still with their sockets open.
func harm(ctx context.Context, f *manifest.SimFault, m *rig.Mesh, on bool) error {
	if f.Kind == manifest.FaultSlow {
		factor := 1.0
		if on {
			factor = f.Factor
		}
		return slow(ctx, f, m, factor)
	}
	verb, targets := "resume", []string{servers + ".bench@" + f.Region}
	if f.Kind == manifest.FaultBlackHole {
		targets = append(targets, "gateway@"+f.Region)
	}
	switch {
	case on && f.Kind == manifest.FaultBlackHole:
		verb = "pause"
	case on:
		verb = "kill"
	}
	return m.Drill(ctx, append([]string{verb}, targets...)...)
}

// slow multiplies the time that servers of the fault's region take.
func slow(ctx context.Context, f *manifest.SimFault, m *rig.Mesh, factor float64) error {
	n := 0
	for _, in := range m.Cluster(f.Region).Instances {
		if !strings.HasPrefix(in.Name, servers+"-") || f.Endpoints > 0 && n == f.Endpoints {
			continue
		}
		n++
		if err := rig.Fetch(ctx, fmt.Sprintf("http://%s/slow?factor=%g", in.App, factor), io.Discard); err != nil {
			return fmt.Errorf("slow down %s: %w", in.Name, err)
		}
	}
	return nil
}

// proxy is a sidecar that requests of a region go in by.
type proxy struct{ client *http.Client }

// ready asks until it is answered.
func (p *proxy) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		_, err := p.get(ctx, false)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if e := rig.Pause(ctx, 100*time.Millisecond); e != nil {
			return cmp.Or(err, e)
		}
	}
}

// get asks once and returns where the answer is from.
func (p *proxy) get(ctx context.Context, critical bool) (from string, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, service, nil)
	if err != nil {
		return "", err
	}
	if critical {
		r.Header.Set(criticalityHeader, string(mesh.CriticalPlus))
	}
	a, err := p.client.Do(r)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, a.Body.Close()) }()
	b, err := io.ReadAll(io.LimitReader(a.Body, 1<<10))
	if err == nil && a.StatusCode != http.StatusOK {
		err = fmt.Errorf("%d %s", a.StatusCode, a.Header.Get("isthmus-reason"))
	}
	return strings.TrimSpace(string(b)), err
}

// region asks for what its users want.
type region struct {
	m       *manifest.Simulation
	of      *manifest.SimRegion
	rng     *rand.Rand
	proxies []*proxy
	own     map[string]bool // addresses of its own servers
	out     *outcome
}

func newRegion(m *manifest.Simulation, i int, under *rig.Mesh, out *outcome) *region {
	r := &region{m: m, of: &m.Regions[i], rng: rand.New(rand.NewPCG(1, uint64(i))), own: map[string]bool{}, out: out}
	for _, in := range under.Cluster(r.of.Name).Instances {
		switch {
		case strings.HasPrefix(in.Name, servers+"-"):
			r.own[in.App.Addr().String()] = true
		case strings.HasPrefix(in.Name, callers+"-"):
			via := &url.URL{Scheme: "http", Host: net.JoinHostPort(in.Sidecar.String(), "15001")}
			r.proxies = append(r.proxies, &proxy{&http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(via), MaxIdleConnsPerHost: 1000}}})
		}
	}
	return r
}

// rate is that of a moment, requests a second.
func (r *region) rate(at time.Duration) float64 {
	rate := r.of.Rate
	for _, d := range r.m.Demand {
		if (d.Region != r.of.Name && d.Region != "*") || at < d.From || d.To > 0 && at >= d.To {
			continue
		}
		if rate *= d.Factor; d.Rate > 0 {
			rate = d.Rate
		}
	}
	return rate
}

// inFlight bounds the requests of a region under way: beyond it one counts as failed at once.
const inFlight = 4096

// ask begins each request at its time, whatever became of those before, and returns when all have ended.
func (r *region) ask(ctx context.Context, began time.Time) error {
	var all sync.WaitGroup
	defer all.Wait()
	slots := make(chan struct{}, inFlight)
	for at := time.Duration(0); at < r.m.Duration; {
		at += time.Duration(r.rng.ExpFloat64() / r.rate(at) * float64(time.Second))
		if err := rig.Pause(ctx, time.Until(began.Add(at))); err != nil {
			return err
		}
		p, measured := r.proxies[r.rng.IntN(len(r.proxies))], at >= r.m.From && at < r.m.To
		critical := r.m.Requests.Critical > 0 && r.rng.Float64() < r.m.Requests.Critical
		select {
		case slots <- struct{}{}:
		default:
			r.note(measured, critical, math.NaN(), false, errors.New("too many under way"))
			continue
		}
		all.Go(func() {
			defer func() { <-slots }()
			meant := began.Add(at)
			one, cancel := context.WithDeadline(ctx, meant.Add(r.m.Requests.Deadline))
			defer cancel()
			from, err := p.get(one, critical)
			r.note(measured, critical, float64(time.Since(meant).Microseconds())/1e3, !r.own[from], err)
		})
	}
	return nil
}

// note takes what became of a request.
func (r *region) note(measured, critical bool, millis float64, away bool, err error) {
	if !measured {
		return
	}
	o := r.out
	o.mu.Lock()
	defer o.mu.Unlock()
	o.requests++
	if critical {
		o.critical++
		if err != nil {
			o.criticalFailed++
		}
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		o.why["deadline"]++
	case err != nil:
		o.why[err.Error()]++
	default:
		o.took = append(o.took, millis)
		if away {
			o.away++
		}
	}
}

// ticks are those of all processors, as /proc/stat has them.
type ticks struct{ busy, all float64 }

func machine() (ticks, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return ticks{}, err
	}
	var user, nice, system, idle, wait, irq, soft, steal float64
	_, err = fmt.Sscanf(string(b), "cpu %g %g %g %g %g %g %g %g", &user, &nice, &system, &idle, &wait, &irq, &soft, &steal)
	busy := user + nice + system + irq + soft + steal
	return ticks{busy, busy + idle + wait}, err
}

func (t ticks) since(before ticks) float64 { return (t.busy - before.busy) / (t.all - before.all) }
