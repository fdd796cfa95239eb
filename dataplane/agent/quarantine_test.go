package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/agent"
	"github.com/isthmus-mesh/isthmus/dataplane/quarantine"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
	"github.com/isthmus-mesh/isthmus/xds"
)

// A process of this test binary is a proxy if this says its configuration; what its configuration may have it crash over is a service whose
// requests may take 666 s.
const (
	proxyProcess = "AGENT_TEST_PROXY"
	poisonous    = 666 * time.Second
)

// runProxy is what commands do, but for a fault: the process crashes over the poisonous configuration.
func runProxy(config string) error {
	var cfg agent.Config
	if err := json.Unmarshal([]byte(config), &cfg); err != nil {
		return err
	}
	a, err := agent.New(cfg, slog.New(slog.NewTextHandler(os.Stderr, nil)), agent.Options{})
	if err != nil {
		return err
	}
	go a.CrashAt(poisonous)
	return a.Main(context.Background(), os.Args[0], nil, nil, nil)
}

// process starts a proxy as a process of its own over what m left on its disk, and tells when it ends.
func (w *world) process(m *member) (ended <-chan error) {
	w.t.Helper()
	key, _ := keys.Load(m.cfg.Snapshot)
	r, p, err := os.Pipe()
	if err == nil {
		_, err = p.Write(key.(trust.SealKey).Reveal())
	}
	cfg := m.cfg
	cfg.SealFD = 3
	config, encode := json.Marshal(cfg)
	if err := errors.Join(err, p.Close(), encode); err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env, cmd.ExtraFiles, cmd.Stderr = append(os.Environ(), proxyProcess+"="+string(config)), []*os.File{r}, w.t.Output()
	if err := errors.Join(cmd.Start(), r.Close()); err != nil {
		w.t.Fatal(err)
	}
	done := make(chan error, 1)
	var over sync.WaitGroup
	over.Go(func() { done <- cmd.Wait() })
	w.t.Cleanup(func() { _ = cmd.Process.Kill(); over.Wait() })
	return done
}

// timeout is the request timeout of the service as the mesh states it.
func (w *world) timeout(n mesh.ServiceName, d time.Duration) {
	w.script.mu.Lock()
	svc := *w.script.resources[string(ir.TypeService)][n.String()].(*ir.Service)
	w.script.mu.Unlock()
	svc.Traffic.RequestTimeout = d
	w.script.set(n.String(), &svc)
}

// refuses reports whether a proxy has said that it holds a version of a service.
func (w *world) refuses(n mesh.ServiceName) bool {
	for _, c := range w.script.server.Clients() {
		for _, t := range c.Types {
			for _, r := range t.Refused {
				if r.Name == n.String() && strings.Contains(r.Message, quarantine.ErrHeld.Error()) {
					return true
				}
			}
		}
	}
	return false
}

// aged makes the notes of m those of a proxy that was told something an hour ago, and of nothing since.
func aged(t *testing.T, m *member) {
	t.Helper()
	key, _ := keys.Load(m.cfg.Snapshot)
	if err := os.Remove(m.cfg.Snapshot + ".taken"); err != nil {
		t.Fatal(err)
	}
	l := quarantine.Open(quarantine.Config{Path: m.cfg.Snapshot + ".taken", Key: key.(trust.SealKey).Reveal(), Log: slog.New(slog.DiscardHandler),
		Now: func() time.Time { return time.Now().Add(-time.Hour) }})
	l.Takes([]xds.Resource{{Type: string(ir.TypeName), Name: "shop/old", Version: "1"}}, func(string) (xds.Resource, bool) { return xds.Resource{}, false })
	l.Close()
}

// TestPoisonIsQuarantined: a configuration over which the proxy crashes, as a process, as soon as it is in force: after two crashes the proxy serves by
// the one before it, the control plane is told why, and the next configuration is taken. The control run is the same without the notes: it crashes
// for as long as it is started.
func TestPoisonIsQuarantined(t *testing.T) {
	for _, notes := range []bool{true, false} {
		name := map[bool]string{true: "with notes", false: "control: without"}[notes]
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			_, e := w.server("eu-west", "catalog-0", catalog)
			w.service(catalog, []ir.Group{{Cluster: "eu-west", Exported: true, Identities: w.identity("eu-west", catalog), Endpoints: []ir.Endpoint{e}}}, nil)
			m := w.client()
			m.waitReady(t)
			serves := func() error { return request(via(t, m), "GET", "http://catalog.shop/") }
			eventually(t, "the service is served", func() bool { return serves() == nil })
			if err := m.end(); err != nil && !strings.Contains(err.Error(), "context canceled") {
				t.Fatal(err)
			}
			aged(t, m)
			w.timeout(catalog, poisonous)
			starts := 0
			var ended <-chan error
			for crashed := true; crashed && starts < 5; {
				if !notes {
					_ = os.Remove(m.cfg.Snapshot + ".taken")
				}
				ended = w.process(m)
				starts++
				crashed = false
				eventually(t, "the proxy serves, or crashes", func() bool {
					select {
					case <-ended:
						crashed = true
					default:
						return w.refuses(catalog)
					}
					return crashed
				})
			}
			switch {
			case !notes && starts < 5:
				t.Errorf("without notes it was started %d times only: it does not crash over the configuration, and this test shows nothing", starts)
			case !notes:
				return
			case starts != 3:
				t.Errorf("it was started %d times, want 3: two crashes, and what serves on", starts)
			}
			if err := serves(); err != nil {
				t.Errorf("what was in force before does not serve: %v", err)
			}
			w.timeout(catalog, 7*time.Second)
			eventually(t, "the next configuration is taken", func() bool { return !w.refuses(catalog) })
			if err := serves(); err != nil {
				t.Error(err)
			}
		})
	}
}
