package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// detourMesh has a service in us-east alone, and one whose instance at home is to be killed; the client is in eu-west, and both reach
// ap-south, which has neither.
const detourMesh = `
apiVersion: isthmus.dev/v1alpha1
kind: LocalMesh
clusters:
  - {name: eu-west, jurisdiction: EU}
  - {name: us-east, jurisdiction: US}
  - {name: ap-south, jurisdiction: IN}
links:
  - {between: [eu-west, us-east], rtt: 20ms}
  - {between: [eu-west, ap-south], rtt: 40ms}
  - {between: [us-east, ap-south], rtt: 60ms}
workloads:
  - {name: only, namespace: shop, clusters: [us-east], replicas: 2, lanes: 20, run: builtin/echo}
  - {name: both, namespace: shop, clusters: [eu-west, us-east], lanes: 20, run: builtin/echo}
`

const (
	onlyThere = "http://only.shop.svc.clusterset.local/"
	bothWays  = "http://both.shop.svc.clusterset.local/"
)

// TestAServiceBeyondACutLinkIsServedByAThirdCluster cuts the link to the only cluster that has a service, both ways and one way, under
// 100 requests a second: a third cluster's gateways pass them on until the link is back, and what people are shown says so. The controls:
// the third cluster's link is cut as well, and a law that lets nothing pass there; then requests fail, and the reason is said.
func TestAServiceBeyondACutLinkIsServedByAThirdCluster(t *testing.T) {
	m := newMesh(t, 243)
	m.up("-f", write(t, "mesh.yaml", detourMesh))
	m.run("drill", "kill", "both.shop@eu-west")
	m.inSync(t, 30*time.Second)
	for _, c := range []struct {
		name, url string
		fault     []string
	}{
		{"both ways", onlyThere, []string{"partition", euUS}},
		{"there", onlyThere, []string{"partition", euUS, "--direction", "a-to-b"}},
		{"back", onlyThere, []string{"partition", euUS, "--direction", "b-to-a"}},
		{"requests only", onlyThere, []string{"partition", euUS, "--only", "data"}},
		{"with instances at home that are dead", bothWays, []string{"partition", euUS}},
	} {
		t.Run(c.name, func(t *testing.T) {
			own := *m
			own.t = t
			own.detour(t, c.url, c.fault)
		})
	}
	t.Run("control: the third is cut off as well", func(t *testing.T) { m.noDetour(t, "", "partition", euUS, "ap-south--us-east") })
	t.Run("control: its owner wants nothing passed on", func(t *testing.T) {
		object := m.run("get", "cluster", "ap-south", "-o", "yaml", "--cluster", "ap-south")
		apply := func(yaml string) {
			if out, code := m.apply("ap-south", yaml); code != 0 {
				t.Fatalf("apply: exit %d: %s", code, out)
			}
			m.noDrift(t)
		}
		apply(strings.Replace(object, "\nspec:\n", "\nspec:\n  transit: Deny\n", 1))
		m.noDetour(t, "", "partition", euUS)
		apply(strings.Replace(object, "\nspec:\n", "\nspec:\n  transit: Allow\n", 1))
	})
	t.Run("control: the law lets nothing pass there", func(t *testing.T) {
		if out, code := m.apply("eu-west", `
apiVersion: isthmus.dev/v1alpha1
kind: ResidencyPolicy
metadata: {name: ends, namespace: shop}
spec: {targetRefs: [{group: "", kind: Service, name: only}], jurisdictions: [EU, US]}
`); code != 0 {
			t.Fatalf("apply: exit %d: %s", code, out)
		}
		m.noDrift(t)
		m.noDetour(t, "lets nothing pass by ap-south (IN)", "partition", euUS)
	})
}

// served waits until all that was asked for in a second was served by us-east, and returns when the first of what goes on to be served
// began, on the load's clock.
func (l *mixedLoad) served(t *testing.T, within time.Duration) time.Duration {
	t.Helper()
	first := time.Duration(0)
	eventually(t, within, "us-east serves", func() (string, bool) {
		s := l.samples(l.now()-1500*time.Millisecond, l.now()-500*time.Millisecond)
		n := len(slices.DeleteFunc(slices.Clone(s), func(x mixed) bool { return x.cluster != "us-east" || x.failed != "" }))
		if len(s) > 0 {
			first = slices.MinFunc(s, func(a, b mixed) int { return int(a.begin - b.begin) }).begin
		}
		return fmt.Sprintf("%d of %d", n, len(s)), n >= 80 && n == len(s)
	})
	return first
}

// detour makes a fault, sees that requests go on by ap-south, and mends it.
func (m *meshUnder) detour(t *testing.T, url string, fault []string) {
	l := m.mixed(0, url, 100)
	defer l.stop()
	l.served(t, 40*time.Second)
	cut := l.now()
	m.run(append([]string{"drill"}, fault...)...)
	eventually(t, 20*time.Second, "status has the way by ap-south", func() (string, bool) {
		out, _ := m.try("status")
		return out, strings.Contains(out, "by ap-south, ")
	})
	l.served(t, 20*time.Second)
	service := strings.TrimSuffix(strings.TrimPrefix(url, "http://"), ".svc.clusterset.local/")
	explained, _ := m.try("explain", "shell.default@eu-west", service)
	if !strings.Contains(explained, " by ap-south, rtt ") {
		t.Errorf("explain does not say by what way:\n%s", explained)
	}
	if got := m.metrics("eu-west"); !strings.Contains(got, `isthmus_peer_detour_rtt_seconds{cluster="eu-west",peer="us-east",via="ap-south"}`) {
		t.Error("no metric says that there is a way by ap-south")
	}
	<-time.After(2 * time.Second)
	mended := l.now()
	m.run("drill", "heal", euUS)
	eventually(t, 60*time.Second, "the direct way is taken again", func() (string, bool) {
		out, code := m.try("status")
		return out, code == 0 && !strings.Contains(out, "by ap-south, ")
	})
	home := l.now()
	<-time.After(time.Second)
	l.stop()
	moved, failed, after, gets := cut, map[string]int{}, 0, 0
	for _, s := range l.samples(0, l.now()) {
		if s.begin < cut-time.Second {
			continue
		}
		gets++
		if s.failed != "" {
			failed[s.failed]++
		}
		if s.begin < mended && (s.failed != "" || s.took > slowAfter) {
			moved = max(moved, s.begin)
		}
		if s.begin > moved && s.failed != "" {
			after++
		}
	}
	events, _ := m.try("events", "--cluster", "eu-west")
	for _, want := range []string{"path us-east: detour_begun", "path us-east: detour_ended"} {
		if !strings.Contains(events, want) {
			t.Errorf("no event %q:\n%s", want, events)
		}
	}
	if after > 0 {
		t.Errorf("%d requests failed that began once the way was found, or when it was given up", after)
	}
	t.Logf("%d requests, failed %v; by ap-south for all that began %.2f s after the cut; home %.2f s after it was mended", gets, failed, (moved - cut).Seconds(), (home - mended).Seconds())
}

// noDetour makes a fault with which there is no way, sees that requests fail for that reason and what explain says of it, and mends it.
func (m *meshUnder) noDetour(t *testing.T, says string, fault ...string) {
	l := m.mixed(0, onlyThere, 100)
	defer l.stop()
	l.served(t, 40*time.Second)
	m.run(append([]string{"drill"}, fault...)...)
	eventually(t, 30*time.Second, "all requests fail as unreachable", func() (string, bool) {
		s := l.samples(l.now()-6*time.Second, l.now()-5*time.Second)
		n := len(slices.DeleteFunc(slices.Clone(s), func(x mixed) bool { return !strings.Contains(x.failed, " 503 ") }))
		return fmt.Sprintf("%d of %d, %+v", n, len(s), s), n > 80 && n == len(s)
	})
	explained, _ := m.try("explain", "shell.default@eu-west", "only.shop")
	if !strings.Contains(explained, says) || !strings.Contains(explained, "the cluster cannot be reached") || strings.Contains(explained, " by ap-south, rtt ") {
		t.Errorf("explain does not say why there is no way:\n%s", explained)
	}
	m.run(append([]string{"drill", "heal"}, fault[1:]...)...)
	l.served(t, 60*time.Second)
	for why, n := range l.failures() {
		t.Logf("%d failed: %s", n, why)
	}
}

// failures counts what failed by its reason.
func (l *mixedLoad) failures() map[string]int {
	out := map[string]int{}
	for _, s := range l.samples(0, l.now()) {
		if s.failed != "" {
			out[s.failed]++
		}
	}
	return out
}
