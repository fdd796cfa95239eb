package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestNothingAcknowledgedIsLost creates objects without pause while the store is killed
// again and again: each that was acknowledged is there afterwards.
func TestNothingAcknowledgedIsLost(t *testing.T) {
	m := newMesh(t, 130)
	m.up("-f", write(t, "mesh.yaml", pairMesh))
	secret, err := os.ReadFile(filepath.Join(m.dir, "token"))
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Timeout: 5 * time.Second}
	apply := func(yaml string) error {
		req, err := http.NewRequest(http.MethodPost, "http://"+m.address(0, 0, 2, 15080)+"/v1/apply", strings.NewReader(yaml))
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(secret)))
		req.Header.Set("Content-Type", "application/yaml")
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("status %d", resp.StatusCode)
		}
		return nil
	}
	if err := apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: kept}\n"); err != nil {
		t.Fatal(err)
	}
	l := m.load(0, echo+"/", 50)
	defer l.stop()
	acknowledged, refused, over := []string{}, 0, make(chan struct{})
	stop := make(chan struct{})
	go func() {
		defer close(over)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			name := fmt.Sprintf("object-%05d", i)
			if err := apply("apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: " + name + ", namespace: kept}\n"); err == nil {
				acknowledged = append(acknowledged, name)
			} else {
				refused++
				<-time.After(10 * time.Millisecond)
			}
		}
	}()
	for range 4 {
		<-time.After(700 * time.Millisecond)
		m.run("drill", "kill", "store@eu-west")
		<-time.After(200 * time.Millisecond)
		m.run("drill", "resume", "store@eu-west")
	}
	<-time.After(time.Second)
	close(stop)
	<-over
	l.stop().mustNotFail(t)
	t.Logf("%d objects acknowledged, %d refused", len(acknowledged), refused)
	// An attempt waits for a store that is coming back, so that few or none are refused.
	if ended := strings.Count(m.log("eu-west.control-plane"), "the store's process ended"); len(acknowledged) < 50 || ended < 4 {
		t.Errorf("the store ended %d times, want at least 4, and enough objects to prove something", ended)
	}
	var out string
	eventually(t, 15*time.Second, "the store answers", func() (string, bool) {
		o, code := m.try("get", "serviceaccounts", "-n", "kept", "-o", "name", "--cluster", "eu-west")
		out = o
		return o, code == 0
	})
	for _, name := range acknowledged {
		if !strings.Contains(out, name+"\n") {
			t.Errorf("%s was acknowledged and is lost", name)
		}
	}
	m.inSync(t, 20*time.Second)
}

// TestDamagedSnapshots flips bytes in what a proxy kept for its next start, and crashes it.
func TestDamagedSnapshots(t *testing.T) {
	m := newMesh(t, 140)
	m.up("-f", write(t, "mesh.yaml", pairMesh))
	const shell = "eu-west.shell"
	kept := filepath.Join(m.dir, "snapshots", shell)
	serves := func(t *testing.T, within time.Duration) {
		t.Helper()
		took := eventually(t, within, "the proxy serves", func() (string, bool) {
			a := get(m.shell(0), echo+"/")
			return a.String(), a.Status == 200
		})
		t.Logf("serving again after %v", took.Round(time.Millisecond))
	}
	serves(t, 5*time.Second)
	var older []byte
	eventually(t, 10*time.Second, "there is a snapshot", func() (string, bool) {
		b, err := os.ReadFile(kept)
		older = b
		return fmt.Sprint(err), err == nil
	})
	// Two generations: the second is written when something has changed.
	if out, code := m.apply("eu-west", "apiVersion: v1\nkind: Namespace\nmetadata: {name: more}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: more, namespace: more}\nspec: {ports: [{port: 80}]}\n"); code != 0 {
		t.Fatal(out)
	}
	eventually(t, 10*time.Second, "two snapshots are kept", func() (string, bool) {
		_, err := os.Stat(kept + ".prev")
		return fmt.Sprint(err), err == nil
	})
	<-time.After(2 * time.Second) // the writes that this change causes
	m.run("drill", "kill", "control-plane@eu-west")
	for _, s := range []struct {
		name   string
		damage func(*testing.T)
		says   string
	}{
		{"the newest has flipped bytes", func(t *testing.T) { flip(t, kept) }, "the newest snapshot cannot be used; the one before it is"},
		{"the newest is cut short", func(t *testing.T) { cut(t, kept) }, "the newest snapshot cannot be used; the one before it is"},
		{"both are damaged, and a control plane is there", func(t *testing.T) {
			flip(t, kept)
			flip(t, kept+".prev")
			m.run("drill", "resume", "control-plane@eu-west")
		}, "the snapshot cannot be used; the proxy starts as new"},
	} {
		t.Run(s.name, func(t *testing.T) {
			s.damage(t)
			past := len(m.log(shell))
			m.crash(t, "proxy", shell)
			serves(t, 10*time.Second)
			m.says(t, shell, past, time.Second, s.says)
		})
	}
	t.Run("an older one is put back", func(t *testing.T) {
		unknown := func(a answer) bool { return a.Reason == "outside_mesh" || a.Reason == "unknown_host" }
		m.noDrift(t)
		m.run("drill", "kill", "control-plane@eu-west")
		if err := errors.Join(os.WriteFile(kept, older, 0o600), os.WriteFile(kept+".prev", older, 0o600)); err != nil {
			t.Fatal(err)
		}
		m.crash(t, "proxy", shell)
		eventually(t, 10*time.Second, "it serves what is older", func() (string, bool) {
			a := get(m.shell(0), echo+"/")
			b := get(m.shell(0), "http://more.more/")
			return a.String() + b.String(), a.Status == 200 && unknown(b)
		})
		m.run("drill", "resume", "control-plane@eu-west")
		past, begin := len(m.log(shell)), time.Now()
		eventually(t, 30*time.Second, "it has what is newest", func() (string, bool) {
			b := get(m.shell(0), "http://more.more/")
			return b.String() + m.log(shell)[past:], b.err == nil && !unknown(b)
		})
		t.Logf("an older snapshot was made up for %v after the control plane was started", time.Since(begin).Round(time.Millisecond))
	})
	m.inSync(t, 20*time.Second)
}

// flip inverts bytes in the middle of a file.
func flip(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 16 {
		b[len(b)/2+i] ^= 0xff
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// cut leaves the first half of a file.
func cut(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, b[:len(b)/2], 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}
