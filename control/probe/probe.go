// Package probe measures the paths to other clusters: it holds connections to each
// peer's gateways and pings them, which the gateway answers itself. Its one idea is that a path is judged
// where requests go (the gateway), not where configuration comes from (the control plane).
//
// It decides nothing: core/liveness says whom to dial, what to ask and when silence means
// something. Read Prober first.
package probe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/core/liveness"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

// Config is what a Prober works with; all fields but Local and Dial are required.
type Config struct {
	Peer   mesh.Cluster
	Source *trust.Source
	// Gateway is the identity of the peer's gateways, and Name the server name they
	// answer themselves.
	Gateway mesh.Identity
	Name    string
	Local   netip.Addr
	// Changed is told the newest state after a change of it, by the goroutine of Run; what
	// changed meanwhile is told once. It must not block: the probes wait for it.
	Changed func(mesh.ClusterName, liveness.State)
	// Leaving, if set, is told which gateways are leaving, after a change of that and as Changed is. Known are
	// those that were when Run begins.
	Leaving func(mesh.ClusterName, []netip.AddrPort)
	Known   []netip.AddrPort
	Clock   clock.Clock
	Log     *slog.Logger
	// Dial opens a connection to a gateway, before TLS; nil is TCP from Local.
	Dial func(context.Context, netip.AddrPort) (net.Conn, error)
}

// Prober watches the path to one peer: it is good while any of its gateways answers. Run
// it once.
type Prober struct {
	cfg   Config
	wake  chan struct{} // of Run; one place
	tasks sync.WaitGroup
	dials int // of Run: whose turn it is among the gateways

	mu       sync.Mutex
	state    liveness.State
	detector liveness.Detector
	places   [liveness.Places]*attempt
	told     liveness.State
	tally    liveness.Tally
	leaving  map[netip.AddrPort]bool
	left     bool // leaving changed, and was not told

	// began is when Run did, settled that what changes is news: of Run.
	began   time.Time
	settled bool
}

// startGrace is how long a start may take before a peer that is not reached is a warning: certificates and
// bundles are on their way.
const startGrace = 10 * time.Second

// attempt is a dial and the connection that came of it.
type attempt struct {
	place int
	// abandon ends the dial and, through its context, the connection.
	abandon context.CancelFunc
	conn    *conn // nil while dialling; guarded by Prober.mu
}

// dialMax bounds a dial beside core/liveness, which gives up sooner.
const dialMax = 10 * time.Second

// New returns a prober that has heard nothing.
func New(cfg Config) *Prober {
	if cfg.Dial == nil {
		cfg.Dial = straight(cfg.Local)
	}
	p := &Prober{cfg: cfg, wake: make(chan struct{}, 1), leaving: map[netip.AddrPort]bool{}}
	for _, a := range cfg.Known {
		p.leaving[a] = true
	}
	return p
}

// Lease tells whether the control stream is fresh, and since when what the peer stated is stale: zero while that is not
// so, or not known. Safe for concurrent use.
func (p *Prober) Lease(fresh bool, staleSince time.Time) {
	p.mu.Lock()
	p.state = p.state.Lease(fresh, p.cfg.Clock.Now())
	p.state.StaleSince = staleSince
	p.mu.Unlock()
	p.stir()
}

// State is the newest. Safe for concurrent use.
func (p *Prober) State() liveness.State {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

// Loss is the share of the last minute's questions that were not answered in time, and of how many. Safe for concurrent use.
func (p *Prober) Loss() (ratio float64, of int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.cfg.Clock.Now()
	with := p.tally
	for _, n := range p.detector.Overdue(p.state, now) {
		if p.state.RTT != 0 {
			with.Count(n, n, now)
		}
	}
	return with.Loss(now)
}

// end counts the questions that are lost with the connection in a place, or the dial that came to nothing. The caller holds mu.
func (p *Prober) end(place int, now time.Time) {
	lost := p.detector.Unanswered(place)
	if a := p.places[place]; a != nil && a.conn == nil {
		lost = 1
	}
	p.lose(lost, now)
}

// lose counts questions without an answer. Before the first there is no path to lose anything: clusters start together.
// The caller holds mu.
func (p *Prober) lose(n int, now time.Time) {
	if n > 0 && p.state.RTT != 0 {
		p.tally.Count(n, n, now)
	}
}

// Run probes until ctx ends, and returns its error when all connections are closed.
func (p *Prober) Run(ctx context.Context) error {
	if len(p.cfg.Peer.Gateways) == 0 {
		return fmt.Errorf("probe cluster %s: it has no gateways", p.cfg.Peer.Name)
	}
	defer p.tasks.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	p.began = p.cfg.Clock.Now()
	p.attend(ctx)
	timer := p.cfg.Clock.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C():
		case <-p.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
		timer.Reset(p.step(ctx))
	}
}

// stir makes Run look again.
func (p *Prober) stir() {
	select {
	case p.wake <- struct{}{}:
	default: // it is about to
	}
}

// step does what is due and returns how long nothing will be.
func (p *Prober) step(ctx context.Context) time.Duration {
	p.mu.Lock()
	now := p.cfg.Clock.Now()
	overdue := p.detector.Overdue(p.state, now)
	do := p.detector.Tick(p.state, now)
	if do.Silent {
		p.state = p.state.Failed(now)
	}
	var ask [liveness.Places]*attempt
	for i := range p.places {
		if a := p.places[i]; a != nil && (do.Close[i] || do.Dial[i]) {
			if a.conn == nil && do.Dial[i] {
				overdue[i] = 1 // the dial, to which nothing came
			}
			p.lose(overdue[i], now)
			a.abandon()
			p.places[i] = nil
		}
		if do.Dial[i] {
			p.places[i] = p.dial(ctx, i)
		}
		if do.Ask[i] {
			ask[i] = p.places[i]
		}
	}
	before, after := p.told, p.state
	p.told = after
	left, leaving := p.left, []netip.AddrPort(nil)
	if left {
		p.left, leaving = false, p.gone()
	}
	p.mu.Unlock()
	for _, a := range ask {
		if a == nil {
			continue
		}
		if err := a.conn.ask(); err != nil {
			p.broke(a, err)
		}
	}
	p.say(ctx, now, before.Reach(), after.Reach())
	if after.Reach() != before.Reach() || after.RTT != before.RTT || after.Since != before.Since || !after.StaleSince.Equal(before.StaleSince) {
		p.cfg.Changed(p.cfg.Peer.Name, after)
	}
	if left && p.cfg.Leaving != nil {
		p.cfg.Leaving(p.cfg.Peer.Name, leaving)
	}
	return do.Next
}

// say logs a change; of a start only what lasts is a warning.
func (p *Prober) say(ctx context.Context, now time.Time, before, after mesh.Reachability) {
	level, starting := slog.LevelWarn, !p.settled && now.Sub(p.began) < startGrace
	if starting {
		level = slog.LevelInfo
	}
	if after != before {
		p.cfg.Log.Log(ctx, level, "the reachability of a cluster changed", "peer", p.cfg.Peer.Name, "from", before.String(), "to", after.String())
	}
	if starting || p.settled {
		return
	}
	p.settled = true
	if after == before && after != mesh.Alive {
		p.cfg.Log.Warn("a cluster is not reached since this process started", "peer", p.cfg.Peer.Name, "state", after.String())
	}
}

// dial begins an attempt at the next gateway. The caller holds mu.
func (p *Prober) dial(ctx context.Context, place int) *attempt {
	ctx, stop := context.WithCancel(ctx)
	a := &attempt{place: place, abandon: stop}
	addr := p.turn()
	p.tasks.Go(func() {
		defer stop()
		if err := p.converse(ctx, a, addr); err != nil && ctx.Err() == nil {
			p.broke(a, fmt.Errorf("probe gateway %s of cluster %s: %w", addr, p.cfg.Peer.Name, err))
		}
	})
	return a
}

// turn is the next gateway to dial: one that stays, if any does. The caller holds mu.
func (p *Prober) turn() netip.AddrPort {
	all := p.cfg.Peer.Gateways
	for range all {
		addr := all[p.dials%len(all)]
		p.dials++
		if !p.leaving[addr] {
			return addr
		}
	}
	p.dials++
	return all[p.dials%len(all)]
}

// converse dials and hears until the connection ends.
func (p *Prober) converse(ctx context.Context, a *attempt, addr netip.AddrPort) error {
	dctx, stop := context.WithTimeout(ctx, dialMax)
	defer stop()
	raw, err := p.cfg.Dial(dctx, addr)
	if err != nil {
		return err
	}
	defer raw.Close()
	release := context.AfterFunc(ctx, func() { raw.Close() })
	defer release()
	c, err := p.greet(dctx, raw)
	if err != nil {
		return err
	}
	if !p.opened(a, c) {
		return nil
	}
	return c.hear(func() { p.heard(a) })
}

func (p *Prober) opened(a *attempt, c *conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.places[a.place] != a {
		return false
	}
	a.conn = c
	p.detector.Opened(a.place, p.cfg.Clock.Now())
	p.stir()
	return true
}

// heard takes an answer. Run need not wake for it, unless it changes the world.
func (p *Prober) heard(a *attempt) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.places[a.place] != a {
		return
	}
	now := p.cfg.Clock.Now()
	before := p.state.Reach()
	rtt := p.detector.Heard(a.place, now)
	switch {
	case rtt == 0: // we stood still
	case p.state.Late(rtt):
		p.tally.Count(1, 1, now)
	default:
		p.tally.Count(1, 0, now)
	}
	p.state = p.state.Answered(rtt, now)
	if p.state.Reach() != before {
		p.stir()
	}
}

// broke takes the end of an attempt that nobody wanted.
func (p *Prober) broke(a *attempt, err error) {
	a.abandon()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.places[a.place] != a {
		return
	}
	now := p.cfg.Clock.Now()
	p.end(a.place, now)
	p.places[a.place] = nil
	p.detector.Broke(a.place, now)
	p.stir()
	if !errors.Is(err, context.Canceled) {
		p.cfg.Log.Debug("a connection to a gateway ended", "peer", p.cfg.Peer.Name, "error", err)
	}
}
