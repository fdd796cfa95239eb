package isthmus

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/isthmus-mesh/isthmus/"

// pkg is one package of the module as its own files state it.
type pkg struct {
	dir     string // relative, "core/world"
	doc     bool
	imports map[string]string // import path → file
	files   []file
}

type file struct {
	path   string
	lines  int
	exempt bool
	funcs  map[string]int // name → lines
}

// law forbids imports to some packages, with the reason printed at a breach.
type law struct {
	who    func(dir string) bool
	forbid func(path string) bool
	why    string
}

func under(prefixes ...string) func(string) bool {
	return func(dir string) bool {
		return slices.ContainsFunc(prefixes, func(p string) bool { return dir == p || strings.HasPrefix(dir, p+"/") })
	}
}

func ours(prefixes ...string) func(string) bool {
	return func(path string) bool {
		rest, ok := strings.CutPrefix(path, module)
		return ok && under(prefixes...)(rest)
	}
}

func isModule(path string) bool { return strings.HasPrefix(path, module) }

func isStandard(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".")
}

func either(fs ...func(string) bool) func(string) bool {
	return func(s string) bool {
		return slices.ContainsFunc(fs, func(f func(string) bool) bool { return f(s) })
	}
}

func except(f func(string) bool, but ...string) func(string) bool {
	return func(s string) bool { return f(s) && !slices.Contains(but, s) }
}

func exactly(paths ...string) func(string) bool {
	return func(s string) bool { return slices.Contains(paths, s) }
}

// floors, highest first: a package imports its own floor and those below.
var floors = [][]string{
	{"cmd"},
	{"localmesh", "sim", "bench"},
	{"cli", "console"},
	{"api"},
	{"control", "dataplane"},
	{"xds", "trust", "telemetry"},
	{"codec"},
	{"core"},
	{"internal"},
	{"mesh"},
}

var laws = []law{
	{under("mesh"), func(p string) bool { return !isStandard(p) }, "mesh is the words: it imports the standard library only"},
	{under("core"), either(exactly("os", "log", "log/slog", "math/rand", "net", "net/http", "syscall", "os/exec"),
		except(func(p string) bool { return p == "sync" || strings.HasPrefix(p, "sync/") }, "sync/atomic")),
		"core is thought: no I/O, no goroutine, no lock, no log"},
	{under("core"), func(p string) bool {
		return !isStandard(p) && !isModule(p) && !strings.HasPrefix(p, "github.com/google/cel-go")
	},
		"core imports third-party modules only by name (cel-go in policy)"},
	{under("dataplane"), ours("control", "core/world", "core/derive", "core/compile", "core/replica"),
		"a proxy acts on ir; it does not know where that comes from"},
	{under("control"), ours("dataplane"), "the control plane never runs a proxy"},
	{under("dataplane/proxy", "dataplane/hbone", "dataplane/orca", "dataplane/ingress", "dataplane/termination", "dataplane/quota", "dataplane/intake", "dataplane/tenancy", "dataplane/fallback", "dataplane/condition", "dataplane/mishap", "dataplane/route", "dataplane/trace", "dataplane/tunnel", "dataplane/door", "dataplane/http1", "dataplane/http2"),
		either(exactly("net/http", "net/http/httputil", "golang.org/x/net/http2"), func(p string) bool { return strings.HasPrefix(p, "github.com/valyala/fasthttp") }),
		"requests pass through our own engines"},
	{func(d string) bool { return !under("codec/envoy", "xds", "bench/controlplane")(d) }, func(p string) bool { return strings.HasPrefix(p, "github.com/envoyproxy/go-control-plane") },
		"only codec/envoy, xds and the control plane's peer in its benchmark know Envoy's messages"},
	{func(d string) bool { return !under("control/kube")(d) }, func(p string) bool { return strings.HasPrefix(p, "k8s.io/client-go") },
		"only control/kube speaks to Kubernetes"},
	{func(d string) bool { return !under("control/storeserver")(d) }, func(p string) bool { return strings.HasPrefix(p, "go.etcd.io/etcd/server") },
		"only the store's own process links etcd's server"},
	{under("cli", "console"), ours("control", "dataplane", "core/world", "core/derive"), "cli and console reach state only through api"},
}

// exceptions to the laws, each with its reason.
var exceptions = map[string]string{
	"core/derive sync":        "derive evaluates in parallel inside one revision",
	"core/world hash/maphash": "a hash table without I/O",
}

// inFolder is the committed order of imports inside a folder: a package may import those
// listed after it.
var inFolder = map[string][]string{
	"cli":       {"events", "outlook", "table"},
	"core":      {"event", "compile", "attach", "replica", "world", "derive", "policy", "balance", "outage", "failback", "split", "admission", "limit", "liveness", "health", "ir", "price", "drift", "skew", "capacity"},
	"dataplane": {"agent", "admin", "handover", "dns", "regions", "quarantine", "snapshot", "capture", "sniff", "downstream", "probe", "healthcheck", "load", "application", "proxy", "ingress", "termination", "hbone", "intake", "orca", "quota", "mishap", "tenancy", "fallback", "condition", "route", "trace", "tunnel", "door", "http2", "http1", "raw", "datagram", "socket", "message"},
	"control":   {"plane", "authority", "events", "detour", "drain", "census", "load", "verdict", "sibling", "loop", "relay", "peer", "probe", "ca", "claim", "address", "recall", "object", "secret", "filestore", "store", "storeserver"},
	"codec":     {"manifest", "wire"},
	"internal":  {"story", "golden", "failpoint", "loopback", "parallel", "direct", "clock"},
	"localmesh": {"link", "app"},
	"sim":       {"catalog", "shape", "facts", "virtual", "tally", "defence", "traffic"},
	"bench":     {"dataplane", "controlplane", "traffic", "emulation", "local", "detection", "report", "rig", "load"},
}

func TestImportsRunDownward(t *testing.T) {
	for _, p := range packages(t) {
		for path, f := range p.imports {
			for _, l := range laws {
				if l.who(p.dir) && l.forbid(path) && exceptions[p.dir+" "+path] == "" {
					t.Errorf("%s imports %s: %s", f, path, l.why)
				}
			}
			rest, ok := strings.CutPrefix(path, module)
			if !ok {
				continue
			}
			if a, b := floorOf(p.dir), floorOf(rest); a > b {
				t.Errorf("%s imports %s: imports run downward, and %s is above", f, path, rest)
			}
			folder, name, _ := strings.Cut(p.dir, "/")
			otherFolder, other, _ := strings.Cut(rest, "/")
			if folder == otherFolder && name != "" && other != "" && !strings.Contains(name+other, "/") {
				order := inFolder[folder]
				if i, j := slices.Index(order, name), slices.Index(order, other); i < 0 || j < 0 || i >= j {
					t.Errorf("%s imports %s: inside %s the order is %v", f, path, folder, order)
				}
			}
		}
	}
}

func floorOf(dir string) int {
	top, _, _ := strings.Cut(dir, "/")
	i := slices.IndexFunc(floors, func(f []string) bool { return slices.Contains(f, top) })
	if i < 0 {
		return len(floors)
	}
	return i
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	for _, p := range packages(t) {
		if !p.doc {
			t.Errorf("%s has no package comment: what it is, its one idea, what it does not do, the first type to read", p.dir)
		}
		if strings.Count(p.dir, "/") > 1 && !strings.HasPrefix(p.dir, "codec/wire/") {
			t.Errorf("%s is deeper than two levels", p.dir)
		}
		switch filepath.Base(p.dir) {
		case "util", "utils", "common", "types", "manager", "helpers":
			t.Errorf("%s: a package is named for what it provides", p.dir)
		}
	}
}

// TestBudgets warns; only growth beyond the committed figures of testdata/budget.json
// fails.
func TestBudgets(t *testing.T) {
	known := map[string]struct {
		Lines  int
		Reason string
	}{}
	if b, err := os.ReadFile("testdata/budget.json"); err == nil {
		if err := json.Unmarshal(b, &known); err != nil {
			t.Fatal(err)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	over := func(what string, got, budget int) {
		if got <= budget {
			return
		}
		t.Logf("%s: %d lines, budget %d", what, got, budget)
		if k := known[what]; got > max(k.Lines, budget) || k.Reason == "" {
			t.Errorf("%s has grown to %d lines (budget %d, committed %d): split it, or state the reason in testdata/budget.json", what, got, budget, k.Lines)
		}
	}
	for _, p := range packages(t) {
		sum := 0
		for _, f := range p.files {
			if f.exempt {
				continue
			}
			sum += f.lines
			over(f.path, f.lines, 500)
			for name, n := range f.funcs {
				over(f.path+" "+name, n, 70)
			}
		}
		over(p.dir, sum, 3000)
	}
}

// TestProxyLinksNoControlPlane holds the proxy's dependencies against the committed list
// of what must never be linked.
func TestProxyLinksNoControlPlane(t *testing.T) {
	if _, err := os.Stat("cmd/isthmus-proxy"); err != nil {
		t.Fatal("there is no cmd/isthmus-proxy")
	}
	out, err := exec.Command("go", "list", "-deps", "./cmd/isthmus-proxy").Output()
	if err != nil {
		t.Fatalf("list dependencies of cmd/isthmus-proxy: %v", err)
	}
	for _, dep := range strings.Fields(string(out)) {
		for _, banned := range []string{"k8s.io/", "sigs.k8s.io/", "go.etcd.io/", module + "control", module + "console", module + "core/compile", module + "core/world"} {
			if strings.HasPrefix(dep, banned) {
				t.Errorf("cmd/isthmus-proxy links %s: a sidecar carries no control plane", dep)
			}
		}
	}
}

// packages parses the module's own non-test, non-generated files.
func packages(t *testing.T) []*pkg {
	t.Helper()
	found := map[string]*pkg{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); path != "." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "node_modules" || name == "tools") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		return record(found, path)
	})
	if err != nil {
		t.Fatal(err)
	}
	var out []*pkg
	for _, p := range found {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b *pkg) int { return strings.Compare(a.dir, b.dir) })
	return out
}

func record(found map[string]*pkg, path string) error {
	set := token.NewFileSet()
	src, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	f, err := parser.ParseFile(set, path, src, parser.ParseComments)
	if err != nil {
		return fmt.Errorf("parse %s: %w", path, err)
	}
	if ast.IsGenerated(f) {
		return nil
	}
	dir := filepath.ToSlash(filepath.Dir(path))
	p := found[dir]
	if p == nil {
		p = &pkg{dir: dir, imports: map[string]string{}}
		found[dir] = p
	}
	p.doc = p.doc || f.Doc != nil
	for _, i := range f.Imports {
		v, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			return err
		}
		p.imports[v] = path
	}
	info := file{path: path, lines: strings.Count(string(src), "\n"), exempt: strings.Contains(string(src), "//house:exempt"), funcs: map[string]int{}}
	for _, d := range f.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok {
			info.funcs[fn.Name.Name] = set.Position(fn.End()).Line - set.Position(fn.Pos()).Line + 1
		}
	}
	p.files = append(p.files, info)
	return nil
}
