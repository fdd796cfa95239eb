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
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var binary string

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == attackerArg {
		attacker()
		return
	}
	if len(os.Args) == 3 && os.Args[1] == workloadArg {
		if err := workload(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	// The address bases are written in the tests: a second run on this machine waits for the
	// first. The lock goes with the process.
	turn, err := os.OpenFile(filepath.Join(os.TempDir(), fmt.Sprintf("isthmus-e2e-%d.lock", os.Getuid())), os.O_CREATE|os.O_RDWR, 0o600)
	if err == nil {
		err = syscall.Flock(int(turn.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "wait for another run: %v\n", err)
	}
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
	runtime.KeepAlive(turn) // collected, it would be closed
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// a mesh of a test: a state directory, an address base, and the commands on it.
type meshUnder struct {
	t       *testing.T
	dir     string
	runtime string
	base    int
	// binary is what the mesh runs.
	binary string
}

// newMesh is a mesh that does not run yet; it is ended with the test.
func newMesh(t *testing.T, base int) *meshUnder {
	t.Helper()
	m := &meshUnder{t: t, dir: filepath.Join(t.TempDir(), "state"), runtime: filepath.Join(t.TempDir(), "run"), base: base, binary: binary}
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
	cmd := exec.CommandContext(ctx, m.binary, append(args, "--state-dir", m.dir)...)
	cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+m.runtime, "NO_COLOR=1")
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		return err.Error(), -1
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// apart is try with what it prints to standard output and error apart.
func (m *meshUnder) apart(args ...string) (stdout, stderr string, code int) {
	ctx, stop := context.WithTimeout(context.Background(), 60*time.Second)
	defer stop()
	cmd := exec.CommandContext(ctx, m.binary, append(args, "--state-dir", m.dir)...)
	cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+m.runtime, "NO_COLOR=1")
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		return "", err.Error(), -1
	}
	return out.String(), complaints.String(), cmd.ProcessState.ExitCode()
}

// watch runs a command until the test ends, and returns what tells what it has printed.
func (m *meshUnder) watch(t *testing.T, args ...string) func() string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "watched")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(m.binary, append(args, "--state-dir", m.dir)...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
		out.Close()
	})
	return func() string {
		b, _ := os.ReadFile(path)
		return string(b)
	}
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
		if err != nil || !bytes.Contains(line, []byte(m.dir)) || !bytes.HasPrefix(line, []byte(m.binary)) {
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
	begin  time.Time
	all    []sample
	stop   func() *load
}

// sample is one request: when it began, counted from the load's own beginning, how long it
// took, and who answered.
type sample struct {
	begin, took       time.Duration
	cluster, instance string
}

// failedAfter is how long a client waits for an answer that counts as one.
const failedAfter = 5 * time.Second

func (m *meshUnder) load(cluster int, url string, rate int) *load {
	l := &load{by: map[string]int{}, begin: time.Now()}
	ctx, cancel := context.WithCancel(context.Background())
	client := m.shell(cluster)
	var all sync.WaitGroup
	all.Go(func() {
		begin := l.begin
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
				s := sample{at, time.Since(begin) - at, a.Cluster, a.Instance}
				l.all = append(l.all, s)
				if a.err == nil && s.took > failedAfter {
					a.err = fmt.Errorf("answered by %s after %v", a.Instance, s.took)
				}
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

// now is the time on the load's clock.
func (l *load) now() time.Duration { return time.Since(l.begin) }

// samples are the requests that began in [from, to) and have ended.
func (l *load) samples(from, to time.Duration) []sample {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []sample
	for _, s := range l.all {
		if s.begin >= from && s.begin < to {
			out = append(out, s)
		}
	}
	return out
}

// write makes a file of a test.
func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// log is what a process of the mesh has said.
func (m *meshUnder) log(process string) string {
	b, err := os.ReadFile(filepath.Join(m.dir, "logs", process+".log"))
	if err != nil {
		m.t.Fatal(err)
	}
	return string(b)
}

// says waits until a process's log, past its first bytes, has a line with all the parts.
func (m *meshUnder) says(t *testing.T, process string, past int, within time.Duration, parts ...string) {
	t.Helper()
	eventually(t, within, fmt.Sprintf("%s says %q", process, parts), func() (string, bool) {
		fresh := m.log(process)[past:]
		for line := range strings.Lines(fresh) {
			if !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(line, p) }) {
				return line, true
			}
		}
		return fresh, false
	})
}

// address is one of the mesh's: net and host of a cluster, from 0.
func (m *meshUnder) address(cluster, net, host, port int) string {
	return fmt.Sprintf("127.%d.%d.%d:%d", m.base+1+cluster, net, host, port)
}

// metrics are those of a cluster's control plane.
func (m *meshUnder) metrics(cluster string) string {
	m.t.Helper()
	var at struct {
		Console string `json:"console"`
	}
	b, err := os.ReadFile(filepath.Join(m.dir, "mesh.json"))
	if err == nil {
		err = json.Unmarshal(b, &at)
	}
	token, err2 := os.ReadFile(filepath.Join(m.dir, "token"))
	if err != nil || err2 != nil {
		m.t.Fatal(err, err2)
	}
	req, err := http.NewRequest(http.MethodGet, at.Console+"/v1/clusters/"+cluster+"/v1/metrics", nil)
	if err != nil {
		m.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	resp, err := (&http.Client{Timeout: 10 * time.Second}).Do(req)
	if err != nil {
		m.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		m.t.Fatal(err)
	}
	return string(text)
}

// crash kills the one process whose arguments hold parts as kill -9 does, and tells nobody.
func (m *meshUnder) crash(t *testing.T, parts ...string) {
	t.Helper()
	pids := m.pids(parts...)
	if len(pids) != 1 {
		t.Fatalf("processes %v of %q, want one", pids, parts)
	}
	if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "the process is gone", func() (string, bool) {
		now := m.pids(parts...)
		return fmt.Sprint(now), !slices.Contains(now, pids[0])
	})
}

// admin is where a proxy is asked about itself, from its configuration.
func (m *meshUnder) admin(process string) string {
	var c struct {
		Admin string `json:"admin"`
	}
	b, err := os.ReadFile(filepath.Join(m.dir, "run", process+".json"))
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil {
		m.t.Fatal(err)
	}
	return c.Admin
}
