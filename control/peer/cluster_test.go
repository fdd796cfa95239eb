package peer_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/codec/manifest"
	"github.com/isthmus-mesh/isthmus/codec/wire/wirepb"
	"github.com/isthmus-mesh/isthmus/control/ca"
	"github.com/isthmus-mesh/isthmus/control/peer"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/core/skew"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/internal/failpoint"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	grpcpeer "google.golang.org/grpc/peer"
)

// TestMain lets the tests wait for each other's clocks side by side: most wait. Not more of them than the machine shakes
// hands for in time: a link that is not open within dialTimeout is given up. And not while fuzzing, where the flag is
// the number of processes, each of which computes: an input that waits 10 s for its turn is taken for one that hangs.
func TestMain(m *testing.M) {
	flag.Parse()
	if flag.Lookup("test.fuzz").Value.String() == "" {
		if err := flag.Set("test.parallel", strconv.Itoa(4*runtime.GOMAXPROCS(0))); err != nil {
			panic(err)
		}
	}
	goleak.VerifyTestMain(m)
}

// patience bounds every wait; no test passes sooner for it.
const patience = time.Minute

// memoryKeys keeps an authority for the length of a test.
type memoryKeys struct{ state *trust.Secret }

func (k *memoryKeys) Load(context.Context) (trust.Secret, bool, error) {
	if k.state == nil {
		return trust.Secret{}, false, ca.ErrNoState
	}
	return *k.state, false, nil
}

func (k *memoryKeys) Save(_ context.Context, s trust.Secret) error {
	k.state = &s
	return nil
}

// place is one cluster of a test: its authority, what it tells, and what it was told.
type place struct {
	t       testing.TB
	name    mesh.ClusterName
	td      mesh.TrustDomain
	ca      *ca.CA
	source  *trust.Source
	exports *peer.Exports
	log     *alarms
	dir     string

	// addr is where the server listens, once serve was called.
	addr netip.AddrPort
	// joined are the clusters that may follow.
	joined sync.Map // mesh.TrustDomain → mesh.ClusterName
	// failpoints are of its server and of its followers; nil is none.
	failpoints *failpoint.Set
	// configure, where set, changes what the server is made with.
	configure func(*peer.ServerConfig)
	// patience is that of its followers.
	patience peer.Patience
	// build is that of its followers.
	build skew.Build
	// witness is what peers witnessed.
	witness chan *replica.Witness
	// sent counts what the server said, since it was last reset.
	sent struct{ bytes, set, removed atomic.Int64 }

	mu      sync.Mutex
	world   *world.World
	vector  mesh.Vector
	edits   []world.Edit
	changed chan struct{}
}

func newPlace(t testing.TB, name mesh.ClusterName) *place {
	t.Helper()
	p := &place{t: t, name: name, td: mesh.TrustDomainOf(name, mesh.DefaultDomain), exports: peer.NewExports(name), log: &alarms{},
		dir: t.TempDir(), world: world.New(name), vector: mesh.Vector{}, changed: make(chan struct{}), witness: make(chan *replica.Witness, 16)}
	var err error
	p.ca, err = ca.Open(context.Background(), ca.Config{TrustDomain: p.td, Keys: &memoryKeys{}, Clock: clock.Real{}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	p.source = p.sourceOf(peer.IdentityOf(p.td))
	return p
}

// sourceOf is a certificate of the place's authority for any of its identities.
func (p *place) sourceOf(id mesh.Identity) *trust.Source {
	p.t.Helper()
	key, err := trust.NewPrivateKey()
	if err != nil {
		p.t.Fatal(err)
	}
	svid, err := p.ca.SelfIssue(key, id)
	if err != nil {
		p.t.Fatal(err)
	}
	bundles, err := trust.NewBundles(p.ca.Bundle())
	if err != nil {
		p.t.Fatal(err)
	}
	s := trust.NewSource(clock.Real{})
	if err := s.Update(svid, bundles); err != nil {
		p.t.Fatal(err)
	}
	return s
}

// join makes places believe and tell each other.
func join(places ...*place) {
	for _, p := range places {
		for _, q := range places {
			if p == q {
				continue
			}
			p.joined.Store(q.td, q.name)
			believe(p.t, p.source, q)
		}
	}
}

func believe(t testing.TB, s *trust.Source, q *place) {
	t.Helper()
	b, err := s.Current().Bundles.With(q.ca.Bundle())
	if err == nil {
		err = s.Update(nil, b)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// serve tells peers until stop is called, on an address that stays the same.
func (p *place) serve() (stop func()) {
	p.t.Helper()
	config := peer.ServerConfig{Self: p.name, TrustDomain: p.td, Exports: p.exports, Clock: clock.Real{},
		Log: slog.New(p.log), Identify: identify, Failpoints: p.failpoints,
		Joined: func(td mesh.TrustDomain) (mesh.ClusterName, bool) {
			n, ok := p.joined.Load(td)
			if !ok {
				return "", false
			}
			return n.(mesh.ClusterName), true
		},
		Witness: func(_ context.Context, _ mesh.ClusterName, w *replica.Witness) {
			select {
			case p.witness <- w:
			default:
			}
		}}
	if p.configure != nil {
		p.configure(&config)
	}
	return p.serveAs(p.source, peer.NewServer(config))
}

func (p *place) serveAs(source *trust.Source, service wirepb.FederationServer) (stop func()) {
	p.t.Helper()
	at := "127.0.0.1:0"
	if p.addr.IsValid() {
		at = p.addr.String()
	}
	ln, err := net.Listen("tcp", at)
	if err != nil {
		p.t.Fatal(err)
	}
	p.addr = netip.MustParseAddrPort(ln.Addr().String())
	c := trust.ServerConfig(source, trust.ServerOptions{Accept: trust.AcceptKnownClients(), ALPN: []string{"h2"}})
	srv := grpc.NewServer(append(peer.ServerOptions(), grpc.Creds(credentials.NewTLS(c)),
		grpc.StreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
			return h(srv, counted{ss, p})
		}))...)
	wirepb.RegisterFederationServer(srv, service)
	var done sync.WaitGroup
	done.Go(func() { _ = srv.Serve(countedListener{ln, p}) }) // it ends by Stop
	var once sync.Once
	stop = func() {
		once.Do(func() {
			srv.Stop()
			done.Wait()
		})
	}
	p.t.Cleanup(stop)
	return stop
}

func identify(ctx context.Context) (mesh.Identity, error) {
	pr, ok := grpcpeer.FromContext(ctx)
	if !ok {
		return mesh.Identity{}, errors.New("no connection")
	}
	return trust.PeerIdentity(pr.AuthInfo.(credentials.TLSInfo).State)
}

// counted counts what a server states.
type counted struct {
	grpc.ServerStream
	p *place
}

func (c counted) SendMsg(m any) error {
	if r := m.(*wirepb.Down).GetResponse(); r != nil {
		c.p.sent.set.Add(int64(len(r.Set)))
		c.p.sent.removed.Add(int64(len(r.Removed)))
	}
	return c.ServerStream.SendMsg(m)
}

type countedListener struct {
	net.Listener
	p *place
}

func (l countedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return countedConn{c, l.p}, err
}

type countedConn struct {
	net.Conn
	p *place
}

func (c countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.p.sent.bytes.Add(int64(n))
	return n, err
}

func (p *place) resetSent() {
	p.sent.bytes.Store(0)
	p.sent.set.Store(0)
	p.sent.removed.Store(0)
}

// following is a follower that runs.
type following struct {
	*peer.Follower
	stop func()
	news chan struct{}
}

// follow follows of, at its own address or by another path.
func (p *place) follow(of *place, by ...netip.AddrPort) *following {
	p.t.Helper()
	if len(by) == 0 {
		by = []netip.AddrPort{of.addr}
	}
	return p.followAt(of, by)
}

func (p *place) followAt(of *place, by []netip.AddrPort) *following {
	p.t.Helper()
	f := &following{news: make(chan struct{}, 1)}
	f.Follower = peer.NewFollower(peer.FollowerConfig{Self: p.name, Source: p.source, Cache: filepath.Join(p.dir, string(of.name)),
		Peer: mesh.Cluster{Name: of.name, TrustDomain: of.td, ControlPlanes: by}, Edit: p.edit, Known: p.known,
		Changed: func(mesh.ClusterName, replica.Status) {
			select {
			case f.news <- struct{}{}:
			default:
			}
		}, Clock: clock.Real{}, Log: slog.New(p.log), Failpoints: p.failpoints, Build: p.build, Patience: &p.patience})
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		if err := f.Run(ctx); !errors.Is(err, context.Canceled) {
			p.t.Errorf("following %s ended: %v", of.name, err)
		}
	})
	f.stop = func() {
		cancel()
		done.Wait()
	}
	p.t.Cleanup(f.stop)
	return f
}

// until waits for a status.
func (f *following) until(t testing.TB, what string, want func(replica.Status) bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for !want(f.Status()) {
		select {
		case <-f.news:
		case <-time.After(20 * time.Millisecond): // not every change of a status is news
		case <-deadline.C:
			t.Fatalf("not %s: %+v (%v)", what, f.Status(), f.Err())
		}
	}
}

func inSync(s replica.Status) bool { return s.InSync && !s.Stale }

func (p *place) edit(_ context.Context, edits []world.Edit, v mesh.Vector) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.world, _ = p.world.Edit(edits)
	p.vector.Merge(v)
	p.edits = append(p.edits, edits...)
	close(p.changed)
	p.changed = make(chan struct{})
	return nil
}

func (p *place) known(n mesh.ClusterName) []mesh.Key {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []mesh.Key
	for f := range p.world.All() {
		if f.Origin == n {
			out = append(out, f.Key)
		}
	}
	return out
}

// removals are the names that edits have taken away so far.
func (p *place) removals() (out []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.edits {
		if e.Fact == nil {
			out = append(out, e.Key.String())
		}
	}
	return out
}

func (p *place) now() (*world.World, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.world, p.changed
}

// await waits until the world is as wanted.
func (p *place) await(what string, want func(*world.World) bool) {
	p.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		w, changed := p.now()
		if want(w) {
			return
		}
		select {
		case <-changed:
		case <-deadline.C:
			p.t.Fatalf("cluster %s: not %s after %v; it was told: %q", p.name, what, patience, p.log.all())
		}
	}
}

// has waits for a service of a cluster with a number of lanes; 0 lanes is its absence.
func (p *place) has(of *place, service string, lanes uint32) {
	p.t.Helper()
	p.await(fmt.Sprintf("%s of %s with %d lanes", service, of.name, lanes), func(w *world.World) bool { return p.lanes(w, of, service) == lanes })
}

func (p *place) lanes(w *world.World, of *place, service string) uint32 {
	f, ok := w.Get(mesh.Key{Kind: mesh.KindRemoteService, Origin: of.name, Namespace: "shop", Name: service})
	if !ok {
		return 0
	}
	return f.Value.(*mesh.RemoteService).Lanes
}

func (p *place) facts(of *place) int { return len(p.known(of.name)) }

var epoch = mesh.Epoch{StartMillis: 1_700_000_000_000, ID: "one"}

func at(rev int64) mesh.Position { return mesh.Position{Epoch: epoch, Revision: rev} }

// service is a resource as a cluster tells it.
func (p *place) service(name string, lanes uint32) *replica.Resource {
	v := &mesh.RemoteService{ServiceName: mesh.ServiceName{Namespace: "shop", Name: name}, Lanes: lanes, Slots: 4, SlotGeneration: 1, Moved: []uint64{1, 1, 1, 1},
		Ports:      []mesh.ServicePort{{Name: "http", Port: 80, Protocol: mesh.ProtocolHTTP, TargetPort: 8080}},
		Identities: []mesh.Identity{{TrustDomain: p.td, Namespace: "shop", ServiceAccount: "web"}}}
	return p.resource(&mesh.Fact{Key: mesh.Key{Kind: mesh.KindRemoteService, Origin: p.name, Namespace: "shop", Name: name}, Value: v, Digest: ir.DigestOf(v)})
}

func (p *place) resource(f *mesh.Fact) *replica.Resource {
	p.t.Helper()
	r, ok := peer.Resource(f)
	if !ok {
		p.t.Fatalf("%s does not travel", f.Key)
	}
	return r
}

func serviceName(name string) replica.Name {
	return replica.Name{Kind: mesh.KindRemoteService, Namespace: "shop", Name: name}
}

// policy is an access policy as a cluster tells it.
func (p *place) policy(name string) *replica.Resource {
	p.t.Helper()
	r := manifest.Parse("test", []byte(fmt.Sprintf(`{"apiVersion":"isthmus.dev/v1alpha1","kind":"AccessPolicy","metadata":{"name":%q,"namespace":"shop"},
		"spec":{"targetRefs":[{"group":"","kind":"Service","name":"web"}],"action":"Deny","rules":[{"from":[{"namespaces":["ops"]}]}]}}`, name)), manifest.Options{})
	for _, f := range r.Faults {
		p.t.Fatal(f)
	}
	f, _ := r.Objects[0].Fact(p.name)
	f.Raw, f.Stamp, f.Position = r.Objects[0].JSON, mesh.Stamp{WallMillis: 1_700_000_000_000, Origin: p.name}, at(1)
	return p.resource(&f)
}

func policyKey(of *place, name string) mesh.Key {
	return mesh.Key{Kind: mesh.KindAccessPolicy, Origin: of.name, Namespace: "shop", Name: name}
}

// alarms is a log handler that keeps what was said.
type alarms struct {
	mu   sync.Mutex
	said []string
}

func (a *alarms) Enabled(context.Context, slog.Level) bool { return true }
func (a *alarms) WithGroup(string) slog.Handler            { return a }
func (a *alarms) WithAttrs([]slog.Attr) slog.Handler       { return a }

func (a *alarms) Handle(_ context.Context, r slog.Record) error {
	text := r.Message
	r.Attrs(func(at slog.Attr) bool {
		text += " " + at.String()
		return true
	})
	a.mu.Lock()
	defer a.mu.Unlock()
	a.said = append(a.said, text)
	return nil
}

func (a *alarms) all() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]string(nil), a.said...)
}

// await waits until something was said that contains all the words.
func (a *alarms) await(t testing.TB, words ...string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		for _, s := range a.all() {
			all := true
			for _, w := range words {
				all = all && strings.Contains(s, w)
			}
			if all {
				return
			}
		}
		select {
		case <-t.Context().Done():
			t.Fatal("the test ended")
		case <-time.After(20 * time.Millisecond):
		}
	}
	t.Fatalf("nobody said %q, but %q", words, a.all())
}
