package localmesh

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/codec/manifest"
	"github.com/isthmus-mesh/isthmus/internal/parent"
	"github.com/isthmus-mesh/isthmus/localmesh/app"
	"github.com/isthmus-mesh/isthmus/localmesh/link"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
	"go.uber.org/goleak"
)

// The test binary stands in for bin/isthmus: re-executed with the arguments of a process of
// the mesh, it is that process. Links and workloads are real; control planes and proxies only
// behave as the supervisor must see them behave.

// fakeLingers is how long a detached supervisor lives on after its mesh has ended.
const fakeLingers = "LOCALMESH_TEST_LINGERS"

// fakeBroken names a process that fails at start.
const fakeBroken = "LOCALMESH_TEST_BROKEN"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		if err := fake(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func fake(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	ctx = parent.Watch(ctx)
	if args[0] == "up" {
		return fakeUp(ctx, args[1])
	}
	if args[0] == "detach" {
		return fakeDetach(ctx, args[1:])
	}
	path := args[len(args)-1]
	if name := strings.TrimSuffix(filepath.Base(path), ".json"); name == os.Getenv(fakeBroken) {
		return fmt.Errorf("fake: %s is broken", name)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	switch args[0] {
	case "link":
		c, err := link.ReadConfig(f)
		if err != nil {
			return err
		}
		return link.Run(ctx, c, slog.New(slog.DiscardHandler))
	case "workload":
		c, err := app.ReadConfig(f)
		if err != nil {
			return err
		}
		return app.Run(ctx, args[1], c, slog.New(slog.DiscardHandler))
	case "store":
		<-ctx.Done()
		return nil
	case "control-plane":
		return fakePlane(ctx, f)
	case "proxy":
		return fakeProxy(ctx, f)
	}
	return fmt.Errorf("fake: what is %q", args)
}

// fakeUp is a detached supervisor; its configuration is a file.
func fakeUp(ctx context.Context, path string) error {
	reporter := OpenReporter(os.Getenv(ReportEnv))
	text, err := os.ReadFile(path)
	var c Config
	if err == nil {
		err = json.Unmarshal(text, &c)
	}
	if err == nil {
		c.Environ, c.Ready = os.Environ(), reporter.Ready
		err = Run(ctx, c, slog.New(slog.NewTextHandler(os.Stderr, nil)))
		if d, bad := time.ParseDuration(os.Getenv(fakeLingers)); bad == nil {
			<-time.After(d)
		}
	}
	if err != nil {
		reporter.Failed(err)
	}
	return err
}

// fakeDetach is `isthmus up --detach --address-base BASE --state-dir DIR`, of a small mesh
// without the command.
func fakeDetach(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("up", flag.ContinueOnError)
	base, dir := flags.Int("address-base", 0, ""), flags.String("state-dir", "", "")
	_ = flags.Bool("detach", false, "")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	cfg := Config{Mesh: smallMesh(), StateDir: *dir, RuntimeDir: DefaultRuntimeDir(os.Getenv), AddressBase: *base, Executable: os.Args[0]}
	cfg.Mesh.Workloads = cfg.Mesh.Workloads[:1]
	text, err := json.Marshal(cfg)
	file := filepath.Join(filepath.Dir(*dir), "config.json")
	if err == nil {
		err = os.WriteFile(file, text, 0o600)
	}
	if err != nil {
		return err
	}
	_, err = Detach(ctx, Detachment{Executable: os.Args[0], Args: []string{"up", file}, Environ: os.Environ(), StateDir: *dir})
	return err
}

// smallMesh is two clusters with one service.
func smallMesh() manifest.LocalMesh {
	return manifest.LocalMesh{
		Clusters: []manifest.LocalCluster{{Name: "west", Region: "w", Network: "w", Zones: []mesh.Zone{"a", "b"}}, {Name: "east", Region: "e", Network: "e"}},
		Workloads: []manifest.LocalWorkload{{Namespace: "shop", Name: "catalog", Clusters: []mesh.ClusterName{"west", "east"}, Replicas: 2,
			Port: 8080, ServicePort: 80, Builtin: manifest.RunEcho, Export: true}},
	}
}

func readStrict(r io.Reader, v any) error {
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	return d.Decode(v)
}

// plane is a control plane that believes everybody.
type plane struct {
	config planeConfig
	token  string
	root   []byte
	stores sync.WaitGroup

	mu      sync.Mutex
	peers   []statusPeer
	proxies []statusProxy
}

func fakePlane(ctx context.Context, f io.Reader) error {
	p := &plane{}
	if err := readStrict(f, &p.config); err != nil {
		return err
	}
	if _, err := trust.SealKeyFromFD(p.config.SealFD); err != nil {
		return err
	}
	text, err := os.ReadFile(p.config.TokenFile)
	if err != nil {
		return err
	}
	p.token = strings.TrimSpace(string(text))
	if p.root, err = selfSigned(); err != nil {
		return err
	}
	p.stores.Go(func() { p.keepStore(ctx) })
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/bundle", p.bundle)
	mux.HandleFunc("POST /v1/apply", p.apply)
	mux.HandleFunc("GET /v1/objects/{kind}", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"items":[]}`) })
	mux.HandleFunc("POST /v1/tokens", p.tokens)
	mux.HandleFunc("GET /v1/status", p.status)
	mux.HandleFunc("GET /v1/echo", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%s %s", p.config.Cluster, r.Host) })
	control := http.NewServeMux()
	control.HandleFunc("/hello", p.hello)
	go func() { _ = http.ListenAndServe(p.config.Control.String(), control) }()
	srv := &http.Server{Addr: p.config.API.String(), Handler: mux}
	context.AfterFunc(ctx, func() { _ = srv.Close() })
	if err := srv.ListenAndServe(); ctx.Err() == nil {
		return err
	}
	p.stores.Wait()
	return nil
}

func selfSigned() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	return x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
}

// keepStore runs a store as its child, again whenever it ends.
func (p *plane) keepStore(ctx context.Context) {
	for ctx.Err() == nil {
		r, w, err := os.Pipe()
		if err != nil {
			return
		}
		cmd := exec.CommandContext(ctx, os.Args[0], "store", "--config", "/dev/null")
		cmd.Env = append(os.Environ(), parent.Env+"=3")
		cmd.ExtraFiles = []*os.File{r}
		pid := filepath.Join(p.config.StateDir, "store.pid")
		if cmd.Start() == nil {
			_ = os.WriteFile(pid, []byte(strconv.Itoa(cmd.Process.Pid)), 0o600)
			_ = cmd.Wait()
			_ = os.Remove(pid)
		}
		_ = r.Close()
		_ = w.Close()
	}
}

func (p *plane) allowed(w http.ResponseWriter, r *http.Request) bool {
	if r.Header.Get("Authorization") != "Bearer "+p.token || r.Host != p.config.API.String() {
		http.Error(w, "who are you", http.StatusUnauthorized)
		return false
	}
	return true
}

func (p *plane) bundle(w http.ResponseWriter, r *http.Request) {
	if p.allowed(w, r) {
		_ = json.NewEncoder(w).Encode(map[string]any{"trustDomain": "x", "roots": [][]byte{p.root}, "generation": 1})
	}
}

func (p *plane) apply(w http.ResponseWriter, r *http.Request) {
	if !p.allowed(w, r) {
		return
	}
	result, err := manifest.Read("-", r.Body, manifest.Options{})
	if err != nil || len(result.Faults) > 0 {
		http.Error(w, fmt.Sprint(err, result.Faults), http.StatusUnprocessableEntity)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	applied, err := os.OpenFile(filepath.Join(p.config.StateDir, "applied"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		http.Error(w, err.Error(), 500)
		return
	}
	defer applied.Close()
	for _, o := range result.Objects {
		fmt.Fprintln(applied, o)
		if o.Kind == "Cluster" && o.Name != string(p.config.Cluster) {
			p.peers = append(p.peers, statusPeer{Cluster: mesh.ClusterName(o.Name), InSync: true, State: "Alive"})
		}
	}
}

func (p *plane) tokens(w http.ResponseWriter, r *http.Request) {
	var q map[string]string
	if p.allowed(w, r) && json.NewDecoder(r.Body).Decode(&q) == nil {
		_ = json.NewEncoder(w).Encode(map[string]string{"token": "for " + q["identity"]})
	}
}

func (p *plane) hello(_ http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.proxies = append(p.proxies, statusProxy{ID: r.FormValue("id"), Connected: true, InSync: true})
}

func (p *plane) status(w http.ResponseWriter, r *http.Request) {
	if !p.allowed(w, r) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = json.NewEncoder(w).Encode(planeStatus{Cluster: p.config.Cluster, Ready: true, Peers: p.peers, Proxies: p.proxies})
}

// fakeProxy joins, says hello and answers on its ports: as an explicit proxy with 200.
func fakeProxy(ctx context.Context, f io.Reader) error {
	var c proxyConfig
	if err := readStrict(f, &c); err != nil {
		return err
	}
	if _, err := trust.SealKeyFromFD(c.SealFD); err != nil {
		return err
	}
	join := os.NewFile(uintptr(c.JoinFD), "join")
	if _, err := io.WriteString(join, "join\n"); err != nil {
		return err
	}
	token, err := bufio.NewReader(join).ReadString('\n')
	if want := fmt.Sprintf("for spiffe://%s/ns/%s/sa/%s\n", c.TrustDomain, strings.Split(c.ID, "/")[0], c.ServiceAccount); err != nil || token != want {
		return fmt.Errorf("token %q, want %q: %v", token, want, err)
	}
	resp, err := http.Get("http://" + c.ControlPlanes[0].String() + "/hello?id=" + c.ID)
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	failed := make(chan error, 4)
	ok := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%s answers %s\n", c.ID, r.URL) })
	for _, a := range []netip.AddrPort{c.Admin, c.Outbound, c.Gateway} {
		if a.IsValid() {
			go func() { failed <- http.ListenAndServe(a.String(), ok) }()
		}
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

// alivePIDs are those of the processes that have not ended; a zombie has.
func alivePIDs(pids []int) []int {
	return slices.DeleteFunc(slices.Clone(pids), func(pid int) bool {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return true
		}
		_, after, _ := strings.Cut(string(text), ") ")
		return strings.HasPrefix(after, "Z")
	})
}
