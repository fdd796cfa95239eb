package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "isthmus-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary = os.Getenv("ISTHMUS_E2E")
	if binary == "" {
		binary = filepath.Join(dir, "isthmus")
		build := exec.Command("go", "build", "-o", binary, "github.com/isthmus-mesh/isthmus/cmd/isthmus")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build the binary: %v\n%s", err, out)
			os.Exit(1)
		}
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// a mesh of a test: a state directory, an address base, and the commands on it.
type meshUnder struct {
	t       *testing.T
	dir     string
	runtime string
	base    int
}

// newMesh is a mesh that does not run yet; it is ended with the test.
func newMesh(t *testing.T, base int) *meshUnder {
	t.Helper()
	m := &meshUnder{t: t, dir: filepath.Join(t.TempDir(), "state"), runtime: filepath.Join(t.TempDir(), "run"), base: base}
	t.Cleanup(func() {
		if out, code := m.try("down"); code != 0 && !strings.Contains(out, "no mesh runs") {
			t.Errorf("down: exit %d: %s", code, out)
		}
		if t.Failed() {
			m.showLogs()
		}
	})
	return m
}

// try runs a command and returns its output and exit code.
func (m *meshUnder) try(args ...string) (string, int) {
	ctx, stop := context.WithTimeout(context.Background(), 60*time.Second)
	defer stop()
	cmd := exec.CommandContext(ctx, binary, append(args, "--state-dir", m.dir)...)
	cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+m.runtime, "NO_COLOR=1")
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		return err.Error(), -1
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// run is try that must succeed.
func (m *meshUnder) run(args ...string) string {
	m.t.Helper()
	out, code := m.try(args...)
	if code != 0 {
		m.t.Fatalf("isthmus %s: exit %d:\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

func (m *meshUnder) up(args ...string) {
	m.t.Helper()
	out := m.run(append([]string{"up", "--detach", "--address-base", strconv.Itoa(m.base)}, args...)...)
	m.t.Log(strings.SplitN(out, "\n", 2)[0])
}

// apply gives YAML to a cluster's control plane.
func (m *meshUnder) apply(cluster, yaml string) (string, int) {
	m.t.Helper()
	path := filepath.Join(m.t.TempDir(), "objects.yaml")
	if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
		m.t.Fatal(err)
	}
	return m.try("apply", "-f", path, "--cluster", cluster)
}

// pids lists the mesh's processes, from the arguments that name its state directory.
func (m *meshUnder) pids(parts ...string) []int {
	var out []int
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		line, err := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if err != nil || !bytes.Contains(line, []byte(m.dir)) || !bytes.HasPrefix(line, []byte(binary)) {
			continue
		}
		if !slices.ContainsFunc(parts, func(p string) bool { return !bytes.Contains(line, []byte(p)) }) {
			out = append(out, pid)
		}
	}
	return out
}

func (m *meshUnder) showLogs() {
	logs, _ := filepath.Glob(filepath.Join(m.dir, "logs", "*.log"))
	for _, path := range logs {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(b)), "\n")
		kept := slices.DeleteFunc(lines, func(l string) bool { return strings.Contains(l, `"level":"INFO"`) || l == "" })
		if n := len(kept); n > 0 {
			m.t.Logf("%s:\n%s", filepath.Base(path), strings.Join(kept[max(0, n-12):], "\n"))
		}
	}
}

// clusters of the default mesh, in their order.
var clusters = []string{"eu-west", "us-east", "ap-south"}

// shell is the explicit proxy of a cluster's shell.
func (m *meshUnder) shell(cluster int) *http.Client {
	proxy := &url.URL{Scheme: "http", Host: fmt.Sprintf("127.%d.0.1:15001", m.base+1+cluster)}
	return &http.Client{Timeout: 6 * time.Second, Transport: &http.Transport{Proxy: http.ProxyURL(proxy), MaxIdleConnsPerHost: 256}}
}

// answer is what the built-in applications say, and how the request ended.
type answer struct {
	Status   int
	Reason   string
	Service  string `json:"service"`
	Cluster  string `json:"cluster"`
	Instance string `json:"instance"`
	Caller   string `json:"caller"`
	err      error
	text     string
}

func (a answer) String() string {
	if a.err != nil {
		return a.err.Error()
	}
	return fmt.Sprintf("%d %s %s %s", a.Status, a.Reason, a.Cluster, strings.TrimSpace(a.text[:min(len(a.text), 200)]))
}

func get(c *http.Client, url string) answer {
	resp, err := c.Get(url)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	a := answer{Status: resp.StatusCode, Reason: resp.Header.Get("isthmus-reason"), err: err, text: string(b)}
	_ = json.Unmarshal(b, &a)
	return a
}

const catalog = "http://catalog.shop.svc.clusterset.local/"

// eventually polls until ok, and fails with what was seen last.
func eventually(t *testing.T, within time.Duration, what string, ok func() (string, bool)) time.Duration {
	t.Helper()
	begin := time.Now()
	last := ""
	for time.Since(begin) < within {
		seen, good := ok()
		if good {
			return time.Since(begin)
		}
		last = seen
		<-time.After(20 * time.Millisecond)
	}
	t.Fatalf("%s: not within %v; last seen: %s", what, within, last)
	return 0
}

// load sends GETs at a fixed rate, whatever becomes of the earlier ones, until stop is
// called.
type load struct {
	mu     sync.Mutex
	total  int
	failed []string
	by     map[string]int // served, by cluster
	stop   func() *load
}

func (m *meshUnder) load(cluster int, url string, rate int) *load {
	l := &load{by: map[string]int{}}
	ctx, cancel := context.WithCancel(context.Background())
	client := m.shell(cluster)
	var all sync.WaitGroup
	all.Go(func() {
		begin := time.Now()
		for i := 0; ; i++ {
			timer := time.NewTimer(time.Until(begin.Add(time.Duration(i) * time.Second / time.Duration(rate))))
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return
			}
			all.Go(func() {
				at := time.Since(begin)
				a := get(client, url)
				l.mu.Lock()
				defer l.mu.Unlock()
				l.total++
				if a.err != nil || a.Status != 200 {
					l.failed = append(l.failed, fmt.Sprintf("%.2fs: %s", at.Seconds(), a))
				} else {
					l.by[a.Cluster]++
				}
			})
		}
	})
	l.stop = func() *load {
		cancel()
		all.Wait()
		client.CloseIdleConnections()
		return l
	}
	return l
}

// servedBy counts the answers of a cluster so far.
func (l *load) servedBy(cluster string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.by[cluster]
}

// mustNotFail is the promise: not one request failed.
func (l *load) mustNotFail(t *testing.T) {
	t.Helper()
	t.Logf("%d requests, served by %v, %d failed", l.total, l.by, len(l.failed))
	if len(l.failed) > 0 {
		t.Errorf("%d of %d requests failed, the first: %s", len(l.failed), l.total, strings.Join(l.failed[:min(5, len(l.failed))], "; "))
	}
}

// movesTo waits until answers come from a cluster, and from no other for a while.
func (l *load) movesTo(t *testing.T, cluster string, within time.Duration) {
	t.Helper()
	before := l.servedBy(cluster)
	eventually(t, within, "traffic moves to "+cluster, func() (string, bool) {
		return fmt.Sprint(l.servedBy(cluster) - before), l.servedBy(cluster) > before+20
	})
}
