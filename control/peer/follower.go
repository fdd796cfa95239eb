package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/codec/wire"
	"github.com/isthmus-mesh/isthmus/codec/wire/wirepb"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
)

// FollowerConfig is what a Follower works with; all fields but Local are required.
type FollowerConfig struct {
	Self   mesh.ClusterName
	Peer   mesh.Cluster
	Source *trust.Source
	// Local binds outgoing connections; invalid is any.
	Local netip.Addr
	// Cache is the file that keeps what was learnt over a restart.
	Cache string
	// Edit applies edits of the peer's partition to the world and returns when they are
	// in it.
	Edit func(context.Context, []world.Edit, mesh.Vector) error
	// Changed is told the state of the link, from one goroutine; it must not block.
	Changed func(mesh.ClusterName, replica.Status)
	Clock   clock.Clock
	Log     *slog.Logger
}

// Bounds of redialling. The link to a peer is wanted back within two seconds of its
// healing, so the wait stays short and is drawn at random.
const (
	redialMin   = 100 * time.Millisecond
	redialMax   = time.Second
	dialTimeout = 2 * time.Second
)

// ALPN of the federation port.
const federationALPN = "h2"

// Follower keeps one peer's partition of the world: from its cache at start, then
// from the peer itself, for as long as it runs.
type Follower struct {
	cfg FollowerConfig
	im  *replica.Importer

	mu     sync.Mutex
	status replica.Status
}

// NewFollower returns a follower that knows what its cache holds. A damaged cache costs a
// transfer, nothing else.
func NewFollower(cfg FollowerConfig) *Follower {
	saved, err := readCache(cfg.Cache, cfg.Peer.Name)
	if err != nil {
		cfg.Log.Warn("the cache of a peer's facts cannot be used; all will be fetched again", "peer", cfg.Peer.Name, "error", err)
	}
	f := &Follower{cfg: cfg}
	f.im = replica.NewImporter(replica.ImporterConfig{Owner: cfg.Peer.Name, TrustDomain: cfg.Peer.TrustDomain,
		Holders: []mesh.ClusterName{cfg.Self},
		Check:   func(r *replica.Resource) error { _, err := Fact(cfg.Peer.Name, cfg.Peer.TrustDomain, r); return err },
	}, saved)
	return f
}

// Status is what is known of the link.
func (f *Follower) Status() replica.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status
}

// Run follows the peer until ctx ends, and returns its error.
func (f *Follower) Run(ctx context.Context) error {
	if err := f.apply(ctx, f.whole()); err != nil {
		return err
	}
	wait := redialMin
	for session := uint64(1); ; session++ {
		began := f.cfg.Clock.Now()
		err := f.follow(ctx, session, f.address(session))
		if ctx.Err() != nil {
			return ctx.Err()
		}
		f.act(ctx, f.im.Disconnect(f.cfg.Clock.Now(), session), nil)
		f.cfg.Log.Info("the link to a peer ended", "peer", f.cfg.Peer.Name, "error", err)
		if f.cfg.Clock.Now().Sub(began) > 10*time.Second {
			wait = redialMin
		}
		if err := f.idle(ctx, wait/2+rand.N(wait/2+1)); err != nil {
			return err
		}
		wait = min(2*wait, redialMax)
	}
}

// idle waits between sessions; the state machine goes on being shown the time.
func (f *Follower) idle(ctx context.Context, d time.Duration) error {
	if err := clock.Wait(ctx, f.cfg.Clock, d); err != nil {
		return err
	}
	return f.act(ctx, f.im.Tick(f.cfg.Clock.Now()), nil)
}

func (f *Follower) address(session uint64) netip.AddrPort {
	a := f.cfg.Peer.ControlPlanes
	return a[int(session)%len(a)]
}

// follow is one session.
func (f *Follower) follow(ctx context.Context, session uint64, addr netip.AddrPort) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	conn, err := f.dial(addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	stream, err := f.open(ctx, stop, conn)
	if err != nil {
		return fmt.Errorf("follow cluster %s: open a stream to %s: %w", f.cfg.Peer.Name, addr, err)
	}
	downs := receive(ctx, stream.Recv, wire.DecodeDown)
	ready := f.im.Connect(f.cfg.Clock.Now(), session, f.cfg.Peer.Name)
	timer := f.cfg.Clock.NewTimer(tick)
	defer timer.Stop()
	for {
		if err := f.act(ctx, ready, stream.Send); err != nil {
			return err
		}
		select {
		case m, ok := <-downs:
			if !ok {
				return errors.New("the peer ended the stream")
			}
			if m.err != nil {
				return fmt.Errorf("follow cluster %s at %s: %w", f.cfg.Peer.Name, addr, m.err)
			}
			ready = f.im.Step(f.cfg.Clock.Now(), session, m.value)
		case <-timer.C():
			timer.Reset(tick)
			ready = f.im.Tick(f.cfg.Clock.Now())
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// open starts the stream within dialTimeout; a stream that is open lives as long as ctx.
func (f *Follower) open(ctx context.Context, stop context.CancelFunc, conn *grpc.ClientConn) (grpc.BidiStreamingClient[wirepb.Up, wirepb.Down], error) {
	opened := make(chan struct{})
	go func() {
		t := f.cfg.Clock.NewTimer(dialTimeout)
		defer t.Stop()
		select {
		case <-t.C():
			stop()
		case <-opened:
		}
	}()
	defer close(opened)
	return wirepb.NewFederationClient(conn).Follow(metadata.AppendToOutgoingContext(ctx, ownerKey, string(f.cfg.Peer.Name)), grpc.WaitForReady(true))
}

func (f *Follower) dial(addr netip.AddrPort) (*grpc.ClientConn, error) {
	td := f.cfg.Peer.TrustDomain
	tlsConfig := trust.ClientConfig(f.cfg.Source, trust.AcceptServers(td, IdentityOf(td)), ControlPlane+"."+string(td), federationALPN)
	dialer := &net.Dialer{Timeout: dialTimeout}
	if f.cfg.Local.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(f.cfg.Local, 0))
	}
	return grpc.NewClient("passthrough:///"+addr.String(), grpc.WithTransportCredentials(credentials.NewTLS(tlsConfig)),
		grpc.WithContextDialer(func(ctx context.Context, target string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", target)
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: dialTimeout, Backoff: backoff.Config{BaseDelay: redialMin, Multiplier: 2, MaxDelay: redialMax}}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(4*replica.MaxResponse)))
}

// act carries out what the state machine wants: apply first, acknowledge after.
func (f *Follower) act(ctx context.Context, r replica.Ready, send func(*wirepb.Up) error) error {
	if r.Edit != nil {
		if err := f.apply(ctx, r.Edit); err != nil {
			return err
		}
	}
	for _, a := range r.Alarms {
		f.cfg.Log.Warn("a peer's facts raised an alarm", "peer", f.cfg.Peer.Name, "alarm", a.String())
	}
	if r.Save != nil {
		if err := writeCache(f.cfg.Cache, r.Save); err != nil {
			f.cfg.Log.Warn("a peer's facts could not be cached; a restart will fetch them again", "peer", f.cfg.Peer.Name, "error", err)
		}
	}
	if r.StatusChanged {
		s := f.im.Status()
		f.mu.Lock()
		f.status = s
		f.mu.Unlock()
		f.cfg.Changed(f.cfg.Peer.Name, s)
	}
	if send != nil {
		for _, m := range r.Send {
			if err := send(wire.EncodeUp(m)); err != nil {
				return err
			}
		}
	}
	if r.Redial != "" {
		return errors.New(string(r.Redial))
	}
	return nil
}

// whole is the edit that states all that is in force: at start.
func (f *Follower) whole() *replica.Edit {
	e := &replica.Edit{Owner: f.cfg.Peer.Name, InForce: f.im.InForce()}
	for r := range e.InForce.All() {
		e.Set = append(e.Set, r)
	}
	return e
}

func (f *Follower) apply(ctx context.Context, e *replica.Edit) error {
	edits := make([]world.Edit, 0, len(e.Set)+len(e.Removed))
	for _, r := range e.Set {
		fact, err := Fact(f.cfg.Peer.Name, f.cfg.Peer.TrustDomain, r)
		if err != nil { // Check let it pass: our own fault
			f.cfg.Log.Error("a fact that was accepted cannot be read", "peer", f.cfg.Peer.Name, "object", r.Name.String(), "error", err)
			continue
		}
		edits = append(edits, world.Put(fact))
	}
	for _, n := range e.Removed {
		edits = append(edits, world.Remove(n.Key(f.cfg.Peer.Name)))
	}
	v := mesh.Vector{}
	if p := e.InForce.Position; p != (mesh.Position{}) {
		v[f.cfg.Peer.Name] = p
	}
	return f.cfg.Edit(ctx, edits, v)
}
