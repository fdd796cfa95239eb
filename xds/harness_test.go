package xds_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/xds"
	"github.com/isthmus-mesh/isthmus/xds/carrier"
)

func TestMain(m *testing.M) {
	if address := os.Getenv(envAddress); address != "" {
		os.Exit(clientProcess(address))
	}
	goleak.VerifyTestMain(m)
}

const (
	typeTarget = "test/Target" // what referrers refer to
	typeRefer  = "test/Refer"
	typeLoose  = "test/Loose" // not in the order
)

var someone = mesh.Identity{TrustDomain: "eu.isthmus.local", Namespace: "shop", ServiceAccount: "cart"}

func at(revision int64) mesh.Vector {
	return mesh.Vector{"eu": {Epoch: mesh.Epoch{StartMillis: 1, ID: "a"}, Revision: revision}}
}

func resource(typ, name, content string) xds.Resource {
	version := "v" + content
	if len(version) > 32 {
		version = fmt.Sprintf("%x", sha256.Sum256([]byte(content)))
	}
	return xds.Resource{Type: typ, Name: name, Version: version, Body: []byte(content)}
}

func put(typ, name, content string) xds.Update {
	r := resource(typ, name, content)
	return xds.Update{Scope: "all", Type: typ, Name: name, Resource: &r}
}

func remove(typ, name string) xds.Update { return xds.Update{Scope: "all", Type: typ, Name: name} }

// origin is a Source over a map; what is asked for is published by flush.
type origin struct {
	mu      sync.Mutex
	values  map[[2]string]xds.Resource // by type and name
	watched map[[2]string]int
	asked   [][2]string
	refuse  error
}

func newOrigin() *origin {
	return &origin{values: map[[2]string]xds.Resource{}, watched: map[[2]string]int{}}
}

func (o *origin) Scope(xds.Node, string) (string, error) { return "all", o.refuse }

func (o *origin) Watch(_, typ, name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.watched[[2]string{typ, name}]++
	o.asked = append(o.asked, [2]string{typ, name})
}

func (o *origin) Unwatch(_, typ, name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.watched[[2]string{typ, name}]--
}

// answers are the updates for what was asked since the last call.
func (o *origin) answers() []xds.Update {
	o.mu.Lock()
	defer o.mu.Unlock()
	var out []xds.Update
	for _, k := range o.asked {
		if k[1] != xds.Wildcard {
			u := xds.Update{Scope: "all", Type: k[0], Name: k[1]}
			if r, ok := o.values[k]; ok {
				u.Resource = &r
			}
			out = append(out, u)
			continue
		}
		for v, r := range o.values {
			if v[0] == k[0] {
				out = append(out, xds.Update{Scope: "all", Type: k[0], Name: v[1], Resource: &r})
			}
		}
		out = append(out, xds.Update{Scope: "all", Type: k[0], Name: xds.Wildcard})
	}
	o.asked = nil
	return out
}

func (o *origin) keep(updates []xds.Update) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, u := range updates {
		if u.Resource == nil {
			delete(o.values, [2]string{u.Type, u.Name})
		} else {
			o.values[[2]string{u.Type, u.Name}] = *u.Resource
		}
	}
}

// replica is a control plane: a source, a server and a listener.
type replica struct {
	*origin
	*xds.Server
	lis       *bufconn.Listener
	connMu    sync.Mutex
	conns     []net.Conn
	delivered []xds.Delivery
	revision  int64
	stopped   atomic.Bool // see quiet
	deaf      atomic.Bool // takes no connections
	stop      func()
}

func newReplica(edit func(*xds.ServerConfig)) *replica {
	r := &replica{origin: newOrigin(), lis: bufconn.Listen(64 << 10)}
	cfg := xds.ServerConfig{Source: r.origin, Order: []string{typeTarget, typeRefer},
		Identify:  func(context.Context) (mesh.Identity, error) { return someone, nil },
		Delivered: func(d xds.Delivery) { r.delivered = append(r.delivered, d) }}
	if edit != nil {
		edit(&cfg)
	}
	r.Server = xds.NewServer(cfg)
	carrier := carried(r.Server)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { r.Run(ctx) })
	wg.Go(func() { carrier.Serve(ctx, r.lis) })
	r.stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
	})
	return r
}

// carried is what carries a server's streams in the clear.
func carried(s *xds.Server) *carrier.Server {
	c := carrier.New(carrier.Config{Plain: true, MessageMax: xds.MessageMax, PingAfter: xds.PingAfter, Patience: xds.Patience})
	c.Converse(xds.Method, func(ctx context.Context, wake func(bool)) (carrier.Conversation, error) { return s.Converse(ctx, wake) })
	return c
}

// change keeps and publishes one change at the next revision.
func (r *replica) change(updates ...xds.Update) {
	r.keep(updates)
	r.revision++
	r.Publish(at(r.revision), updates)
}

// settle answers what was asked until nothing is.
func (r *replica) settle() {
	for {
		synctest.Wait()
		a := r.answers()
		if len(a) == 0 {
			return
		}
		r.Publish(at(r.revision), a)
	}
}

func (r *replica) dial(context.Context) (grpc.ClientConnInterface, io.Closer, error) {
	conn, err := grpc.NewClient("passthrough:test", append(xds.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			if r.deaf.Load() {
				return nil, errors.New("nobody listens")
			}
			conn, err := r.lis.DialContext(ctx)
			if err == nil {
				r.connMu.Lock()
				r.conns = append(r.conns, conn)
				r.connMu.Unlock()
			}
			return conn, err
		}))...)
	return conn, conn, err
}

// quiet dials a connection on which nothing arrives while the replica is stopped.
func (r *replica) quiet(ctx context.Context, _ string) (net.Conn, error) {
	here, there := net.Pipe()
	far, err := r.lis.DialContext(ctx)
	if err != nil {
		return nil, err
	}
	pass := func(to, from net.Conn) {
		defer to.Close()
		defer from.Close()
		buf := make([]byte, 64<<10)
		for {
			n, err := from.Read(buf)
			if err != nil {
				return
			}
			if !r.stopped.Load() {
				if _, err := to.Write(buf[:n]); err != nil {
					return
				}
			}
		}
	}
	go pass(far, there)
	go pass(there, far)
	return here, nil
}

func (r *replica) stopListening() { r.deaf.Store(true) }
func (r *replica) listen()        { r.deaf.Store(false) }

// cut loses all connections.
func (r *replica) cut() {
	r.connMu.Lock()
	defer r.connMu.Unlock()
	for _, c := range r.conns {
		c.Close()
	}
	r.conns = nil
}

// backoffOver is longer than a proxy of these tests waits before a retry or two.
const backoffOver = time.Second

// model is a Handler that holds what it was given and what it was told.
type model struct {
	mu      sync.Mutex
	holds   map[string]map[string]string // contents by type and name
	batches []xds.Batch
	refuse  map[string]error
	vector  mesh.Vector
	faults  []error
	check   func(*model) error
	gate    chan struct{} // if not nil, Apply waits on it
}

func (m *model) Apply(b xds.Batch) map[string]error {
	if m.gate != nil {
		<-m.gate
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.batches = append(m.batches, b)
	if m.holds == nil {
		m.holds = map[string]map[string]string{}
	}
	of := m.holds[b.Type]
	if of == nil {
		of = map[string]string{}
		m.holds[b.Type] = of
	}
	out := map[string]error{}
	for _, r := range b.Resources {
		if err := m.refuse[string(r.Body)]; err != nil {
			out[r.Name] = err
			continue
		}
		if of[r.Name] == string(r.Body) {
			m.faults = append(m.faults, fmt.Errorf("%s %s was sent again at the same version", b.Type, r.Name))
		}
		of[r.Name] = string(r.Body)
	}
	for _, name := range b.Removed {
		delete(of, name)
	}
	if !b.Vector.Covers(m.vector) {
		m.faults = append(m.faults, fmt.Errorf("the vector went from %q to %q", m.vector, b.Vector))
	}
	m.vector = b.Vector
	if m.check != nil {
		if err := m.check(m); err != nil {
			m.faults = append(m.faults, err)
		}
	}
	return out
}

// take returns the batches since the last call.
func (m *model) take() []xds.Batch {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := m.batches
	m.batches = nil
	return b
}

func (m *model) held(typ string) map[string]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.holds[typ])
}

func (m *model) fault() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return errors.Join(m.faults...)
}

// proxy is a client with its model.
type proxy struct {
	*xds.Client
	*model
	stop func()
}

func newProxy(r *replica, id string, edit func(*xds.ClientConfig)) *proxy {
	p := &proxy{model: &model{}}
	cfg := xds.ClientConfig{Dial: r.dial, Node: func() xds.Node { return xds.Node{ID: id, Vector: at(0)} }, Handler: p.model, Rand: func() float64 { return 1 }}
	if edit != nil {
		edit(&cfg)
	}
	p.Client = xds.NewClient(cfg)
	p.stop = func() {}
	return p
}

func (p *proxy) start() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.Run(ctx)
	}()
	p.stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
}

// story runs a test in virtual time over one replica.
func story(t *testing.T, edit func(*xds.ServerConfig), tell func(t *testing.T, r *replica)) {
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(edit)
		defer r.stop()
		r.change() // so that it knows revision 1
		tell(t, r)
	})
}

// brief is a batch in one line: "+name -name complete".
func brief(bs []xds.Batch) []string {
	var out []string
	for _, b := range bs {
		s := b.Type
		names := []string{}
		for _, r := range b.Resources {
			names = append(names, " +"+r.Name+"="+string(r.Body))
		}
		for _, n := range b.Removed {
			names = append(names, " -"+n)
		}
		slices.Sort(names)
		for _, n := range names {
			s += n
		}
		if b.Complete {
			s += " complete"
		}
		out = append(out, s)
	}
	return out
}

func wantBatches(t *testing.T, p *proxy, want ...string) {
	t.Helper()
	synctest.Wait()
	if got := brief(p.take()); !slices.Equal(got, want) {
		t.Errorf("batches %q, want %q", got, want)
	}
	if err := p.fault(); err != nil {
		t.Error(err)
	}
}

// pass lets virtual time go by.
func pass(d time.Duration) {
	timer := time.NewTimer(d)
	<-timer.C
	synctest.Wait()
}
