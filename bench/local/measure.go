package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"github.com/isthmus-mesh/isthmus/api"
	"github.com/isthmus-mesh/isthmus/bench/load"
	"github.com/isthmus-mesh/isthmus/bench/report"
	"github.com/isthmus-mesh/isthmus/bench/rig"
	"github.com/isthmus-mesh/isthmus/codec/manifest"
)

// connections is how many carry requests in a closed loop inside a cluster, crossings how
// many to another cluster: there the link's round trip is most of a request.
const (
	connections = 16
	crossings   = 128
)

// rate is of the open loop, in requests a second.
const rate = 2000

// What is asked for: inside the cluster at the service's own address, of the other cluster through
// the explicit proxy, for a service of others has no address here.
const (
	path     = "/items?id=7"
	nearHost = "near.bench.svc.clusterset.local"
	farHost  = "far.bench.svc.clusterset.local:8080"
)

// targets are the ways to the application: straight, through our sidecars, through pairs of
// HAProxy.
type targets struct {
	app, far string
	ours     pair
	peers    []*pair
	missing  string // why there are no peers
}

// rivals are the ways to run HAProxy that we compare with. With one thread it spends less on
// a request than with one a core: that is the one to beat. The other has as many threads as our
// proxies run on cores.
var rivals = []struct {
	row     string
	alpn    string
	threads int
	target  float64 // for our CPU ÷ its
}{
	{"mtls-pair-vs-h2", "h2", 1, 0.9},
	{"mtls-pair-vs-h1", "http/1.1", 1, 0.5},
	{"mtls-pair-vs-h2-threads", "h2", runtime.NumCPU(), 0.9},
}

// pair is two proxies in a row: where a request goes in, and whose CPU counts.
type pair struct {
	name   string
	target string
	pids   []int
	end    func() error
}

// haproxy starts a pair of HAProxy in front of the application.
func (b *bench) haproxy(ctx context.Context, m *rig.Mesh, host int, alpn string, threads int, app string) (*pair, error) {
	peers := rig.Peers{Certs: filepath.Join(b.dir, "certs"), Configs: b.peerDir, Threads: threads, App: netip.MustParseAddrPort(app).Addr(),
		Client: m.Addr(1, 251, host), Server: m.Addr(1, 252, host), Log: b.logs}
	p, err := peers.HAProxyPair(ctx)
	if err != nil {
		return nil, err
	}
	port := map[string]int{"h2": rig.PortH2, "http/1.1": rig.PortH1}[alpn]
	return &pair{name: fmt.Sprintf("%s, %s, threads: %d", p.Name, alpn, threads), target: fmt.Sprintf("%s:%d", peers.Client, port), pids: p.PIDs, end: p.End}, nil
}

// targets starts the peers, and checks that each way answers.
func (b *bench) targets(ctx context.Context, m *rig.Mesh) (_ *targets, err error) {
	if err := rig.WriteCertificates(filepath.Join(b.dir, "certs")); err != nil {
		return nil, fmt.Errorf("certificates for HAProxy: %w", err)
	}
	if b.logs, err = rig.SinkLogs(ctx); err != nil {
		return nil, err
	}
	t := &targets{app: m.Cluster("eu-west").Instances[0].App.String()}
	if t.ours.target, err = m.ServiceAt(ctx, "near"); err != nil {
		return nil, err
	}
	t.far = m.Cluster("eu-west").Shell.String()
	t.ours.name = "sidecars"
	for _, name := range []string{"eu-west.shell.json", "eu-west.bench.near-0.sidecar.json"} {
		pid, err := m.PID("\x00proxy\x00", name)
		if err != nil {
			return nil, err
		}
		t.ours.pids = append(t.ours.pids, pid)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.close())
		}
	}()
	for i, r := range rivals {
		p, err := b.haproxy(ctx, m, i+1, r.alpn, r.threads, t.app)
		if errors.Is(err, exec.ErrNotFound) {
			t.missing = "there is no haproxy here: apt-get install haproxy"
			break
		}
		if err != nil {
			return nil, err
		}
		t.peers = append(t.peers, p)
	}
	for _, p := range t.pairs() {
		if _, _, err := b.cost(ctx, p.target, 2000, p.pids); err != nil { // warm up
			return nil, fmt.Errorf("warm up %s: %w", p.name, err)
		}
	}
	return t, nil
}

func (t *targets) pairs() []*pair { return append([]*pair{&t.ours}, t.peers...) }

func (t *targets) close() error {
	var errs []error
	for _, p := range t.peers {
		errs = append(errs, p.end())
	}
	return errors.Join(errs...)
}

// roundMax bounds a round of the closed loop.
const roundMax = 30 * time.Second

// cost is what processes use for each request of a closed loop, in microseconds: in all, and in user mode.
func (b *bench) cost(ctx context.Context, target string, requests int, pids []int) (total, user float64, err error) {
	cs, err := load.DialAll(ctx, connections, &load.Way{Target: target, Request: load.Get(path, nearHost)})
	if err != nil {
		return 0, 0, err
	}
	defer load.CloseAll(cs)
	if _, err := load.ClosedLoop(cs, 4*connections, roundMax); err != nil { // connections behind are open then
		return 0, 0, err
	}
	before, err := rig.CPUOf(pids...)
	if err != nil {
		return 0, 0, err
	}
	done, err := load.ClosedLoop(cs, requests, roundMax)
	if err != nil {
		return 0, 0, err
	}
	after, err := rig.CPUOf(pids...)
	if err != nil {
		return 0, 0, err
	}
	used := after.Minus(before)
	return perRequest(used.Total(), done), perRequest(used.User, done), context.Cause(ctx)
}

func perRequest(d time.Duration, n int) float64 { return d.Seconds() * 1e6 / float64(max(n, 1)) }

// cpu compares the pairs by CPU a request, all in turn in each round.
func (b *bench) cpu(ctx context.Context, _ *rig.Mesh, t *targets) error {
	b.Say("CPU a request: %d rounds of %d requests, %d ways in turn", b.size.rounds, b.size.requests, len(t.pairs()))
	totals, users := make([][]float64, len(t.pairs())), make([][]float64, len(t.pairs()))
	for range b.size.rounds {
		for i, p := range t.pairs() {
			total, user, err := b.cost(ctx, p.target, b.size.requests, p.pids)
			if err != nil {
				return fmt.Errorf("CPU of %s: %w", p.name, err)
			}
			totals[i], users[i] = append(totals[i], total), append(users[i], user)
		}
	}
	what := fmt.Sprintf("CPU a request through a pair of sidecars over mTLS, HTTP/1.1 at both ends, %d connections, %d requests",
		connections, b.size.rounds*b.size.requests)
	for i, rival := range rivals {
		r := report.Row{Row: rival.row, Unit: "µs", Title: what, RatioTarget: true}.Of(totals[0]).Within(rival.target)
		if t.missing != "" {
			r.Reason = "no ratio: " + t.missing
		} else {
			r = r.Against(t.peers[i].name, totals[i+1])
		}
		b.Add(r)
	}
	b.Add(maybeAgainst(report.Row{Row: "mtls-pair-user", Unit: "µs", Title: "the same, in user mode only"}.Of(users[0]), t, users))
	kernel := make([][]float64, len(totals))
	for i := range totals {
		for j := range totals[i] {
			kernel[i] = append(kernel[i], totals[i][j]-users[i][j])
		}
	}
	b.Add(maybeAgainst(report.Row{Row: "mtls-pair-kernel", Unit: "µs", Title: "the same, in the kernel only"}.Of(kernel[0]), t, kernel))
	return nil
}

// maybeAgainst compares with HAProxy over h2, if it is here. All values begin with ours.
func maybeAgainst(r report.Row, t *targets, all [][]float64) report.Row {
	if t.missing != "" {
		r.Reason = "no ratio: " + t.missing
		return r
	}
	return r.Against(t.peers[0].name, all[1])
}

// latency compares what the pairs add to an open loop straight to the application.
func (b *bench) latency(ctx context.Context, _ *rig.Mesh, t *targets) error {
	ways := append([]*pair{{name: "straight", target: t.app}}, t.pairs()...)
	ways = ways[:min(3, len(ways))] // of the peers, the best
	b.Say("latency at %d requests a second: %d turns of %s, %d ways", rate, b.size.turns, b.size.turn, len(ways))
	p50, p99 := make([][]float64, len(ways)), make([][]float64, len(ways))
	for range b.size.turns {
		for i, p := range ways {
			took, err := b.openTurn(ctx, p.target)
			if err != nil {
				return fmt.Errorf("latency of %s: %w", p.name, err)
			}
			p50[i], p99[i] = append(p50[i], report.Milliseconds(report.Quantile(took, 0.50))), append(p99[i], report.Milliseconds(report.Quantile(took, 0.99)))
		}
	}
	over := func(of [][]float64) [][]float64 { // what each way adds to the straight one of its turn
		out := make([][]float64, len(of)-1)
		for i := range out {
			for j, v := range of[i+1] {
				out[i] = append(out[i], v-of[0][j])
			}
		}
		return out
	}
	load := fmt.Sprintf(" at %d requests a second, open loop, from the intended start", rate)
	b.Add(report.Row{Row: "direct-p50-ms", Unit: "ms", Title: "p50 straight to the application" + load}.Of(p50[0]))
	b.Add(report.Row{Row: "direct-p99-ms", Unit: "ms", Title: "p99 of the same"}.Of(p99[0]))
	added := over(p50)
	b.Add(maybeAgainst(report.Row{Row: "added-p50-ms", Unit: "ms", Title: "p50 added by the pair of sidecars" + load}.Of(added[0]), t, added).Within(0.25))
	added = over(p99)
	b.Add(maybeAgainst(report.Row{Row: "added-p99-ms", Unit: "ms", Title: "p99 added by the same"}.Of(added[0]), t, added))
	return nil
}

// openTurn is one turn of the open loop over fresh connections.
func (b *bench) openTurn(ctx context.Context, target string) ([]time.Duration, error) {
	cs, err := load.DialAll(ctx, 2*connections, &load.Way{Target: target, Request: load.Get(path, nearHost)})
	if err != nil {
		return nil, err
	}
	defer load.CloseAll(cs)
	if _, err := load.ClosedLoop(cs, 4*len(cs), roundMax); err != nil {
		return nil, err
	}
	return load.OpenLoop(ctx, cs, rate, b.size.turn)
}

// crossing measures requests to another cluster. The link's process stands for a WAN: its
// CPU is nobody's.
func (b *bench) crossing(ctx context.Context, m *rig.Mesh, t *targets) error {
	b.Say("requests to another cluster: %s", b.size.crossing)
	var pids []int
	for _, name := range []string{"eu-west.shell.json", "us-east.gateway.json", "us-east.bench.far-0.sidecar.json"} {
		pid, err := m.PID("\x00proxy\x00", name)
		if err != nil {
			return err
		}
		pids = append(pids, pid)
	}
	cs, err := load.DialAll(ctx, crossings, &load.Way{Target: t.far, Request: load.Get("http://"+farHost+path, farHost)})
	if err != nil {
		return err
	}
	defer load.CloseAll(cs)
	if _, err := load.ClosedLoop(cs, 2*len(cs), roundMax); err != nil {
		return err
	}
	const turns = 3
	var costs, gateway []float64
	for range turns {
		all, err := rig.CPUOf(pids...)
		if err != nil {
			return err
		}
		one, err := rig.CPUOf(pids[1])
		if err != nil {
			return err
		}
		done, err := load.ClosedLoop(cs, 1<<30, b.size.crossing/turns)
		if err != nil {
			return err
		}
		all2, err := rig.CPUOf(pids...)
		if err != nil {
			return err
		}
		one2, err := rig.CPUOf(pids[1])
		if err != nil {
			return err
		}
		costs = append(costs, perRequest(all2.Minus(all).Total(), done))
		gateway = append(gateway, perRequest(one2.Minus(one).Total(), done))
	}
	took, err := load.OpenLoop(ctx, cs, rate/4, b.size.crossing/2)
	if err != nil {
		return err
	}
	b.Add(report.Row{Row: "cross-cpu", Unit: "µs", Title: fmt.Sprintf(
		"CPU a request to another cluster: both sidecars and the gateway, %d connections, link of %s", crossings, rtt)}.Of(costs))
	b.Add(report.Row{Row: "cross-gateway-cpu", Unit: "µs", Title: "the gateway's part of it"}.Of(gateway))
	for _, q := range []struct {
		name string
		of   float64
	}{{"p50", 0.5}, {"p99", 0.99}} {
		b.Add(report.Row{Row: "cross-" + q.name + "-ms", Unit: "ms", Title: fmt.Sprintf(
			"%s of a request to another cluster at %d a second, %s of it the link", q.name, rate/4, rtt)}.Of([]float64{report.Milliseconds(report.Quantile(took, q.of))}))
	}
	return nil
}

// changes measures how long a change of endpoints in us-east takes to be in force in a
// proxy of eu-west, from before it is sent to the API. The link's delay is in it.
func (b *bench) changes(ctx context.Context, m *rig.Mesh, _ *targets) error {
	b.Say("%d changes of endpoints", b.size.changes)
	for _, way := range []struct{ row, title, service, cluster string }{
		{"endpoint-change-cross", fmt.Sprintf("an endpoint changed in us-east → in force in a proxy of eu-west, link of %s there and back", rtt), "far", "us-east"},
		{"endpoint-change-local", "an endpoint changed in eu-west → in force in a proxy of eu-west", "near", "eu-west"},
	} {
		took, err := b.changeOften(ctx, m, way.service, way.cluster)
		if err != nil {
			return fmt.Errorf("change endpoints of %s in %s: %w", way.service, way.cluster, err)
		}
		for _, q := range []struct {
			name string
			of   float64
		}{{"p50", 0.5}, {"p99", 0.99}} {
			r := report.Row{Row: way.row + "-" + q.name + "-ms", Unit: "ms", Title: way.title + ", " + q.name}.Of([]float64{report.Milliseconds(report.Quantile(took, q.of))})
			lo, hi := report.Milliseconds(report.Quantile(took, 0)), report.Milliseconds(report.Quantile(took, 1))
			r.Min, r.Max, r.Rounds = &lo, &hi, len(took)
			b.Add(r)
		}
	}
	return nil
}

// changeOften adds and deletes one Workload in turn.
func (b *bench) changeOften(ctx context.Context, m *rig.Mesh, service, cluster string) ([]time.Duration, error) {
	kind, ok := manifest.KindNamed("Workload")
	if !ok {
		return nil, errors.New("there is no kind Workload")
	}
	n := 1
	if cluster == "us-east" {
		n = 2
	}
	text := fmt.Appendf(nil, `apiVersion: isthmus.dev/v1alpha1
kind: Workload
metadata: {name: %[1]s-9, namespace: bench, labels: {app: %[1]s}}
spec:
  address: %[2]s
  locality: {zone: a}
  ports: [{name: http, port: 8080}]
  proxy: %[3]s:15008
  serviceAccount: %[1]s
`, service, m.Addr(n, 240, 2), m.Addr(n, 240, 1))
	door, admin := m.API(cluster), "http://"+m.Cluster("eu-west").Shell.Addr().String()+":15020/endpoints"
	was, err := endpointsOf(ctx, admin, "bench/"+service, cluster)
	if err != nil {
		return nil, err
	}
	var took []time.Duration
	for i := range b.size.changes {
		began, want := time.Now(), was
		if i%2 == 0 {
			want++
			_, err = door.Apply(ctx, []api.File{{Name: "bench.yaml", Text: text}}, api.ApplyOptions{})
		} else {
			err = door.Delete(ctx, kind, "bench", service+"-9", false)
		}
		if err != nil {
			return nil, err
		}
		for {
			n, err := endpointsOf(ctx, admin, "bench/"+service, cluster)
			if err != nil {
				return nil, err
			}
			if n == want {
				break
			}
			if time.Since(began) > load.RequestTimeout {
				return nil, fmt.Errorf("change %d: the proxy knows %d endpoints after %s, want %d", i, n, load.RequestTimeout, want)
			}
			if err := rig.Pause(ctx, time.Millisecond); err != nil {
				return nil, err
			}
		}
		took = append(took, time.Since(began))
		if err := rig.Pause(ctx, 50*time.Millisecond); err != nil {
			return nil, err
		}
	}
	return took, nil
}

// endpointsOf is how many endpoints or slots of a service in a cluster a proxy balances over.
func endpointsOf(ctx context.Context, admin, service, cluster string) (int, error) {
	var body bytes.Buffer
	if err := rig.Fetch(ctx, admin, &body); err != nil {
		return 0, err
	}
	var all map[string][]struct{ Cluster, Endpoint string }
	if err := json.Unmarshal(body.Bytes(), &all); err != nil {
		return 0, fmt.Errorf("read %s: %w", admin, err)
	}
	n := 0
	for _, c := range all[service] {
		if c.Cluster == cluster && c.Endpoint != "" {
			n++
		}
	}
	return n, nil
}

// profile takes CPU profiles of both sidecars under the closed loop, if asked to.
func (b *bench) profile(ctx context.Context, m *rig.Mesh, t *targets) error {
	if b.profiles == "" {
		return nil
	}
	const seconds = 6
	b.Say("profiles of both sidecars: %d s", seconds)
	if err := os.MkdirAll(b.profiles, 0o755); err != nil {
		return err
	}
	cs, err := load.DialAll(ctx, connections, &load.Way{Target: t.ours.target, Request: load.Get(path, nearHost)})
	if err != nil {
		return err
	}
	defer load.CloseAll(cs)
	ended := make(chan error, 2)
	for name, admin := range map[string]string{
		"client": m.Cluster("eu-west").Shell.Addr().String(),
		"server": m.Cluster("eu-west").Instances[0].Sidecar.String(),
	} {
		go func() {
			ended <- save(ctx, fmt.Sprintf("http://%s:15020/debug/pprof/profile?seconds=%d", admin, seconds), filepath.Join(b.profiles, name+".pprof"))
		}()
	}
	_, err = load.ClosedLoop(cs, 1<<30, (seconds+1)*time.Second)
	return errors.Join(err, <-ended, <-ended)
}

// save writes what a URL answers to a file.
func save(ctx context.Context, url, path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(rig.Fetch(ctx, url, f), f.Close())
}
