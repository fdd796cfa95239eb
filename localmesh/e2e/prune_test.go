package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Three files of one mesh: services go and come, others move up and down in the order, replicas are fewer; then a
// cluster leaves and the others change places, which changes every address.
const (
	prunedFirst = `
apiVersion: isthmus.dev/v1alpha1
kind: LocalMesh
clusters: [{name: eu-west}, {name: us-east}, {name: ap-south}]
links: [{between: [eu-west, us-east], rtt: 2ms}, {between: [eu-west, ap-south], rtt: 2ms}, {between: [us-east, ap-south], rtt: 2ms}]
workloads:
  - {name: alpha, namespace: old, run: builtin/echo}
  - {name: beta, namespace: demo, clusters: [us-east], run: builtin/echo}
  - {name: cart, namespace: demo, replicas: 2, run: builtin/echo}
  - {name: delta, namespace: old, clusters: [us-east], run: builtin/echo}
  - {name: zeta, namespace: demo, clusters: [ap-south, us-east], run: builtin/echo}
`
	prunedSecond = `
apiVersion: isthmus.dev/v1alpha1
kind: LocalMesh
clusters: [{name: eu-west}, {name: us-east}, {name: ap-south}]
links: [{between: [eu-west, us-east], rtt: 2ms}, {between: [eu-west, ap-south], rtt: 2ms}, {between: [us-east, ap-south], rtt: 2ms}]
workloads:
  - {name: zeta, namespace: demo, clusters: [us-east], run: builtin/echo}
  - {name: cart, namespace: demo, run: builtin/echo}
  - {name: beta, namespace: demo, clusters: [us-east], run: builtin/echo}
  - {name: aa, namespace: demo, clusters: [us-east], run: builtin/echo}
  - {name: ab, namespace: demo, clusters: [eu-west], run: builtin/echo}
  - {name: dada, namespace: demo, clusters: [us-east], run: builtin/echo}
  - {name: yota, namespace: demo, clusters: [eu-west], run: builtin/echo}
`
	prunedThird = `
apiVersion: isthmus.dev/v1alpha1
kind: LocalMesh
clusters: [{name: us-east}, {name: eu-west}]
links: [{between: [eu-west, us-east], rtt: 2ms}]
workloads:
  - {name: cart, namespace: demo, run: builtin/echo}
  - {name: beta, namespace: demo, clusters: [us-east], run: builtin/echo}
  - {name: yota, namespace: demo, clusters: [eu-west], run: builtin/echo}
`
	// The user's own: a route, and a service beside the file's, which gets the next address.
	prunedOwn = `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: mine, namespace: demo}
spec:
  parentRefs: [{group: "", kind: Service, name: cart}]
  rules:
  - filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: x-mine, value: kept}]}}]
    backendRefs: [{name: cart, port: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: mine, namespace: demo}
spec:
  selector: {app: cart}
  ports: [{name: http, port: 80, targetPort: 8080}]
`
)

// pruned is what a mesh must be after a start: the clusters that answer for each service, in the order of names,
// and how many instances each has there.
type pruned struct {
	clusters []string
	services []string // "namespace/name"
	servedBy map[string][]string
	replicas int
	gone     []string
}

func (p pruned) check(t *testing.T, m *meshUnder) {
	t.Helper()
	for i, cluster := range p.clusters {
		client := m.shell(i)
		for k, s := range p.services {
			namespace, name, _ := strings.Cut(s, "/")
			seen := map[string]bool{}
			for range 24 {
				a := get(client, "http://"+name+"."+namespace+".svc.clusterset.local/")
				if a.Status != 200 || a.Service != name || !slices.Contains(p.servedBy[s], a.Cluster) {
					t.Errorf("%s from %s: %s", s, cluster, a)
				}
				seen[a.Cluster+" "+a.Instance] = true
			}
			if len(seen) > p.replicas*len(p.servedBy[s]) {
				t.Errorf("%s from %s is answered by %v", s, cluster, slices.Sorted(maps.Keys(seen)))
			}
			direct := directly(m.address(i, 0, 10+k, 80))
			if direct.Status != 200 || direct.Service != name {
				t.Errorf("at the address of %s in %s: %s", s, cluster, direct)
			}
		}
		for _, s := range p.gone {
			namespace, name, _ := strings.Cut(s, "/")
			if a := get(client, "http://"+name+"."+namespace+".svc.clusterset.local/"); a.err != nil || a.Status == 200 {
				t.Errorf("%s, which is gone, from %s: %s", s, cluster, a)
			}
		}
		m.ownIsKept(t, cluster, i)
		out := m.run("get", "workloads", "-A", "-o", "name", "--cluster", cluster)
		for _, s := range p.gone {
			if name := s[strings.Index(s, "/")+1:]; strings.Contains(out, name+"-0") {
				t.Errorf("a workload of %s is left in %s:\n%s", s, cluster, out)
			}
		}
	}
}

// ownIsKept looks for the user's route, and for the user's service in eu-west, where both were applied.
func (m *meshUnder) ownIsKept(t *testing.T, cluster string, n int) {
	t.Helper()
	resp, err := m.shell(n).Get("http://cart.demo.svc.clusterset.local/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.Header.Get("x-mine") != "kept" {
		t.Errorf("the user's route is not in force in %s: %v", cluster, resp.Header)
	}
	if cluster != "eu-west" {
		return
	}
	var s struct{ Spec struct{ ClusterIP string } }
	text := m.run("get", "service", "mine", "-n", "demo", "-o", "json", "--cluster", cluster)
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "the user's service answers at "+s.Spec.ClusterIP, func() (string, bool) {
		a := directly(s.Spec.ClusterIP)
		return a.String(), a.Status == 200 && a.Service == "cart"
	})
}

// directly asks an address as an application does that knows of no proxy.
func directly(address string) answer {
	c := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	return get(c, "http://"+address+"/")
}

// TestUpAfterTheFileChanged starts a mesh over what an earlier file left: what runs is the mesh of the new file.
func TestUpAfterTheFileChanged(t *testing.T) {
	m := newMesh(t, 20)
	up := func(file string) string {
		t.Helper()
		return m.run("up", "--detach", "--address-base", "20", "-f", write(t, "mesh.yaml", file))
	}
	if out := up(prunedFirst); strings.Contains(out, "Removed") || strings.Contains(out, "Moved") {
		t.Errorf("a new mesh removes something:\n%s", out)
	}
	if out, code := m.apply("eu-west", prunedOwn); code != 0 {
		t.Fatalf("exit %d: %s", code, out)
	}
	// Only another cluster has it, so that its address here is one that the control plane gave.
	if out, code := m.apply("us-east", service("late", "cart")); code != 0 {
		t.Fatalf("exit %d: %s", code, out)
	}
	if out, code := m.apply("ap-south", "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: mine, namespace: old}\n"); code != 0 {
		t.Fatalf("exit %d: %s", code, out)
	}
	eventually(t, 10*time.Second, "late has an address in eu-west", func() (string, bool) {
		out := m.run("get", "services", "-n", "demo", "--cluster", "eu-west")
		return out, strings.Contains(out, "late ") && strings.Contains(out, fmt.Sprintf("127.%d.0.1", m.base+1))
	})
	first := pruned{clusters: clusters, services: []string{"demo/beta", "demo/cart", "demo/zeta", "old/alpha", "old/delta"}, replicas: 2,
		servedBy: map[string][]string{"demo/beta": {"us-east"}, "demo/cart": clusters, "demo/zeta": {"ap-south", "us-east"}, "old/alpha": clusters, "old/delta": {"us-east"}}}
	first.check(t, m)
	m.run("down")

	out := up(prunedSecond)
	for _, want := range []string{
		"Removed from eu-west, which the mesh file does not say any more: Workload demo/cart-1, old/alpha-0\n", "Service old/alpha\n",
		"from ap-south, which the mesh file does not say any more: Service demo/zeta, old/alpha\n", "from us-east, which the mesh file does not say any more: Namespace old\n",
		"Moved in eu-west: your Service demo/mine, from ",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("up does not say %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "from ap-south, which the mesh file does not say any more: Namespace") {
		t.Errorf("a namespace that the user has something in is removed:\n%s", out)
	}
	if out := m.run("get", "serviceaccounts", "-n", "old", "-o", "name", "--cluster", "ap-south"); !strings.Contains(out, "mine") || strings.Contains(out, "alpha") {
		t.Errorf("of the accounts in a namespace that left the file there are\n%s", out)
	}
	second := pruned{clusters: clusters, services: []string{"demo/aa", "demo/ab", "demo/beta", "demo/cart", "demo/dada", "demo/yota", "demo/zeta"}, replicas: 1,
		servedBy: map[string][]string{"demo/aa": {"us-east"}, "demo/ab": {"eu-west"}, "demo/beta": {"us-east"}, "demo/cart": clusters, "demo/dada": {"us-east"}, "demo/yota": {"eu-west"}, "demo/zeta": {"us-east"}},
		gone:     []string{"old/alpha", "old/delta"}}
	second.check(t, m)

	m.crashSupervisor(t)
	out = up(prunedThird)
	for _, want := range []string{"Cluster ap-south has left the mesh", "Cluster ap-south\n", "Moved in eu-west: your Service demo/mine, from "} {
		if !strings.Contains(out, want) {
			t.Errorf("up does not say %q:\n%s", want, out)
		}
	}
	third := pruned{clusters: []string{"us-east", "eu-west"}, services: []string{"demo/beta", "demo/cart", "demo/yota"}, replicas: 1,
		servedBy: map[string][]string{"demo/beta": {"us-east"}, "demo/cart": {"us-east", "eu-west"}, "demo/yota": {"eu-west"}},
		gone:     []string{"old/alpha", "old/delta", "demo/aa", "demo/ab", "demo/dada", "demo/zeta"}}
	third.check(t, m)

	// The same file again removes nothing; the first one brings everything back, with what ap-south kept.
	m.run("down")
	if out := up(prunedThird); strings.Contains(out, "Removed") || strings.Contains(out, "Moved") {
		t.Errorf("the same file again removes something:\n%s", out)
	}
	m.run("down")
	up(prunedFirst)
	first.check(t, m)
}

// crashSupervisor kills it as kill -9 does; its processes follow it, and the state directory is as they left it.
func (m *meshUnder) crashSupervisor(t *testing.T) {
	t.Helper()
	var s struct{ PID int }
	text, err := os.ReadFile(filepath.Join(m.dir, "mesh.json"))
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	if err == nil {
		err = syscall.Kill(s.PID, syscall.SIGKILL)
	}
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "every process of the mesh has ended", func() (string, bool) {
		left := m.pids()
		return fmt.Sprint(left), len(left) == 0
	})
}
