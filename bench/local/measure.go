package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"github.com/isthmus-mesh/isthmus/api"
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

// targets starts the peers, and checks that each way answers.
func (b *bench) targets(ctx context.Context, m *running) (_ *targets, err error) {
	t := &targets{app: m.cluster("eu-west").Instances[0].App.String()}
	if t.ours.target, err = m.serviceAt(ctx, "near"); err != nil {
		return nil, err
	}
	t.far = m.cluster("eu-west").Shell.String()
	t.ours.name = "sidecars"
	for _, name := range []string{"eu-west.shell.json", "eu-west.bench.near-0.sidecar.json"} {
		pid, err := m.pid("\x00proxy\x00", name)
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
		p, err := b.haproxy(ctx, i+1, r.alpn, r.threads, t.app)
		if errors.Is(err, exec.ErrNotFound) {
			t.missing = "there is no haproxy here: apt-get install haproxy"
			break
		}
		if err != nil {
			return nil, err
		}
		p.name = fmt.Sprintf("%s, %s, threads: %d", haproxyVersion(ctx), r.alpn, r.threads)
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
	cs, err := dialAll(ctx, connections, target, get(path, nearHost))
	if err != nil {
		return 0, 0, err
	}
	defer closeAll(cs)
	if _, err := closedLoop(cs, 4*connections, roundMax); err != nil { // connections behind are open then
		return 0, 0, err
	}
	before, err := cpuOf(pids...)
	if err != nil {
		return 0, 0, err
	}
	done, err := closedLoop(cs, requests, roundMax)
	if err != nil {
		return 0, 0, err
	}
	after, err := cpuOf(pids...)
	if err != nil {
		return 0, 0, err
	}
	used := after.minus(before)
	return perRequest(used.total(), done), perRequest(used.user, done), context.Cause(ctx)
}

func perRequest(d time.Duration, n int) float64 { return d.Seconds() * 1e6 / float64(max(n, 1)) }

// cpu compares the pairs by CPU a request, all in turn in each round.
func (b *bench) cpu(ctx context.Context, _ *running, t *targets) error {
	b.say("CPU a request: %d rounds of %d requests, %d ways in turn", b.size.rounds, b.size.requests, len(t.pairs()))
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
		r := row{Row: rival.row, Unit: "µs", title: what, ratioTarget: true}.of(totals[0]).within(rival.target)
		if t.missing != "" {
			r.Reason = "no ratio: " + t.missing
		} else {
			r = r.against(t.peers[i].name, totals[i+1])
		}
		b.add(r)
	}
	b.add(row{Row: "mtls-pair-user", Unit: "µs", title: "the same, in user mode only"}.of(users[0]).maybeAgainst(t, users))
	kernel := make([][]float64, len(totals))
	for i := range totals {
		for j := range totals[i] {
			kernel[i] = append(kernel[i], totals[i][j]-users[i][j])
		}
	}
	b.add(row{Row: "mtls-pair-kernel", Unit: "µs", title: "the same, in the kernel only"}.of(kernel[0]).maybeAgainst(t, kernel))
	return nil
}

// maybeAgainst compares with HAProxy over h2, if it is here. All values begin with ours.
func (r row) maybeAgainst(t *targets, all [][]float64) row {
	if t.missing != "" {
		r.Reason = "no ratio: " + t.missing
		return r
	}
	return r.against(t.peers[0].name, all[1])
}

// latency compares what the pairs add to an open loop straight to the application.
func (b *bench) latency(ctx context.Context, _ *running, t *targets) error {
	ways := append([]*pair{{name: "straight", target: t.app}}, t.pairs()...)
	ways = ways[:min(3, len(ways))] // of the peers, the best
	b.say("latency at %d requests a second: %d turns of %s, %d ways", rate, b.size.turns, b.size.turn, len(ways))
	p50, p99 := make([][]float64, len(ways)), make([][]float64, len(ways))
	for range b.size.turns {
		for i, p := range ways {
			took, err := b.openTurn(ctx, p.target)
			if err != nil {
				return fmt.Errorf("latency of %s: %w", p.name, err)
			}
			p50[i], p99[i] = append(p50[i], milliseconds(quantile(took, 0.50))), append(p99[i], milliseconds(quantile(took, 0.99)))
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
	b.add(row{Row: "direct-p50-ms", Unit: "ms", title: "p50 straight to the application" + load}.of(p50[0]))
	b.add(row{Row: "direct-p99-ms", Unit: "ms", title: "p99 of the same"}.of(p99[0]))
	added := over(p50)
	b.add(row{Row: "added-p50-ms", Unit: "ms", title: "p50 added by the pair of sidecars" + load}.of(added[0]).maybeAgainst(t, added).within(0.25))
	added = over(p99)
	b.add(row{Row: "added-p99-ms", Unit: "ms", title: "p99 added by the same"}.of(added[0]).maybeAgainst(t, added))
	return nil
}

// openTurn is one turn of the open loop over fresh connections.
func (b *bench) openTurn(ctx context.Context, target string) ([]time.Duration, error) {
	cs, err := dialAll(ctx, 2*connections, target, get(path, nearHost))
	if err != nil {
		return nil, err
	}
	defer closeAll(cs)
	if _, err := closedLoop(cs, 4*len(cs), roundMax); err != nil {
		return nil, err
	}
	return openLoop(ctx, cs, rate, b.size.turn)
}

// crossing measures requests to another cluster. The link's process stands for a WAN: its
// CPU is nobody's.
func (b *bench) crossing(ctx context.Context, m *running, t *targets) error {
	b.say("requests to another cluster: %s", b.size.crossing)
	var pids []int
	for _, name := range []string{"eu-west.shell.json", "us-east.gateway.json", "us-east.bench.far-0.sidecar.json"} {
		pid, err := m.pid("\x00proxy\x00", name)
		if err != nil {
			return err
		}
		pids = append(pids, pid)
	}
	cs, err := dialAll(ctx, crossings, t.far, get("http://"+farHost+path, farHost))
	if err != nil {
		return err
	}
	defer closeAll(cs)
	if _, err := closedLoop(cs, 2*len(cs), roundMax); err != nil {
		return err
	}
	const turns = 3
	var costs, gateway []float64
	for range turns {
		all, err := cpuOf(pids...)
		if err != nil {
			return err
		}
		one, err := cpuOf(pids[1])
		if err != nil {
			return err
		}
		done, err := closedLoop(cs, 1<<30, b.size.crossing/turns)
		if err != nil {
			return err
		}
		all2, err := cpuOf(pids...)
		if err != nil {
			return err
		}
		one2, err := cpuOf(pids[1])
		if err != nil {
			return err
		}
		costs = append(costs, perRequest(all2.minus(all).total(), done))
		gateway = append(gateway, perRequest(one2.minus(one).total(), done))
	}
	took, err := openLoop(ctx, cs, rate/4, b.size.crossing/2)
	if err != nil {
		return err
	}
	b.add(row{Row: "cross-cpu", Unit: "µs", title: fmt.Sprintf(
		"CPU a request to another cluster: both sidecars and the gateway, %d connections, link of %s", crossings, rtt)}.of(costs))
	b.add(row{Row: "cross-gateway-cpu", Unit: "µs", title: "the gateway's part of it"}.of(gateway))
	for _, q := range []struct {
		name string
		of   float64
	}{{"p50", 0.5}, {"p99", 0.99}} {
		b.add(row{Row: "cross-" + q.name + "-ms", Unit: "ms", title: fmt.Sprintf(
			"%s of a request to another cluster at %d a second, %s of it the link", q.name, rate/4, rtt)}.of([]float64{milliseconds(quantile(took, q.of))}))
	}
	return nil
}

// changes measures how long a change of endpoints in us-east takes to be in force in a
// proxy of eu-west, from before it is sent to the API. The link's delay is in it.
func (b *bench) changes(ctx context.Context, m *running, _ *targets) error {
	b.say("%d changes of endpoints", b.size.changes)
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
			r := row{Row: way.row + "-" + q.name + "-ms", Unit: "ms", title: way.title + ", " + q.name}.of([]float64{milliseconds(quantile(took, q.of))})
			lo, hi := milliseconds(quantile(took, 0)), milliseconds(quantile(took, 1))
			r.Min, r.Max, r.Rounds = &lo, &hi, len(took)
			b.add(r)
		}
	}
	return nil
}

// changeOften adds and deletes one Workload in turn.
func (b *bench) changeOften(ctx context.Context, m *running, service, cluster string) ([]time.Duration, error) {
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
`, service, b.addr(n, 240, 2), b.addr(n, 240, 1))
	door, admin := m.api(cluster), "http://"+m.cluster("eu-west").Shell.Addr().String()+":15020/endpoints"
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
			if time.Since(began) > requestTimeout {
				return nil, fmt.Errorf("change %d: the proxy knows %d endpoints after %s, want %d", i, n, requestTimeout, want)
			}
			if err := pause(ctx, time.Millisecond); err != nil {
				return nil, err
			}
		}
		took = append(took, time.Since(began))
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return nil, err
		}
	}
	return took, nil
}

// endpointsOf is how many endpoints or slots of a service in a cluster a proxy balances over.
func endpointsOf(ctx context.Context, admin, service, cluster string) (int, error) {
	var body bytes.Buffer
	if err := fetch(ctx, admin, &body); err != nil {
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
func (b *bench) profile(ctx context.Context, m *running, t *targets) error {
	if b.profiles == "" {
		return nil
	}
	const seconds = 6
	b.say("profiles of both sidecars: %d s", seconds)
	if err := os.MkdirAll(b.profiles, 0o755); err != nil {
		return err
	}
	cs, err := dialAll(ctx, connections, t.ours.target, get(path, nearHost))
	if err != nil {
		return err
	}
	defer closeAll(cs)
	ended := make(chan error, 2)
	for name, admin := range map[string]string{
		"client": m.cluster("eu-west").Shell.Addr().String(),
		"server": m.cluster("eu-west").Instances[0].Sidecar.String(),
	} {
		go func() {
			ended <- save(ctx, fmt.Sprintf("http://%s:15020/debug/pprof/profile?seconds=%d", admin, seconds), filepath.Join(b.profiles, name+".pprof"))
		}()
	}
	_, err = closedLoop(cs, 1<<30, (seconds+1)*time.Second)
	return errors.Join(err, <-ended, <-ended)
}

// save writes what a URL answers to a file.
func save(ctx context.Context, url, path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(fetch(ctx, url, f), f.Close())
}
