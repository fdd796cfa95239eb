package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// hiddenMesh is two clusters that can serve 80 requests a second each, of 100 ms in lanes that nobody declares.
const hiddenMesh = `
apiVersion: isthmus.dev/v1alpha1
kind: LocalMesh
clusters:
  - {name: eu-west}
  - {name: us-east}
links:
  - {between: [eu-west, us-east], rtt: 20ms}
workloads:
  - {name: echo, namespace: demo, replicas: 2, run: builtin/echo}
`

// shedding is the policy of both runs: what would be answered too late is refused, and nobody tries again.
const shedding = `
apiVersion: isthmus.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: echo, namespace: demo}
spec:
  targetRefs: [{kind: Service, name: echo}]
  admission: {mode: Adaptive}
  retry: {attempts: 0}
`

// TestWhatDeclaresNothingIsSpread: a service that declares nothing is asked in one cluster for half as much again as its endpoints there
// bear. That is learnt, and another cluster gets what is too much. In the control run before, requests go to the nearest whatever
// is learnt, and a third of them is refused to the end.
func TestWhatDeclaresNothingIsSpread(t *testing.T) {
	m := newMesh(t, 239)
	m.up("-f", write(t, "mesh.yaml", hiddenMesh))
	defer m.run("down")
	url := echo + "/?delay=100ms&lanes=4"
	// busy asks for half of what a cluster bears, and then for half as much again as that; it returns of the second part what failed in it
	// and what failed in its end, of that what another cluster served.
	busy := func(lasts time.Duration) (failed, failedAtEnd, away float64) {
		calm := m.mixed(0, url, 40)
		eventually(t, 20*time.Second, "six seconds of a usual load", func() (string, bool) { return "", calm.now() > 6*time.Second })
		calm.stop()
		l := m.mixed(0, url, 120)
		eventually(t, lasts+20*time.Second, "the overload", func() (string, bool) { return "", l.now() > lasts })
		l.stop()
		all, end := l.samples(0, lasts), l.samples(lasts-6*time.Second, lasts)
		for _, s := range end {
			if s.cluster == "us-east" && s.failed == "" {
				away++
			}
		}
		return failing(all), failing(end), away / float64(max(1, len(end)))
	}
	if out, code := m.apply("eu-west", shedding+"  locality: {strategy: Nearest}\n"); code != 0 {
		t.Fatalf("apply: exit %d: %s", code, out)
	}
	failed, atEnd, away := busy(14 * time.Second)
	t.Logf("control: %.1f %% failed, at the end %.1f %%, %.1f %% served by another", 100*failed, 100*atEnd, 100*away)
	if atEnd < 0.15 || away > 0.05 {
		t.Errorf("to the nearest only %.2f failed at the end, and %.2f was served by another: the test proves nothing", atEnd, away)
	}

	if out, code := m.apply("eu-west", shedding); code != 0 {
		t.Fatalf("apply: exit %d: %s", code, out)
	}
	failed, atEnd, away = busy(24 * time.Second)
	t.Logf("%.1f %% failed, at the end %.1f %%, %.1f %% served by another", 100*failed, 100*atEnd, 100*away)
	if failed > 0.1 || atEnd > 0.03 || away < 0.25 || away > 0.6 {
		t.Errorf("%.3f failed, %.3f at the end, and %.2f was served by another; want 0.1 and 0.03 at most, and a third", failed, atEnd, away)
	}
	if said := m.run("explain", "shell.default@eu-west", "echo.demo"); !strings.Contains(said, "was learnt") {
		t.Errorf("explain does not say who says what is borne:\n%s", said)
	}
}

// failing is the part that failed.
func failing(all []mixed) float64 {
	n := 0
	for _, s := range all {
		if s.failed != "" {
			n++
		}
	}
	return float64(n) / float64(max(1, len(all)))
}

// TestWhatApplicationsReportIsSpread: an application that says beside its answers how busy it is need not be asked for more than it bears to be
// known, and its callers never see that word. The control is the same load without it, by which nothing is known.
func TestWhatApplicationsReportIsSpread(t *testing.T) {
	m := newMesh(t, 239)
	m.up("-f", write(t, "mesh.yaml", hiddenMesh))
	defer m.run("down")
	if out, code := m.apply("eu-west", shedding); code != 0 {
		t.Fatalf("apply: exit %d: %s", code, out)
	}
	said := func() string { return m.run("explain", "shell.default@eu-west", "echo.demo") }
	url := echo + "/?delay=100ms&lanes=4"
	silent := m.mixed(0, url, 40)
	eventually(t, 20*time.Second, "five seconds of a usual load", func() (string, bool) { return "", silent.now() > 5*time.Second })
	silent.stop()
	if got := said(); strings.Contains(got, " bears ") {
		t.Errorf("control: somebody knows what is borne:\n%s", got)
	}

	url += "&load=true"
	calm := m.mixed(0, url, 40)
	eventually(t, 30*time.Second, "it is known what the applications report", func() (string, bool) {
		got := said()
		return got, strings.Contains(got, "its applications report")
	})
	calm.stop()
	resp, err := m.shell(0).Get(url)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 || len(resp.Header.Values("Endpoint-Load-Metrics")) > 0 {
		t.Errorf("a caller is told %d, %v", resp.StatusCode, resp.Header)
	}
	l := m.mixed(0, url, 120)
	defer l.stop()
	eventually(t, 40*time.Second, "what is too much goes to another cluster", func() (string, bool) {
		at := l.now() - 3*time.Second
		s := l.samples(max(0, at-2*time.Second), max(0, at))
		away := 0.0
		for _, x := range s {
			if x.cluster == "us-east" && x.failed == "" {
				away++
			}
		}
		away /= float64(max(1, len(s)))
		return fmt.Sprintf("%.2f of %d are served by another, %.3f failed", away, len(s), failing(s)), len(s) > 150 && away > 0.25 && failing(s) < 0.03
	})
}
