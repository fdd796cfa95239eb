package localmesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// What the end-to-end test needs: a mesh of a given binary, curl through it, and load.

// binaryMesh is a mesh that `isthmus up --detach` started.
type binaryMesh struct {
	t        *testing.T
	Binary   string
	StateDir string
	Env      []string
	Summary
}

// startBinary runs `binary up --detach` with a state directory and an address base of the
// test's own, and returns when it has: the mesh is ready then. It is ended with the test.
func startBinary(t *testing.T, binary string, base int, args ...string) *binaryMesh {
	t.Helper()
	// Short: the store's sockets are below it, and a socket's path has 103 bytes.
	dir, err := os.MkdirTemp("", "isthmus-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the state directory is kept: %s", dir)
			return
		}
		_ = os.RemoveAll(dir)
	})
	m := &binaryMesh{t: t, Binary: binary, StateDir: filepath.Join(dir, "state"), Env: append(os.Environ(), "XDG_RUNTIME_DIR="+dir, "GORACE=atexit_sleep_ms=0")}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), limit)
		defer cancel()
		if err := Down(ctx, m.StateDir); err != nil && !errors.Is(err, ErrNotRunning) {
			t.Error(err)
		}
	})
	m.Up(base, args...)
	return m
}

// Up starts the mesh, anew where it was ended.
func (m *binaryMesh) Up(base int, args ...string) {
	m.t.Helper()
	out, err := m.Run(append([]string{"up", "--detach", "--address-base", fmt.Sprint(base)}, args...)...)
	if err == nil {
		m.Summary, err = ReadSummary(m.StateDir)
	}
	if err != nil || !m.Ready {
		m.t.Fatalf("isthmus up: %v, ready %v\n%s", err, m.Ready, out)
	}
}

// Run runs a command of the binary over the mesh and returns all that it said.
func (m *binaryMesh) Run(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(m.t.Context(), 2*limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, m.Binary, append(slices.Clone(args), "--state-dir", m.StateDir)...)
	cmd.Env = m.Env
	cmd.WaitDelay = time.Second // a detached supervisor does not hold the output, but if it did
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// Client calls through the explicit proxy of a cluster's shell, as curl -x does.
func (m *binaryMesh) Client(cluster string) *http.Client {
	m.t.Helper()
	i := slices.IndexFunc(m.Clusters, func(c ClusterSummary) bool { return string(c.Name) == cluster })
	if i < 0 {
		m.t.Fatalf("no cluster %s", cluster)
	}
	return proxyClient(m.t, m.Clusters[i].Shell)
}

func proxyClient(t *testing.T, proxy netip.AddrPort) *http.Client {
	transport := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: proxy.String()}), MaxIdleConnsPerHost: 256}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: limit}
}

// curl asks once and returns status and body.
func curl(ctx context.Context, client *http.Client, target string) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return 0, nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	return resp.StatusCode, body, err
}

// load sends GETs at a fixed rate whether or not earlier ones were answered (an open loop):
// one that waits for answers would slow down with what it measures and see fewer failures.
type load struct {
	sent atomic.Int64
	stop func()

	mu       sync.Mutex
	failures []loadFailure
	slowest  time.Duration
	statuses map[int]int
}

// loadFailure is a request without a 200.
type loadFailure struct {
	At     time.Time
	After  time.Duration
	Status int
	Reason string // header isthmus-reason
	Err    error
}

// startLoad sends perSecond GETs to target until Stop is called.
func startLoad(ctx context.Context, client *http.Client, target string, perSecond int) *load {
	ctx, cancel := context.WithCancel(ctx)
	l := &load{statuses: map[int]int{}}
	var all sync.WaitGroup
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(time.Second / time.Duration(perSecond))
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				l.sent.Add(1)
				all.Go(func() { l.one(context.WithoutCancel(ctx), client, target) })
			case <-ctx.Done():
				return
			}
		}
	}()
	l.stop = func() {
		cancel()
		<-done
		all.Wait()
	}
	return l
}

func (l *load) one(ctx context.Context, client *http.Client, target string) {
	began := time.Now()
	f := loadFailure{At: began}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err == nil {
		var resp *http.Response
		if resp, err = client.Do(req); err == nil {
			f.Status, f.Reason = resp.StatusCode, resp.Header.Get("isthmus-reason")
			_, err = io.Copy(io.Discard, resp.Body)
			err = errors.Join(err, resp.Body.Close())
		}
	}
	f.Err, f.After = err, time.Since(began)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.statuses[f.Status]++
	l.slowest = max(l.slowest, f.After)
	if f.Err != nil || f.Status != http.StatusOK {
		l.failures = append(l.failures, f)
	}
}

// Stop ends the load and returns when every request was answered.
func (l *load) Stop() (sent int64, failures []loadFailure) {
	l.stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sent.Load(), l.failures
}

func TestLoadKeepsItsRateAndTellsEveryFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		client := &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			w := httptest.NewRecorder()
			switch n.Add(1) % 4 {
			case 1:
				w.Header().Set("isthmus-reason", "no_endpoint")
				w.WriteHeader(http.StatusServiceUnavailable)
			case 2:
				return nil, errors.New("connection reset")
			}
			return w.Result(), nil
		})}
		l := startLoad(t.Context(), client, "http://x/", 10)
		<-time.After(2050 * time.Millisecond) // of the bubble's own time
		sent, failures := l.Stop()
		if sent != 20 || len(failures) != 10 || l.statuses[200] != 10 {
			t.Errorf("sent %d, failed %d, statuses %v: want 20, 10, and 10 of 200", sent, len(failures), l.statuses)
		}
		if f := failures[0]; f.Status != 503 || f.Reason != "no_endpoint" || f.At.IsZero() {
			t.Errorf("%+v: want status and reason", f)
		}
		if f := failures[1]; f.Err == nil {
			t.Errorf("%+v: want the error", f)
		}
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestHelpersStartAskAndEndAMeshOfABinary(t *testing.T) {
	// The test binary's own `up` takes a file; a script stands between.
	cfg := small(t, testBase(t))
	writeOwn(t, cfg)
	script := filepath.Join(cfg.MeshDir, "isthmus")
	text := fmt.Sprintf("#!/bin/sh\nexec %s detach \"$@\"\n", os.Args[0])
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	m := startBinary(t, script, cfg.AddressBase)
	status, body, err := curl(t.Context(), m.Client("west"), "http://catalog.shop.svc.clusterset.local/")
	if status != 200 || err != nil {
		t.Errorf("status %d, %v: %s", status, err, body)
	}
	l := startLoad(t.Context(), m.Client("east"), "http://catalog.shop/", 200)
	for l.sent.Load() < 20 {
		if !sleep(t.Context(), pollEvery) {
			t.Fatal("no load")
		}
	}
	if sent, failures := l.Stop(); len(failures) > 0 {
		t.Errorf("%d of %d failed: %+v", len(failures), sent, failures[0])
	}
}
