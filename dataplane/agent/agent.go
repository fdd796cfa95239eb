package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/dns"
	"github.com/isthmus-mesh/isthmus/dataplane/http1"
	"github.com/isthmus-mesh/isthmus/dataplane/http2"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
	"github.com/isthmus-mesh/isthmus/dataplane/tunnel"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
	"github.com/isthmus-mesh/isthmus/xds"
)

// Agent is one running proxy.
type Agent struct {
	cfg    Config
	log    *slog.Logger
	clock  clock.Clock
	source *trust.Source
	store  *store
	keeper *keeper
	client *xds.Client
	dialer *tunnel.Dialer
	apps   *apps
	proxy  *proxy.Proxy
	server *tunnel.Server
	gate   *tunnel.Gateway
	front  *front
	up     *upstream
	seen   observer
	// accepting is set while Run accepts: from when it listens until its context ends.
	accepting atomic.Bool
}

// Options are what a caller may add to a proxy.
type Options struct {
	// Done is told of each request that ended; nil nobody.
	Done func(*proxy.Record)
	// Version of the build, for the control plane.
	Version string
}

// New prepares a proxy from its configuration, and from its snapshot if there is one.
// Nothing listens and nothing runs before Run.
func New(cfg Config, log *slog.Logger, o Options) (*Agent, error) {
	if cfg.Prefetch == 0 {
		cfg.Prefetch = 256
	}
	a := &Agent{cfg: cfg, log: log, clock: clock.Real{}}
	a.seen = observer{cfg: &a.cfg, log: log, also: o.Done}
	if o.Done == nil {
		a.seen.also = func(*proxy.Record) {}
	}
	a.source = trust.NewSource(a.clock)
	a.store = newStore(&a.cfg, a.source, a.clock.Now, log)
	a.up = &upstream{cfg: &a.cfg, source: a.source, clock: a.clock}
	a.client = xds.NewClient(xds.ClientConfig{Dial: a.up.stream, Handler: a.store, Log: log, Now: a.clock.Now, MaxBackoff: 2 * time.Second,
		Node: func() xds.Node {
			return xds.Node{ID: cfg.ID, Cluster: cfg.Cluster, Mode: cfg.Mode, Zone: cfg.Zone, Version: o.Version, Vector: a.store.state.Load().Vector}
		}})
	var err error
	if a.keeper, err = newKeeper(&a.cfg, a.store, a.source, a.clock, log); err != nil {
		return nil, fmt.Errorf("proxy %s: %w", cfg.ID, err)
	}
	a.store.want = func(t ir.Type, names ...string) { a.client.Subscribe(string(t), names...) }
	a.client.Seed(a.keeper.boot(a.cfg.Identity()))
	a.store.dirty = a.keeper.dirty
	a.client.Subscribe(string(ir.TypeBundle), "*")
	a.client.Subscribe(string(ir.TypeCluster), "*")
	a.client.Subscribe(string(ir.TypeProxy), cfg.ID)
	a.client.Subscribe(string(ir.TypeName), "*")
	if cfg.Mode == ModeGateway {
		a.client.Subscribe(string(ir.TypeSlots), "*")
	}
	a.build()
	return a, nil
}

// build wires the request path.
func (a *Agent) build() {
	a.dialer = tunnel.NewDialer(tunnel.DialerConfig{Source: a.source, Local: a.cfg.Local, Now: a.clock.Now, Log: a.log})
	a.apps = &apps{local: a.cfg.Local}
	a.apps.pool = http1.NewPool(http1.PoolConfig{Conn: &http1.Config{}, Dial: a.apps.dial, DialTimeout: mesh.DefaultConnectTimeout})
	a.apps.http2 = http2.NewPool(http2.PoolConfig{Dial: a.apps.dial, DialTimeout: mesh.DefaultConnectTimeout})
	a.proxy = proxy.New(proxy.Config{State: a.store.state.Load, Demand: a.store.Demand, Open: a.open, App: a.apps.open, Outside: a.apps.open,
		Namespace: a.cfg.Identity().Namespace, Now: a.clock.Now, Rand: rand.Uint64,
		Opened: a.seen.opened, Done: a.seen.done, Panicked: a.seen.panicked})
	a.server = tunnel.NewServer(tunnel.ServerConfig{Source: a.source, Now: a.clock.Now, Log: a.log,
		Serves: func(n mesh.SNI) bool {
			s := a.store.state.Load()
			return n.TrustDomain == a.cfg.TrustDomain && (!s.Ready || s.Inbound[n.Service] != nil)
		},
		Handle: func(ex message.Exchange, p tunnel.Peer) {
			a.proxy.Inbound(ex, proxy.Peer{Identity: p.Identity, SNI: p.SNI})
		}})
	a.gate = tunnel.NewGateway(tunnel.GatewayConfig{Route: a.slot, Source: a.source, Local: a.cfg.Local, Log: a.log,
		Domain: func() mesh.TrustDomain { return a.cfg.TrustDomain }})
}

// open turns a destination into a target of the tunnel.
func (a *Agent) open(deadline time.Time, d *proxy.Destination) (message.Stream, error) {
	w := &tunnel.Want{Identities: d.Identities, ConnectTimeout: d.Timeout, Pending: d.Pending, PendingMost: d.PendingMost, Target: tunnel.Target{Connect: d.Connect,
		SNI: mesh.SNI{Slot: d.Endpoint.Slot, Service: d.Service, TrustDomain: d.Cluster.TrustDomain}}}
	if d.Endpoint.Proxy.IsValid() {
		w.Target.Addr = d.Endpoint.Proxy
	} else {
		g := d.Cluster.Gateways
		if len(g) == 0 {
			return nil, fmt.Errorf("%w: cluster %s has no gateway", message.ErrNotExecuted, d.Cluster.Name)
		}
		first := int(d.Endpoint.Slot) % len(g)
		w.Target.Addr, w.Target.Moved = g[first], d.Endpoint.Moved
		w.Alternates = append(append([]netip.AddrPort{}, g[first+1:]...), g[:first]...)
	}
	return a.dialer.Open(deadline, w)
}

// slot is the gateway's routing.
func (a *Agent) slot(n mesh.SNI) (netip.AddrPort, bool) {
	s := a.store.state.Load().Slots[n.Service]
	if s == nil || s.TrustDomain != n.TrustDomain || int(n.Slot) >= len(s.Table.Slots) {
		return netip.AddrPort{}, false
	}
	return s.Table.Slots[n.Slot], true
}

// Patience of a proxy that was told to end.
const (
	// idleGrace is how long an idle connection of the application may still send a request.
	idleGrace = 500 * time.Millisecond
	// drainTime is how long requests and connections may take to end.
	drainTime = 30 * time.Second
)

// Run serves until ctx ends, and returns when every request has ended, or drainTime after. The
// first part that fails ends the others.
//
// The end goes from the outside in: nothing new is accepted, requests in progress end, and
// only then end the connections, the discovery and the snapshot that they lean on.
func (a *Agent) Run(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	hard, cut := context.WithCancel(context.Background())
	defer cut()
	base, end := context.WithCancel(context.Background())
	defer end()
	renewer, err := trust.NewRenewer(trust.RenewerConfig{Source: a.source, Signer: a.up, Clock: a.clock, Random: rand.Float64, Log: a.log,
		Identity: a.cfg.Identity()})
	if err != nil {
		return err
	}
	listeners, err := a.listen()
	if err != nil {
		return err
	}
	a.front = &front{cfg: &a.cfg, proxy: a.proxy, http1: &http1.Config{HTTP2: true}, http2: a.frontHTTP2(), log: a.log, refused: a.seen.refused, ctx: ctx, hard: hard,
		opened: map[netip.AddrPort]*listener{}, failed: map[netip.AddrPort]string{}}
	var serving, leaning sync.WaitGroup
	part := func(of *sync.WaitGroup, until context.Context, name string, run func(context.Context) error) {
		of.Go(func() {
			if err := run(until); err != nil && until.Err() == nil {
				stop(fmt.Errorf("proxy %s: %s: %w", a.cfg.ID, name, err))
			}
		})
	}
	part(&leaning, base, "certificates", renewer.Run)
	part(&leaning, base, "discovery", a.discover)
	part(&leaning, base, "snapshot", a.keeper.run)
	part(&leaning, base, "connections", a.dialer.Run)
	part(&leaning, base, "application connections", a.apps.pool.Run)
	part(&leaning, base, "application connections of HTTP/2", a.apps.http2.Run)
	part(&serving, ctx, "service addresses", a.follow)
	for _, l := range listeners {
		if l.name == "admin" || l.name == "dns" {
			part(&leaning, base, l.name, l.serve)
			continue
		}
		part(&serving, ctx, l.name, l.serve)
	}
	a.accepting.Store(true)
	<-ctx.Done()
	a.accepting.Store(false)
	patience := time.AfterFunc(drainTime, cut)
	serving.Wait()
	a.front.conns.Wait()
	patience.Stop()
	end()
	leaning.Wait()
	closing, done := context.WithTimeout(context.Background(), time.Second)
	defer done()
	return errors.Join(context.Cause(ctx), a.apps.pool.Close(closing), a.apps.http2.Close(closing))
}

// clientIdle ends a connection of HTTP/2 of the own application on which nothing happens.
const clientIdle = 3 * time.Minute

// frontHTTP2 bounds the connections of the own application.
func (a *Agent) frontHTTP2() http2.Config {
	return http2.Config{ConnectProtocol: true, IdleTimeout: clientIdle, DrainTimeout: drainTime,
		Panic: func(p any) { a.log.Error("a request's handler panicked", "panic", p) }}
}

// discover follows the control plane once there is a certificate to do it with.
func (a *Agent) discover(ctx context.Context) error {
	for {
		m, changed := a.source.Watch()
		if m.SVID != nil {
			return a.client.Run(ctx)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// follow keeps the service listeners in step with the names.
func (a *Agent) follow(ctx context.Context) error {
	defer a.front.close()
	for {
		a.store.mu.Lock()
		changed := a.store.changed
		a.store.mu.Unlock()
		a.front.follow(a.store.state.Load().Names)
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// bound is an open port and what serves it, which closes it.
type bound struct {
	io.Closer
	name  string
	serve func(context.Context) error
}

// listen opens all ports or none.
func (a *Agent) listen() ([]bound, error) {
	var out []bound
	var failed error
	open := func(name string, at netip.AddrPort, serve func(context.Context, net.Listener) error) {
		if !at.IsValid() || failed != nil {
			return
		}
		ln, err := net.Listen("tcp", at.String())
		if err != nil {
			failed = fmt.Errorf("proxy %s: listen for %s: %w", a.cfg.ID, name, err)
			return
		}
		out = append(out, bound{ln, name, func(ctx context.Context) error { return serve(ctx, ln) }})
	}
	names := dns.New(dns.Config{Resolve: a.resolve, Log: a.log})
	open("outbound", a.cfg.Outbound, a.serveOutbound)
	open("inbound", a.cfg.Inbound, a.server.Serve)
	open("gateway", a.cfg.Gateway, a.gate.Serve)
	open("admin", a.cfg.Admin, a.serveAdmin)
	open("dns", a.cfg.DNS, names.ServeTCP)
	if a.cfg.DNS.IsValid() && failed == nil {
		c, err := net.ListenPacket("udp", a.cfg.DNS.String())
		if err != nil {
			failed = fmt.Errorf("proxy %s: listen for dns: %w", a.cfg.ID, err)
		} else {
			out = append(out, bound{c, "dns", func(ctx context.Context) error { return names.ServeUDP(ctx, c) }})
		}
	}
	if failed != nil {
		for _, o := range out {
			o.Close()
		}
		return nil, failed
	}
	return out, nil
}

func (a *Agent) serveOutbound(ctx context.Context, ln net.Listener) error {
	a.front.serve(ln, func(c net.Conn) { a.front.requests(c, proxy.Via{}) })
	return ctx.Err()
}

// Ready reports whether requests are served: a complete configuration, a certificate
// that is in force, and ports that are open.
func (a *Agent) Ready() bool {
	svid := a.source.Current().SVID
	return a.store.state.Load().Ready && svid != nil && a.clock.Now().Before(svid.Leaf.NotAfter) && a.accepting.Load()
}
