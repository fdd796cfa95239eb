package plane

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/codec/wire/wirepb"
	"github.com/isthmus-mesh/isthmus/control/authority"
	"github.com/isthmus-mesh/isthmus/control/census"
	"github.com/isthmus-mesh/isthmus/control/claim"
	"github.com/isthmus-mesh/isthmus/control/detour"
	"github.com/isthmus-mesh/isthmus/control/drain"
	"github.com/isthmus-mesh/isthmus/control/events"
	"github.com/isthmus-mesh/isthmus/control/load"
	"github.com/isthmus-mesh/isthmus/control/loop"
	"github.com/isthmus-mesh/isthmus/control/peer"
	"github.com/isthmus-mesh/isthmus/control/relay"
	"github.com/isthmus-mesh/isthmus/control/sibling"
	"github.com/isthmus-mesh/isthmus/control/verdict"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
	"github.com/isthmus-mesh/isthmus/xds"
	"github.com/isthmus-mesh/isthmus/xds/carrier"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// Plane is one control plane.
type Plane struct {
	cfg   Config
	log   *slog.Logger
	clock clock.Clock

	authority *authority.Authority
	// source is the authority's: the own identity, and whom it believes.
	source  *trust.Source
	sealKey trust.SealKey
	store   objects
	loop    *loop.Loop
	exports *peer.Exports
	xds     *xds.Server
	peers   *peers
	// siblings are the other processes of this control plane.
	siblings *sibling.Set
	census   *census.Census
	recover  *recovery
	mirror   mirror
	// away says that the store did not answer a person's last read.
	away atomic.Bool
	load *load.Driver
	// drains takes things out of use, for people.
	drains *drain.Keeper
	// verdicts is what the mesh says of each cluster.
	verdicts *verdict.Board
	// detours finds ways through third clusters.
	detours *detour.Keeper
	// events is what was done without a person, and why.
	events *events.Recorder
	// patience is what was seen of control planes that are dialled.
	patience peer.Patience
	// federation tells peers; it is nil in tests of parts.
	federation *peer.Server
	// hub is what remote clusters offer here; uplink is a relay's way to its primaries, nil at a primary.
	hub    *relay.Hub
	uplink *relay.Uplink

	hlcMu  sync.Mutex
	hlc    replica.HLC
	goneMu sync.Mutex
	// deleted are the policies that were deleted, and when; peers are told of those that were not made again.
	deleted map[replica.Name]mesh.Stamp
	// position is how far the own history is in the world.
	position atomic.Pointer[mesh.Position]
	// read is closed when the store has been read once.
	read     chan struct{}
	readOnce sync.Once
	// slots are tables on their way to the store.
	slots *slots
	// claim is this cluster's on a store that others can reach; nil where none can.
	claim *claim.Claim
	// addresses gives services addresses of their own.
	addresses *addresses
}

// order of resource types: targets before what refers to them.
func order() []string {
	var out []string
	for _, t := range ir.Order() {
		out = append(out, string(t))
	}
	return out
}

// New opens the authority and wires the parts. Nothing listens and nothing runs before
// Run.
func New(ctx context.Context, cfg Config, log *slog.Logger) (*Plane, error) {
	p := &Plane{cfg: cfg, log: log, clock: clock.NewInStep(), read: make(chan struct{}),
		hlc: replica.HLC{Origin: cfg.Cluster}, exports: peer.NewExports(cfg.Cluster),
		deleted: map[replica.Name]mesh.Stamp{}, hub: relay.NewHub(clock.Real{})}
	p.recover, p.slots = &recovery{plane: p, began: p.clock.Now(), asking: map[string]bool{}}, newSlots(p)
	for _, d := range []string{cfg.StateDir, cfg.path("peers")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("control plane of %s: %w", cfg.Cluster, err)
		}
	}
	var err error
	if p.sealKey, err = trust.SealKeyFromFD(cfg.SealFD); err == nil {
		err = p.openObjects(ctx)
	}
	if err == nil {
		if err = p.openAuthority(ctx); err != nil {
			err = errors.Join(err, p.claim.Close(), p.store.Close())
		}
	}
	if err != nil {
		return nil, fmt.Errorf("control plane of %s: %w", cfg.Cluster, err)
	}
	if p.addresses, err = newAddresses(p); err != nil {
		return nil, fmt.Errorf("control plane of %s: %w", cfg.Cluster, err)
	}
	lc := loop.Config{Self: cfg.Cluster, Network: cfg.Network, Now: p.clock.Now, Log: log, Failpoints: cfg.Failpoints,
		Publish: p.publish, Export: p.export, SaveSlots: p.slots.save}
	if p.addresses.pool != nil {
		lc.Need = p.addresses.need
	}
	p.loop = loop.New(lc)
	p.xds = xds.NewServer(xds.ServerConfig{Source: source{p.loop}, Identify: authority.Identify, Order: order(), Now: p.clock.Now, Log: log, Delivered: p.delivered, Joined: p.joined, Build: cfg.Build})
	p.events = p.newEvents()
	p.peers, p.siblings = newPeers(p), p.newSiblings()
	p.census = p.newCensus()
	p.load, p.verdicts, p.detours = p.newLoad(), p.newVerdicts(), p.newDetours()
	p.drains = p.newDrains()
	p.attachAuthority()
	p.federation = peer.NewServer(peer.ServerConfig{Self: p.cfg.Cluster, TrustDomain: p.cfg.TrustDomain(), Exports: p.exports, Identify: authority.Identify,
		Joined: p.peers.joined, Speaks: p.speaks, Elsewhere: p.elsewhere, Offered: p.offered, Report: p.load.ReportTo, Ahead: p.recover.ahead, Witness: p.recover.witness,
		Clock: p.clock, Log: p.log, Failpoints: cfg.Failpoints, Build: cfg.Build})
	if cfg.Remote {
		p.uplink = relay.NewUplink(relay.UplinkConfig{Source: p.source, Local: cfg.Local, Teller: p.federation, Clock: p.clock, Log: log})
	}
	return p, nil
}

// source is the loop, but the bundles are watched for good: this process believes
// them too.
type source struct{ *loop.Loop }

func (s source) Unwatch(scope, typ, name string) {
	if typ != string(ir.TypeBundle) || name != "*" {
		s.Loop.Unwatch(scope, typ, name)
	}
}

// Run serves until ctx ends. The first part that fails ends the others.
func (p *Plane) Run(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	control, err := net.Listen("tcp", p.cfg.Control.String())
	if err != nil {
		return fmt.Errorf("control plane of %s: %w", p.cfg.Cluster, err)
	}
	var federation net.Listener
	if !p.cfg.Remote {
		if federation, err = net.Listen("tcp", p.cfg.Federation.String()); err != nil {
			control.Close()
			return fmt.Errorf("control plane of %s: %w", p.cfg.Cluster, err)
		}
	}
	var parts sync.WaitGroup
	part := func(name string, run func(context.Context) error) {
		parts.Go(func() {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				stop(fmt.Errorf("control plane of %s: %s: %w", p.cfg.Cluster, name, err))
			}
		})
	}
	if len(p.cfg.StoreEndpoints) == 0 && !p.cfg.Remote {
		part("store process", p.runStore)
	}
	part("loop", p.loop.Run)
	part("own certificate", func(ctx context.Context) error { return p.authority.KeepCertificate(ctx, random) })
	part("authority", p.authority.Run)
	part("store", p.follow)
	part("slot tables", p.slots.run)
	part("addresses of services", p.addresses.run)
	part("peers", p.peers.run)
	part("replicas", p.siblings.Run)
	part("load", p.load.Run)
	part("drains", p.drains.Run)
	part("verdicts", p.verdicts.Run)
	part("detours", p.detours.Run)
	part("events", p.events.Run)
	part("discovery", p.xds.Run)
	p.loop.Watch(string(p.cfg.Cluster), string(ir.TypeBundle), "*")
	if err := p.stateBundle(ctx); err == nil {
		part("control port", func(ctx context.Context) error { return p.serveControl(ctx, control) })
		if p.uplink != nil {
			part("uplink", p.uplink.Run)
		} else {
			part("federation port", func(ctx context.Context) error { return p.serveFederation(ctx, federation) })
		}
	}
	parts.Wait()
	return errors.Join(context.Cause(ctx), p.claim.Close(), p.store.Close())
}

// serveControl answers proxies once the store has been read: before, absence would be
// said of things that exist.
func (p *Plane) serveControl(ctx context.Context, ln net.Listener) error {
	select {
	case <-p.read:
	case <-ctx.Done():
		ln.Close()
		return ctx.Err()
	}
	td := p.cfg.TrustDomain()
	member := trust.ServerConfig(p.source, trust.ServerOptions{Accept: trust.AcceptClients(td), ALPN: []string{"h2"}})
	joining := trust.JoinServerConfig(p.source, "h2")
	c := member.Clone()
	c.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		if h.ServerName == JoinName(td) {
			return joining, nil
		}
		return nil, nil
	}
	srv := carrier.New(carrier.Config{TLS: c, MessageMax: xds.MessageMax, PingAfter: xds.PingAfter, Patience: xds.Patience, Log: p.log})
	srv.Converse(xds.Method, func(ctx context.Context, wake func(bool)) (carrier.Conversation, error) {
		return p.xds.Converse(ctx, wake)
	})
	wirepb.RegisterIdentityServer(srv, &authority.Signer{Authority: p.authority})
	wirepb.RegisterLoadServer(srv, p.load)
	return srv.Serve(ctx, ln)
}

// JoinName is the server name that first contacts ask for: they have no certificate to
// show, and nothing but Identity.Sign is answered there.
func JoinName(td mesh.TrustDomain) string { return "join." + string(td) }

func (p *Plane) serveFederation(ctx context.Context, ln net.Listener) error {
	c := trust.ServerConfig(p.source, trust.ServerOptions{Accept: trust.AcceptKnownClients(), ALPN: []string{"h2"}})
	srv := grpc.NewServer(append(peer.ServerOptions(), grpc.Creds(credentials.NewTLS(c)))...)
	p.federation.Register(srv)
	p.census.Own.Register(srv)
	return serve(ctx, srv, peer.Accepting(ln))
}

func serve(ctx context.Context, srv *grpc.Server, ln net.Listener) error {
	stop := context.AfterFunc(ctx, srv.Stop)
	defer stop()
	if err := srv.Serve(ln); err != nil && ctx.Err() == nil {
		return err
	}
	return ctx.Err()
}

// publish hands resources to the streams, and bundles to this process's own trust.
func (p *Plane) publish(v mesh.Vector, updates []xds.Update) {
	p.authority.Believe(updates)
	p.load.Learn(updates)
	p.xds.Publish(v, updates)
	p.authority.Published(updates)
}

// joined reports whether a cluster is one of the mesh's, as the own objects state it.
func (p *Plane) joined(n mesh.ClusterName) bool {
	_, ok := p.loop.World().Get(mesh.Key{Kind: mesh.KindCluster, Origin: p.cfg.Cluster, Name: string(n)})
	return ok || n == p.cfg.Cluster
}

// delivered states what proxies refuse, for status and for nothing else. It waits while
// the loop's queue is full, but not longer than is of use.
func (p *Plane) delivered(d xds.Delivery) {
	ctx, stop := context.WithTimeout(context.Background(), time.Second)
	defer stop()
	resource := d.Type + "/" + d.Name
	p.events.Delivered(resource, d.Nodes, d.Message)
	key := mesh.Key{Kind: mesh.KindDelivery, Origin: p.cfg.Cluster, Name: resource}
	edit := world.Remove(key)
	if d.Nodes > 0 {
		v := &mesh.Delivery{Resource: resource, Nacked: d.Nodes, Message: d.Message}
		edit = world.Put(&mesh.Fact{Key: key, Value: v, Digest: ir.DigestOf(v)})
		p.log.Warn("proxies refuse a resource and go on with the one before", "resource", resource, "proxies", d.Nodes, "error", d.Message)
	}
	if err := p.loop.Edit(ctx, []world.Edit{edit}, nil); err != nil {
		p.log.Warn("what proxies refuse could not be noted", "resource", resource, "error", err)
	}
}

// export tells a peer of a service.
func (p *Plane) export(e loop.Export) {
	n := replica.Name{Kind: mesh.KindRemoteService, Namespace: e.Service.Namespace, Name: e.Service.Name}
	if e.Value == nil {
		p.exports.Tell(e.Peer, nil, []replica.Name{n})
		return
	}
	f := &mesh.Fact{Key: n.Key(p.cfg.Cluster), Value: e.Value, Digest: ir.DigestOf(e.Value)}
	if at := p.position.Load(); at != nil {
		f.Position = *at
	}
	if r, ok := peer.Resource(f); ok {
		p.exports.Tell(e.Peer, []*replica.Resource{r}, nil)
	}
}

// stateBundle states the own bundle, to the world and to peers.
func (p *Plane) stateBundle(ctx context.Context) error {
	b := p.Bundle()
	f := &mesh.Fact{Key: mesh.Key{Kind: mesh.KindBundle, Origin: p.cfg.Cluster, Name: string(b.TrustDomain)}, Value: &b, Digest: ir.DigestOf(&b)}
	if r, ok := peer.Resource(f); ok {
		p.exports.TellAll([]*replica.Resource{r}, nil)
	}
	return p.loop.Edit(ctx, []world.Edit{world.Put(f)}, nil)
}

// World, Vector and the rest are what package api asks for.

// World is the newest world.
func (p *Plane) World() *world.World { return p.loop.World() }

// Vector is how much it knows.
func (p *Plane) Vector() mesh.Vector { return p.loop.Vector() }

// View is the view of the cluster's own proxies.
func (p *Plane) View() ir.View { return p.loop.View() }

// Proxies are those that follow this control plane.
func (p *Plane) Proxies() []xds.ClientStatus { return p.xds.Clients() }

// RefusedProxies are those that are not served for their version.
func (p *Plane) RefusedProxies() []xds.RefusedNode { return p.xds.RefusedNodes() }

// Discovery counts what proxies were sent.
func (p *Plane) Discovery() xds.Counters { return p.xds.Counters() }

// Bundle is the own trust domain's.
func (p *Plane) Bundle() mesh.Bundle { return p.authority.CA.Bundle() }

// Stamp orders a write among those of all clusters.
func (p *Plane) Stamp() mesh.Stamp {
	p.hlcMu.Lock()
	defer p.hlcMu.Unlock()
	return p.hlc.Tick(p.clock.Now())
}

// NewToken makes a join token for an identity of this cluster, good for five minutes.
func (p *Plane) NewToken(ctx context.Context, id mesh.Identity) (string, error) {
	t, err := p.authority.Tokens.Issue(ctx, id, 5*time.Minute)
	if err != nil {
		return "", err
	}
	return t.Text(), nil
}

// Ready is nil when proxies are served.
func (p *Plane) Ready() error {
	select {
	case <-p.read:
		return nil
	default:
		return errors.New("the store has not been read yet")
	}
}

func random() float64 { return rand.Float64() }
