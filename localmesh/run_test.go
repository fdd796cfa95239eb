package localmesh

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/codec/manifest"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// limit bounds every wait of these tests.
const limit = time.Minute

// testBase is an address base for up to three clusters that no other test has, of this process
// or of another.
func testBase(t *testing.T) int {
	t.Helper()
	for base := 60; base+3 < 250; base += 3 {
		l, err := tryLock(filepath.Join(os.TempDir(), fmt.Sprintf("isthmus-test-%d.lock", base)))
		if errors.Is(err, errLocked) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(l.remove)
		if !free(Layout(base)) { // a mesh of somebody who does not know of these locks
			continue
		}
		return base
	}
	t.Fatal("no address base is free")
	return 0
}

// free reports whether nothing listens where the control planes of three clusters and the console would.
func free(l Layout) bool {
	addrs := []netip.AddrPort{l.Console()}
	for n := 1; n <= 3; n++ {
		addrs = append(addrs, at(l.ControlPlane(n), portControl))
	}
	for _, a := range addrs {
		ln, err := net.Listen("tcp", a.String())
		if err != nil {
			return false
		}
		ln.Close()
	}
	return true
}

// small is a mesh of two clusters with one service and a user's command.
func small(t *testing.T, base int) Config {
	t.Helper()
	dir := t.TempDir()
	m := smallMesh()
	m.Workloads = append(m.Workloads, manifest.LocalWorkload{Namespace: "ops", Name: "own", Clusters: []mesh.ClusterName{"west"}, Replicas: 1,
		Port: 9090, ServicePort: 9000, Command: []string{os.Args[0], "workload", "echo", "--config", filepath.Join(dir, "own.json")}})
	return Config{
		Mesh: m, MeshDir: dir, StateDir: filepath.Join(dir, "s"), RuntimeDir: filepath.Join(dir, "r"), AddressBase: base,
		Executable: os.Args[0], Environ: append(os.Environ(), "GORACE=atexit_sleep_ms=0"), // a process of ours ends at once
	}
}

// running is a mesh that Run runs in this process.
type running struct {
	t       *testing.T
	cfg     Config
	summary Summary
	end     context.CancelFunc
	ended   chan error
}

func start(t *testing.T, cfg Config) *running {
	t.Helper()
	writeOwn(t, cfg)
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{t: t, cfg: cfg, end: cancel, ended: make(chan error, 1)}
	ready := make(chan Summary, 1)
	cfg.Ready = func(s Summary) { ready <- s }
	go func() { r.ended <- Run(ctx, cfg, slog.New(slog.NewTextHandler(t.Output(), nil))) }()
	t.Cleanup(func() {
		cancel()
		r.wait()
	})
	select {
	case r.summary = <-ready:
	case err := <-r.ended:
		r.ended <- err
		t.Fatalf("the mesh ended before it was ready: %v", err)
	case <-time.After(limit + 5*time.Second):
		t.Fatal("the mesh is not ready")
	}
	return r
}

// writeOwn writes the configuration that the user's command of small reads.
func writeOwn(t *testing.T, cfg Config) {
	t.Helper()
	// ops/own is sorted before shop/catalog, so it is instance 1.
	text := fmt.Sprintf(`{"service":"own","instance":"own-0","listen":"127.%d.1.2:9090"}`, cfg.AddressBase+1)
	if err := os.WriteFile(filepath.Join(cfg.MeshDir, "own.json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (r *running) wait() error {
	select {
	case err := <-r.ended:
		r.ended <- err
		return err
	case <-time.After(limit):
		r.t.Error("the mesh does not end")
		return errors.New("still running")
	}
}

func (r *running) remote() *Remote {
	r.t.Helper()
	m, err := Open(r.cfg.StateDir)
	if err != nil {
		r.t.Fatal(err)
	}
	return m
}

func (r *running) status() Summary {
	r.t.Helper()
	s, err := r.remote().Status(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

func (r *running) process(name string) ProcessStatus {
	r.t.Helper()
	s := r.status()
	i := slices.IndexFunc(s.Procs, func(p ProcessStatus) bool { return p.Name == name })
	if i < 0 {
		r.t.Fatalf("no process %s among %v", name, s.Procs)
	}
	return s.Procs[i]
}

// until waits until a process is as it should be.
func (r *running) until(name, what string, holds func(ProcessStatus) bool) ProcessStatus {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), limit)
	defer cancel()
	for {
		p := r.process(name)
		if holds(p) {
			return p
		}
		if !sleep(ctx, pollEvery) {
			r.t.Fatalf("%s: waited in vain for it to be %s: %+v", name, what, p)
		}
	}
}

func (r *running) drill(verb string, targets ...string) {
	r.t.Helper()
	if err := r.remote().Drill(r.t.Context(), DrillRequest{Verb: verb, Targets: targets}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *running) pids() []int {
	r.t.Helper()
	var out []int
	for _, p := range r.status().Procs {
		if p.PID != 0 {
			out = append(out, p.PID)
		}
	}
	for _, c := range r.cfg.Mesh.Clusters {
		if pid := storePID(r.cfg, c.Name); pid != 0 {
			out = append(out, pid)
		}
	}
	return out
}

func storePID(cfg Config, c mesh.ClusterName) int {
	return (&storeDrill{pidFile: filepath.Join(cfg.StateDir, "clusters", string(c), "store.pid"), executable: cfg.Executable}).pid()
}

// gone fails unless nothing of the mesh is left.
func gone(t *testing.T, cfg Config, pids []int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for len(alivePIDs(pids)) > 0 {
		if !sleep(ctx, pollEvery) {
			t.Fatalf("processes %v still live", alivePIDs(pids))
		}
	}
	if left, _ := os.ReadDir(cfg.RuntimeDir); len(left) > 0 {
		t.Errorf("left outside the state directory: %v", left)
	}
	if _, err := os.Stat(stateFile(cfg.StateDir)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the state directory still says that a mesh runs: %v", err)
	}
}

func TestAMeshRunsAndEndsWithoutATrace(t *testing.T) {
	r := start(t, small(t, testBase(t)))
	s := r.status()
	// 2 control planes, gateways and shells, 1 link, and 5 instances of two processes
	if want := 17; len(s.Procs) != want || !s.Ready || s.ReadyAfter <= 0 {
		t.Errorf("%d processes, ready %v after %v: want %d", len(s.Procs), s.Ready, s.ReadyAfter, want)
	}
	for _, p := range s.Procs {
		if p.State != StateRunning || p.PID == 0 || p.Restarts != 0 {
			t.Errorf("%+v: want it running since the start", p)
		}
	}
	pids := r.pids()
	if len(pids) != 19 {
		t.Errorf("%d processes live with the stores, want 19", len(pids))
	}
	for name, mode := range map[string]fs.FileMode{"": 0o700, "token": 0o600, "keys/west.gateway": 0o600, "logs/west.gateway.log": 0o600, "mesh.json": 0o600} {
		info, err := os.Stat(filepath.Join(r.cfg.StateDir, name))
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v %v, want mode %v", name, info, err, mode)
		}
	}
	if err := Down(t.Context(), r.cfg.StateDir); err != nil {
		t.Fatal(err)
	}
	if left := alivePIDs(pids); len(left) > 0 {
		t.Errorf("down returned with processes %v alive", left)
	}
	if err := r.wait(); err != nil {
		t.Errorf("Run returned %v", err)
	}
	gone(t, r.cfg, pids)
	if err := Down(t.Context(), r.cfg.StateDir); !errors.Is(err, ErrNotRunning) {
		t.Errorf("a second down: %v, want %v", err, ErrNotRunning)
	}
}

func TestWhatDiesIsStartedAgainAndWhatADrillKillsIsNot(t *testing.T) {
	r := start(t, small(t, testBase(t)))
	isRunning := func(p ProcessStatus) bool { return p.State == StateRunning }

	sidecar := "west.shop.catalog-0.sidecar"
	before := r.process(sidecar)
	if err := syscall.Kill(before.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	after := r.until(sidecar, "started again", func(p ProcessStatus) bool { return isRunning(p) && p.PID != before.PID })
	if after.Restarts != 1 || !strings.Contains(after.Last, "killed") {
		t.Errorf("%+v: want one restart, and why", after)
	}

	r.drill(VerbKill, "catalog@west", "sidecar:catalog/1@east")
	for _, name := range []string{sidecar, "west.shop.catalog-0.app", "west.shop.catalog-1.sidecar", "west.shop.catalog-1.app", "east.shop.catalog-1.sidecar"} {
		r.until(name, "killed", func(p ProcessStatus) bool { return p.State == StateKilled && p.PID == 0 })
	}
	if p := r.process("east.shop.catalog-1.app"); !isRunning(p) {
		t.Errorf("%+v: only its sidecar was to be killed", p)
	}
	r.drill(VerbResume, "catalog@west", "catalog@east")
	for _, name := range []string{sidecar, "west.shop.catalog-1.app", "east.shop.catalog-1.sidecar"} {
		r.until(name, "running", isRunning)
	}

	r.drill(VerbPause, "app:own@west", "gateway@east")
	for _, name := range []string{"west.ops.own-0.app", "east.gateway"} {
		// The signal is delivered when the drill returns; threads that run take it a moment later.
		r.until(name, "paused", func(p ProcessStatus) bool { return p.State == StatePaused && stopped(p.PID) })
	}
	r.drill(VerbResume, "own@west", "gateway@east")
	if p := r.process("east.gateway"); !isRunning(p) {
		t.Errorf("%+v: want it running", p)
	}

	store := storePID(r.cfg, "west")
	r.drill(VerbKill, "store@west")
	if left := alivePIDs([]int{store}); len(left) > 0 {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		for len(alivePIDs([]int{store})) > 0 && sleep(ctx, pollEvery) {
		}
	}
	r.drill(VerbResume, "store@west")
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for storePID(r.cfg, "west") == 0 {
		if !sleep(ctx, pollEvery) {
			t.Fatal("the store does not come back after resume")
		}
	}

	pids := r.pids()
	r.drill(VerbKill, "east")
	r.until("east.control-plane", "killed", func(p ProcessStatus) bool { return p.State == StateKilled })
	r.end()
	if err := r.wait(); err != nil {
		t.Error(err)
	}
	gone(t, r.cfg, pids)
}

// stopped reports whether a process, or one of its group, is stopped.
func stopped(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, after, _ := strings.Cut(string(text), ") ")
	return err == nil && strings.HasPrefix(after, "T")
}

func TestLinksAreCutHealedAndSlowed(t *testing.T) {
	r := start(t, small(t, testBase(t)))
	client := r.linkStats()
	if got := client("open", "open"); got != nil {
		t.Fatal(got)
	}
	for _, step := range []struct {
		q          DrillRequest
		aToB, bToA string
	}{
		{DrillRequest{Verb: VerbPartition, Targets: []string{"west--east"}}, "cut", "cut"},
		{DrillRequest{Verb: VerbHeal, Targets: []string{"east--west"}, Options: DrillOptions{Direction: "a-to-b"}}, "cut", "open"},
		{DrillRequest{Verb: VerbHeal, Targets: []string{"west"}}, "open", "open"},
		{DrillRequest{Verb: VerbPartition, Targets: []string{"west--east"}, Options: DrillOptions{Direction: "a-to-b"}}, "cut", "open"},
		{DrillRequest{Verb: VerbHeal, Targets: []string{"west--east"}}, "open", "open"},
		{DrillRequest{Verb: VerbSlow, Targets: []string{"west--east"}, Options: DrillOptions{RTT: "300ms", Loss: "1%", Bandwidth: "10Mbps"}}, "open", "open"},
	} {
		if err := r.remote().Drill(t.Context(), step.q); err != nil {
			t.Fatalf("%+v: %v", step.q, err)
		}
		if err := client(step.aToB, step.bToA); err != nil {
			t.Errorf("after %+v: %v", step.q, err)
		}
	}
	if err := r.shape(300*time.Millisecond, 0.01, 10_000_000); err != nil {
		t.Error(err)
	}
	r.drill(VerbHeal, "west--east")
	if err := r.shape(manifest.DefaultRTT, 0, 0); err != nil {
		t.Errorf("healed: %v", err)
	}
	err := r.remote().Drill(t.Context(), DrillRequest{Verb: VerbKill, Targets: []string{"catalgo@west"}})
	var bad *BadDrillError
	if !errors.As(err, &bad) || !strings.Contains(err.Error(), "catalog.shop@west") {
		t.Errorf("a target that is not there: %v; want a refusal that lists those that are", err)
	}
}

func TestTheAPIAsksForATokenItsOwnHostAndNoOtherSite(t *testing.T) {
	r := start(t, small(t, testBase(t)))
	token, err := ReadToken(r.cfg.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	ask := func(path, token, host, origin string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), "GET", r.summary.Console+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		if host != "" {
			req.Host = host
		}
		if origin != "" {
			req.Header.Set("Origin", origin)
		}
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(text)
	}
	for _, c := range []struct {
		name, path, token, host, origin string
		want                            int
	}{
		{"fine", "/v1/local", token, "", "", 200},
		{"own origin", "/v1/local", token, "", r.summary.Console, 200},
		{"no token", "/v1/local", "", "", "", 401},
		{"wrong token", "/v1/local", token + "0", "", "", 401},
		{"name that resolves to us", "/v1/local", token, "evil.example:15080", "", 421},
		{"other site", "/v1/local", token, "", "http://evil.example", 403},
		{"no such path", "/v1/nothing", token, "", "", 404},
		{"no such cluster", "/v1/clusters/mars/status", token, "", "", 404},
		{"get of a post", "/v1/local/down", token, "", "", 405},
	} {
		if got, text := ask(c.path, c.token, c.host, c.origin); got != c.want {
			t.Errorf("%s: status %d, want %d: %s", c.name, got, c.want, text)
		}
	}
	if got, text := ask("/v1/clusters/east/echo", token, "", r.summary.Console); got != 200 || text != fmt.Sprintf("east 127.%d.0.2:15080", r.cfg.AddressBase+2) {
		t.Errorf("through to a cluster: %d %q", got, text)
	}
}

func TestAUsersCommandIsToldWhereItIs(t *testing.T) {
	cfg := small(t, testBase(t))
	out := filepath.Join(cfg.MeshDir, "env")
	cfg.Mesh.Workloads[1].Command = []string{"/bin/sh", "-c", fmt.Sprintf("env > %s; exec %s workload echo --config %s/own.json", out, os.Args[0], cfg.MeshDir)}
	r := start(t, cfg)
	text, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	b := cfg.AddressBase + 1
	for _, want := range []string{fmt.Sprintf("HOST=127.%d.1.2", b), "PORT=9090", fmt.Sprintf("http_proxy=http://127.%d.1.1:15001", b),
		fmt.Sprintf("HTTP_PROXY=http://127.%d.1.1:15001", b), fmt.Sprintf("ISTHMUS_SERVICE_CATALOG_SHOP=127.%d.1.11:80", b)} {
		if !slices.Contains(strings.Split(string(text), "\n"), want) {
			t.Errorf("%s is missing in:\n%s", want, text)
		}
	}
	app := r.process("west.ops.own-0.app")
	group, err := syscall.Getpgid(app.PID)
	if err != nil || group != app.PID {
		t.Errorf("process group %d of %d, %v: want its own", group, app.PID, err)
	}
	// The command, a child of the shim, dies with it: its port is free again.
	r.drill(VerbKill, "app:own@west")
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for {
		ln, err := net.Listen("tcp", fmt.Sprintf("127.%d.1.2:9090", b))
		if err == nil {
			_ = ln.Close()
			return
		}
		if !sleep(ctx, pollEvery) {
			t.Fatalf("the command lives on: %v", err)
		}
	}
}

func TestTakenAddressesChangeNothing(t *testing.T) {
	r := start(t, small(t, testBase(t)))
	second := small(t, r.cfg.AddressBase+1) // overlaps in one cluster
	other := testBase(t)
	second.RuntimeDir = r.cfg.RuntimeDir
	err := Run(t.Context(), second, slog.New(slog.DiscardHandler))
	var taken *TakenError
	if !errors.As(err, &taken) || taken.StateDir != r.cfg.StateDir {
		t.Errorf("a second mesh at these addresses: %v, want an error that names %s", err, r.cfg.StateDir)
	}
	if _, err := os.Stat(second.StateDir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its state directory was made: %v", err)
	}
	second.AddressBase = other
	second.StateDir = r.cfg.StateDir
	if err := Run(t.Context(), second, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), r.cfg.StateDir) {
		t.Errorf("a second mesh over one state directory: %v", err)
	}
	ln, err := net.Listen("tcp", fmt.Sprintf("127.%d.0.2:15010", other+2))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	third := small(t, other)
	if err := Run(t.Context(), third, slog.New(slog.DiscardHandler)); !errors.As(err, &taken) || taken.StateDir != "" {
		t.Errorf("another program listens: %v, want an error that names its address", err)
	}
	if left, _ := os.ReadDir(third.RuntimeDir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	for _, p := range r.status().Procs {
		if p.State != StateRunning || p.Restarts > 0 {
			t.Errorf("%+v: the first mesh was disturbed", p)
		}
	}
}

// TestAMeshThatIsNotReadyInTimeSaysWhatIsMissing breaks one process. While others have not begun either, they are what
// is missing: the mesh is given more time until the broken one is all, as long as that may be.
func TestAMeshThatIsNotReadyInTimeSaysWhatIsMissing(t *testing.T) {
	for patience := 2 * time.Second; ; patience *= 2 {
		cfg := small(t, testBase(t))
		writeOwn(t, cfg)
		cfg.Environ = append(cfg.Environ, fakeBroken+"=east.gateway")
		cfg.ReadyTimeout = patience
		err := Run(t.Context(), cfg, slog.New(slog.DiscardHandler))
		gone(t, cfg, nil)
		var missing *NotReadyError
		if !errors.As(err, &missing) {
			t.Fatalf("%v, want a NotReadyError", err)
		}
		var unsaid []string
		for _, want := range []string{"east.gateway: ended", "exit status 1", "fake: east.gateway is broken", "proxy isthmus-system/gateway-0 is not connected", cfg.StateDir} {
			if !strings.Contains(err.Error(), want) {
				unsaid = append(unsaid, want)
			}
		}
		switch {
		case len(unsaid) == 0:
			return
		case 2*patience > limit:
			t.Fatalf("%q are missing in: %v", unsaid, err)
		}
		t.Logf("after %v not even the others had begun: %v", patience, err)
	}
}

func TestADetachedMeshDiesWithItsSupervisorAndRisesAgain(t *testing.T) {
	cfg := small(t, testBase(t))
	writeOwn(t, cfg)
	file := filepath.Join(cfg.MeshDir, "config.json")
	cfg.Environ = nil
	text, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	d := Detachment{Executable: os.Args[0], Args: []string{"up", file}, Environ: append(os.Environ(), "GORACE=atexit_sleep_ms=0", fakeLingers+"=300ms"), StateDir: cfg.StateDir}
	s, err := Detach(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	token, err := ReadToken(cfg.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	pids := []int{storePID(cfg, "west"), storePID(cfg, "east")}
	for _, p := range s.Procs {
		pids = append(pids, p.PID)
	}
	if slices.Contains(pids, 0) || len(alivePIDs(pids)) != 19 {
		t.Fatalf("processes %v, of which %v live: want 19", pids, alivePIDs(pids))
	}
	if err := syscall.Kill(s.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := syscall.Wait4(s.PID, nil, 0, nil); err != nil { // it is our child
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := Down(ctx, cfg.StateDir); err != nil {
		t.Fatal(err)
	}
	gone(t, cfg, pids)

	if s, err = Detach(ctx, d); err != nil {
		t.Fatalf("up again: %v", err)
	}
	again, err := ReadToken(cfg.StateDir)
	if err != nil || again != token {
		t.Errorf("the token has changed: %v", err)
	}
	applied, err := os.ReadFile(filepath.Join(cfg.StateDir, "clusters", "west", "applied"))
	if err != nil || bytes.Count(applied, []byte("Service shop/catalog\n")) != 2 {
		t.Errorf("the service was not applied at both starts: %v\n%s", err, applied)
	}
	if err := Down(ctx, cfg.StateDir); err != nil {
		t.Fatal(err)
	}
	if runs(s.PID, os.Args[0]) {
		t.Error("the supervisor runs on after down")
	}
	_, _ = syscall.Wait4(s.PID, nil, 0, nil)

	if err := os.WriteFile(file, []byte(`{"Topology":"ring"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Detach(ctx, d); err == nil || !strings.Contains(err.Error(), `topology "ring"`) {
		t.Errorf("a mesh that cannot start: %v, want the supervisor's own words", err)
	}
}
