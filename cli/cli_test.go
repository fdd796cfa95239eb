package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/tools/txtar"

	"github.com/isthmus-mesh/isthmus/api"
	"github.com/isthmus-mesh/isthmus/api/consistency"
	"github.com/isthmus-mesh/isthmus/api/drains"
	"github.com/isthmus-mesh/isthmus/api/events"
	"github.com/isthmus-mesh/isthmus/cli"
	"github.com/isthmus-mesh/isthmus/control/address"
	"github.com/isthmus-mesh/isthmus/control/load"
	"github.com/isthmus-mesh/isthmus/control/object"
	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/xds"
)

var update = flag.Bool("update", false, "write what the commands print into the stories")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const token = "t0ken"

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// memory is an object store in memory; it speaks the store's errors.
type memory struct {
	mu       sync.Mutex
	revision int64
	objects  map[store.Key]store.Object
	changed  chan struct{}
	log      []store.Events
}

func newMemory() *memory {
	return &memory{objects: map[store.Key]store.Object{}, changed: make(chan struct{})}
}

func (m *memory) Get(_ context.Context, key store.Key) (store.Object, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.objects[key]
	if !ok {
		return o, &store.Error{Op: "get", Key: key, Kind: store.ErrNotFound}
	}
	return o, nil
}

func (m *memory) List(_ context.Context, s store.Scope) ([]store.Object, int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []store.Object
	for k, o := range m.objects {
		if (s.Kind == "" || s.Kind == k.Kind) && (s.Namespace == "" || s.Namespace == k.Namespace) {
			out = append(out, o)
		}
	}
	slices.SortFunc(out, func(a, b store.Object) int { return strings.Compare(a.Key.String(), b.Key.String()) })
	return out, m.revision, nil
}

func (m *memory) Put(_ context.Context, o store.Object, _ store.Precondition) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.revision++
	o.Revision = m.revision
	m.objects[o.Key] = o
	m.tell(store.Events{Puts: []store.Object{o}})
	return o.Revision, nil
}

// Batch is what the pool of addresses writes by; it is alone.
func (m *memory) Batch(ctx context.Context, ops []store.Op) (revision int64, err error) {
	for _, o := range ops {
		if revision, err = m.Put(ctx, o.Object, o.Pre); err != nil {
			return 0, err
		}
	}
	return revision, nil
}

func (m *memory) Delete(_ context.Context, key store.Key, _ store.Precondition) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.objects[key]; !ok {
		return 0, &store.Error{Op: "delete", Key: key, Kind: store.ErrNotFound}
	}
	m.revision++
	delete(m.objects, key)
	m.tell(store.Events{Deletes: []store.Deletion{{Key: key, Revision: m.revision}}})
	return m.revision, nil
}

func (m *memory) tell(e store.Events) {
	m.log = append(m.log, e)
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *memory) Watch(ctx context.Context, _ store.Position, deliver func(context.Context, store.Events) error) error {
	objects, _, err := m.List(ctx, store.Scope{})
	if err != nil {
		return err
	}
	m.mu.Lock()
	seen := len(m.log)
	m.mu.Unlock()
	if err := deliver(ctx, store.Events{Resync: true, Puts: objects}); err != nil {
		return err
	}
	for {
		m.mu.Lock()
		news, changed := m.log[seen:], m.changed
		seen = len(m.log)
		m.mu.Unlock()
		for _, e := range news {
			if err := deliver(ctx, e); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ground is two clusters behind a console, as a local mesh has them, and its state
// directory.
type ground struct {
	t       *testing.T
	state   string
	console *httptest.Server
	planes  []*api.Server
	stores  map[string]*memory
	given   map[string]*memory // addresses, beside the stores so that revisions stay as they are
	mu      sync.Mutex
	drills  []string
	behind  bool   // us-east is not in sync
	dead    string // this cluster does not answer
	// replicas says that the control plane of eu-west has three.
	replicas bool
	drains   keeper
}

func newGround(t *testing.T) *ground {
	t.Helper()
	g := &ground{t: t, state: t.TempDir(), stores: map[string]*memory{}, given: map[string]*memory{}}
	mux := http.NewServeMux()
	clusters := []map[string]string{}
	for n, name := range []string{"eu-west", "us-east"} {
		g.addCluster(mux, n, name)
		clusters = append(clusters, map[string]string{"name": name})
	}
	mux.HandleFunc("GET /v1/local", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"clusters": clusters})
	})
	mux.HandleFunc("POST /v1/local/drill", func(w http.ResponseWriter, r *http.Request) {
		var ask struct {
			Verb    string
			Targets []string
			Options map[string]string
		}
		_ = json.NewDecoder(r.Body).Decode(&ask)
		if ask.Targets[0] == "mars" {
			w.WriteHeader(http.StatusUnprocessableEntity)
			_, _ = w.Write([]byte(`{"error":"drill kill: target \"mars\": no such cluster"}`))
			return
		}
		g.mu.Lock()
		g.drills = append(g.drills, fmt.Sprint(ask.Verb, ask.Targets, ask.Options))
		g.mu.Unlock()
		_, _ = w.Write([]byte("{}"))
	})
	g.console = httptest.NewServer(mux)
	t.Cleanup(func() {
		for _, p := range g.planes {
			p.Close()
		}
		g.console.Close()
	})
	text, err := json.Marshal(map[string]any{"console": g.console.URL, "clusters": clusters})
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"mesh.json": text, "token": []byte(token + "\n")} {
		if err := os.WriteFile(filepath.Join(g.state, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return g
}

func (g *ground) addCluster(mux *http.ServeMux, n int, name string) {
	objects := newMemory()
	g.stores[name] = objects
	self := mesh.ClusterName(name)
	clock := int64(n)
	given := newMemory()
	g.given[name] = given
	pool, err := address.New(address.Config{Range: netip.MustParsePrefix(fmt.Sprintf("127.%d.0.0/24", 11+n)), Store: given, Now: func() time.Time { return noon }})
	if err != nil {
		g.t.Fatal(err)
	}
	server, err := api.NewServer(api.Config{Cluster: self, Objects: objects, Token: token, Version: "0.1.0", Now: func() time.Time { return noon },
		World: func() *world.World { return g.world(self) }, View: ir.View{Cluster: self, Network: mesh.Network(name)},
		Stamp:     func() mesh.Stamp { clock += 2; return mesh.Stamp{WallMillis: clock, Origin: self} },
		Addresses: pool, Random: zeros{}, More: g.more(self),
		Proxies: func() []xds.ClientStatus {
			types := []xds.TypeStatus{{Type: "type.isthmus.dev/v1/Service", Sent: 3, Acked: 3, SentDigest: "aa", AckedDigest: "aa", InSync: true}}
			if g.behind && name == "us-east" {
				types[0].Acked, types[0].InSync, types[0].Refused = 2, false, []xds.Refusal{{Name: "shop/catalog", Message: "bad regex"}}
			}
			return []xds.ClientStatus{{Node: xds.Node{ID: "shop/catalog-0", Mode: "sidecar", Zone: "a", Version: "0.1.0"}, Connected: noon, Types: types},
				{Node: xds.Node{ID: "isthmus-system/gateway", Mode: "gateway", Version: "0.1.0"}, Connected: noon}}
		},
		Peers: func() []api.PeerStatus {
			other := map[string]mesh.ClusterName{"eu-west": "us-east", "us-east": "eu-west"}[name]
			return []api.PeerStatus{{Cluster: other, State: "Alive", InSync: !g.behind, RTT: 80 * time.Millisecond}}
		},
		Replicas: func() []api.Replica {
			if !g.replicas || name != "eu-west" {
				return nil
			}
			at := func(i int) netip.AddrPort { return netip.MustParseAddrPort(fmt.Sprintf("127.11.0.%d:15080", i)) }
			return []api.Replica{{Name: "127.11.0.2-15012", API: at(2), Version: "0.1.0", Self: true, Proxies: 1}, {Name: "127.11.0.4-15012", API: at(4), Version: "0.1.0", Proxies: 1},
				{Name: "127.11.0.5-15012", API: at(5), Problem: "ask replica 127.11.0.5-15012 at 127.11.0.5:15012 what it sees: it has not answered for 3m0s: connection refused"}}
		},
		Forecast: foresees{},
		Verdicts: func() (verdicts []consistency.Verdict, events []consistency.VerdictEvent) {
			other := map[string]mesh.ClusterName{"eu-west": "us-east", "us-east": "eu-west"}[name]
			v := consistency.Verdict{Cluster: other, State: "Alive", AgeSeconds: 90, Cause: "1 of 1 observer reaches its gateways, 1 of 1 hear its control plane"}
			if g.dead == string(other) {
				v.State, v.AgeSeconds, v.Cause = "StaleServing", 12, "1 of 1 observer reaches its gateways, 0 of 1 hear its control plane"
				events = append(events, consistency.VerdictEvent{At: noon, Cluster: other, From: "Alive", To: v.State, Cause: v.Cause})
			}
			self := consistency.Verdict{Cluster: mesh.ClusterName(name), State: "Dead", Cause: "what it thinks of itself is nobody's business"}
			return []consistency.Verdict{v, self}, events
		},
		Bundle: func() mesh.Bundle {
			return mesh.Bundle{TrustDomain: mesh.TrustDomain(name + ".isthmus.local"), Generation: 1}
		},
		ProxyConfig: func(_ context.Context, id string) ([]byte, error) {
			return []byte(`{"id":"` + id + `@` + name + `"}`), nil
		},
	})
	if err != nil {
		g.t.Fatal(err)
	}
	g.planes = append(g.planes, server)
	mux.HandleFunc("/v1/clusters/"+name+"/", func(w http.ResponseWriter, r *http.Request) {
		if g.dead == name {
			w.WriteHeader(http.StatusBadGateway)
			_, _ = w.Write([]byte(`{"error":"ask the control plane of ` + name + `: connection refused"}`))
			return
		}
		http.StripPrefix("/v1/clusters/"+name, server).ServeHTTP(w, r)
	})
}

// more are the paths of packages beside api.
func (g *ground) more(self mesh.ClusterName) map[string]func(http.ResponseWriter, *http.Request) error {
	out := drains.Handlers(&g.drains)
	other := map[mesh.ClusterName]mesh.ClusterName{"eu-west": "us-east", "us-east": "eu-west"}[self]
	maps.Copy(out, events.Handlers(recorded(self, other), func() time.Time { return noon.Add(5 * time.Minute) }))
	return out
}

// foresees is a loop of load of one service, whose every request goes to us-east once anything is lost.
type foresees struct{}

func (foresees) Foresee(lost map[mesh.ClusterName]bool, stay bool) []load.Foreseen {
	if lost["ap-south"] {
		return nil
	}
	at := func(eu, us, shed float64) split.Forecast {
		return split.Forecast{Clusters: []mesh.ClusterName{"eu-west", "us-east"}, Demand: []float64{100, 50}, Refused: []float64{0, 0}, Law: []bool{false, false},
			Mean: []float64{0.02, math.NaN()}, Load: []float64{eu, us}, Capacity: []float64{200, 100}, Shed: []float64{0, shed}}
	}
	after := at(0, 150, 50)
	if after.Capacity[0] = 0; stay {
		after = at(0, 50, 0)
	}
	return []load.Foreseen{{Service: mesh.ServiceName{Namespace: "shop", Name: "catalog"}, Strategy: mesh.StrategyAuto, Before: at(100, 50, 0), After: after}}
}

// zeros is randomness for stories.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// world is what a cluster's store holds.
func (g *ground) world(self mesh.ClusterName) *world.World {
	objects, _, _ := g.stores[string(self)].List(context.Background(), store.Scope{})
	var edits []world.Edit
	for _, o := range objects {
		if f, _, _, err := object.Decode(o, self, mesh.Epoch{}); err == nil && f != nil {
			edits = append(edits, world.Put(f))
		}
	}
	given, _, _ := g.given[string(self)].List(context.Background(), store.Scope{Kind: address.Kind})
	for _, o := range given {
		if v, err := address.Decode(o); err == nil {
			edits = append(edits, world.Put(&mesh.Fact{Key: mesh.Key{Kind: mesh.KindServiceAddress, Origin: self, Name: o.Name}, Value: v, Digest: ir.DigestOf(v)}))
		}
	}
	w, _ := world.New(self).Edit(edits)
	return w
}

// run runs a command line and returns what it printed, and its exit code.
func (g *ground) run(in string, args ...string) (out, errs string, code int) {
	var o, e bytes.Buffer
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	code = cli.Run(ctx, g.options(strings.NewReader(in), &o, &e), args)
	return o.String(), e.String(), code
}

// runOnTerminal is run where Err is a terminal.
func (g *ground) runOnTerminal(args ...string) (out, errs string, code int) {
	var o, e bytes.Buffer
	opts := g.options(strings.NewReader(""), &o, &e)
	opts.ErrTerminal = true
	code = cli.Run(context.Background(), opts, args)
	return o.String(), e.String(), code
}

func (g *ground) options(in *strings.Reader, out, errs *bytes.Buffer) cli.Options {
	return cli.Options{In: in, Out: out, Err: errs, Version: "0.1.0", Now: func() time.Time { return noon.Add(5 * time.Minute) },
		StateDir: func() (string, error) { return g.state, nil },
		Up: func(_ context.Context, o cli.UpOptions) error {
			fmt.Fprintln(out, "up", o.File, o.Detach, o.Args)
			return nil
		},
		Down: func(_ context.Context, dir string) error { fmt.Fprintln(out, "down", dir == g.state); return nil },
		Simulate: func(_ context.Context, o cli.SimulateOptions) error {
			fmt.Fprintln(out, "simulate", o.Scenario.Name, o.Scenario.Policies, o.Scenario.Seeds, o.JSON, o.Events, o.CSV, o.SVG)
			return nil
		}}
}

// TestStories plays testdata/*.txt: in the comment, lines "$ COMMAND" are run one after the
// other, over two fresh clusters; the archive's files are there to be read. What each prints, with
// standard error marked "! " and the exit code when it is not 0, stands below it.
func TestStories(t *testing.T) {
	stories, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(stories) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	for _, path := range stories {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if path, err = filepath.Abs(path); err != nil { // play goes elsewhere
				t.Fatal(err)
			}
			got := play(t, txtar.Parse(text))
			if *update {
				if err := os.WriteFile(path, got, 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(text), string(got)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", path, diff)
			}
		})
	}
}

func play(t *testing.T, a *txtar.Archive) []byte {
	g := newGround(t)
	dir := t.TempDir()
	for _, f := range a.Files {
		path := filepath.Join(dir, f.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, f.Data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	var b strings.Builder
	for line := range strings.Lines(string(a.Comment)) {
		command, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "$ ")
		if !ok {
			if b.Len() == 0 || strings.HasPrefix(line, "# ") {
				b.WriteString(line)
			}
			continue
		}
		fmt.Fprintf(&b, "$ %s\n", command)
		g.line(&b, command)
	}
	a.Comment = []byte(b.String())
	return txtar.Format(a)
}

// line runs one line of a story.
func (g *ground) line(b *strings.Builder, command string) {
	switch command {
	case "(us-east falls behind)":
		g.behind = true
		return
	case "(eu-west has replicas)":
		g.replicas = true
		return
	case "(us-east dies)":
		g.dead = "us-east"
		return
	}
	in := ""
	if rest, ok := strings.CutPrefix(command, "< "); ok {
		file, after, _ := strings.Cut(rest, " ")
		text, err := os.ReadFile(file)
		if err != nil {
			g.t.Fatal(err)
		}
		in, command = string(text), after
	}
	out, errs, code := g.run(in, words(command)...)
	b.WriteString(out)
	for l := range strings.Lines(errs) {
		b.WriteString("! " + l)
	}
	if code != 0 {
		fmt.Fprintf(b, "(exit %d)\n", code)
	}
}

// words splits a line at spaces that are not in quotes.
func words(line string) []string {
	var out []string
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			out = append(out, part)
		} else {
			out = append(out, strings.Fields(part)...)
		}
	}
	return out
}

func TestWatchPrintsChangesUntilItEnds(t *testing.T) {
	g := newGround(t)
	service := func(name string) string {
		return "apiVersion: v1\nkind: Service\nmetadata: {name: " + name + "}\nspec: {ports: [{port: 80}]}\n"
	}
	if _, errs, code := g.run(service("a"), "apply", "-n", "shop", "-f", "-"); code != 0 {
		t.Fatal(errs)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	lines := make(chan string, 16)
	var errs bytes.Buffer
	o := g.options(strings.NewReader(""), nil, &errs)
	o.Out = lineWriter(lines)
	ended := make(chan int, 1)
	go func() { ended <- cli.Run(ctx, o, []string{"get", "services", "-n", "shop", "-w", "-o", "name"}) }()
	expect := func(want string) {
		t.Helper()
		select {
		case got := <-lines:
			if got != want {
				t.Errorf("printed %q, want %q", got, want)
			}
		case <-ctx.Done():
			t.Fatalf("nothing printed, want %q: %s", want, errs.String())
		}
	}
	expect("service/a\n")
	if _, e, code := g.run(service("b"), "apply", "-n", "shop", "-f", "-"); code != 0 {
		t.Fatal(e)
	}
	expect("service/b\n")
	cancel()
	if code := <-ended; code != 0 {
		t.Errorf("interrupted: exit %d: %s", code, errs.String())
	}
}

type lineWriter chan string

func (w lineWriter) Write(b []byte) (int, error) { w <- string(b); return len(b), nil }

func TestThousandFaultsAreThousandLines(t *testing.T) {
	g := newGround(t)
	var in strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&in, "---\napiVersion: v1\nkind: Service\nmetadata: {name: s%d}\nspec: {ports: []}\n", i)
	}
	out, errs, code := g.run(in.String(), "apply", "-f", "-")
	lines := strings.Split(strings.TrimSuffix(errs, "\n"), "\n")
	if code != 1 || out != "" || len(lines) != 1001 || lines[1000] != "1000 faults in the input, nothing was written" ||
		lines[999] != "<stdin>:5000:15: Service default/s999: spec.ports: missing; write at least one port" {
		t.Errorf("exit %d, %d lines, the last two:\n%s", code, len(lines), strings.Join(lines[max(0, len(lines)-2):], "\n"))
	}
	out, errs, code = g.run(in.String(), "apply", "-f", "-", "-o", "json")
	var list []map[string]any
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list) != 1000 || code != 1 || errs != "" {
		t.Errorf("as JSON: %d faults, %v, exit %d, %s", len(list), err, code, errs)
	}
	if n := len(g.stores["eu-west"].objects); n != 0 {
		t.Errorf("%d objects were written", n)
	}
}

func TestEveryCommandHasHelpWithExamples(t *testing.T) {
	g := newGround(t)
	var o, e bytes.Buffer
	root := cli.New(g.options(strings.NewReader(""), &o, &e))
	seen := 0
	commands := root.Commands()
	for len(commands) > 0 {
		c := commands[0]
		commands = append(commands[1:], c.Commands()...)
		if seen++; c.Example == "" || c.Short == "" {
			t.Errorf("%s: example %q, short %q", c.CommandPath(), c.Example, c.Short)
		}
	}
	if seen < 18 {
		t.Errorf("%d commands", seen)
	}
	out, _, code := g.run("", "apply", "-h")
	if code != 0 || !strings.Contains(out, "Examples:") || !strings.Contains(out, "--dry-run") {
		t.Errorf("exit %d, %s", code, out)
	}
}

func TestCompletionKnowsLiveNames(t *testing.T) {
	g := newGround(t)
	manifests := "apiVersion: v1\nkind: Service\nmetadata: {name: catalog, namespace: shop}\nspec: {ports: [{port: 80}]}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n"
	if _, errs, code := g.run(manifests, "apply", "-f", "-"); code != 0 {
		t.Fatal(errs)
	}
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"get", "svc", "-n", "shop", ""}, []string{"catalog"}},
		{[]string{"describe", "-n", "shop", "svc/"}, []string{"svc/catalog"}},
		{[]string{"get", "svc", "-n", ""}, []string{"shop", "default"}},
		{[]string{"status", "--cluster", ""}, []string{"eu-west", "us-east"}},
		{[]string{"explain", ""}, []string{"catalog-0.shop@eu-west", "catalog-0.shop@us-east"}},
		{[]string{"explain", "a@eu-west", ""}, []string{"catalog.shop"}},
		{[]string{"proxy-config", ""}, []string{"gateway.isthmus-system@us-east"}},
		{[]string{"drill", "kill", ""}, []string{"catalog.shop@us-east", "store@eu-west"}},
		{[]string{"drill", "partition", ""}, []string{"eu-west--us-east"}},
		{[]string{"get", "services", "-o", ""}, []string{"wide", "name"}},
		{[]string{"get", ""}, []string{"httproutes", "services"}},
	} {
		out, _, code := g.run("", append([]string{"__completeNoDesc"}, c.args...)...)
		for _, w := range c.want {
			if code != 0 || !slices.Contains(strings.Split(out, "\n"), w) {
				t.Errorf("complete %q: exit %d, %q; want %s in it", c.args, code, out, w)
			}
		}
	}
	g.console.Close()
	if out, _, code := g.run("", "__completeNoDesc", "get", "svc", ""); code != 0 || !strings.HasPrefix(out, ":4") {
		t.Errorf("without a mesh: exit %d, %q", code, out)
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if out, errs, code := g.run("", "completion", shell); code != 0 || !strings.Contains(out, "isthmus") {
			t.Errorf("completion %s: exit %d, %s", shell, code, errs)
		}
	}
}

func TestKubectlPluginSpeaksAsOne(t *testing.T) {
	g := newGround(t)
	var o, e bytes.Buffer
	opts := g.options(strings.NewReader(""), &o, &e)
	opts.Name = "/usr/bin/kubectl-isthmus"
	if code := cli.Run(context.Background(), opts, []string{"get", "-h"}); code != 0 || !strings.Contains(o.String(), "kubectl isthmus get KIND") {
		t.Errorf("exit %d, %s", code, o.String())
	}
}

func TestAPIElsewhere(t *testing.T) {
	g := newGround(t)
	direct := httptest.NewServer(g.planes[1])
	defer direct.Close()
	for _, url := range []string{g.console.URL, direct.URL} {
		out, errs, code := g.run("", "status", "--api", url, "--token", token, "--cluster", "us-east", "-o", "json")
		if code != 0 || !strings.Contains(out, `"cluster": "us-east"`) {
			t.Errorf("%s: exit %d, %s%s", url, code, out, errs)
		}
	}
	if _, errs, code := g.run("", "get", "services", "--api", direct.URL, "--token", "wrong"); code != 1 || !strings.Contains(errs, "token is missing or wrong") {
		t.Errorf("wrong token: exit %d, %s", code, errs)
	}
	if _, errs, code := g.run("", "get", "services", "--api", "http://127.0.0.1:1", "--token", token); code != 2 || !strings.Contains(errs, "call the API at http://127.0.0.1:1: ") {
		t.Errorf("nobody there: exit %d, %s", code, errs)
	}
	if _, errs, code := g.run("", "get", "services", "--state-dir", filepath.Join(g.state, "none")); code != 2 || !strings.Contains(errs, "start one with isthmus up") {
		t.Errorf("no mesh: exit %d, %s", code, errs)
	}
}

func TestColoursOnlyOnATerminalThatWantsThem(t *testing.T) {
	g := newGround(t)
	g.behind = true
	for _, c := range []struct {
		terminal bool
		noColor  string
		args     []string
		want     bool
	}{{true, "", nil, true}, {false, "", nil, false}, {true, "1", nil, false}, {true, "", []string{"--no-color"}, false}} {
		var o, e bytes.Buffer
		opts := g.options(strings.NewReader(""), &o, &e)
		opts.Terminal = c.terminal
		opts.Getenv = func(name string) string { return map[string]string{"NO_COLOR": c.noColor}[name] }
		if code := cli.Run(context.Background(), opts, append([]string{"status"}, c.args...)); code != 1 || strings.Contains(o.String(), "\x1b[") != c.want || strings.Contains(o.String(), "\x00") {
			t.Errorf("%+v: exit %d, %q", c, code, o.String())
		}
	}
}
