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
	"time"

	"github.com/isthmus-mesh/isthmus/core/balance"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/skew"
	"github.com/isthmus-mesh/isthmus/dataplane/application"
	"github.com/isthmus-mesh/isthmus/dataplane/downstream"
	"github.com/isthmus-mesh/isthmus/dataplane/handover"
	"github.com/isthmus-mesh/isthmus/dataplane/healthcheck"
	"github.com/isthmus-mesh/isthmus/dataplane/http1"
	"github.com/isthmus-mesh/isthmus/dataplane/http2"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/probe"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
	"github.com/isthmus-mesh/isthmus/dataplane/regions"
	"github.com/isthmus-mesh/isthmus/dataplane/tunnel"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
	"github.com/isthmus-mesh/isthmus/xds"
)

// Agent is one running proxy.
type Agent struct {
	cfg       Config
	log       *slog.Logger
	clock     clock.Clock
	source    *trust.Source
	store     *store
	keeper    *keeper
	client    *xds.Client
	dialer    *tunnel.Dialer
	apps      *application.Streams
	proxy     *proxy.Proxy
	server    *tunnel.Server
	gate      *tunnel.Gateway
	front     *front
	datagrams *datagrams
	outside   *outside
	regions   regions.File
	passing   passing
	up        *upstream
	seen      *observer
	ports     handover.Ports
	life      *life
	health    *healthcheck.Checks
	prober    *probe.Prober
	bounds    func(*http1.Config)
	// level is that of log, if whoever made log listens to it.
	level   *slog.LevelVar
	version string
	born    time.Time
}

// Options are what a caller may add to a proxy.
type Options struct {
	// Done is told of each request that ended; nil nobody.
	Done func(*proxy.Record)
	// Version of the build and protocols that it speaks, for the control plane; the zero Range is this code's.
	Version   string
	Protocols skew.Range
	// Replace takes over from the process that offers its ports at Config.Handover.
	Replace bool
	// AccessLog takes the access log; nil is nowhere.
	AccessLog io.Writer
	// Level, if set, is the level of the log, which the admin port may change.
	Level *slog.LevelVar

	bounds func(*http1.Config) // tests: changes those of the own application's connections
}

// New prepares a proxy from its configuration, and from its snapshot if there is one.
// Nothing listens and nothing runs before Run.
func New(cfg Config, log *slog.Logger, o Options) (*Agent, error) {
	if cfg.Prefetch == 0 {
		cfg.Prefetch = 256
	}
	if o.Replace && cfg.Handover == "" {
		return nil, fmt.Errorf("proxy %s: replace a running one: the configuration names no handover socket", cfg.ID)
	}
	a := &Agent{cfg: cfg, log: log, clock: clock.Real{}, life: newLife(o.Replace), level: o.Level, version: o.Version, bounds: o.bounds}
	if a.born = a.clock.Now(); a.level == nil {
		a.level = new(slog.LevelVar)
	}
	a.seen = newObserver(&a.cfg, log, &o)
	a.source = trust.NewSource(a.clock)
	paths := a.paths()
	a.apps = application.New(application.Config{Local: cfg.Local, Guard: paths.Guard(nil), Dropped: &a.seen.datagrams, Now: a.clock.Now})
	a.store = newStore(&a.cfg, a.source, a.clock.Now, log)
	a.store.served = a.apps.Learn
	a.up = &upstream{cfg: &a.cfg, source: a.source, clock: a.clock}
	a.client = xds.NewClient(xds.ClientConfig{Dial: a.up.stream, Handler: durable{a.store, func() *keeper { return a.keeper }}, Log: log, Now: a.clock.Now, MaxBackoff: 2 * time.Second,
		Node: func() xds.Node {
			return xds.Node{ID: cfg.ID, Cluster: cfg.Cluster, Mode: cfg.Mode, Zone: cfg.Zone, Version: o.Version, Protocols: o.Protocols, Vector: a.store.state.Load().Vector}
		}})
	var err error
	if a.keeper, err = newKeeper(&a.cfg, a.store, a.source, a.clock, log); err != nil {
		return nil, fmt.Errorf("proxy %s: %w", cfg.ID, err)
	}
	a.prober = probe.New(probe.Config{Views: a.views, Changed: a.store.change, Ask: a.ask, Clock: a.clock, Chance: rand.Float64})
	a.store.ejected = a.prober.Wake
	a.store.want = func(t ir.Type, names ...string) { a.client.Subscribe(string(t), names...) }
	if a.regions = (regions.File{Path: cfg.Regions, Log: log}); cfg.Regions != "" {
		if err := a.regions.Load(); err != nil {
			return nil, fmt.Errorf("proxy %s: %w", cfg.ID, err)
		}
	}
	a.client.Seed(a.keeper.boot(a.cfg.Identity()))
	a.store.dirty = a.keeper.Dirty
	a.client.Subscribe(string(ir.TypeBundle), "*")
	a.client.Subscribe(string(ir.TypeCluster), "*")
	a.client.Subscribe(string(ir.TypeProxy), cfg.ID)
	a.client.Subscribe(string(ir.TypeName), "*")
	if cfg.Mode == ModeGateway {
		a.client.Subscribe(string(ir.TypeSlots), "*")
	}
	if cfg.Mode == ModeIngress {
		a.client.Subscribe(string(ir.TypeGateway), "*")
	}
	a.build()
	return a, nil
}

// paths are where connections of this proxy may go.
func (a *Agent) paths() tunnel.Paths {
	return tunnel.Paths{Translate: a.cfg.Translate, Unreachable: a.cfg.Unreachable}
}

// build wires the request path.
func (a *Agent) build() {
	paths := a.paths()
	a.dialer = tunnel.NewDialer(tunnel.DialerConfig{Source: a.source, Local: a.cfg.Local, Paths: paths, Now: a.clock.Now, Log: a.log})
	a.proxy = proxy.New(proxy.Config{State: a.store.state.Load, Demand: a.store.Demand, Open: a.open, App: a.apps.Open, Outside: a.apps.Open,
		Tag: a.tag(), Namespace: a.cfg.Identity().Namespace, Now: a.clock.Now, Rand: rand.Uint64,
		Opened: a.seen.opened, Done: a.seen.done, Panicked: a.seen.panicked})
	a.health = healthcheck.New(healthcheck.Config{State: a.store.state.Load, Changed: a.store.change, Dial: a.apps.Dial, Clock: a.clock, Chance: rand.Float64, Log: a.log})
	a.server = tunnel.NewServer(tunnel.ServerConfig{Source: a.source, Now: a.clock.Now, Log: a.log, DrainTime: a.cfg.drainTime(),
		Serves: func(n mesh.SNI) bool {
			s := a.store.state.Load()
			return n.TrustDomain == a.cfg.TrustDomain && (!s.Ready || s.Inbound[n.Service] != nil)
		},
		Handle: func(ex message.Exchange, p tunnel.Peer) {
			a.proxy.Inbound(ex, proxy.Peer{Identity: p.Identity, SNI: p.SNI, HBONE: p.HBONE})
		}})
	a.gate = tunnel.NewGateway(tunnel.GatewayConfig{Route: a.slot, Onward: a.onward, Source: a.source, Local: a.cfg.Local, Log: a.log, DrainTime: a.cfg.drainTime(),
		Domain: func() mesh.TrustDomain { return a.cfg.TrustDomain }})
}

// tag is the proxy's as an endpoint; none for one that serves nothing.
func (a *Agent) tag() string {
	if !a.cfg.Inbound.IsValid() {
		return ""
	}
	n, _ := mesh.ParseServiceName(a.cfg.ID)
	return ir.EndpointTag(a.cfg.Cluster, n.Namespace, n.Name, a.cfg.Inbound)
}

// open opens a stream to a destination.
func (a *Agent) open(deadline time.Time, d *proxy.Destination) (message.Stream, error) {
	w, err := wantOf(d)
	if err != nil {
		return nil, err
	}
	return a.dialer.Open(deadline, &w)
}

// views are those of the services that requests may go to.
func (a *Agent) views(yield func(*balance.View) bool) {
	for _, s := range a.store.state.Load().Services {
		if s.View != nil && !yield(s.View) {
			return
		}
	}
}

// ask probes an endpoint, where its requests would go.
func (a *Agent) ask(ctx context.Context, v *balance.View, e *balance.Endpoint) error {
	d := proxy.Destination{Service: v.Service, Endpoint: e}
	if s := a.store.state.Load().Services[v.Service]; s != nil {
		d.Timeout = s.Traffic.ConnectTimeout
	}
	if d.Cluster, d.Identities = v.Cluster(e); d.Cluster == nil {
		return errors.New("its cluster is gone")
	}
	d.Timeout = d.Cluster.ConnectTimeout(d.Timeout)
	w, err := wantOf(&d)
	if err != nil {
		return err
	}
	return a.dialer.Probe(ctx, &w)
}

// wantOf turns a destination into a target of the tunnel.
func wantOf(d *proxy.Destination) (tunnel.Want, error) {
	w := tunnel.Want{Identities: d.Identities, ConnectTimeout: d.Timeout, Pending: d.Pending, PendingMost: d.PendingMost, Target: tunnel.Target{Connect: d.Connect,
		SNI: mesh.SNI{Slot: d.Endpoint.Slot, Service: d.Service, TrustDomain: d.Cluster.TrustDomain}}}
	if d.Endpoint.Proxy.IsValid() {
		w.Target.Addr = d.Endpoint.Proxy
	} else {
		g := d.Cluster.Gateways
		if len(g) == 0 {
			return w, fmt.Errorf("%w: cluster %s has no gateway", message.ErrNotExecuted, d.Cluster.Name)
		}
		first := int(d.Endpoint.Slot) % len(g)
		w.Gateway, w.Target.Addr, w.Target.Moved = true, g[first], d.Endpoint.Moved
		if v := d.Cluster.Via; v != nil { // the gateways are those of the third cluster
			w.Target.By = v.TrustDomain
		}
		w.Alternates = append(append([]netip.AddrPort{}, g[first+1:]...), g[:first]...)
	}
	return w, nil
}

// slot is the gateway's routing.
func (a *Agent) slot(n mesh.SNI) (netip.AddrPort, bool) {
	s := a.store.state.Load().Slots[n.Service]
	if s == nil || s.TrustDomain != n.TrustDomain || int(n.Slot) >= len(s.Table.Slots) {
		return netip.AddrPort{}, false
	}
	return s.Table.Slots[n.Slot], true
}

// onward is where the gateway may pass connections on to: the gateways of a cluster that is reached without another's help, unless
// its own cluster's owner wants none of that.
func (a *Agent) onward(td mesh.TrustDomain) []netip.AddrPort {
	known := a.store.state.Load().Clusters
	c, own := known[td.Cluster()], known[a.cfg.Cluster]
	if c == nil || own == nil || own.NoTransit || c.TrustDomain != td || td == a.cfg.TrustDomain || !c.Reach.Usable() {
		return nil
	}
	return c.Gateways
}

// clientIdle ends a connection of HTTP/2 of the own application on which nothing happens.
const clientIdle = 3 * time.Minute

// frontHTTP1 bounds the connections of HTTP/1.1 of the own application.
func (a *Agent) frontHTTP1() *http1.Config {
	c := downstream.HTTP1(a.seen.number)
	if a.bounds != nil {
		a.bounds(c)
	}
	return c
}

// frontHTTP2 bounds the connections of the own application.
func (a *Agent) frontHTTP2() http2.Config {
	return http2.Config{ConnectProtocol: true, IdleTimeout: clientIdle, DrainTimeout: a.cfg.drainTime(),
		Refused: a.seen.malformed,
		Panic:   func(p any) { a.log.Error("a request's handler panicked", "panic", p) }}
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

func (a *Agent) serveOutbound(ctx context.Context, ln net.Listener) error {
	if a.cfg.Capture {
		a.front.serve(ln, &a.front.own, a.captured)
		return ctx.Err()
	}
	a.front.serve(ln, &a.front.own, func(c net.Conn) { a.front.requests(c, proxy.Via{}) })
	return ctx.Err()
}
