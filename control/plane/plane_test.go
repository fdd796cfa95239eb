package plane_test

import (
	"context"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/codec/manifest"
	"github.com/isthmus-mesh/isthmus/control/object"
	"github.com/isthmus-mesh/isthmus/control/plane"
	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/control/storeserver"
	"github.com/isthmus-mesh/isthmus/dataplane/agent"
	"github.com/isthmus-mesh/isthmus/internal/failpoint"
	"github.com/isthmus-mesh/isthmus/internal/loopback"
	"github.com/isthmus-mesh/isthmus/internal/parent"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestMain makes the test's binary its own store, as the product's binary is, and a control plane that
// may crash.
func TestMain(m *testing.M) {
	if len(os.Args) > 3 && os.Args[1] == "store" {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		cfg, err := storeserver.ReadConfig(os.Args[3])
		if err == nil {
			err = storeserver.Run(parent.Watch(ctx), cfg, slog.New(slog.DiscardHandler))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if len(os.Args) > 2 && os.Args[1] == "child" {
		if err := runChild(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// cluster is one running cluster of a test: control plane, gateway, and what is added.
type cluster struct {
	t     *testing.T
	ctx   context.Context
	name  mesh.ClusterName
	dir   string
	key   []byte
	log   *slog.Logger
	plane *plane.Plane
	parts *sync.WaitGroup
	addr  map[string]netip.AddrPort
	// points are armed failpoints, or nil.
	points *failpoint.Set
	// remote says that the control plane is a relay.
	remote bool
	// shell is the last client made.
	shell *http.Client
	// services is what services get addresses from; none without it.
	services netip.Prefix
	// capacity is what instances of serve declare, such as ", capacity: {lanes: 4}"; "" is nothing.
	capacity string
	// store is an external store, or nil.
	store *etcd
	// prefix is that of its keys there; "" is the default.
	prefix string
}

// sealKey is a new key to seal with.
func sealKey() []byte {
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	return key
}

// sealFD is a descriptor that yields the key and ends.
func sealFD(t *testing.T, key []byte) int {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(key); err != nil {
		t.Fatal(err)
	}
	w.Close()
	t.Cleanup(func() { r.Close() })
	fd, err := syscall.Dup(int(r.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// lasting is for what runs until the test ends: all of it has ended before the test's directories are removed. Cleanups run
// the last first, so there must be a directory before there is something to end.
func lasting(t *testing.T) (context.Context, *sync.WaitGroup) {
	t.Helper()
	t.TempDir()
	ctx, stop := context.WithCancel(context.Background())
	parts := &sync.WaitGroup{}
	t.Cleanup(func() { stop(); parts.Wait() })
	return ctx, parts
}

func startCluster(t *testing.T, ctx context.Context, parts *sync.WaitGroup, name mesh.ClusterName) *cluster {
	t.Helper()
	c := newCluster(t, ctx, parts, name)
	c.start()
	c.proxy(agent.Config{ID: "isthmus-system/gateway-0", Mode: agent.ModeGateway, ServiceAccount: "gateway", Gateway: c.addr["gateway"]})
	return c
}

// newCluster is one of which nothing runs yet.
func newCluster(t *testing.T, ctx context.Context, parts *sync.WaitGroup, name mesh.ClusterName) *cluster {
	t.Helper()
	level := slog.LevelWarn
	if testing.Verbose() {
		level = slog.LevelInfo
	}
	c := &cluster{t: t, ctx: ctx, name: name, dir: filepath.Join(t.TempDir(), string(name)), key: sealKey(), parts: parts, addr: map[string]netip.AddrPort{},
		log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: level})).With("cluster", name)}
	for _, k := range []string{"control", "federation", "gateway"} {
		c.addr[k] = loopback.AddrPort(t)
	}
	return c
}

// start runs the control plane on what its directory holds, until the context ends.
func (c *cluster) start() {
	c.t.Helper()
	var err error
	c.plane, err = plane.New(c.ctx, c.config(), c.log)
	if err != nil {
		c.t.Error(err)
		return
	}
	c.run("control plane", c.plane.Run)
}

func (c *cluster) config() plane.Config {
	cfg := plane.Config{Cluster: c.name, Domain: mesh.DefaultDomain, Network: mesh.Network(c.name), StateDir: c.dir,
		SealFD: sealFD(c.t, c.key), Control: c.addr["control"], Federation: c.addr["federation"], Failpoints: c.points, Remote: c.remote, ServiceRange: c.services}
	if c.remote {
		cfg.Federation = netip.AddrPort{}
	}
	if c.store != nil {
		cfg.StoreEndpoints, cfg.StoreTLS = c.store.plan.Endpoints(), c.store.tls()
		cfg.StorePrefix = c.prefix
	}
	return cfg
}

// startAlone runs the control plane until stop, which returns when it has ended.
func (c *cluster) startAlone() (stop func()) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	parts := &sync.WaitGroup{}
	c.ctx, c.parts = ctx, parts
	c.start()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			parts.Wait()
		})
	}
	c.t.Cleanup(stop)
	return stop
}

func (c *cluster) run(what string, f func(context.Context) error) {
	ctx := c.ctx
	c.parts.Go(func() {
		if err := f(ctx); err != nil && ctx.Err() == nil {
			c.t.Errorf("%s of %s: %v", what, c.name, err)
		}
	})
}

func (c *cluster) proxy(cfg agent.Config) *agent.Agent {
	c.t.Helper()
	a := c.agent(cfg)
	c.run("proxy "+cfg.ID, a.Run)
	return a
}

// agent is a proxy that is not running yet.
func (c *cluster) agent(cfg agent.Config) *agent.Agent {
	c.t.Helper()
	cfg.Cluster, cfg.TrustDomain = c.name, mesh.TrustDomainOf(c.name, mesh.DefaultDomain)
	if cfg.ControlPlanes == nil {
		cfg.ControlPlanes = []netip.AddrPort{c.addr["control"]}
	}
	token, err := c.plane.NewToken(c.ctx, cfg.Identity())
	if err != nil {
		c.t.Fatal(err)
	}
	cfg.Join = token
	a, err := agent.New(cfg, c.log.With("proxy", cfg.ID), agent.Options{Version: "test"})
	if err != nil {
		c.t.Fatal(err)
	}
	return a
}

// apply writes objects as the API does.
func (c *cluster) apply(yaml string) {
	c.t.Helper()
	err := c.write(yaml)
	for end := time.Now().Add(bound); errors.Is(err, store.ErrUnavailable) && time.Now().Before(end); { // its process starts
		err = c.write(yaml)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) write(yaml string) error {
	r := manifest.Parse("test.yaml", []byte(yaml), manifest.Options{})
	for _, f := range r.Faults {
		return errors.New(f.String())
	}
	for i, o := range r.Objects {
		b, err := object.Encode(o, object.Meta{UID: fmt.Sprint(i), Created: time.Now(), Generation: 1, Stamp: c.plane.Stamp()})
		if err != nil {
			return err
		}
		if _, err := c.plane.Objects().Put(c.ctx, store.Object{Key: object.Key(o), Value: b}, store.Any()); err != nil {
			return err
		}
	}
	return nil
}

// join tells c of another cluster.
func (c *cluster) join(o *cluster) {
	c.t.Helper()
	yaml := clusterYAML(o.name, o.plane.Bundle(), o.addr)
	if o.remote {
		yaml = strings.Replace(yaml, fmt.Sprintf("  controlPlanes: [\"%s\"]\n", o.addr["federation"]), "  role: Remote\n  primaries: ["+remotes[o.name]+"]\n", 1)
	}
	c.apply(yaml)
}

// clusterYAML is the object by which a cluster is joined.
func clusterYAML(name mesh.ClusterName, b mesh.Bundle, addr map[string]netip.AddrPort) string {
	var roots strings.Builder
	for _, der := range b.Roots {
		for line := range strings.Lines(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))) {
			roots.WriteString("    " + line)
		}
	}
	gateways := fmt.Sprintf("%q", addr["gateway"])
	if second := addr["second gateway"]; second.IsValid() {
		gateways += fmt.Sprintf(", %q", second)
	}
	return fmt.Sprintf(`
apiVersion: isthmus.dev/v1alpha1
kind: Cluster
metadata: {name: %s}
spec:
  network: %s
  jurisdiction: %s
  trustDomain: %s
  rtt: 10ms
  gateways: [%s]
  controlPlanes: ["%s"]
  accepts: [{origin: "*"}]
  trustBundle: |
%s`, name, name, strings.ToUpper(string(name)), b.TrustDomain, gateways, addr["federation"], roots.String())
}

// serve adds an exported service with one instance that answers with its cluster.
func (c *cluster) serve(service string) {
	c.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%s %s %s", c.name, service, r.Header.Get("X-Forwarded-Client-Cert"))
	})}
	c.run("application", func(ctx context.Context) error {
		stop := context.AfterFunc(ctx, func() { srv.Close() })
		defer stop()
		return srv.Serve(ln)
	})
	app, inbound := netip.MustParseAddrPort(ln.Addr().String()), loopback.AddrPort(c.t)
	c.apply(fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %[1]s, namespace: shop}
spec: {selector: {app: %[1]s}, ports: [{name: http, port: 80, targetPort: %[3]d}]}
---
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceExport
metadata: {name: %[1]s, namespace: shop}
---
apiVersion: isthmus.dev/v1alpha1
kind: Workload
metadata: {name: %[1]s-0, namespace: shop, labels: {app: %[1]s}}
spec: {address: %[2]s, serviceAccount: %[1]s, ports: [{name: http, port: %[3]d}], proxy: "%[4]s"%[5]s}
`, service, app.Addr(), app.Port(), inbound, c.capacity))
	c.proxy(agent.Config{ID: "shop/" + service + "-0", Mode: agent.ModeSidecar, ServiceAccount: service, Inbound: inbound})
}

// client adds a sidecar with an explicit proxy and returns an HTTP client that uses it.
func (c *cluster) client() *http.Client { return c.clientNamed("shell") }

func (c *cluster) clientNamed(workload string) *http.Client {
	at := loopback.AddrPort(c.t)
	c.proxy(agent.Config{ID: "default/" + workload, Mode: agent.ModeSidecar, ServiceAccount: "shell", Outbound: at})
	c.shell = &http.Client{Timeout: bound, Transport: &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: at.String()})}}
	return c.shell
}

func get(client *http.Client, url string) string {
	resp, err := client.Get(url)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return fmt.Sprintf("%d %s", resp.StatusCode, b)
}

// bound is how long what must happen may take: no measure, but an end, on a machine that many others use as well.
const bound = time.Minute

// eventually polls until got is what is wanted.
func eventually(t *testing.T, want string, got func() string) {
	t.Helper()
	last := ""
	for end := time.Now().Add(bound); time.Now().Before(end); {
		if last = got(); strings.HasPrefix(last, want) {
			return
		}
		<-time.After(20 * time.Millisecond)
	}
	t.Fatalf("got %q after %v, want %q", last, bound, want)
}

// TestTwoClustersServeEachOther goes the whole way: objects in two stores, two control
// planes, gateways, sidecars, mTLS end to end, and a request that crosses.
func TestTwoClustersServeEachOther(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	defer parts.Wait()
	defer stop()
	eu, us := startCluster(t, ctx, &parts, "eu"), startCluster(t, ctx, &parts, "us")
	eu.join(eu)
	eu.join(us)
	us.join(us)
	us.join(eu)
	us.serve("catalog")
	client := eu.client()
	eventually(t, "200 us catalog URI=spiffe://eu.isthmus.local/ns/default/sa/shell", func() string {
		return get(client, "http://catalog.shop.svc.clusterset.local/")
	})
	eu.serve("catalog")
	eventually(t, "200 eu catalog", func() string { return get(client, "http://catalog.shop/") })

	if got := get(client, "http://nothing.shop.svc.clusterset.local/"); !strings.HasPrefix(got, "502 unknown_host") {
		t.Errorf("an unknown service: %q, want 502 unknown_host", got)
	}
	us.apply(`
apiVersion: isthmus.dev/v1alpha1
kind: AccessPolicy
metadata: {name: nobody, namespace: shop}
spec: {targetRefs: [{kind: Service, name: catalog}], action: Deny, rules: [{from: [{serviceAccounts: [shell]}]}]}
`)
	eventually(t, "403 access_denied", func() string { return get(client, "http://catalog.shop/") })
}
