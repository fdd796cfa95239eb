package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// built is the binary of a version, which speaks certain protocols; none are this code's.
func built(t *testing.T, version, protocols string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "isthmus")
	flags := "-X main.version=" + version + " -X main.protocols=" + protocols
	build := exec.Command("go", "build", "-ldflags", flags, "-o", path, "github.com/isthmus-mesh/isthmus/cmd/isthmus")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build version %s: %v\n%s", version, err, out)
	}
	return path
}

// upgrade restarts a process of the mesh, as it is named to drills, with what the file of the binary holds now.
func (m *meshUnder) upgrade(to string, targets ...string) {
	m.t.Helper()
	next := m.binary + ".next"
	b, err := os.ReadFile(to)
	if err == nil {
		err = os.WriteFile(next, b, 0o755)
	}
	if err == nil {
		err = os.Rename(next, m.binary) // what runs goes on with the file that it was started from
	}
	if err != nil {
		m.t.Fatal(err)
	}
	for _, target := range targets {
		m.run("drill", "kill", target)
		m.run("drill", "resume", target)
	}
}

// TestVersionsSideBySide upgrades a mesh under load, one control plane after the other, from a build that speaks the oldest protocol: two minor
// versions back are in sync with the new one and no request fails. Then one is upgraded too far: it is refused with what is to be upgraded
// first, in status and by version --mesh, traffic goes on, and the safe order mends it.
func TestVersionsSideBySide(t *testing.T) {
	m := newMesh(t, 155)
	old, next, beyond := built(t, "v0.1.0", "1-1"), built(t, "v0.3.0", ""), built(t, "v0.4.0", "2-4")
	m.binary = filepath.Join(t.TempDir(), "isthmus")
	m.upgrade(old)
	m.up()
	m.inSync(t, 30*time.Second)
	l := m.load(0, catalog, 30)
	defer l.stop()

	m.upgrade(next, "control-plane@eu-west")
	m.inSync(t, 60*time.Second)
	out := m.run("version", "--mesh")
	for _, want := range []string{"control-plane@eu-west", "v0.3.0", "current", "v0.1.0", "behind", "1. upgrade the control-plane of"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	// What changes now goes by the protocol of the older one, both ways.
	for _, c := range clusters[:2] {
		if out, code := m.apply(c, fmt.Sprintf(denyYAML, "from-"+c)); code != 0 {
			t.Fatal(out)
		}
	}
	for _, c := range clusters {
		eventually(t, 30*time.Second, "policies of both versions are in "+c, func() (string, bool) {
			out, _ := m.try("get", "accesspolicies", "-n", "shop", "--cluster", c)
			return out, strings.Contains(out, "from-eu-west") && strings.Contains(out, "from-us-east")
		})
	}

	m.upgrade(beyond, "control-plane@us-east")
	eventually(t, 60*time.Second, "status says what to upgrade first", func() (string, bool) {
		out, code := m.try("status")
		return out, code == 1 && strings.Contains(out, "upgrade cluster ap-south first") && strings.Contains(out, "is not served: ")
	})
	eventually(t, 60*time.Second, "version --mesh says it too", func() (string, bool) {
		out, code := m.try("version", "--mesh")
		return out, code == 1 && strings.Contains(out, "unsupported") && strings.Contains(out, "1. upgrade the control-plane of ap-south from 0.1.0")
	})
	l.stop().mustNotFail(t)

	m.upgrade(next, "control-plane@us-east", "control-plane@ap-south") // back, and the rest of the safe order
	m.inSync(t, 60*time.Second)
}

const denyYAML = `apiVersion: isthmus.dev/v1alpha1
kind: AccessPolicy
metadata: {name: %s, namespace: shop}
spec: {targetRefs: [{group: "", kind: Service, name: reviews}], action: Deny, rules: [{from: [{serviceAccounts: [nobody]}]}]}
`
