// Package probe measures the paths to other clusters: it holds a connection to each
// peer's gateways and pings them, which the gateway answers itself. Its one idea is that a path is judged
// where requests go (the gateway), not where configuration comes from (the control plane).
//
// It decides nothing: core/liveness turns answers and silences into a state. Read Prober
// first.
package probe

import (
	"context"
	"crypto/tls"
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
	"golang.org/x/net/http2"
)

// Config is what a Prober works with; all fields but Local are required.
type Config struct {
	Peer   mesh.Cluster
	Source *trust.Source
	// Gateway is the identity of the peer's gateways, and Name the server name they
	// answer themselves.
	Gateway mesh.Identity
	Name    string
	Local   netip.Addr
	// Changed is told each new state, from one goroutine; it must not block.
	Changed func(mesh.ClusterName, liveness.State)
	Clock   clock.Clock
	Log     *slog.Logger
}

// Prober watches the path to one peer: it is good while any of its gateways answers.
type Prober struct {
	cfg Config

	mu    sync.Mutex
	state liveness.State
}

// New returns a prober that has heard nothing.
func New(cfg Config) *Prober { return &Prober{cfg: cfg} }

// Lease tells whether the control stream is fresh.
func (p *Prober) Lease(fresh bool) {
	p.move(func(s liveness.State) liveness.State { return s.Lease(fresh, p.cfg.Clock.Now()) })
}

// State is the newest.
func (p *Prober) State() liveness.State {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

func (p *Prober) move(f func(liveness.State) liveness.State) {
	p.mu.Lock()
	before := p.state
	p.state = f(before)
	after := p.state
	p.mu.Unlock()
	if after.Reach() != before.Reach() {
		p.cfg.Log.Warn("the reachability of a cluster changed", "peer", p.cfg.Peer.Name, "from", before.Reach().String(), "to", after.Reach().String())
	}
	if after != before {
		p.cfg.Changed(p.cfg.Peer.Name, after)
	}
}

// Run probes until ctx ends, and returns its error.
func (p *Prober) Run(ctx context.Context) error {
	var c *conn
	defer func() { c.close() }()
	for n := 0; ; n++ {
		began := p.cfg.Clock.Now()
		timeout := p.State().ProbeTimeout()
		var err error
		if c == nil {
			c, err = p.dial(ctx, p.cfg.Peer.Gateways[n%len(p.cfg.Peer.Gateways)], timeout+2*p.State().RTT) // two more round trips: TCP, TLS
		}
		if err == nil {
			var rtt time.Duration
			if rtt, err = c.ping(timeout); err == nil {
				p.move(func(s liveness.State) liveness.State { return s.Answered(rtt, p.cfg.Clock.Now()) })
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			c.close()
			c = nil
			p.cfg.Log.Debug("a probe was not answered", "peer", p.cfg.Peer.Name, "error", err)
			p.move(func(s liveness.State) liveness.State { return s.Failed(p.cfg.Clock.Now()) })
		}
		if err := clock.Wait(ctx, p.cfg.Clock, max(liveness.ProbeEvery-p.cfg.Clock.Now().Sub(began), 10*time.Millisecond)); err != nil {
			return err
		}
	}
}

// conn is a connection that speaks just enough HTTP/2 to ping.
type conn struct {
	net.Conn
	framer *http2.Framer
	serial uint64
	now    func() time.Time
}

func (c *conn) close() {
	if c != nil {
		c.Conn.Close()
	}
}

func (p *Prober) dial(ctx context.Context, addr netip.AddrPort, timeout time.Duration) (*conn, error) {
	ctx, stop := context.WithTimeout(ctx, timeout)
	defer stop()
	d := net.Dialer{}
	if p.cfg.Local.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(p.cfg.Local, 0))
	}
	raw, err := d.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return nil, err
	}
	tc := tls.Client(raw, trust.ClientConfig(p.cfg.Source, trust.AcceptServers(p.cfg.Peer.TrustDomain, p.cfg.Gateway), p.cfg.Name, "h2"))
	if err := tc.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, fmt.Errorf("gateway %s: %w", addr, err)
	}
	c := &conn{Conn: tc, framer: http2.NewFramer(tc, tc), now: p.cfg.Clock.Now}
	_, err = tc.Write([]byte(http2.ClientPreface))
	if err := errors.Join(err, c.framer.WriteSettings()); err != nil {
		raw.Close()
		return nil, err
	}
	return c, nil
}

// ping asks once and waits for the answer, acknowledging settings on the way.
func (c *conn) ping(timeout time.Duration) (time.Duration, error) {
	began := c.now()
	if err := c.SetDeadline(began.Add(timeout)); err != nil {
		return 0, err
	}
	c.serial++
	data := [8]byte{byte(c.serial >> 24), byte(c.serial >> 16), byte(c.serial >> 8), byte(c.serial)}
	if err := c.framer.WritePing(false, data); err != nil {
		return 0, err
	}
	for {
		f, err := c.framer.ReadFrame()
		if err != nil {
			return 0, err
		}
		switch f := f.(type) {
		case *http2.PingFrame:
			if f.IsAck() && f.Data == data {
				return c.now().Sub(began), nil
			}
		case *http2.SettingsFrame:
			if !f.IsAck() {
				if err := c.framer.WriteSettingsAck(); err != nil {
					return 0, err
				}
			}
		case *http2.GoAwayFrame:
			return 0, errors.New("the gateway is leaving")
		}
	}
}
