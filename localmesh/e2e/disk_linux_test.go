package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const oneMesh = `
apiVersion: isthmus.dev/v1alpha1
kind: LocalMesh
clusters:
  - {name: eu-west, jurisdiction: EU}
workloads:
  - {name: echo, namespace: demo, run: builtin/echo}
`

// TestFullDisk lets the disk of a mesh run full: requests go on, what cannot be written is
// refused with what to do, and once there is space again writing goes on by itself.
//
// The disk is a small one of memory, which takes root to mount; under CI, whose user is root,
// the test must run.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 && os.Getenv("CI") == "" {
		t.Skip("mounting a small disk takes root")
	}
	disk := t.TempDir()
	if err := syscall.Mount("isthmus-e2e", disk, "tmpfs", 0, "size=96m,mode=0700"); err != nil {
		t.Fatalf("mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	m := newMesh(t, 150)
	m.dir = filepath.Join(disk, "state")
	m.up("-f", write(t, "mesh.yaml", oneMesh))
	l := m.load(0, echo+"/", 100)
	defer l.stop()
	watched := m.watch(t, "get", "namespaces", "-A", "-w", "-o", "name")
	filler := filepath.Join(disk, "filler")
	fill(t, filler)
	// A store has room set aside, which has to be used up first.
	object := func(i int) string {
		return fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: big-%d, namespace: demo}\nstringData: {text: %q}\n", i, strings.Repeat("x", 700<<10))
	}
	refusal := ""
	for i := 0; refusal == "" && i < 200; i++ {
		if out, code := m.apply("eu-west", object(i)); code != 0 {
			refusal = out
		}
	}
	if refusal == "" {
		t.Fatal("nothing was refused although the disk is full")
	}
	t.Logf("refused: %s", refusal)
	if !strings.Contains(refusal, "free some space") {
		t.Errorf("the refusal does not say what to do: %s", refusal)
	}
	readsGoOn(t, m)
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	took := eventually(t, 10*time.Second, "writing goes on", func() (string, bool) {
		out, code := m.apply("eu-west", "apiVersion: v1\nkind: Namespace\nmetadata: {name: again}\n")
		return out, code == 0
	})
	t.Logf("writing again %v after there was space", took.Round(time.Millisecond))
	eventually(t, 20*time.Second, "a watch that began before goes on", func() (string, bool) {
		out := watched()
		return out, strings.Contains(out, "namespace/again")
	})
	eventually(t, 10*time.Second, "reads are fresh again", func() (string, bool) {
		_, warnings, code := m.apart("get", "services", "-A")
		return warnings, code == 0 && warnings == ""
	})
	l.stop().mustNotFail(t)
	m.inSync(t, 20*time.Second)
}

// readsGoOn reads while the store of the mesh is away: what is known is shown, with a warning beside it. A store that is
// started again on a full disk answers for a moment, until it writes: then there is nothing to warn of.
func readsGoOn(t *testing.T, m *meshUnder) {
	t.Helper()
	for _, args := range [][]string{{"get", "services", "-A"}, {"get", "service", "echo", "-n", "demo"}, {"describe", "service", "echo", "-n", "demo"}} {
		eventually(t, 20*time.Second, fmt.Sprintf("%v warns", args), func() (string, bool) {
			out, warnings, code := m.apart(args...)
			if code != 0 || !strings.Contains(out, "echo") {
				t.Fatalf("%v: exit %d:\n%s%s", args, code, out, warnings)
			}
			return warnings, strings.Contains(warnings, "the store is away") && strings.Contains(warnings, "is full") && strings.Contains(warnings, "revision")
		})
	}
	out, _, code := m.apart("get", "services", "-A", "-o", "json")
	var list struct{ Items []any }
	if err := json.Unmarshal([]byte(out), &list); err != nil || code != 0 || len(list.Items) == 0 {
		t.Errorf("-o json: exit %d, %v:\n%s", code, err, out)
	}
}
