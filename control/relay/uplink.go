package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/control/peer"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

// Bounds of looking for a primary.
const (
	retryMin = 100 * time.Millisecond
	retryMax = time.Second
	// attachWait is how long who wants a session waits for a primary.
	attachWait = 2 * time.Second
	// steady is how long a primary must have been followed for its loss to be news.
	steady = 5 * time.Second
)

// Primary is one of a remote cluster's primaries: where it takes streams.
type Primary struct {
	Name        mesh.ClusterName
	TrustDomain mesh.TrustDomain
	Addresses   []netip.AddrPort
}

func (p Primary) equal(q Primary) bool {
	return p.Name == q.Name && p.TrustDomain == q.TrustDomain && slices.Equal(p.Addresses, q.Addresses)
}

// Teller tells the own facts over an offer that was taken; *peer.Server is one.
type Teller interface {
	Tell(ctx context.Context, consumer mesh.ClusterName, to peer.OfferStream) error
}

// UplinkConfig is what an Uplink works with; all fields but Local are required.
type UplinkConfig struct {
	Source *trust.Source
	Local  netip.Addr
	Teller Teller
	Clock  clock.Clock
	Log    *slog.Logger
}

// Uplink is a remote cluster's one connection. Its methods are safe for concurrent use.
type Uplink struct {
	cfg UplinkConfig

	mu        sync.Mutex
	primaries []Primary
	consumers []mesh.ClusterName
	changed   chan struct{} // closed when something below or above changes
	conn      *peer.Conn    // nil while there is none
	at        Primary
	since     time.Time
	drop      context.CancelCauseFunc
	err       error

	patience peer.Patience // of primaries
}

// NewUplink returns one that knows no primary.
func NewUplink(cfg UplinkConfig) *Uplink {
	return &Uplink{cfg: cfg, changed: make(chan struct{}), since: cfg.Clock.Now()}
}

// Configure says which primaries there are, in the order in which they are tried, and which clusters are told of
// this one. A connection to a primary that is none any more is given up.
func (u *Uplink) Configure(primaries []Primary, consumers []mesh.ClusterName) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if slices.EqualFunc(u.primaries, primaries, Primary.equal) && slices.Equal(u.consumers, consumers) {
		return
	}
	u.primaries, u.consumers = slices.Clone(primaries), slices.Clone(consumers)
	if u.conn != nil && !slices.ContainsFunc(primaries, u.at.equal) {
		u.drop(errors.New("it is no primary of this cluster any more"))
	}
	u.wake()
}

// wake tells those who wait. The caller holds mu.
func (u *Uplink) wake() {
	close(u.changed)
	u.changed = make(chan struct{})
}

// State is which primary is followed, since when, and otherwise why none is.
type State struct {
	Primary mesh.ClusterName // "" is none
	Since   time.Time
	Err     error
}

// State returns the state.
func (u *Uplink) State() State {
	u.mu.Lock()
	defer u.mu.Unlock()
	return State{u.at.Name, u.since, u.err}
}

// Run holds a connection until ctx ends: to the primary that it has for as long as that answers, then to the next.
func (u *Uplink) Run(ctx context.Context) error {
	wait, failed := retryMin, 0
	for next := 0; ctx.Err() == nil; {
		u.mu.Lock()
		primaries, changed := u.primaries, u.changed
		u.mu.Unlock()
		if len(primaries) == 0 {
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		p := primaries[next%len(primaries)]
		began := u.cfg.Clock.Now()
		err := u.attach(ctx, p)
		if ctx.Err() != nil {
			break
		}
		if u.cfg.Clock.Now().Sub(began) > steady {
			u.cfg.Log.Warn("a primary was lost; the next one is tried", "primary", p.Name, "error", err)
			wait, failed = retryMin, 0
		}
		u.detached(fmt.Errorf("primary %s: %w", p.Name, err))
		next, failed = next+1, failed+1
		if failed%len(primaries) != 0 && failed > 0 {
			continue // another may answer at once
		}
		if err := clock.Wait(ctx, u.cfg.Clock, wait/2+rand.N(wait/2+1)); err != nil {
			break
		}
		wait = min(2*wait, retryMax)
	}
	return ctx.Err()
}

func (u *Uplink) detached(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.conn != nil {
		u.since = u.cfg.Clock.Now()
	}
	u.conn, u.at, u.drop, u.err = nil, Primary{}, nil, err
	u.wake()
}

// attach is one connection, at whichever address of a primary answers, from its dial to its end.
func (u *Uplink) attach(ctx context.Context, p Primary) error {
	err := errors.New("it has no address")
	for _, addr := range p.Addresses {
		var c *peer.Conn
		if c, err = peer.NewConn(peer.DialConfig{Source: u.cfg.Source, TrustDomain: p.TrustDomain, Address: addr, Local: u.cfg.Local, Clock: u.cfg.Clock, Patience: &u.patience}); err != nil {
			continue
		}
		if err = c.Await(ctx); err == nil {
			err = u.hold(ctx, p, c)
			c.Close()
			return err
		}
		c.Close()
	}
	return err
}

// hold uses a connection until it is lost. It returns when all that it started has ended.
func (u *Uplink) hold(ctx context.Context, p Primary, c *peer.Conn) error {
	ctx, drop := context.WithCancelCause(ctx)
	var parts sync.WaitGroup
	defer parts.Wait()
	defer drop(nil)
	u.mu.Lock()
	u.conn, u.at, u.drop, u.err, u.since = c, p, drop, nil, u.cfg.Clock.Now()
	u.wake()
	u.mu.Unlock()
	u.cfg.Log.Info("a primary is followed", "primary", p.Name)
	parts.Go(func() { drop(c.Lost(ctx)) })
	offers := map[mesh.ClusterName]context.CancelFunc{}
	for {
		u.mu.Lock()
		consumers, changed := u.consumers, u.changed
		u.mu.Unlock()
		for n, end := range offers {
			if !slices.Contains(consumers, n) {
				end()
				delete(offers, n)
			}
		}
		for _, n := range consumers {
			if offers[n] == nil {
				one, end := context.WithCancel(ctx)
				offers[n] = end
				parts.Go(func() { u.offer(one, c, n) })
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			for _, end := range offers {
				end()
			}
			return context.Cause(ctx)
		}
	}
}

// offer keeps one offer to a cluster waiting at the primary, and tells over those that were taken.
func (u *Uplink) offer(ctx context.Context, c *peer.Conn, consumer mesh.ClusterName) {
	var telling sync.WaitGroup
	defer telling.Wait()
	for ctx.Err() == nil {
		one, end := context.WithCancel(ctx)
		stream, err := c.Offer(one, consumer)
		if err == nil {
			_, err = stream.Header() // it comes when the offer is taken
		}
		if err == nil && one.Err() == nil {
			telling.Go(func() {
				defer end()
				err := u.cfg.Teller.Tell(one, consumer, stream)
				u.cfg.Log.Debug("a cluster is no longer told by way of the primary", "consumer", consumer, "error", err)
			})
			continue
		}
		end()
		_ = clock.Wait(ctx, u.cfg.Clock, retryMin+rand.N(retryMax)) // its end is seen above
	}
}

// Reach opens a session in which owner's facts are told. The one with the primary itself is what the connection is
// judged by: when that ends, the next primary is tried.
func (u *Uplink) Reach(ctx context.Context, owner mesh.ClusterName) (*peer.Session, error) {
	c, at, drop, err := u.await(ctx)
	if err != nil {
		return nil, err
	}
	s, err := c.Follow(ctx, owner, "")
	if err != nil {
		return nil, fmt.Errorf("by way of primary %s: %w", at.Name, err)
	}
	if owner == at.Name {
		s.OnClose(func() { drop(errors.New("it does not tell of itself")) })
	}
	return s, nil
}

// await is the connection, once there is one.
func (u *Uplink) await(ctx context.Context) (*peer.Conn, Primary, context.CancelCauseFunc, error) {
	timer := u.cfg.Clock.NewTimer(attachWait)
	defer timer.Stop()
	for {
		u.mu.Lock()
		c, at, drop, changed, err := u.conn, u.at, u.drop, u.changed, u.err
		u.mu.Unlock()
		if c != nil {
			return c, at, drop, nil
		}
		select {
		case <-changed:
		case <-timer.C():
			if err == nil {
				err = errors.New("none is stated in the own Cluster object")
			}
			return nil, Primary{}, nil, fmt.Errorf("no primary is followed: %w", err)
		case <-ctx.Done():
			return nil, Primary{}, nil, context.Cause(ctx)
		}
	}
}
