package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// helm is how charts and kubectl write: several documents, some empty, comments before them,
// quoted values, null for absent fields, labels with slashes, fields of Kubernetes that mean nothing
// here, a List.
const helm = `---
# Source: redis/templates/serviceaccount.yaml

---
# Source: redis/templates/namespace.yaml
apiVersion: v1
kind: Namespace
metadata:
  name: charts
---
# Source: redis/templates/master/service.yaml
apiVersion: v1
kind: Service
metadata:
  name: "release-redis-master"
  namespace: "charts"
  labels:
    app.kubernetes.io/instance: release
    app.kubernetes.io/managed-by: Helm
    app.kubernetes.io/version: "7.2.1"
    helm.sh/chart: redis-18.1.0
  annotations: {}
  creationTimestamp: null
spec:
  type: ClusterIP
  internalTrafficPolicy: Cluster
  sessionAffinity: None
  ipFamilies: [IPv4]
  ipFamilyPolicy: SingleStack
  ports:
    - name: tcp-redis
      port: 6379
      targetPort: redis
      nodePort: null
      protocol: TCP
  selector:
    app.kubernetes.io/name: redis
    app.kubernetes.io/component: master
  frobnicate: true
status:
  loadBalancer: {}
---
# Source: redis/templates/headless-svc.yaml
apiVersion: v1
kind: Service
metadata: {name: release-redis-headless, namespace: charts}
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  ports: [{name: tcp-redis, port: 6379, targetPort: redis}]
  selector: {app.kubernetes.io/name: redis}
---
---
apiVersion: v1
kind: List
metadata: {resourceVersion: ""}
items:
- apiVersion: v1
  kind: ServiceAccount
  metadata: {name: one, namespace: charts}
- apiVersion: v1
  kind: ServiceAccount
  metadata: {name: two, namespace: charts}
  automountServiceAccountToken: true
  nonsense: 1
`

// TestUpstreamYAML applies what other tools write: known fields are taken, unknown ones are
// warned of with their place, and nothing is refused.
func TestUpstreamYAML(t *testing.T) {
	m := newMesh(t, 170)
	m.up("-f", write(t, "mesh.yaml", pairMesh))
	path := write(t, "chart.yaml", helm)
	line := func(text string) int {
		before, _, _ := strings.Cut(helm, text)
		return strings.Count(before, "\n") + 1
	}
	out, code := m.try("apply", "-f", path, "--cluster", "eu-west")
	if code != 0 {
		t.Fatalf("exit %d:\n%s", code, out)
	}
	for _, want := range []string{
		fmt.Sprintf("%s:%d:3: Service charts/release-redis-master: spec.frobnicate: unknown field", path, line("  frobnicate")),
		fmt.Sprintf("%s:%d:3: ServiceAccount charts/two: nonsense: unknown field", path, line("  nonsense")),
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if n := strings.Count(out, "warning"); n != 2 {
		t.Errorf("%d warnings, want 2:\n%s", n, out)
	}
	if n := strings.Count(out, " created"); n != 5 {
		t.Errorf("%d objects created, want 5:\n%s", n, out)
	}
	// The same again changes nothing; what get prints can be applied.
	if out = m.run("apply", "-f", path, "--cluster", "eu-west"); strings.Count(out, " unchanged") != 5 {
		t.Errorf("applied again:\n%s", out)
	}
	printed := m.run("get", "services,serviceaccounts", "-n", "charts", "-o", "yaml", "--cluster", "eu-west")
	if out, code := m.apply("eu-west", printed); code != 0 || strings.Count(out, " unchanged") != 4 {
		t.Errorf("what get printed, applied: exit %d:\n%s\n%s", code, out, printed)
	}
	var list struct {
		Items []struct {
			Metadata struct{ Labels map[string]string }
			Spec     struct {
				ClusterIP string `json:"clusterIP"`
				Ports     []struct{ TargetPort any }
			}
		}
	}
	text := m.run("get", "services", "-n", "charts", "-o", "json", "--cluster", "eu-west")
	if err := json.Unmarshal([]byte(text), &list); err != nil || len(list.Items) != 2 {
		t.Fatalf("%v:\n%s", err, text)
	}
	if got := list.Items[0].Spec.ClusterIP; got != "None" {
		t.Errorf("the headless service has the address %q", got)
	}
	if s := list.Items[1]; s.Metadata.Labels["app.kubernetes.io/version"] != "7.2.1" || s.Spec.Ports[0].TargetPort != "redis" {
		t.Errorf("the service was not kept as written: %+v", s)
	}
	// A folder, and the same objects taken away by the file that made them.
	dir := filepath.Dir(write(t, "a.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: folder}\n"))
	if err := os.WriteFile(filepath.Join(dir, "b.yml"), []byte("apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: three, namespace: folder}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := m.run("apply", "-f", dir, "--cluster", "eu-west"); strings.Count(out, " created") != 2 {
		t.Errorf("a folder applied:\n%s", out)
	}
	m.run("delete", "-f", path, "--cluster", "eu-west")
	if out := m.run("get", "services,serviceaccounts", "-n", "charts", "-o", "name", "--cluster", "eu-west"); strings.Contains(out, "redis") {
		t.Errorf("after delete -f:\n%s", out)
	}
}
