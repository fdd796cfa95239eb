package api_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/isthmus-mesh/isthmus/api"
	"github.com/isthmus-mesh/isthmus/control/address"
	"github.com/isthmus-mesh/isthmus/control/object"
	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/control/storeserver"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// serverEnv makes this test binary a store server: the store is a process in real life too.
const serverEnv = "ISTHMUS_TEST_API_STORE_DIR"

// waitMax bounds every wait of these tests.
const waitMax = time.Minute

// shared is one store process for all tests; each has a prefix of its own, numbered by runs.
var (
	shared string
	runs   atomic.Int64
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(serverEnv); dir != "" {
		os.Exit(serveStore(dir))
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "isthmus-api-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	stop, err := startStore(dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	shared = "unix://" + filepath.Join(dir, "store.sock")
	code := m.Run()
	stop()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return code
}

func serveStore(dir string) int {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // ends with the parent
		cancel()
	}()
	c := storeserver.Config{DataDir: filepath.Join(dir, "data"), ClientSocket: filepath.Join(dir, "store.sock"), QuotaBytes: 64 << 20,
		Ready: func() { fmt.Println("ready") }}
	if err := storeserver.Run(ctx, c, slog.New(slog.DiscardHandler)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func startStore(dir string) (stop func(), err error) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serverEnv+"="+dir)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop = func() {
		in.Close()
		_ = cmd.Wait()
	}
	line := make(chan string, 1)
	go func() {
		text, _ := bufio.NewReader(out).ReadString('\n')
		line <- text
	}()
	select {
	case text := <-line:
		if text == "ready\n" {
			return stop, nil
		}
		err = fmt.Errorf("store process said %q", text)
	case <-time.After(waitMax):
		err = errors.New("store process is not ready in time")
	}
	_ = cmd.Process.Kill()
	stop()
	return nil, err
}

const (
	self  = mesh.ClusterName("eu-west")
	token = "t0ken"
)

// site is an API server over a real store, whose world is what the store holds and extra
// facts.
type site struct {
	t      *testing.T
	store  *store.Store
	client *api.Client
	http   *httptest.Server
	server *api.Server
	extra  []*mesh.Fact
	clock  atomic.Int64
}

// noon is the time of the tests.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func newSite(t *testing.T, change ...func(*api.Config)) *site {
	t.Helper()
	st, err := store.Open(store.Config{Endpoints: []string{shared}, Prefix: fmt.Sprintf("/%d-%s/", runs.Add(1), t.Name()), RequestTimeout: 10 * time.Second, ProgressInterval: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	s := &site{t: t, store: st}
	cfg := api.Config{Cluster: self, Objects: st, World: s.world, View: ir.View{Cluster: self, Network: "eu"}, Token: token, Version: "test",
		Stamp:     func() mesh.Stamp { return mesh.Stamp{WallMillis: s.clock.Add(1), Origin: self} },
		Addresses: pool(t, st, "127.11.0.0/24"),
	}
	for _, f := range change {
		f(&cfg)
	}
	if s.server, err = api.NewServer(cfg); err != nil {
		t.Fatal(err)
	}
	s.http = httptest.NewServer(s.server)
	transport := &http.Transport{}
	s.client = &api.Client{BaseURL: s.http.URL, Token: token, HTTP: &http.Client{Transport: transport}}
	t.Cleanup(func() {
		s.server.Close()
		transport.CloseIdleConnections()
		s.http.Close()
	})
	return s
}

// pool gives addresses of a range.
func pool(t *testing.T, st *store.Store, from string) *address.Pool {
	t.Helper()
	p, err := address.New(address.Config{Range: netip.MustParsePrefix(from), Store: st, Now: func() time.Time { return noon }})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// world is what the store holds and the extra facts.
func (s *site) world() *world.World {
	objects, _, err := s.store.List(context.Background(), store.Scope{})
	if err != nil {
		s.t.Errorf("list the store: %v", err)
		return world.New(self)
	}
	var edits []world.Edit
	for _, f := range s.extra {
		edits = append(edits, world.Put(f))
	}
	for _, o := range objects {
		f, _, _, err := object.Decode(o, self, mesh.Epoch{})
		if o.Kind == address.Kind {
			a, err := address.Decode(o)
			if err != nil {
				s.t.Error(err)
				continue
			}
			edits = append(edits, world.Put(&mesh.Fact{Key: mesh.Key{Kind: mesh.KindServiceAddress, Origin: self, Name: o.Name}, Value: a, Digest: ir.DigestOf(a)}))
		}
		if errors.Is(err, object.ErrNotManifest) {
			continue
		}
		if err != nil {
			s.t.Errorf("decode: %v", err)
		}
		if f != nil {
			edits = append(edits, world.Put(f))
		}
	}
	w, _ := world.New(self).Edit(edits)
	return w
}

func (s *site) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), waitMax)
	s.t.Cleanup(cancel)
	return ctx
}

// apply applies one file and wants it to be accepted.
func (s *site) apply(text string) *api.ApplyResult {
	s.t.Helper()
	r, err := s.client.Apply(s.context(), []api.File{{Name: "in.yaml", Text: []byte(text)}}, api.ApplyOptions{Namespace: "shop"})
	if err != nil {
		s.t.Fatalf("apply: %v", err)
	}
	return r
}

// refusal is the *api.Error in err.
func refusal(t *testing.T, err error) *api.Error {
	t.Helper()
	var e *api.Error
	if !errors.As(err, &e) {
		t.Fatalf("error %v, want an *api.Error", err)
	}
	return e
}
