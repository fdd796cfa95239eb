package e2e

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// remoteMesh mixes both topologies: two primaries, a remote cluster of both, and one of the second.
const remoteMesh = `
apiVersion: isthmus.dev/v1alpha1
kind: LocalMesh
clusters:
  - {name: eu-west}
  - {name: us-east}
  - {name: ap-south, role: remote}
  - {name: sa-east, role: remote, primaries: [us-east]}
links:
  - {between: [eu-west, us-east], rtt: 20ms}
  - {between: [eu-west, ap-south], rtt: 40ms}
  - {between: [us-east, ap-south], rtt: 60ms}
workloads:
  - {name: catalog, namespace: shop, clusters: [eu-west, ap-south], replicas: 2, run: builtin/echo}
  - {name: eu, namespace: only, clusters: [eu-west], run: builtin/echo}
  - {name: us, namespace: only, clusters: [us-east], run: builtin/echo}
  - {name: ap, namespace: only, clusters: [ap-south], run: builtin/echo}
  - {name: sa, namespace: only, clusters: [sa-east], run: builtin/echo}
`

// onlyIn are the services of remoteMesh that one cluster has, by the number of the cluster.
var onlyIn = []struct{ url, cluster string }{
	{"http://eu.only.svc.clusterset.local/", "eu-west"}, {"http://us.only.svc.clusterset.local/", "us-east"},
	{"http://ap.only.svc.clusterset.local/", "ap-south"}, {"http://sa.only.svc.clusterset.local/", "sa-east"},
}

const apSouth = 2

// TestRemoteClusters takes primaries, relay and proxies away from a remote cluster under a steady load, and not one
// request fails. The steps share the mesh, in order.
func TestRemoteClusters(t *testing.T) {
	m := newMesh(t, 230)
	m.up("-f", write(t, "mesh.yaml", remoteMesh))
	for _, step := range []struct {
		name string
		f    func(*testing.T, *meshUnder)
	}{
		{"requests cross between all clusters", crossAll},
		{"a remote cluster has one connection to one control plane and no store", oneConnection},
		{"its primary is killed: another is followed and not one request fails", killPrimary},
		{"its primary is stopped: another is followed within 6 s and not one request fails", pausePrimary},
		{"every primary is dead: relay and proxies start anew and not one request fails", restartRemote},
	} {
		if !t.Run(step.name, func(t *testing.T) {
			own := *m
			own.t = t
			step.f(t, &own)
		}) {
			t.FailNow()
		}
	}
}

// TestTopologyPrimaryRemote: the first cluster of a file that says no roles is primary, the others are remote.
func TestTopologyPrimaryRemote(t *testing.T) {
	m := newMesh(t, 220)
	m.up("--topology", "primary-remote")
	if relays, planes := m.pids("relay", "--config"), m.pids("control-plane", "--config"); len(relays) != 2 || len(planes) != 1 {
		t.Errorf("relays %v and control planes %v, want two and one", relays, planes)
	}
	for i, c := range clusters {
		if a := get(m.shell(i), catalog); a.Status != 200 || a.Cluster != c {
			t.Errorf("from %s: %s", c, a)
		}
	}
	// Remote clusters meet by way of the primary, and go on when it is dead.
	l := m.load(1, catalog, 50)
	defer l.stop()
	m.run("drill", "kill", "control-plane@eu-west")
	for i, next := range []string{"eu-west", "ap-south"} { // the nearest that is left
		m.run("drill", "kill", "catalog.shop@"+[]string{"us-east", "eu-west"}[i])
		l.movesTo(t, next, 10*time.Second)
	}
	<-time.After(time.Second)
	l.stop().mustNotFail(t)
}

func crossAll(t *testing.T, m *meshUnder) {
	for i := range onlyIn {
		for _, s := range onlyIn {
			if a := get(m.shell(i), s.url); a.Status != 200 || a.Cluster != s.cluster {
				t.Errorf("from %s to %s: %s", onlyIn[i].cluster, s.url, a)
			}
		}
	}
}

// federations counts the established connections from the relay of a cluster to federation ports: at its own ends of
// links, whose last octet is the number of the other cluster.
func (m *meshUnder) federations(t *testing.T, cluster int) (primaries []byte) {
	t.Helper()
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(table), "\n") {
		f := strings.Fields(line)
		if len(f) < 4 || f[3] != "01" || !strings.HasSuffix(f[2], fmt.Sprintf(":%04X", 15012)) {
			continue
		}
		// Addresses are in the order of the machine's bytes, which is little-endian here.
		from, _ := hex.DecodeString(f[1][:8])
		to, _ := hex.DecodeString(f[2][:8])
		slices.Reverse(from)
		slices.Reverse(to)
		own := byte(m.base + 1 + cluster)
		if from[0] == 127 && from[1] == own && from[2] == 0 && from[3] == 2 && to[1] == own && to[2] == 255 {
			primaries = append(primaries, to[3])
		}
	}
	return primaries
}

func oneConnection(t *testing.T, m *meshUnder) {
	if p := m.federations(t, apSouth); len(p) != 1 {
		t.Errorf("connections to the control planes of clusters %v, want one", p)
	}
	if stores := m.pids("store", "--config", "ap-south"); len(stores) != 0 {
		t.Errorf("stores %v in a remote cluster", stores)
	}
}

func killPrimary(t *testing.T, m *meshUnder) {
	l, far := m.load(apSouth, catalog, 100), m.load(apSouth, onlyIn[3].url, 50)
	defer l.stop()
	defer far.stop()
	followed := m.federations(t, apSouth)
	if len(followed) != 1 {
		t.Fatalf("followed are %v, want one", followed)
	}
	first, second := int(followed[0])-1, 2-int(followed[0])
	if out := m.run("status"); !strings.Contains(out, "remote of "+onlyIn[first].cluster) {
		t.Errorf("status does not say that %s is followed:\n%s", onlyIn[first].cluster, out)
	}
	m.run("drill", "kill", "control-plane@"+onlyIn[first].cluster)
	took := eventually(t, 10*time.Second, "the other primary is followed", func() (string, bool) {
		p := m.federations(t, apSouth)
		return fmt.Sprint(p), len(p) == 1 && int(p[0])-1 == second
	})
	t.Logf("another primary followed %v after the kill", took.Round(time.Millisecond))
	// What is applied there arrives.
	out, code := m.apply(onlyIn[second].cluster, `
apiVersion: isthmus.dev/v1alpha1
kind: AccessPolicy
metadata: {name: nobody, namespace: only}
spec: {targetRefs: [{kind: Service, name: ap}], action: Deny, rules: [{from: [{serviceAccounts: [shell]}]}]}
`)
	if code != 0 {
		t.Fatalf("apply: exit %d: %s", code, out)
	}
	eventually(t, 10*time.Second, "a policy of the other primary holds", func() (string, bool) {
		a := get(m.shell(apSouth), onlyIn[apSouth].url)
		return a.String(), a.Status == 403 && a.Reason == "access_denied"
	})
	<-time.After(2 * time.Second)
	l.stop().mustNotFail(t)
	far.stop().mustNotFail(t)
	m.run("drill", "resume", "control-plane@"+onlyIn[first].cluster)
	m.inSync(t, 20*time.Second)
}

// pausePrimary has the primary hang with its sockets open.
func pausePrimary(t *testing.T, m *meshUnder) {
	l := m.load(apSouth, onlyIn[3].url, 100)
	defer l.stop()
	first := int(m.federations(t, apSouth)[0]) - 1
	m.run("drill", "pause", "control-plane@"+onlyIn[first].cluster)
	took := eventually(t, 6*time.Second, "the other primary is followed", func() (string, bool) {
		p := m.federations(t, apSouth)
		return fmt.Sprint(p), len(p) == 1 && int(p[0])-1 == 1-first
	})
	t.Logf("another primary followed %v after the stop", took.Round(time.Millisecond))
	<-time.After(2 * time.Second)
	l.stop().mustNotFail(t)
	m.run("drill", "resume", "control-plane@"+onlyIn[first].cluster)
	m.inSync(t, 20*time.Second)
}

// killed ends a process of the mesh; the supervisor starts it again.
func (m *meshUnder) killed(t *testing.T, parts ...string) {
	t.Helper()
	pids := m.pids(parts...)
	if len(pids) != 1 {
		t.Fatalf("processes %v are %v, want one", pids, parts)
	}
	if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "it is started again", func() (string, bool) {
		again := m.pids(parts...)
		return fmt.Sprint(again), len(again) == 1 && again[0] != pids[0]
	})
}

func restartRemote(t *testing.T, m *meshUnder) {
	for _, c := range []string{"eu-west", "us-east"} {
		m.run("drill", "kill", "control-plane@"+c)
	}
	l, far := m.load(apSouth, catalog, 100), m.load(apSouth, onlyIn[3].url, 50)
	defer l.stop()
	defer far.stop()
	m.killed(t, "relay", "ap-south")
	// A sidecar of catalog without anything of its own: it joins anew, at the relay, and is configured by it.
	snapshots, err := filepath.Glob(filepath.Join(m.dir, "snapshots", "ap-south.shop.catalog-0.sidecar*"))
	if err != nil || len(snapshots) == 0 {
		t.Fatalf("snapshots %v, %v", snapshots, err)
	}
	for _, s := range snapshots {
		if err := os.Remove(s); err != nil {
			t.Fatal(err)
		}
	}
	m.killed(t, "proxy", "ap-south.shop.catalog-0.sidecar")
	eventually(t, 15*time.Second, "the relay says that its proxies are in sync", func() (string, bool) {
		out, _ := m.try("proxy-status", "--cluster", "ap-south")
		return out, slices.ContainsFunc(strings.Split(out, "\n"), func(line string) bool {
			return strings.Contains(line, "shop/catalog-0") && strings.Contains(line, " yes ")
		})
	})
	eventually(t, 15*time.Second, "the sidecar serves", func() (string, bool) {
		a := get(m.shell(apSouth), catalog)
		return a.String(), a.Status == 200 && a.Instance == "catalog-0" && a.Cluster == "ap-south"
	})
	// What changes in the cluster itself goes on to take effect.
	m.run("delete", "workload", "catalog-1", "-n", "shop", "--cluster", "ap-south")
	eventually(t, 10*time.Second, "the deleted endpoint is gone", func() (string, bool) {
		n := m.slotsSeen(t, "ap-south", "ap-south")
		return fmt.Sprint(n), n == 1
	})
	l.stop().mustNotFail(t)
	far.stop().mustNotFail(t)
	for _, c := range []string{"eu-west", "us-east"} {
		m.run("drill", "resume", "control-plane@"+c)
	}
	took := m.inSync(t, 20*time.Second)
	t.Logf("in sync %v after the primaries came back", took.Round(time.Millisecond))
}
