package localmesh

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestBackoffDoublesToItsBoundAndForgetsAfterALongRun(t *testing.T) {
	var b backoff
	const ms = time.Millisecond
	for i, c := range []struct{ ran, want time.Duration }{
		{0, 100 * ms}, {0, 200 * ms}, {time.Second, 400 * ms}, {0, 800 * ms}, {0, 1600 * ms}, {29 * time.Second, 3200 * ms},
		{0, 5 * time.Second}, {0, 5 * time.Second}, {30 * time.Second, 100 * ms}, {0, 200 * ms},
	} {
		if got := b.next(c.ran); got != c.want {
			t.Errorf("wait %d: %v, want %v", i, got, c.want)
		}
	}
}

func TestALogNeverHoldsMoreThanTwiceItsBound(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.log")
	l, err := openLog(path, 100)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		if n, err := l.Write(bytes.Repeat([]byte{byte('a' + i%26)}, 30)); n != 30 || err != nil {
			t.Fatalf("write %d: %d, %v", i, n, err)
		}
		for _, name := range []string{path, path + ".1"} {
			if info, err := os.Stat(name); err == nil && info.Size() > 100 {
				t.Fatalf("%s has %d bytes", name, info.Size())
			}
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := l.Write([]byte("late")); n != 4 || err != nil {
		t.Errorf("a write after the end: %d, %v: want it dropped", n, err)
	}
	// What was there stays over a restart, and counts.
	l, err = openLog(path, 100)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = l.Write([]byte("new\n"))
	after, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(after, append(before, "new\n"...)) {
		t.Errorf("after a restart the log holds %q, %v; want %q and a line", after, err, before)
	}
	if got := lastLine(path); !strings.HasSuffix(got, "new") {
		t.Errorf("last line %q", got)
	}
}

func TestALockHasOneHolderAlsoWhenItsFileIsRemoved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := tryLock(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tryLock(path); !errors.Is(err, errLocked) {
		t.Errorf("a second holder: %v, want %v", err, errLocked)
	}
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan error, 1)
	go func() {
		l, err := waitLock(ctx, path)
		if err == nil {
			l.remove()
		}
		got <- err
	}()
	first.remove()
	if err := <-got; err != nil {
		t.Errorf("whoever waited: %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file is still there: %v", err)
	}
	held, err := tryLock(path)
	if err != nil {
		t.Fatal(err)
	}
	defer held.remove()
	cancel()
	if _, err := waitLock(ctx, path); !errors.Is(err, errLocked) {
		t.Errorf("waiting without time: %v, want %v", err, errLocked)
	}
}

func TestManifestsAreReadBeforeAnythingStarts(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("policies/b.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: b}\n")
	write("policies/deep/a.yml", `apiVersion: isthmus.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: p, namespace: shop}
spec: {targetRefs: [{group: "", kind: Service, name: catalog}]}
---
apiVersion: isthmus.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: home, namespace: shop, labels: {isthmus.dev/scope: cluster}}
spec: {targetRefs: [{group: "", kind: Service, name: catalog}]}
`)
	write("policies/README.md", "not for us")
	p := planned(t, func(c *Config) { c.MeshDir = dir })
	got, err := readManifests(p, []string{"./policies"})
	if err != nil || len(got) != 2 {
		t.Fatalf("%d files, %v: want 2", len(got), err)
	}
	if f := got[0]; !strings.Contains(string(f.local), "name: b") || f.replicated != nil {
		t.Errorf("a namespace is each cluster's own: %s / %s", f.local, f.replicated)
	}
	if f := got[1]; !strings.Contains(string(f.replicated), "name: p\n") || !strings.Contains(string(f.local), "name: home\n") || strings.Contains(string(f.local), "name: p\n") {
		t.Errorf("a policy is told once unless it stays home: %s / %s", f.local, f.replicated)
	}
	write("bad.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: A}\n")
	var faults *FaultsError
	if _, err := readManifests(p, []string{"policies", "bad.yaml"}); !errors.As(err, &faults) || !strings.Contains(err.Error(), filepath.Join(dir, "bad.yaml")+":3:") {
		t.Errorf("%v: want the faults with file and line", err)
	}
	if _, err := readManifests(p, []string{"none.yaml"}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v: want that it does not exist", err)
	}
}

func TestDirectoriesOfAUser(t *testing.T) {
	env := map[string]string{"XDG_STATE_HOME": "/x", "XDG_RUNTIME_DIR": "/run/user/7", "HOME": "/home/a"}
	getenv := func(name string) string { return env[name] }
	if got, err := DefaultStateDir(getenv); got != "/x/isthmus/local" || err != nil {
		t.Errorf("state directory %q, %v", got, err)
	}
	if got := DefaultRuntimeDir(getenv); got != "/run/user/7/isthmus" {
		t.Errorf("runtime directory %q", got)
	}
	env["XDG_STATE_HOME"] = "relative" // ignored, as the specification asks
	if got, err := DefaultStateDir(getenv); got != "/home/a/.local/state/isthmus/local" || err != nil {
		t.Errorf("state directory %q, %v", got, err)
	}
	clear(env)
	if _, err := DefaultStateDir(getenv); err == nil {
		t.Error("a state directory out of nothing")
	}
	if got := DefaultRuntimeDir(getenv); !strings.HasPrefix(got, os.TempDir()) {
		t.Errorf("runtime directory %q", got)
	}
}

func TestConfigurationsThatCannotBeAreRefused(t *testing.T) {
	c := Config{Topology: "ring"}
	_, err := c.withDefaults()
	for _, want := range []string{"state directory: missing", "runtime directory: missing", "executable: missing", `topology "ring"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: want %q in it", err, want)
		}
	}
}
