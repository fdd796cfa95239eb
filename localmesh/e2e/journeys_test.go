package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestLocalMesh walks one mesh through what the README promises. The steps share it, in
// order: each leaves it whole.
func TestLocalMesh(t *testing.T) {
	m := newMesh(t, 40)
	m.up()
	step := func(name string, f func(*testing.T, *meshUnder)) {
		t.Run(name, func(t *testing.T) {
			own := *m
			own.t = t
			f(t, &own)
		})
		if t.Failed() {
			t.FailNow()
		}
	}
	step("a request is answered with cluster, instance and caller", curl)
	step("status says that everything is in sync", status)
	step("every local instance killed: not one request fails, and traffic comes home", killInstances)
	step("a weighted route applied in one cluster holds in all three", weights)
	step("control planes and stores killed: not one request fails", killControlPlanes)
	step("a proxy restarts while every control plane is dead", restartAlone)
	step("a cut link: served elsewhere; healed: in sync, and what was deleted is gone", cutLink)
	step("residency outranks failover", residency)
	step("a denied caller is refused with the reason", denied)
	step("bad input is refused whole", badInput)
	step("nothing crosses clusters but through links", sockets)
	step("explain says where and why", explain)
}

func curl(t *testing.T, m *meshUnder) {
	for i, cluster := range clusters {
		a := get(m.shell(i), catalog)
		if a.Status != 200 || a.Cluster != cluster || !strings.HasPrefix(a.Instance, "catalog-") || a.Caller != "spiffe://"+cluster+".isthmus.local/ns/default/sa/shell" {
			t.Errorf("from %s: %s (instance %q, caller %q)", cluster, a, a.Instance, a.Caller)
		}
	}
	if a := get(m.shell(0), "http://nothing.shop.svc.clusterset.local/"); a.Status != 502 || a.Reason != "unknown_host" {
		t.Errorf("an unknown service: %s, want 502 unknown_host", a)
	}
	if a := get(m.shell(0), "http://www.example.com/"); a.Status != 502 || a.Reason != "outside_mesh" {
		t.Errorf("a name outside the mesh: %s, want 502 outside_mesh", a)
	}
}

func status(t *testing.T, m *meshUnder) {
	out := m.run("status")
	for _, c := range clusters {
		if !strings.Contains(out, c) {
			t.Errorf("status does not speak of %s:\n%s", c, out)
		}
	}
	m.noDrift(t)
}

func killInstances(t *testing.T, m *meshUnder) {
	l := m.load(0, catalog, 200)
	defer l.stop()
	<-time.After(time.Second)
	m.run("drill", "kill", "catalog.shop@eu-west")
	l.movesTo(t, "us-east", 10*time.Second)
	<-time.After(2 * time.Second)
	m.run("drill", "resume", "catalog.shop@eu-west")
	l.movesTo(t, "eu-west", 30*time.Second)
	l.stop().mustNotFail(t)
	if l.by["ap-south"] > l.total/20 {
		t.Errorf("%d of %d requests went to the far cluster although a nearer one served", l.by["ap-south"], l.total)
	}
}

const split = `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: split, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: catalog, port: 80}]
  rules:
  - backendRefs: [{name: reviews, port: 80, weight: 90}, {name: cart, port: 80, weight: 10}]
`

func weights(t *testing.T, m *meshUnder) {
	if out, code := m.apply("ap-south", split); code != 0 {
		t.Fatalf("apply: exit %d: %s", code, out)
	}
	for i, cluster := range clusters {
		c := m.shell(i)
		took := eventually(t, 5*time.Second, "the route holds in "+cluster, func() (string, bool) {
			a := get(c, catalog)
			return a.String(), a.Service == "reviews" || a.Service == "cart"
		})
		t.Logf("in %s after %v", cluster, took.Round(time.Millisecond))
		count := map[string]int{}
		for range 400 {
			a := get(c, catalog)
			if a.Status != 200 {
				t.Fatalf("in %s: %s", cluster, a)
			}
			count[a.Service]++
		}
		// 400 draws at 10 %: 40 expected, σ = 6; five σ either way.
		if count["reviews"]+count["cart"] != 400 || count["cart"] < 10 || count["cart"] > 70 {
			t.Errorf("in %s the split is %v, want about 360 to 40", cluster, count)
		}
	}
	m.run("delete", "httproute", "split", "-n", "shop", "--cluster", "ap-south")
	for i, cluster := range clusters {
		eventually(t, 5*time.Second, "the route is gone in "+cluster, func() (string, bool) {
			a := get(m.shell(i), catalog)
			return a.String(), a.Service == "catalog"
		})
	}
}

func killControlPlanes(t *testing.T, m *meshUnder) {
	l := m.load(0, catalog, 100)
	defer l.stop()
	m.run("drill", "kill", "store@eu-west")
	<-time.After(time.Second)
	m.run("drill", "resume", "store@eu-west")
	for _, c := range clusters {
		m.run("drill", "kill", "control-plane@"+c)
	}
	<-time.After(2 * time.Second)
	// New connections of a client that has never called before.
	for i := range clusters {
		for _, s := range []string{"reviews", "cart", "frontend"} {
			if a := get(m.shell(i), "http://"+s+".shop/"); a.Status != 200 {
				t.Errorf("with all control planes dead, %s from %s: %s", s, clusters[i], a)
			}
		}
	}
	l.stop().mustNotFail(t)
}

func restartAlone(t *testing.T, m *meshUnder) {
	pids := m.pids("proxy", "eu-west.shell")
	if len(pids) != 1 {
		t.Fatalf("the shell's sidecar has processes %v, want one", pids)
	}
	if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	took := eventually(t, 5*time.Second, "the sidecar serves again without a control plane", func() (string, bool) {
		a := get(m.shell(0), catalog)
		return a.String(), a.Status == 200
	})
	t.Logf("serving again after %v", took.Round(time.Millisecond))
	for _, c := range clusters {
		m.run("drill", "resume", "control-plane@"+c)
	}
	m.inSync(t, 20*time.Second)
}

// noDrift waits until every cluster has stored what every other intends, and every proxy acknowledged it.
func (m *meshUnder) noDrift(t *testing.T) {
	t.Helper()
	eventually(t, 60*time.Second, "nothing differs", func() (string, bool) {
		out, code := m.try("status", "--drift")
		return out, code == 0 && strings.Contains(out, "every cluster has stored what every other intends")
	})
}

// inSync waits until status finds nothing to complain of.
func (m *meshUnder) inSync(t *testing.T, within time.Duration) time.Duration {
	t.Helper()
	return eventually(t, within, "all clusters in sync", func() (string, bool) {
		out, code := m.try("status")
		return out, code == 0
	})
}

func cutLink(t *testing.T, m *meshUnder) {
	// A service of us-east alone, with a second instance that will go.
	m.run("drill", "kill", "reviews.shop@eu-west")
	eventually(t, 10*time.Second, "reviews is served by the nearest other cluster", func() (string, bool) {
		a := get(m.shell(0), "http://reviews.shop/")
		return a.String(), a.Cluster == "us-east"
	})
	l := m.load(0, "http://reviews.shop/", 50)
	defer l.stop()
	m.run("drill", "partition", "eu-west--us-east")
	l.movesTo(t, "ap-south", 10*time.Second)
	out := m.run("get", "workload", "-n", "shop", "-o", "name", "--cluster", "us-east")
	if !strings.Contains(out, "catalog-1") {
		t.Fatalf("no workload catalog-1 in us-east:\n%s", out)
	}
	if slots := m.slots(t, "us-east"); slots != 2 {
		t.Errorf("before: eu-west knows %d slots of catalog in us-east, want 2", slots)
	}
	m.run("delete", "workload", "catalog-1", "-n", "shop", "--cluster", "us-east")
	eventually(t, 10*time.Second, "status says that not all is in sync", func() (string, bool) {
		out, code := m.try("status")
		return out, code == 1
	})
	eventually(t, 60*time.Second, "both ends see the path down, and the others up", func() (string, bool) {
		out, _ := m.try("status")
		seen := strings.Count(out, "down ") == 2 && strings.Count(out, "up ") == 4
		return out, seen
	})
	eventually(t, 30*time.Second, "what differs is listed, with how old what is known is, and nothing else is said to", func() (string, bool) {
		out, code := m.try("status", "--drift")
		return out, code == 1 && strings.Contains(out, "of 6 pairs of clusters") && strings.Contains(out, "RemoteService shop/catalog") &&
			strings.Contains(out, "us-east at eu-west: eu-west does not follow us-east: ") && strings.Contains(out, "it holds what us-east stated ") &&
			!strings.Contains(out, "ap-south at")
	})
	if series := m.metrics("eu-west"); !strings.Contains(series, `isthmus_peer_up{cluster="eu-west",peer="us-east"} 0`) ||
		!strings.Contains(series, `isthmus_peer_up{cluster="eu-west",peer="ap-south"} 1`) {
		t.Errorf("metrics of eu-west:\n%s", series)
	}
	l.stop().mustNotFail(t)
	m.run("drill", "heal", "eu-west--us-east")
	took := m.inSync(t, 10*time.Second)
	t.Logf("in sync %v after healing", took.Round(time.Millisecond))
	eventually(t, 5*time.Second, "the endpoint deleted during the cut is gone", func() (string, bool) {
		n := m.slots(t, "us-east")
		return strconv.Itoa(n), n == 1
	})
	m.noDrift(t)
	m.run("drill", "resume", "reviews.shop@eu-west")
	eventually(t, 40*time.Second, "reviews is served at home again", func() (string, bool) {
		a := get(m.shell(0), "http://reviews.shop/")
		return a.String(), a.Cluster == "eu-west"
	})
}

// slots is how many places of catalog in another cluster eu-west knows.
func (m *meshUnder) slots(t *testing.T, cluster string) int {
	t.Helper()
	return m.slotsSeen(t, "eu-west", cluster)
}

// slotsSeen is how many a cluster knows.
func (m *meshUnder) slotsSeen(t *testing.T, from, cluster string) int {
	t.Helper()
	out := m.run("get", "service", "catalog", "-n", "shop", "-o", "wide", "--cluster", from)
	for _, word := range strings.Fields(out) {
		if n, ok := strings.CutPrefix(strings.Trim(word, "()"), cluster+":"); ok {
			v, err := strconv.Atoi(n)
			if err != nil {
				t.Fatalf("%q in\n%s", word, out)
			}
			return v
		}
	}
	return 0
}

func residency(t *testing.T, m *meshUnder) {
	if out, code := m.apply("eu-west", `
apiVersion: isthmus.dev/v1alpha1
kind: ResidencyPolicy
metadata: {name: stay, namespace: shop}
spec: {targetRefs: [{group: "", kind: Service, name: cart}], jurisdictions: [EU]}
`); code != 0 {
		t.Fatalf("apply: exit %d: %s", code, out)
	}
	m.run("drill", "kill", "cart.shop@eu-west")
	eventually(t, 10*time.Second, "cart fails closed rather than leaving its jurisdiction", func() (string, bool) {
		a := get(m.shell(0), "http://cart.shop/")
		return a.String(), a.Status == 503
	})
	for range 50 {
		if a := get(m.shell(0), "http://cart.shop/"); a.Cluster != "" {
			t.Fatalf("served by %s against the law", a.Cluster)
		}
	}
	m.run("delete", "residencypolicy", "stay", "-n", "shop", "--cluster", "eu-west")
	eventually(t, 10*time.Second, "cart fails over once the law is lifted", func() (string, bool) {
		a := get(m.shell(0), "http://cart.shop/")
		return a.String(), a.Status == 200 && a.Cluster == "us-east"
	})
	m.run("drill", "resume", "cart.shop@eu-west")
}

func denied(t *testing.T, m *meshUnder) {
	if out, code := m.apply("us-east", `
apiVersion: isthmus.dev/v1alpha1
kind: AccessPolicy
metadata: {name: no-shell, namespace: shop}
spec: {targetRefs: [{group: "", kind: Service, name: reviews}], action: Deny, rules: [{from: [{serviceAccounts: [shell]}]}]}
`); code != 0 {
		t.Fatalf("apply: exit %d: %s", code, out)
	}
	for i := range clusters {
		eventually(t, 5*time.Second, "the shell of "+clusters[i]+" is denied", func() (string, bool) {
			a := get(m.shell(i), "http://reviews.shop/")
			return a.String(), a.Status == 403 && a.Reason == "access_denied"
		})
	}
	if a := get(m.shell(0), "http://frontend.shop/"); a.Status != 200 {
		t.Errorf("another caller is denied too: %s", a)
	}
	m.run("delete", "accesspolicy", "no-shell", "-n", "shop", "--cluster", "us-east")
	eventually(t, 5*time.Second, "the shell is let in again", func() (string, bool) {
		a := get(m.shell(0), "http://reviews.shop/")
		return a.String(), a.Status == 200
	})
}

func badInput(t *testing.T, m *meshUnder) {
	var many strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&many, "---\napiVersion: v1\nkind: Service\nmetadata: {name: bad%d, namespace: shop}\nspec: {ports: [{port: 99999}]}\n", i)
	}
	tests := []struct {
		name, yaml string
		lines      int
		want       string
	}{
		{"broken YAML", "a: [", 1, "objects.yaml:1:"},
		{"unknown kind", "apiVersion: v1\nkind: Servic\nmetadata: {name: x}\n", 1, "unknown kind"},
		{"wrong type", "apiVersion: v1\nkind: Service\nmetadata: {name: good1, namespace: shop}\nspec: {ports: [{port: eighty}]}\n", 1, "Service shop/good1: spec.ports[0].port"},
		{"a fault after a good object", "apiVersion: v1\nkind: Namespace\nmetadata: {name: good2}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: Bad_Name}\n", 1, "Bad_Name"},
		{"1,000 faults", many.String(), 1000, "bad999"},
		{"10 MB", "apiVersion: v1\nkind: Namespace\nmetadata: {name: good3}\n#" + strings.Repeat("x", 11<<20), 1, "MiB"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out, code := m.apply("eu-west", tt.yaml)
			if code != 1 || strings.Count(out, "\n") < tt.lines || !strings.Contains(out, tt.want) {
				t.Errorf("exit %d, %d lines, want exit 1, %d lines and %q:\n%s", code, strings.Count(out, "\n"), tt.lines, tt.want, out[:min(len(out), 600)])
			}
		})
	}
	out := m.run("get", "namespaces,services", "-A", "-o", "name", "--cluster", "eu-west")
	if strings.Contains(out, "good") || strings.Contains(out, "bad") {
		t.Errorf("something of a faulty input was written:\n%s", out)
	}
	out, code := m.apply("eu-west", strings.ReplaceAll(split, "reviews", "nothing"))
	if code != 0 || !strings.Contains(out, "nothing does not exist") {
		t.Errorf("a route to a missing service: exit %d, %s; want accepted with a warning", code, out)
	}
	if out := m.run("get", "httproute", "split", "-n", "shop", "-o", "json", "--cluster", "eu-west"); !strings.Contains(out, "BackendNotFound") {
		t.Errorf("ResolvedRefs does not say why:\n%s", out)
	}
	m.run("delete", "httproute", "split", "-n", "shop", "--cluster", "eu-west")
}

// sockets reads the table of TCP connections: none joins two clusters but through a
// link's own addresses.
func sockets(t *testing.T, m *meshUnder) { m.connections(t, 50) }

// connections looks at every connection of the mesh: none joins two clusters. Fewer than least prove nothing.
func (m *meshUnder) connections(t *testing.T, least int) {
	t.Helper()
	b, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 4 || f[3] != "01" { // ESTABLISHED
			continue
		}
		a, okA := m.place(f[1])
		z, okZ := m.place(f[2])
		if !okA || !okZ {
			continue
		}
		seen++
		if a[1] != z[1] {
			t.Errorf("a connection joins %v and %v", a, z)
		}
	}
	if seen < least {
		t.Errorf("only %d connections of the mesh in the table: the check sees too little", seen)
	}
}

// place reads an address of /proc/net/tcp (little-endian hexadecimal) if it is the mesh's.
func (m *meshUnder) place(field string) (ip [4]byte, ok bool) {
	hex, _, _ := strings.Cut(field, ":")
	n, err := strconv.ParseUint(hex, 16, 32)
	if err != nil {
		return ip, false
	}
	ip = [4]byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)}
	return ip, ip[0] == 127 && int(ip[1]) > m.base && int(ip[1]) <= m.base+len(clusters)
}

func explain(t *testing.T, m *meshUnder) {
	out := m.run("explain", "shell.default@eu-west", "catalog.shop")
	for _, want := range []string{"eu-west", "us-east", "a nearer cluster serves", "AccessPolicy isthmus-system/allow-within-mesh"} {
		if !strings.Contains(out, want) {
			t.Errorf("explain does not say %q:\n%s", want, out)
		}
	}
}

// TestDownLeavesNothing ends a mesh and looks for what stayed; then kills one whole and
// starts it again.
func TestDownLeavesNothing(t *testing.T) {
	m := newMesh(t, 50)
	m.up()
	if out, code := m.apply("us-east", split); code != 0 {
		t.Fatalf("apply: exit %d: %s", code, out)
	}
	m.run("down")
	if pids := m.pids(); len(pids) > 0 {
		t.Errorf("processes %v outlive down", pids)
	}
	if left, _ := filepath.Glob(filepath.Join(m.runtime, "isthmus", "*")); len(left) > 0 {
		t.Errorf("files outside the state directory outlive down: %v", left)
	}
	m.up()
	pids := m.pids()
	if len(pids) < 40 {
		t.Fatalf("%d processes run, want more than 40", len(pids))
	}
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	eventually(t, 5*time.Second, "every process is gone", func() (string, bool) { return fmt.Sprint(m.pids()), len(m.pids()) == 0 })
	m.up()
	out := m.run("get", "httproute", "split", "-n", "shop", "--cluster", "us-east")
	if !strings.Contains(out, "split") {
		t.Errorf("the stored route is lost:\n%s", out)
	}
	eventually(t, 5*time.Second, "the stored route acts", func() (string, bool) {
		a := get(m.shell(0), catalog)
		return a.String(), a.Service == "reviews" || a.Service == "cart"
	})
}

// TestChildrenDieWithTheirParent kills the supervisor alone.
func TestChildrenDieWithTheirParent(t *testing.T) {
	m := newMesh(t, 60)
	m.up()
	supervisor := m.pids("\x00up\x00")
	if len(supervisor) != 1 {
		t.Fatalf("supervisors %v, want one", supervisor)
	}
	if err := syscall.Kill(supervisor[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	took := eventually(t, 10*time.Second, "every child ends", func() (string, bool) { return fmt.Sprint(len(m.pids())), len(m.pids()) == 0 })
	t.Logf("all ended after %v", took.Round(time.Millisecond))
}

// TestTwoMeshesSideBySide runs a small mesh beside another.
func TestTwoMeshesSideBySide(t *testing.T) {
	small := filepath.Join(t.TempDir(), "mesh.yaml")
	if err := os.WriteFile(small, []byte(`
apiVersion: isthmus.dev/v1alpha1
kind: LocalMesh
clusters:
  - {name: one, jurisdiction: A}
  - {name: two, jurisdiction: B}
links:
  - {between: [one, two], rtt: 10ms}
workloads:
  - {name: echo, namespace: demo, clusters: [two], run: builtin/echo}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	a, b := newMesh(t, 70), newMesh(t, 80)
	a.up("-f", small)
	b.up("-f", small)
	for _, m := range []*meshUnder{a, b} {
		if got := get(m.shell(0), "http://echo.demo/"); got.Cluster != "two" {
			t.Errorf("base %d: %s, want served by two", m.base, got)
		}
	}
	c := newMesh(t, 70)
	out, code := c.try("up", "--detach", "--address-base", "70", "-f", small)
	if code != 2 || !strings.Contains(out, a.dir) && !strings.Contains(out, "taken") {
		t.Errorf("a third mesh on a taken base: exit %d, %s; want 2 and who holds it", code, out)
	}
}
