package agent_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/codec/wire"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/agent"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/internal/loopback"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
	"github.com/isthmus-mesh/isthmus/xds"
	"github.com/isthmus-mesh/isthmus/xds/carrier"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if config := os.Getenv(proxyProcess); config != "" {
		fmt.Fprintln(os.Stderr, runProxy(config))
		os.Exit(1)
	}
	// An application of net/http sleeps for half a second before it closes what it answered early.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

const host = "127.0.0.1"

// authority is the CA of one cluster.
type authority struct {
	td   mesh.TrustDomain
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB, cluster mesh.ClusterName) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	td := mesh.TrustDomainOf(cluster, mesh.DefaultDomain)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: string(td)}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(48 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		URIs: []*url.URL{{Scheme: "spiffe", Host: string(td)}}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{td, cert, key}
}

func (a *authority) bundle() mesh.Bundle {
	return mesh.Bundle{TrustDomain: a.td, Generation: 1, Roots: [][]byte{a.cert.Raw}}
}

func (a *authority) svid(t testing.TB, id mesh.Identity) *trust.SVID {
	t.Helper()
	key, err := trust.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(id.String())
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-trust.Backdate), NotAfter: time.Now().Add(24 * time.Hour),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, URIs: []*url.URL{u}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	s, err := trust.NewSVID(key, [][]byte{der})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// script is a control plane that says what the test wrote: a static xds.Source.
type script struct {
	server *xds.Server
	ask    chan [3]string

	mu        sync.Mutex
	resources map[string]map[string]any // by type, by name
	pushed    chan push
	ended     chan struct{} // nobody takes what is pushed any more
}

// push is a change, and what is closed once it is published.
type push struct {
	update xds.Update
	done   chan struct{}
}

func (s *script) Scope(xds.Node, string) (string, error) { return "all", nil }
func (s *script) Unwatch(_, _, _ string)                 {}
func (s *script) Watch(scope, typ, name string)          { s.ask <- [3]string{scope, typ, name} }

func resource(v any) *xds.Resource {
	typ, body := wire.Encode(v)
	return &xds.Resource{Type: string(typ), Version: fmt.Sprintf("%x", sha256.Sum256(body)), Body: body}
}

// set states something, and returns when whoever asks from now on is told.
func (s *script) set(name string, v any) {
	r := resource(v)
	r.Name = name
	s.mu.Lock()
	if s.resources[r.Type] == nil {
		s.resources[r.Type] = map[string]any{}
	}
	s.resources[r.Type][name] = v
	s.mu.Unlock()
	p := push{xds.Update{Scope: "all", Type: r.Type, Name: name, Resource: r}, make(chan struct{})}
	select {
	case s.pushed <- p:
		<-p.done
	case <-s.ended:
	}
}

func (s *script) run(ctx context.Context) {
	defer close(s.ended)
	for {
		select {
		case <-ctx.Done():
			return
		case p := <-s.pushed:
			s.server.Publish(mesh.Vector{}, []xds.Update{p.update})
			close(p.done)
		case a := <-s.ask:
			var out []xds.Update
			s.mu.Lock()
			for n, v := range s.resources[a[1]] {
				if a[2] == "*" || a[2] == n {
					r := resource(v)
					r.Name = n
					out = append(out, xds.Update{Scope: a[0], Type: a[1], Name: n, Resource: r})
				}
			}
			s.mu.Unlock()
			if a[2] == "*" || len(out) == 0 {
				out = append(out, xds.Update{Scope: a[0], Type: a[1], Name: a[2]})
			}
			s.server.Publish(mesh.Vector{}, out)
		}
	}
}

// world is two clusters: eu-west with a client and two servers, us-east with a gateway and
// one server behind it.
type world struct {
	t        testing.TB
	dir      string
	log      *slog.Logger
	script   *script
	clusters map[mesh.ClusterName]*authority
	planes   map[mesh.ClusterName]netip.AddrPort
	stop     map[mesh.ClusterName]func()
}

var (
	catalog = mesh.ServiceName{Namespace: "shop", Name: "catalog"}
	cart    = mesh.ServiceName{Namespace: "shop", Name: "cart"}
)

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), log: slog.New(slog.DiscardHandler), clusters: map[mesh.ClusterName]*authority{},
		planes: map[mesh.ClusterName]netip.AddrPort{}, stop: map[mesh.ClusterName]func(){}}
	if os.Getenv("AGENT_TEST_LOG") != "" {
		w.log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	ctx, cancel := context.WithCancel(context.Background())
	w.script = &script{ask: make(chan [3]string, 1024), pushed: make(chan push), ended: make(chan struct{}), resources: map[string]map[string]any{}}
	order := []string{string(ir.TypeBundle), string(ir.TypeCluster), string(ir.TypeEndpoints), string(ir.TypeService)}
	w.script.server = xds.NewServer(xds.ServerConfig{Source: w.script, Order: order,
		Identify: func(context.Context) (mesh.Identity, error) { return mesh.Identity{Namespace: "x"}, nil }})
	var run sync.WaitGroup
	run.Go(func() { w.script.run(ctx) })
	run.Go(func() { _ = w.script.server.Run(ctx) })
	t.Cleanup(func() {
		for _, stop := range w.stop {
			stop()
		}
		cancel()
		run.Wait()
	})
	for _, c := range []mesh.ClusterName{"eu-west", "us-east"} {
		a := newAuthority(t, c)
		w.clusters[c] = a
		b := a.bundle()
		w.script.set(string(a.td), &b)
		w.script.set(string(c), &ir.Cluster{Name: c, TrustDomain: a.td, RTT: map[mesh.ClusterName]time.Duration{"us-east": 80 * time.Millisecond}[c]})
	}
	for c := range w.clusters {
		w.plane(c)
	}
	return w
}

// plane starts a cluster's control plane: its own certificate, the shared script.
func (w *world) plane(c mesh.ClusterName) {
	a := w.clusters[c]
	source := trust.NewSource(clock.Real{})
	bundles, err := trust.NewBundles(a.bundle())
	if err == nil {
		err = source.Update(a.svid(w.t, mesh.Identity{TrustDomain: a.td, Namespace: "isthmus-system", ServiceAccount: "control-plane"}), bundles)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	srv := carrier.New(carrier.Config{TLS: trust.ServerConfig(source, trust.ServerOptions{Accept: trust.AcceptKnownClients(), ALPN: []string{"h2"}}), MessageMax: xds.MessageMax})
	srv.Converse(xds.Method, func(ctx context.Context, wake func(bool)) (carrier.Conversation, error) {
		return w.script.server.Converse(ctx, wake)
	})
	ln, err := net.Listen("tcp", host+":0")
	if err != nil {
		w.t.Fatal(err)
	}
	w.planes[c] = ln.Addr().(*net.TCPAddr).AddrPort()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(ctx, ln) }()
	w.stop[c] = func() { stop(); <-done }
}

// member is one running agent.
type member struct {
	*agent.Agent
	cfg agent.Config
	// end tells the proxy to end; wait only waits until it has.
	end, wait func() error
}

// start runs a proxy that holds a certificate already, from a snapshot.
func (w *world) start(c mesh.ClusterName, id, account string, change func(*agent.Config)) *member {
	w.t.Helper()
	return w.startWith(c, id, account, agent.Options{}, change)
}

func (w *world) startWith(c mesh.ClusterName, id, account string, o agent.Options, change func(*agent.Config)) *member {
	w.t.Helper()
	a := w.clusters[c]
	key := trust.NewSealKey()
	cfg := agent.Config{ID: id, Mode: agent.ModeSidecar, Cluster: c, TrustDomain: a.td, ServiceAccount: account,
		ControlPlanes: []netip.AddrPort{w.planes[c]}, Snapshot: filepath.Join(w.dir, strings.ReplaceAll(id, "/", "-")+"-"+string(c)), Admin: loopback.AddrPort(w.t)}
	change(&cfg)
	svid := a.svid(w.t, cfg.Identity())
	_, err := trust.WriteSnapshot(trust.SnapshotFile(cfg.Snapshot, key), trust.Snapshot{Key: svid.Key, Chain: svid.Chain,
		Bundles: []mesh.Bundle{a.bundle()}, Sections: map[string][]byte{"resources": []byte("{}")}}, time.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	return w.run(cfg, key, o)
}

// boot runs a proxy from what is on its disk.
func (w *world) boot(cfg agent.Config, key trust.SealKey) *member {
	w.t.Helper()
	return w.run(cfg, key, agent.Options{})
}

func (w *world) run(cfg agent.Config, key trust.SealKey, o agent.Options) *member {
	w.t.Helper()
	r, p, err := os.Pipe()
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := p.Write(key.Reveal()); err != nil {
		w.t.Fatal(err)
	}
	p.Close()
	cfg.SealFD = dup(w.t, r)
	r.Close()
	if err := cfg.Validate(); err != nil {
		w.t.Fatal(err)
	}
	a, err := agent.New(cfg, w.log, o)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	m := &member{Agent: a, cfg: cfg}
	m.wait = sync.OnceValue(func() error {
		select {
		case err := <-done:
			return err
		case <-time.After(bound):
			return fmt.Errorf("agent %s did not end", cfg.ID)
		}
	})
	m.end = func() error { cancel(); return m.wait() }
	w.t.Cleanup(func() {
		if err := m.end(); err != nil && !strings.Contains(err.Error(), "context canceled") && !errors.Is(err, agent.ErrReplaced) {
			w.t.Error(err)
		}
	})
	keys.Store(cfg.Snapshot, key)
	return m
}

// keys are the seal keys of snapshots by path.
var keys sync.Map

func (m *member) waitReady(t testing.TB) {
	t.Helper()
	eventually(t, "the proxy "+m.cfg.ID+" is ready", m.Ready)
}

// bound is how long what must happen may take: no measure, but an end, on a machine that many others use as well.
const bound = time.Minute

// eventually waits for something that other goroutines bring about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	limit := time.After(bound)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("%v passed before %s", bound, what)
		}
	}
}

// app is an application that says who it is and what it got.
func app(t testing.TB, name string) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s %s %s", name, r.Method, r.URL.Path, r.Header.Get("x-forwarded-client-cert"), body)
	})}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() { srv.Close() })
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

// service states shop/NAME: its endpoints, and who may call it.
func (w *world) service(n mesh.ServiceName, groups []ir.Group, routes []ir.Route, policies ...ir.AccessEntry) {
	ports := []ir.Port{{Port: 80, Protocol: mesh.ProtocolHTTP}, {Port: 81, Protocol: mesh.ProtocolTCP},
		{Port: 8080, Protocol: mesh.ProtocolHTTP}, {Port: 8082, Protocol: mesh.ProtocolHTTP2}}
	var callers []ir.Caller
	for c, a := range w.clusters {
		callers = append(callers, ir.Caller{TrustDomain: a.td, Cluster: c})
	}
	slices.SortFunc(callers, func(a, b ir.Caller) int { return strings.Compare(string(a.Cluster), string(b.Cluster)) })
	w.script.set(n.String(), &ir.Endpoints{Service: n, Groups: groups})
	w.script.set(n.String(), &ir.Access{Service: n, Exported: true, Clusters: callers, Policies: policies})
	w.script.set(n.String(), &ir.Service{Name: n, Ports: ports, Routed: len(routes) > 0, Routes: routes,
		Traffic: ir.Traffic{Strategy: mesh.StrategyAuto, ConnectTimeout: 10 * time.Second, RequestTimeout: 15 * time.Second, Retry: mesh.RetryPolicy{Attempts: 2}, Outlier: mesh.Outlier{ConsecutiveFailures: 3}}})
	w.script.set(n.String(), &ir.Name{Service: n, Ports: ports, Address: netip.AddrFrom4([4]byte{127, 9, 9, byte(10 + len(n.Name))})})
}

// server starts an application and its sidecar, and returns the endpoint.
func (w *world) server(c mesh.ClusterName, name string, n mesh.ServiceName) (*member, ir.Endpoint) {
	w.t.Helper()
	return w.serverOf(c, name, n, app(w.t, name))
}

// serverOf is server for an application that runs already.
func (w *world) serverOf(c mesh.ClusterName, name string, n mesh.ServiceName, target netip.AddrPort) (*member, ir.Endpoint) {
	w.t.Helper()
	inbound := loopback.AddrPort(w.t)
	w.script.set("shop/"+name, &ir.Proxy{ID: "shop/" + name, Inbound: []ir.Inbound{{Service: n, Ports: []ir.InboundPort{
		{Port: 80, Protocol: mesh.ProtocolHTTP, Target: target}, {Port: 81, Protocol: mesh.ProtocolTCP, Target: target},
		{Port: 8080, Protocol: mesh.ProtocolHTTP, Target: target}, {Port: 8082, Protocol: mesh.ProtocolHTTP2, Target: target}}}}})
	m := w.start(c, "shop/"+name, n.Name, func(cfg *agent.Config) { cfg.Inbound = inbound })
	return m, ir.Endpoint{Tag: name, Proxy: inbound, Weight: 1}
}

func (w *world) identity(c mesh.ClusterName, n mesh.ServiceName) []mesh.Identity {
	return []mesh.Identity{{TrustDomain: w.clusters[c].td, Namespace: n.Namespace, ServiceAccount: n.Name}}
}

// client starts a sidecar of shop/frontend with the explicit proxy.
func (w *world) client() *member {
	w.t.Helper()
	w.script.set("shop/frontend", &ir.Proxy{ID: "shop/frontend"})
	return w.start("eu-west", "shop/frontend", "frontend", func(cfg *agent.Config) { cfg.Outbound, cfg.DNS = loopback.AddrPort(w.t), loopback.AddrPort(w.t) })
}

// via is an HTTP client that uses a sidecar as its proxy.
func via(t testing.TB, m *member) *http.Client {
	tr := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: m.cfg.Outbound.String()})}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: bound}
}

// ask returns status, reason and body.
func ask(t testing.TB, c *http.Client, u string) (int, string, string) {
	t.Helper()
	r, err := c.Get(u)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, r.Header.Get("isthmus-reason"), string(b)
}

func addrs(es ...ir.Endpoint) []netip.AddrPort {
	var out []netip.AddrPort
	for _, e := range es {
		out = append(out, e.Proxy)
	}
	return out
}
