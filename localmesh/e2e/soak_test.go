package e2e

import (
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The soak is short in every run of the tests, and half an hour by hand: make soak SOAK=30m.
var (
	soakTime = flag.Duration("soak", 20*time.Second, "how long the soak lasts")
	soakRate = flag.Int("soak-rate", 100, "requests a second of each of the soak's clients")
	soakSeed = flag.Uint64("soak-seed", 0, "the seed of the soak's faults; 0 draws one")
)

const soakMesh = `
apiVersion: isthmus.dev/v1alpha1
kind: LocalMesh
clusters:
  - {name: eu-west, jurisdiction: EU}
  - {name: us-east, jurisdiction: US}
links:
  - {between: [eu-west, us-east], rtt: 20ms}
workloads:
  - {name: catalog, namespace: shop, replicas: 2, run: builtin/echo}
  - {name: reviews, namespace: shop, replicas: 2, run: builtin/echo}
certificateTTL: 25s
`

// swaps are configurations that follow one another every second. None forbids anything.
var swaps = []string{`
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: soak, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: catalog, port: 80}]
  rules:
  - backendRefs: [{name: catalog, port: 80, weight: %d}, {name: reviews, port: 80, weight: 50}]
`, `
apiVersion: isthmus.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: soak, namespace: shop}
spec:
  targetRefs: [{kind: Namespace, name: shop}]
  timeouts: {request: %ds}
`, `
apiVersion: isthmus.dev/v1alpha1
kind: AccessPolicy
metadata: {name: soak, namespace: shop}
spec:
  targetRefs: [{kind: Namespace, name: shop}]
  action: Deny
  rules: [{to: [{paths: ["/forbidden-%d"]}]}]
`}

// fault is one that the soak may put in, and how it is taken out again.
type fault struct{ in, out []string }

// takesWrites reports whether what the fault breaks is asked by apply.
func (f *fault) takesWrites() bool {
	return strings.HasPrefix(f.in[2], "store@") || strings.HasPrefix(f.in[2], "control-plane@")
}

// storeStarts bounds how long a store that was killed needs to open its log and to answer.
const storeStarts = 20 * time.Second

// soakFaults leave, one at a time, a way to every service.
func soakFaults() []fault {
	var out []fault
	for _, s := range []string{"catalog.shop", "reviews.shop"} {
		for _, c := range []string{"eu-west", "us-east"} {
			for i := range 2 {
				at := fmt.Sprintf("%s/%d@%s", s, i, c)
				out = append(out, fault{[]string{"drill", "kill", at}, []string{"drill", "resume", at}},
					fault{[]string{"drill", "kill", "sidecar:" + at}, []string{"drill", "resume", "sidecar:" + at}},
					fault{[]string{"drill", "pause", "app:" + at}, []string{"drill", "resume", "app:" + at}})
			}
		}
	}
	for _, at := range []string{"control-plane@eu-west", "control-plane@us-east", "store@eu-west", "store@us-east", "gateway@us-east", "gateway@eu-west"} {
		out = append(out, fault{[]string{"drill", "kill", at}, []string{"drill", "resume", at}})
	}
	return append(out, fault{[]string{"drill", "partition", "eu-west--us-east"}, []string{"drill", "heal", "eu-west--us-east"}})
}

// TestSoak keeps two clients busy while endpoints die and return, certificates are renewed every ten
// seconds, and policies change every second: not one idempotent request fails, and what was not
// restarted ends with the goroutines, the descriptors and the memory that it had.
func TestSoak(t *testing.T) {
	seed := *soakSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d (-soak-seed)", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	m := newMesh(t, 190)
	m.up("-f", write(t, "mesh.yaml", soakMesh))
	m.inSync(t, 10*time.Second)
	warm := m.load(0, catalog, *soakRate)
	warm2 := m.load(1, catalog, *soakRate)
	<-time.After(min(*soakTime/4, time.Minute))
	warm.stop().mustNotFail(t)
	warm2.stop().mustNotFail(t)
	before := m.footprints(t)

	loads := []*load{m.load(0, catalog, *soakRate), m.load(1, "http://reviews.shop/", *soakRate)}
	faults := soakFaults()
	end := time.Now().Add(*soakTime)
	count := map[string]int{}
	var broken *fault
	var returned time.Time // when what takes writes was started again
	for i := 0; time.Now().Before(end); i++ {
		out, code := m.apply([]string{"eu-west", "us-east"}[i/3%2], fmt.Sprintf(swaps[i%3], 20+i%30))
		switch {
		case code == 0:
			count["policy"]++
		case broken != nil && broken.takesWrites() || time.Since(returned) < storeStarts:
			count["policy refused"]++
		default:
			t.Errorf("apply: exit %d: %s", code, out)
		}
		switch {
		case broken != nil && i%4 == 3:
			m.run(broken.out...)
			if broken.takesWrites() {
				returned = time.Now()
			}
			broken = nil
		case broken == nil && i%4 == 1:
			broken = &faults[r.IntN(len(faults))]
			m.run(broken.in...)
			count[broken.in[1]+" "+kindOf(broken.in[2])]++
		}
		<-time.After(time.Second)
	}
	if broken != nil {
		m.run(broken.out...)
	}
	t.Logf("what was done: %v", count)
	for _, l := range loads {
		l.stop().mustNotFail(t)
	}
	m.inSync(t, 20*time.Second)
	m.settled(t, before)
}

// kindOf is the kind of a drill's target.
func kindOf(target string) string {
	if kind, _, ok := strings.Cut(target, "@"); ok && !strings.Contains(kind, "/") {
		return kind
	}
	if strings.Contains(target, "--") {
		return "link"
	}
	if kind, _, ok := strings.Cut(target, ":"); ok {
		return kind
	}
	return "instance"
}

// footprint is what a process holds.
type footprint struct {
	name                    string
	goroutines, descriptors int
	rss                     int64
}

// footprints are those of the proxies, by pid.
func (m *meshUnder) footprints(t *testing.T) map[int]footprint {
	t.Helper()
	out := map[int]footprint{}
	files, _ := filepath.Glob(filepath.Join(m.dir, "run", "*.json"))
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".json")
		pids := m.pids("/run/"+name+".json", "\x00proxy\x00")
		if len(pids) != 1 {
			continue // no proxy, or dead for now
		}
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pids[0]))
		if err != nil {
			continue
		}
		_, rss := usage(t, pids[0])
		out[pids[0]] = footprint{name, goroutines(m.admin(name)), len(entries), rss}
	}
	if len(out) == 0 {
		t.Fatal("no proxy was found")
	}
	return out
}

// goroutines asks a proxy how many it has; 0 if it does not answer.
func goroutines(admin string) int {
	c := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Get("http://" + admin + "/debug/pprof/goroutine?debug=1")
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	_, rest, _ := strings.Cut(string(b), "total ")
	line, _, _ := strings.Cut(rest, "\n")
	n, _ := strconv.Atoi(strings.TrimSpace(line))
	return n
}

// Slack is what differs from moment to moment: a connection that is being replaced, idle connections
// of applications, a collection that is due.
const (
	slackGoroutines = 40
	slackRSS        = 12 << 20
)

// settled waits until the proxies that lived through it all hold what they held before.
func (m *meshUnder) settled(t *testing.T, before map[int]footprint) {
	t.Helper()
	var after map[int]footprint
	survivors := 0
	eventually(t, 90*time.Second, "what was opened is closed", func() (string, bool) {
		after = m.footprints(t)
		survivors = 0
		for pid, b := range before {
			a, ok := after[pid]
			if !ok {
				continue
			}
			survivors++
			if a.goroutines > b.goroutines+slackGoroutines || a.descriptors > b.descriptors+slackGoroutines {
				return fmt.Sprintf("%s: %d goroutines and %d descriptors, before %d and %d", b.name, a.goroutines, a.descriptors, b.goroutines, b.descriptors), false
			}
		}
		return "", true
	})
	if survivors == 0 {
		t.Error("no proxy lived through it: nothing was compared")
	}
	for _, pid := range slices.Sorted(maps.Keys(before)) {
		b, a := before[pid], after[pid]
		if a.name == "" {
			continue
		}
		t.Logf("%s: goroutines %d → %d, descriptors %d → %d, RSS %.1f → %.1f MiB", b.name, b.goroutines, a.goroutines, b.descriptors, a.descriptors,
			float64(b.rss)/(1<<20), float64(a.rss)/(1<<20))
		if a.rss > b.rss+slackRSS {
			t.Errorf("%s grew from %d to %d MiB", b.name, b.rss>>20, a.rss>>20)
		}
	}
}
