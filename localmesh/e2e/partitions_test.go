package e2e

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/api"
	"github.com/isthmus-mesh/isthmus/bench/report"
)

var (
	partitionKinds  = flag.String("partitions", "", "kinds of partition to try, separated by commas; all of them with all")
	partitionRounds = flag.Int("partitions-rounds", 1, "how often each is tried, in a mesh of its own each time")
	partitionLasts  = flag.Duration("partitions-last", 3*time.Second, "how long a fault lasts beyond what it is waited for")
	partitionRate   = flag.Int("partitions-rate", 300, "requests a second")
	partitionDocs   = flag.String("partitions-docs", "", "the directory of the documentation, whose table is written")
)

// partitionMesh has the same service everywhere; in eu-west, where the client is, its instance is out, so us-east, which is the
// nearest, serves. What else is to be deleted stands in us-east alone.
const partitionMesh = `
apiVersion: isthmus.dev/v1alpha1
kind: LocalMesh
clusters:
  - {name: eu-west, jurisdiction: EU}
  - {name: us-east, jurisdiction: US}
  - {name: ap-south, jurisdiction: IN}
links:
  - {between: [eu-west, us-east], rtt: 20ms}
  - {between: [eu-west, ap-south], rtt: 60ms}
  - {between: [us-east, ap-south], rtt: 60ms}
workloads:
  - {name: web, namespace: shop, run: builtin/echo}
  - {name: catalog, namespace: shop, clusters: [us-east], replicas: 2, run: builtin/echo}
`

// partition is one kind: what is done to us-east, and what must come of it.
type partition struct {
	name string // a word, for the flag
	what string // for people
	// fault and remedy are drills.
	fault, remedy []string
	// fill fills the disk of us-east's store instead.
	fill bool
	// moves says that requests must leave us-east, within the promise.
	moves  bool
	within time.Duration
	// sees is what each observer must come to say: "eu-west>us-east=Unreachable" is a reachability, "eu-west:us-east=Dead" a verdict.
	sees []string
	// replicated says that us-east has three control planes over a store of three members; writes, that it takes writes all the while.
	replicated, writes bool
	// deletes has an endpoint of us-east deleted meanwhile.
	deletes bool
	// short says that it is tried by default.
	short bool
	// law are the jurisdictions that may serve, without that of ap-south: there is nowhere to move to, the kind is a control run, and GETs must fail in it.
	law string
}

const euUS = "eu-west--us-east"

var partitions = []partition{
	{name: "two-way", what: "the link to the client's cluster is cut", fault: []string{"partition", euUS}, remedy: []string{"heal", euUS}, moves: true, within: 3 * time.Second,
		sees: []string{"eu-west>us-east=Unreachable", "us-east>eu-west=Unreachable"}},
	{name: "two-way-nowhere", what: "control: the same, and a law that lets nobody else serve", fault: []string{"partition", euUS}, remedy: []string{"heal", euUS}, moves: true, within: 3 * time.Second,
		sees: []string{"eu-west>us-east=Unreachable", "us-east>eu-west=Unreachable"}, law: "EU, US", short: true},
	{name: "out", what: "the same, from the client's cluster only", fault: []string{"partition", euUS, "--direction", "a-to-b"}, remedy: []string{"heal", euUS}, moves: true, within: 6 * time.Second,
		sees: []string{"eu-west>us-east=Unreachable"}},
	{name: "back", what: "the same, towards the client's cluster only", fault: []string{"partition", euUS, "--direction", "b-to-a"}, remedy: []string{"heal", euUS}, moves: true, within: 6 * time.Second,
		sees: []string{"eu-west>us-east=Unreachable"}},
	{name: "control", what: "only what control planes tell each other is cut on that link", fault: []string{"partition", euUS, "--only", "control"}, remedy: []string{"heal", euUS, "--only", "control"},
		sees: []string{"eu-west>us-east=StaleServing", "us-east>eu-west=StaleServing"}, short: true},
	{name: "data", what: "only requests are cut on that link", fault: []string{"partition", euUS, "--only", "data"}, remedy: []string{"heal", euUS, "--only", "data"}, moves: true, within: 3 * time.Second,
		sees: []string{"eu-west>us-east=Unreachable", "us-east>eu-west=Unreachable"}},
	{name: "cut-off", what: "the cluster is cut off from all others", fault: []string{"partition", "us-east"}, remedy: []string{"heal", "us-east"}, moves: true, within: 3 * time.Second, deletes: true,
		sees: []string{"eu-west>us-east=Unreachable", "ap-south>us-east=Unreachable", "eu-west:us-east=Dead", "ap-south:us-east=Dead", "us-east:eu-west=Unreachable"}, short: true},
	{name: "gateway-killed", what: "its gateway is dead (kill -9)", fault: []string{"kill", "gateway@us-east"}, remedy: []string{"resume", "gateway@us-east"}, moves: true, within: time.Second,
		sees: []string{"eu-west>us-east=Unreachable", "ap-south>us-east=Unreachable", "eu-west:us-east=Unreachable"}},
	{name: "gateway-stopped", what: "its gateway hangs (SIGSTOP)", fault: []string{"pause", "gateway@us-east"}, remedy: []string{"resume", "gateway@us-east"}, moves: true, within: 3 * time.Second,
		sees: []string{"eu-west>us-east=Unreachable", "ap-south>us-east=Unreachable", "eu-west:us-east=Unreachable"}},
	{name: "plane-stopped", what: "its control plane hangs (SIGSTOP)", fault: []string{"pause", "control-plane@us-east"}, remedy: []string{"resume", "control-plane@us-east"},
		sees: []string{"eu-west>us-east=StaleServing", "ap-south>us-east=StaleServing", "eu-west:us-east=StaleServing"}},
	{name: "plane-killed", what: "its control plane is dead (kill -9)", fault: []string{"kill", "control-plane@us-east"}, remedy: []string{"resume", "control-plane@us-east"},
		sees: []string{"eu-west>us-east=StaleServing", "ap-south>us-east=StaleServing", "eu-west:us-east=StaleServing"}},
	{name: "own-plane-stopped", what: "the client's own control plane hangs (SIGSTOP)", fault: []string{"pause", "control-plane@eu-west"}, remedy: []string{"resume", "control-plane@eu-west"},
		sees: []string{"us-east>eu-west=StaleServing", "us-east:eu-west=StaleServing"}},
	{name: "store-lost", what: "its store is dead (kill -9)", fault: []string{"kill", "store@us-east"}, remedy: []string{"resume", "store@us-east"}},
	{name: "member-lost", what: "of the three members of its store one is dead (kill -9); it takes writes all the while", fault: []string{"kill", "store/0@us-east"},
		remedy: []string{"resume", "store/0@us-east"}, replicated: true, writes: true, short: true},
	{name: "replica-killed", what: "of its three control planes one is dead (kill -9); it takes writes all the while", fault: []string{"kill", "control-plane/1@us-east"},
		remedy: []string{"resume", "control-plane/1@us-east"}, replicated: true, writes: true},
	{name: "disk-full", what: "the disk of its store is full", fill: true},
	{name: "killed", what: "all of the cluster is dead (kill -9)", fault: []string{"kill", "us-east"}, remedy: []string{"resume", "us-east"}, moves: true, within: time.Second,
		sees: []string{"eu-west>us-east=Unreachable", "ap-south>us-east=Unreachable", "eu-west:us-east=Dead"}},
}

// TestPartitions tries kinds of partition, each under 300 requests a second from a client in eu-west to a service that us-east serves and
// ap-south could, one in ten a POST, which nothing may ask again once it was executed. No GET may fail; what moves, moves; and each observer comes to say
// what is so. In the control run the law lets nobody else serve, and GETs must fail. -partitions=all tries every kind, and -partitions-docs writes what was measured (make bench-partitions).
func TestPartitions(t *testing.T) {
	tried := slices.DeleteFunc(slices.Clone(partitions), func(p partition) bool {
		if *partitionKinds == "" {
			return !p.short
		}
		return *partitionKinds != "all" && !slices.Contains(strings.Split(*partitionKinds, ","), p.name)
	})
	results, r := map[string][]*outcome{}, report.Begin(t.Context(), "partitions")
	for round := range *partitionRounds {
		for _, kinds := range shareMeshes(tried) {
			t.Run(fmt.Sprintf("round %d", round+1), func(t *testing.T) {
				for name, o := range tryAll(t, kinds) {
					results[name] = append(results[name], o)
				}
			})
		}
	}
	if *partitionDocs != "" && !t.Failed() {
		if err := writePartitions(r, *partitionDocs, tried, results); err != nil {
			t.Error(err)
		}
	}
}

// shareMeshes are the kinds that are tried in one mesh, after each other: all that can be; those that were asked for, each in a mesh of its own,
// in which nothing wavered before.
func shareMeshes(tried []partition) (out [][]partition) {
	for _, replicated := range []bool{false, true} {
		of := slices.DeleteFunc(slices.Clone(tried), func(p partition) bool { return p.replicated != replicated })
		if *partitionKinds != "" {
			out = append(out, slices.Collect(slices.Chunk(of, 1))...)
		} else if len(of) > 0 {
			out = append(out, of)
		}
	}
	return out
}

// tryAll tries kinds in one mesh.
func tryAll(t *testing.T, kinds []partition) map[string]*outcome {
	m, text := newMesh(t, 235), partitionMesh
	if kinds[0].replicated {
		text = strings.Replace(text, "{name: us-east, jurisdiction: US}", "{name: us-east, jurisdiction: US, replicas: 3}", 1)
	}
	var filler string
	if slices.ContainsFunc(kinds, func(p partition) bool { return p.fill }) {
		filler = filepath.Join(m.smallDisk(t, "us-east"), "filler")
	}
	m.up("-f", write(t, "mesh.yaml", text))
	m.run("drill", "kill", "web.shop@eu-west")
	out := map[string]*outcome{}
	for _, p := range kinds {
		t.Run(p.name, func(t *testing.T) {
			own := *m
			own.t = t
			out[p.name] = own.tryOne(t, p, filler)
			t.Logf("%s: %s", p.what, out[p.name])
		})
	}
	return out
}

// outcome is what came of one fault. Times are since it was made, or since it was mended.
type outcome struct {
	gets, posts int
	// failed counts by method and reason.
	failed map[string]int
	// moved is when the last request began that met the fault: that us-east was asked, or that took longer than slow. slowest is of a GET.
	moved, slowest time.Duration
	// knew is when each observer first said something else than before, by observer and what it said.
	knew map[string]time.Duration
	// back is when us-east served again, synced when every cluster was in sync; deleted when the endpoint was gone everywhere.
	back, synced, deleted time.Duration
}

func (o *outcome) String() string {
	var knew []string
	for _, k := range slices.SortedFunc(maps.Keys(o.knew), func(a, b string) int { return int(o.knew[a] - o.knew[b]) }) {
		knew = append(knew, fmt.Sprintf("%s after %.1f s", k, o.knew[k].Seconds()))
	}
	text := fmt.Sprintf("%d GETs and %d POSTs, failed %v; moved after %.1f s, the slowest took %.1f s; %s; back after %.1f s, in sync after %.1f s",
		o.gets, o.posts, o.failed, o.moved.Seconds(), o.slowest.Seconds(), strings.Join(knew, ", "), o.back.Seconds(), o.synced.Seconds())
	if o.deleted > 0 {
		text += fmt.Sprintf(", what was deleted gone everywhere after %.2f s", o.deleted.Seconds())
	}
	return text
}

// slowAfter is what a request takes that met a fault; it is three times the longest way.
const slowAfter = 500 * time.Millisecond

// tryOne makes one fault and mends it.
func (m *meshUnder) tryOne(t *testing.T, p partition, filler string) *outcome {
	const url = "http://web.shop.svc.clusterset.local/"
	l, home := m.mixed(0, url, *partitionRate), (*load)(nil)
	defer l.stop()
	if p.name != "killed" {
		home = m.load(1, url, 50) // those at home in us-east lose nothing either
		defer home.stop()
	}
	w := m.observe(t)
	defer w.stop()
	l.movesTo(t, "us-east", 40*time.Second)
	eventually(t, 60*time.Second, "every cluster is in sync, and Alive to all", func() (string, bool) { return w.well() })
	if p.law != "" {
		defer m.stayIn(t, p.law)()
	}
	o := &outcome{failed: map[string]int{}, knew: map[string]time.Duration{}}
	broken := time.Now()
	if p.fill {
		fill(t, filler)
		m.fillStore(t)
		broken = time.Now()
	} else {
		m.run(append([]string{"drill"}, p.fault...)...)
	}
	for _, said := range p.sees {
		eventually(t, 60*time.Second, said, func() (string, bool) { return w.has(said) })
	}
	if p.deletes {
		m.run("delete", "workload", "catalog-1", "-n", "shop", "--cluster", "us-east")
	}
	if p.writes {
		eventually(t, 20*time.Second, "us-east takes writes", func() (string, bool) {
			out, code := m.apply("us-east", "apiVersion: v1\nkind: Namespace\nmetadata: {name: while-"+p.name+"}\n")
			return out, code == 0
		})
	}
	<-time.After(*partitionLasts)
	mended, lasted := time.Now(), time.Since(broken)
	for said, at := range w.since(broken) {
		o.knew[said] = at
	}
	if p.fill {
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
	} else {
		m.run(append([]string{"drill"}, p.remedy...)...)
	}
	if p.deletes {
		eventually(t, 60*time.Second, "what was deleted is gone everywhere", func() (string, bool) { return w.endpoints("catalog", "us-east", 1) })
		o.deleted = time.Since(mended)
	}
	eventually(t, 60*time.Second, "every cluster is in sync, and Alive to all", func() (string, bool) { return w.well() })
	o.synced = w.syncedAt(mended)
	eventually(t, 60*time.Second, "us-east serves again", func() (string, bool) {
		since := l.now() - time.Second
		s := l.samples(since, l.now())
		n := len(slices.DeleteFunc(s, func(x mixed) bool { return x.cluster != "us-east" }))
		return fmt.Sprint(n), n > 200
	})
	l.stop()
	at := func(when time.Time) time.Duration { return when.Sub(l.begin) }
	o.judge(l, at(broken), at(mended))
	if home != nil {
		for _, f := range home.stop().failed {
			o.failed["GET at home: "+f]++
		}
	}
	gets := 0
	for what, n := range o.failed {
		if strings.HasPrefix(what, "POST") {
			continue
		}
		gets += n
		if p.law == "" {
			t.Errorf("%d failed: %s", n, what)
		}
	}
	if p.law != "" && gets == 0 {
		t.Error("no GET failed although nobody else may serve: that none fails otherwise shows nothing")
	}
	if stays := slices.ContainsFunc(l.samples(at(mended)-time.Second, at(mended)), func(s mixed) bool { return s.cluster == "us-east" }); p.law == "" && stays == p.moves {
		t.Errorf("us-east serves at the end of the fault: %v, after %v", stays, lasted)
	}
	if p.law == "" && p.moves && o.moved > p.within {
		t.Logf("MISSED: moved after %v, promised are %v", o.moved, p.within)
	}
	return o
}

// stayIn puts a law in force by which some jurisdictions alone may serve, until the returned function is called.
func (m *meshUnder) stayIn(t *testing.T, jurisdictions string) (again func()) {
	t.Helper()
	if out, code := m.apply("eu-west", `
apiVersion: isthmus.dev/v1alpha1
kind: ResidencyPolicy
metadata: {name: control, namespace: shop}
spec: {targetRefs: [{group: "", kind: Service, name: web}], jurisdictions: [`+jurisdictions+`]}
`); code != 0 {
		t.Fatalf("apply: exit %d: %s", code, out)
	}
	m.noDrift(t)
	return func() {
		m.run("delete", "residencypolicy", "control", "-n", "shop", "--cluster", "eu-west")
		m.noDrift(t)
	}
}

// judge reads a load: when its requests left us-east and when they came back.
func (o *outcome) judge(l *mixedLoad, broken, mended time.Duration) {
	for _, s := range l.samples(0, l.now()) {
		if s.post {
			o.posts++
		} else {
			o.gets++
		}
		if s.failed != "" {
			o.failed[s.failed]++
		}
		during := s.begin >= broken && s.begin < mended
		if during && !s.post {
			o.slowest = max(o.slowest, s.took)
		}
		if during && (s.took > slowAfter || s.cluster == "us-east") {
			o.moved = max(o.moved, s.begin-broken)
		}
		if s.begin >= mended && s.cluster == "us-east" && (o.back == 0 || s.begin-mended < o.back) {
			o.back = s.begin - mended
		}
	}
}

// fillStore writes objects in us-east until its full disk refuses them: a store has room set aside.
func (m *meshUnder) fillStore(t *testing.T) {
	t.Helper()
	for i := range 200 {
		text := fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: big-%d, namespace: shop}\nstringData: {text: %q}\n", i, strings.Repeat("x", 700<<10))
		if out, code := m.apply("us-east", text); code != 0 {
			t.Logf("refused: %s", out)
			return
		}
	}
	t.Fatal("nothing was refused although the disk is full")
}

// watcher asks every control plane how the mesh stands, again and again, and notes what changes.
type watcher struct {
	m     *meshUnder
	t     *testing.T
	token string
	stop  func()

	mu    sync.Mutex
	said  map[string]string // by "eu-west>us-east" or "eu-west:us-east"
	news  []notice
	insyc map[string]time.Time // since when a cluster is in sync, zero where it is not
}

type notice struct {
	at   time.Time
	said string
}

// observe begins to watch, for as long as the test runs.
func (m *meshUnder) observe(t *testing.T) *watcher {
	t.Helper()
	token, err := os.ReadFile(filepath.Join(m.dir, "token"))
	if err != nil {
		t.Fatal(err)
	}
	w := &watcher{m: m, t: t, token: strings.TrimSpace(string(token)), said: map[string]string{}, insyc: map[string]time.Time{}}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for i, c := range clusters {
		all.Go(func() {
			client := &http.Client{Timeout: time.Second}
			defer client.CloseIdleConnections()
			for ctx.Err() == nil {
				var s api.Status
				err := w.ask(client, i, "/v1/status", &s)
				w.note(c, &s, err)
				select {
				case <-time.After(100 * time.Millisecond):
				case <-ctx.Done():
				}
			}
		})
	}
	w.stop = sync.OnceFunc(func() { cancel(); all.Wait() })
	return w
}

// ask asks one control plane.
func (w *watcher) ask(client *http.Client, cluster int, path string, into any) error {
	req, err := http.NewRequest(http.MethodGet, "http://"+w.m.address(cluster, 0, 2, 15080)+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+w.token)
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return json.NewDecoder(resp.Body).Decode(into)
}

func (w *watcher) note(observer string, s *api.Status, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if err != nil || !s.InSync() || len(s.Peers) != len(clusters)-1 || len(s.Verdicts) != len(clusters) {
		w.insyc[observer] = time.Time{}
		if err != nil {
			return
		}
	} else if w.insyc[observer].IsZero() {
		w.insyc[observer] = now
	}
	is := func(pair, state string) {
		if before, had := w.said[pair]; before != state {
			w.said[pair] = state
			if had {
				w.news = append(w.news, notice{now, pair + "=" + state})
			}
		}
	}
	for _, p := range s.Peers {
		is(observer+">"+string(p.Cluster), p.State)
	}
	for _, v := range s.Verdicts {
		is(observer+":"+string(v.Cluster), v.State)
	}
}

// has reports whether something is said now.
func (w *watcher) has(said string) (string, bool) {
	pair, state, _ := strings.Cut(said, "=")
	w.mu.Lock()
	defer w.mu.Unlock()
	return fmt.Sprint(w.said), w.said[pair] == state
}

// since is what was said first after a time, and when.
func (w *watcher) since(from time.Time) map[string]time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := map[string]time.Duration{}
	for _, n := range w.news {
		if _, had := out[n.said]; !had && n.at.After(from) {
			out[n.said] = n.at.Sub(from)
		}
	}
	return out
}

// well reports whether every cluster is in sync and Alive to every other.
func (w *watcher) well() (string, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := fmt.Sprint(w.said, w.insyc)
	for _, c := range clusters {
		if w.insyc[c].IsZero() {
			return seen, false
		}
	}
	for _, state := range w.said {
		if state != "Alive" {
			return seen, false
		}
	}
	return seen, len(w.said) > 0
}

// syncedAt is when the last cluster came to be in sync, since a time.
func (w *watcher) syncedAt(from time.Time) (last time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, at := range w.insyc {
		last = max(last, at.Sub(from))
	}
	return last
}

// endpoints reports whether each other cluster knows so many endpoints of a service in a cluster.
func (w *watcher) endpoints(service, cluster string, want int) (string, bool) {
	for i, c := range clusters {
		if c == cluster {
			continue
		}
		var s struct{ Status api.ServiceStatus }
		if err := w.ask(&http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}, i, "/v1/objects/service/shop/"+service, &s); err != nil {
			return err.Error(), false
		}
		at := slices.IndexFunc(s.Status.Clusters, func(x api.ServiceCluster) bool { return string(x.Cluster) == cluster })
		if at < 0 || s.Status.Clusters[at].Endpoints != want {
			return fmt.Sprintf("%s: %+v", c, s.Status.Clusters), false
		}
	}
	return "", true
}

// smallDisk mounts a small disk of memory for a cluster's store, which takes root.
func (m *meshUnder) smallDisk(t *testing.T, cluster string) string {
	t.Helper()
	disk := filepath.Join(m.dir, "clusters", cluster)
	if err := os.MkdirAll(disk, 0o700); err != nil {
		t.Fatal(err)
	}
	mountSmall(t, disk)
	if err := os.Chmod(m.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return disk
}
