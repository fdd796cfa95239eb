package e2e

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var darkTime = flag.Duration("dark", 10*time.Second, "how long every control plane and store is dead")

const darkMesh = `
apiVersion: isthmus.dev/v1alpha1
kind: LocalMesh
clusters:
  - {name: eu-west, jurisdiction: EU}
  - {name: us-east, jurisdiction: US}
links:
  - {between: [eu-west, us-east], rtt: 10ms}
workloads:
  - {name: echo, namespace: demo, replicas: 2, run: builtin/echo}
  - {name: remote, namespace: demo, clusters: [us-east], run: builtin/echo}
  - {name: guarded, namespace: demo, clusters: [us-east], run: builtin/echo}
`

// TestDarkness kills every control plane and store of a mesh for a while (-dark=60m for as long as is promised): not one request fails, at home or across,
// over old connections or new ones; proxies answer for their metrics; those that crash serve again by their snapshots, and refuse whom they refused. The control is
// a proxy without a snapshot, which does not serve.
func TestDarkness(t *testing.T) {
	m := newMesh(t, 85)
	m.up("-f", write(t, "mesh.yaml", darkMesh))
	const guarded = "http://guarded.demo.svc.clusterset.local/"
	if out, code := m.apply("us-east", `
apiVersion: isthmus.dev/v1alpha1
kind: AccessPolicy
metadata: {name: no-shell, namespace: demo}
spec: {targetRefs: [{group: "", kind: Service, name: guarded}], action: Deny, rules: [{from: [{serviceAccounts: [shell]}]}]}
`); code != 0 {
		t.Fatalf("apply: exit %d: %s", code, out)
	}
	refused := func() (string, bool) {
		a := get(m.shell(0), guarded)
		return a.String(), a.Status == 403 && a.Reason == "access_denied"
	}
	eventually(t, 10*time.Second, "the shell is refused", refused)
	m.inSync(t, 20*time.Second)
	// A snapshot is written within about a second of a change; one that is newer than the next change has this policy.
	told := time.Now()
	for _, c := range clusters[:2] {
		if out, code := m.apply(c, "apiVersion: v1\nkind: Service\nmetadata: {name: more, namespace: demo}\nspec: {ports: [{port: 80}]}\n"); code != 0 {
			t.Fatalf("apply: exit %d: %s", code, out)
		}
	}
	kept := filepath.Join(m.dir, "snapshots", "eu-west.shell")
	for _, of := range []string{kept, filepath.Join(m.dir, "snapshots", "us-east.demo.guarded-0.sidecar")} {
		eventually(t, 20*time.Second, "the snapshot has the policy", func() (string, bool) {
			info, err := os.Stat(of)
			return fmt.Sprint(of, err), err == nil && info.ModTime().After(told)
		})
	}

	for _, c := range clusters[:2] {
		m.run("drill", "kill", "control-plane@"+c, "store@"+c)
	}
	near, cross := m.load(0, echo+"/", 20), m.load(1, echo+"/", 20)
	defer near.stop()
	defer cross.stop()
	far := m.load(0, "http://remote.demo.svc.clusterset.local/", 20)
	defer far.stop()
	fresh := m.shell(0)
	fresh.Transport.(*http.Transport).DisableKeepAlives = true
	scraper := &http.Client{Timeout: failedAfter, Transport: &http.Transport{DisableKeepAlives: true}}
	var slowest time.Duration
	news, scrapes, crashes := 0, 0, 0
	for end, next := time.Now().Add(*darkTime), time.Now(); time.Now().Before(end); <-time.After(200 * time.Millisecond) {
		if a := get(fresh, []string{echo + "/", "http://remote.demo.svc.clusterset.local/"}[news%2]); a.Status != 200 {
			t.Errorf("over a new connection: %s", a)
		}
		news++
		for _, p := range []string{"eu-west.shell", "us-east.demo.remote-0.sidecar"} {
			if a := get(scraper, "http://"+m.admin(p)+"/metrics"); a.Status != 200 || !strings.Contains(a.text, "isthmus_") {
				t.Errorf("metrics of %s: %s", p, a)
			}
			scrapes++
		}
		if time.Now().Before(next) {
			continue
		}
		next = next.Add(max(*darkTime/10, 3*time.Second))
		// One of two that serve, and the one that refuses.
		m.crash(t, "proxy", fmt.Sprintf("eu-west.demo.echo-%d.sidecar", crashes%2))
		m.crash(t, "proxy", "us-east.demo.guarded-0.sidecar")
		slowest = max(slowest, eventually(t, 20*time.Second, "a proxy that crashed refuses whom it refused", func() (string, bool) {
			a := get(m.shell(0), guarded)
			if a.Status == 200 {
				t.Fatalf("it let in whom it must refuse: %s", a)
			}
			return a.String(), a.Status == 403 && a.Reason == "access_denied"
		}))
		crashes++
	}
	for _, l := range []*load{near, cross, far} {
		l.stop().mustNotFail(t)
	}
	t.Logf("dark for %v: %d requests over new connections, %d scrapes, %d crashes; a proxy that crashed answered again after %v at most", *darkTime, news, scrapes, crashes, slowest.Round(time.Millisecond))

	t.Run("control: without a snapshot", func(t *testing.T) {
		for _, f := range []string{kept, kept + ".prev"} {
			if err := os.Remove(f); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
		}
		m.crash(t, "proxy", "eu-west.shell")
		for until := time.Now().Add(3 * time.Second); time.Now().Before(until); <-time.After(50 * time.Millisecond) {
			if a := get(m.shell(0), echo+"/"); a.Status == 200 {
				t.Fatalf("it serves without a snapshot and without a control plane: %s", a)
			}
		}
	})
	for _, c := range clusters[:2] {
		m.run("drill", "resume", "store@"+c, "control-plane@"+c)
	}
	t.Logf("in sync %v after they came back", m.inSync(t, 30*time.Second).Round(time.Millisecond))
}
