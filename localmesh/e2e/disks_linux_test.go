package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const threeMesh = `
apiVersion: isthmus.dev/v1alpha1
kind: LocalMesh
clusters:
  - {name: eu-west, jurisdiction: EU}
  - {name: us-east, jurisdiction: US}
  - {name: ap-south, jurisdiction: IN}
links:
  - {between: [eu-west, us-east], rtt: 20ms}
workloads:
  - {name: echo, namespace: demo, run: builtin/echo}
  - {name: remote, namespace: demo, clusters: [us-east], run: builtin/echo}
`

// writer creates objects in one cluster without pause, and keeps what became of them.
type writer struct {
	cluster int
	mu      sync.Mutex
	kept    []string // acknowledged
	refused int
	last    string // refusal
	first   string // refusal
}

// keepWriting runs until stop is closed. Objects are large, so that the room that a store has set aside is soon used up.
func (m *meshUnder) keepWriting(w *writer, token string, stop <-chan struct{}) {
	client := &http.Client{Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		name := fmt.Sprintf("big-%04d", i)
		text := fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: %s, namespace: demo}\nstringData: {text: %q}\n", name, strings.Repeat("x", 64<<10))
		why := m.post(client, w.cluster, token, text)
		w.mu.Lock()
		if why == "" {
			w.kept = append(w.kept, name)
		} else {
			w.refused, w.last = w.refused+1, why
			if w.first == "" {
				w.first = why
			}
		}
		w.mu.Unlock()
		if why != "" {
			<-time.After(100 * time.Millisecond)
		}
	}
}

// post applies YAML in a cluster, and returns why it was refused, empty if it was not.
func (m *meshUnder) post(client *http.Client, cluster int, token, yaml string) string {
	req, err := http.NewRequest(http.MethodPost, "http://"+m.address(cluster, 0, 2, 15080)+"/v1/apply", strings.NewReader(yaml))
	if err != nil {
		return err.Error()
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/yaml")
	resp, err := client.Do(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode == http.StatusOK {
		return ""
	}
	return fmt.Sprintf("status %d: %s %v", resp.StatusCode, b, err)
}

func (w *writer) state() (kept, refused int, first, last string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.kept), w.refused, w.first, w.last
}

// TestFullDisksEverywhere lets the disks of all three stores run full at once, under 200 requests a second, half of which
// cross: not one fails; each store refuses what it cannot write and says what to do; all three write again
// by themselves once there is space; and what was acknowledged is there.
//
// As TestFullDisk it takes root, to mount small disks.
func TestFullDisksEverywhere(t *testing.T) {
	if os.Geteuid() != 0 && os.Getenv("CI") == "" {
		t.Skip("mounting small disks takes root")
	}
	m := newMesh(t, 220)
	var fillers []string
	for _, c := range clusters { // a disk for each store, as clusters have
		disk := filepath.Join(m.dir, "clusters", c)
		if err := os.MkdirAll(disk, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mount("isthmus-e2e", disk, "tmpfs", 0, "size=96m,mode=0700"); err != nil {
			t.Fatalf("mount a small disk: %v", err)
		}
		t.Cleanup(func() {
			if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
		fillers = append(fillers, filepath.Join(disk, "filler"))
	}
	if err := os.Chmod(m.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	m.up("-f", write(t, "mesh.yaml", threeMesh))
	token, err := os.ReadFile(filepath.Join(m.dir, "token"))
	if err != nil {
		t.Fatal(err)
	}
	near, cross := m.load(0, echo+"/", 100), m.load(2, "http://remote.demo.svc.clusterset.local/", 100)
	defer near.stop()
	defer cross.stop()
	stop := make(chan struct{})
	var writing sync.WaitGroup
	writers := make([]*writer, len(clusters))
	for i := range clusters {
		writers[i] = &writer{cluster: i}
		writing.Go(func() { m.keepWriting(writers[i], strings.TrimSpace(string(token)), stop) })
	}
	defer writing.Wait()
	halt := sync.OnceFunc(func() { close(stop) })
	defer halt()
	for i, c := range clusters {
		eventually(t, 20*time.Second, "objects are written in "+c, func() (string, bool) {
			kept, _, _, last := writers[i].state()
			return last, kept >= 20
		})
	}
	for _, f := range fillers {
		fill(t, f)
	}
	for i, c := range clusters {
		eventually(t, 60*time.Second, "the store of "+c+" refuses", func() (string, bool) {
			kept, refused, first, last := writers[i].state()
			return fmt.Sprint(kept, refused, first, last), refused > 5
		})
	}
	<-time.After(3 * time.Second) // all three are full at the same time
	full := make([]int, len(clusters))
	for i, c := range clusters {
		kept, refused, first, last := writers[i].state()
		full[i] = kept
		t.Logf("%s: %d acknowledged, %d refused, first: %.300s", c, kept, refused, first)
		if !strings.Contains(last, "free some space") {
			t.Errorf("%s does not say what to do: %s", c, last)
		}
	}
	for _, f := range fillers {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	for i, c := range clusters {
		took := eventually(t, 10*time.Second, "the store of "+c+" writes again", func() (string, bool) {
			kept, _, _, last := writers[i].state()
			return last, kept > full[i]
		})
		t.Logf("%s writes again %v after there was space", c, took.Round(time.Millisecond))
	}
	halt()
	writing.Wait()
	near.stop().mustNotFail(t)
	cross.stop().mustNotFail(t)
	m.inSync(t, 20*time.Second)
	for i, c := range clusters {
		out := m.run("get", "secrets", "-n", "demo", "-o", "name", "--cluster", c)
		for _, name := range writers[i].kept {
			if !strings.Contains(out, name+"\n") {
				t.Errorf("%s: %s was acknowledged and is lost", c, name)
			}
		}
	}
}
