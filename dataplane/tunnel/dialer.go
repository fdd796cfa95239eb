package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/http2"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

// DialerConfig is what a Dialer works with. Source, Now and Log are required.
type DialerConfig struct {
	// Source is the one identity of this dialer: connections are never shared between
	// identities.
	Source *trust.Source
	// Local binds outgoing connections; invalid is any.
	Local netip.Addr
	// IdleTimeout closes connections that carry nothing; 0 is 60 s.
	IdleTimeout time.Duration
	// MaxConns bounds the connections to one target; 0 is 8.
	MaxConns int
	Now      func() time.Time
	Log      *slog.Logger
}

const (
	// busyStreams is how many streams a connection carries before another is made beside it.
	busyStreams = 100
	// lookEvery is how often connections with streams are looked at for silence.
	lookEvery = 100 * time.Millisecond
	// silentFloor is the least silence, beyond a round trip, that ends a connection.
	silentFloor = 300 * time.Millisecond
	// quietFloor is the least quiet after which a PING asks.
	quietFloor = 100 * time.Millisecond
	// failFor is how long a failed dial answers for others that want the same: the caller
	// tries elsewhere meanwhile.
	failFor = 50 * time.Millisecond
)

// Dialer opens streams to server proxies over shared connections. It is safe for
// concurrent use; Run must be running.
type Dialer struct {
	cfg DialerConfig

	mu      sync.Mutex
	targets map[Target]*target
	closed  bool
	active  chan struct{} // capacity 1: streams were opened
	dials   sync.WaitGroup
}

// target is the connections to one place. Its fields are guarded by Dialer.mu.
type target struct {
	conns   []*conn
	dialing *dial
	failed  error
	until   time.Time
}

// dial is one attempt that several callers may wait for.
type dial struct {
	done chan struct{}
	err  error
}

// conn is one connection and what is needed to judge it again.
type conn struct {
	*http2.ClientConn
	state      tls.ConnectionState
	accept     trust.Accept
	generation uint64 // of the source's certificate
	rtt        time.Duration
	lastUsed   time.Time
	pinging    bool
}

// NewDialer returns a dialer without connections.
func NewDialer(cfg DialerConfig) *Dialer {
	if cfg.IdleTimeout == 0 {
		cfg.IdleTimeout = 60 * time.Second
	}
	if cfg.MaxConns == 0 {
		cfg.MaxConns = 8
	}
	return &Dialer{cfg: cfg, targets: map[Target]*target{}, active: make(chan struct{}, 1)}
}

// Want is one stream to open.
type Want struct {
	Target Target
	// Alternates are further gateways to the same place.
	Alternates []netip.AddrPort
	// Identities may serve it.
	Identities []mesh.Identity
	// ConnectTimeout bounds the making of a connection, handshake included.
	ConnectTimeout time.Duration
}

// Open returns a stream to the target: on a connection that lives, or on a new one,
// which all who want it meanwhile share. It waits until deadline at most; zero is no bound but
// that of the connection. The error is an *Error.
func (d *Dialer) Open(deadline time.Time, w *Want) (message.Stream, error) {
	ctx := context.Background()
	if !deadline.IsZero() {
		var stop context.CancelFunc
		ctx, stop = context.WithDeadline(ctx, deadline)
		defer stop()
	}
	for range 3 { // a connection may drain between choice and use
		c, err := d.connection(ctx, w)
		if err != nil {
			return nil, &Error{w.Target, reasonOf(err), err}
		}
		s, err := c.Open(ctx)
		if err == nil {
			select {
			case d.active <- struct{}{}:
			default:
			}
			return s, nil
		}
		if ctx.Err() != nil {
			return nil, &Error{w.Target, mesh.ReasonConnectTimeout, err}
		}
	}
	return nil, &Error{w.Target, mesh.ReasonUnreachable, errors.New("connections end as soon as they are made")}
}

// connection returns a usable connection, making one if there is none.
func (d *Dialer) connection(ctx context.Context, w *Want) (*conn, error) {
	for {
		d.mu.Lock()
		if d.closed {
			d.mu.Unlock()
			return nil, errors.New("this proxy is stopping")
		}
		t := d.targets[w.Target]
		if t == nil {
			t = &target{}
			d.targets[w.Target] = t
		}
		now := d.cfg.Now()
		if best := t.best(); best != nil {
			best.lastUsed = now
			if best.InFlight() >= busyStreams && len(t.conns) < d.cfg.MaxConns && t.dialing == nil {
				d.begin(t, w) // beside it, for those that come later
			}
			d.mu.Unlock()
			return best, nil
		}
		if t.failed != nil && now.Before(t.until) {
			err := t.failed
			d.mu.Unlock()
			return nil, err
		}
		if t.dialing == nil {
			d.begin(t, w)
		}
		attempt := t.dialing
		d.mu.Unlock()
		select {
		case <-attempt.done:
			if attempt.err != nil {
				return nil, attempt.err
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// best is the usable connection with the fewest streams.
func (t *target) best() *conn {
	var best *conn
	for _, c := range t.conns {
		if c.Usable() && (best == nil || c.InFlight() < best.InFlight()) {
			best = c
		}
	}
	return best
}

// begin starts an attempt; the goroutine ends with the attempt, which ConnectTimeout
// bounds. The caller holds mu.
func (d *Dialer) begin(t *target, w *Want) {
	attempt := &dial{done: make(chan struct{})}
	t.dialing = attempt
	want := *w
	want.Identities = slices.Clone(w.Identities)
	d.dials.Go(func() {
		c, err := d.dial(&want)
		d.mu.Lock()
		if err == nil && d.closed {
			err = errors.New("this proxy is stopping")
			defer c.Close()
		}
		attempt.err, t.failed, t.dialing = err, err, nil
		if err != nil {
			t.until = d.cfg.Now().Add(failFor)
		} else {
			c.lastUsed = d.cfg.Now()
			t.conns = append(t.conns, c)
		}
		d.mu.Unlock()
		close(attempt.done)
	})
}

// dial makes a connection to the first of the addresses that answers.
func (d *Dialer) dial(w *Want) (*conn, error) {
	timeout := w.ConnectTimeout
	if timeout <= 0 {
		timeout = mesh.DefaultConnectTimeout
	}
	ctx, stop := context.WithTimeout(context.Background(), timeout)
	defer stop()
	var errs []error
	addrs := append([]netip.AddrPort{w.Target.Addr}, w.Alternates...)
	for i, a := range addrs {
		// What is left is shared between the addresses not tried yet.
		share := timeout
		if end, ok := ctx.Deadline(); ok {
			share = end.Sub(d.cfg.Now()) / time.Duration(len(addrs)-i)
		}
		c, err := d.dialOne(ctx, a, share, w)
		if err == nil {
			return c, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", a, err))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

func (d *Dialer) dialOne(ctx context.Context, addr netip.AddrPort, timeout time.Duration, w *Want) (*conn, error) {
	ctx, stop := context.WithTimeout(ctx, timeout)
	defer stop()
	material := d.cfg.Source.Current()
	if material.SVID == nil {
		return nil, &trust.Error{Fault: trust.FaultOwnCertificate, Detail: "this proxy has no certificate yet"}
	}
	dialer := net.Dialer{}
	if d.cfg.Local.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(d.cfg.Local, 0))
	}
	raw, err := dialer.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return nil, err
	}
	accept := trust.AcceptServers(w.Target.SNI.TrustDomain, w.Identities...)
	tc := tls.Client(raw, trust.ClientConfig(d.cfg.Source, accept, w.Target.SNI.String(), ALPN))
	began := d.cfg.Now()
	if err := tc.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	rtt := d.cfg.Now().Sub(began)
	h, err := http2.NewClientConn(tc, http2.Config{Now: func() int64 { return d.cfg.Now().UnixNano() }})
	if err != nil {
		return nil, err
	}
	// In TLS 1.3 the client has finished before the server has judged its certificate:
	// the first answer of HTTP/2 proves that it was let in.
	if _, err := h.Ping(ctx); err != nil {
		cause := h.Err()
		h.Close()
		return nil, errors.Join(err, cause)
	}
	return &conn{ClientConn: h, state: tc.ConnectionState(), accept: accept, generation: material.Generation, rtt: rtt}, nil
}

// Run looks after the connections until ctx ends, then closes them: silent ones are closed, idle
// ones drained, and all are judged again when trust changes.
func (d *Dialer) Run(ctx context.Context) error {
	defer d.close()
	material, changed := d.cfg.Source.Watch()
	sweep := time.NewTicker(d.cfg.IdleTimeout / 4)
	defer sweep.Stop()
	look := time.NewTimer(lookEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
			before := material
			material, changed = d.cfg.Source.Watch()
			d.rejudge(before, material)
		case <-sweep.C:
			d.sweep()
		case <-d.active:
			look.Reset(lookEvery)
		case <-look.C:
			if d.look(ctx) {
				look.Reset(lookEvery)
			}
		}
	}
}

// each calls f for every connection that lives and forgets those that do not.
func (d *Dialer) each(f func(*conn)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for k, t := range d.targets {
		t.conns = slices.DeleteFunc(t.conns, func(c *conn) bool {
			select {
			case <-c.Done():
				return true
			default:
				return false
			}
		})
		if len(t.conns) == 0 && t.dialing == nil && !d.cfg.Now().Before(t.until) {
			delete(d.targets, k)
		}
		for _, c := range t.conns {
			f(c)
		}
	}
}

// sweep drains what has been idle too long.
func (d *Dialer) sweep() {
	limit := d.cfg.Now().Add(-d.cfg.IdleTimeout)
	d.each(func(c *conn) {
		if c.InFlight() == 0 && c.lastUsed.Before(limit) {
			c.Drain()
		}
	})
}

// rejudge holds live connections against new trust: after a new certificate of our own
// they are replaced gently; a peer that is trusted no more is cut off.
func (d *Dialer) rejudge(before, now trust.Material) {
	d.each(func(c *conn) {
		if now.Bundles != nil {
			if _, err := now.Bundles.VerifyPeer(c.state.PeerCertificates, d.cfg.Now(), c.accept); expelled(err) {
				d.cfg.Log.Warn("a connection is cut: its peer is no longer trusted", "error", err)
				go c.Close()
				return
			}
		}
		if now.SVID != before.SVID {
			c.Drain()
		}
	})
}

// expelled reports whether a peer that was let in has lost its root, as opposed to a
// certificate that has merely been renewed since.
func expelled(err error) bool {
	f := trust.FaultOf(err)
	return f == trust.FaultChain || f == trust.FaultUnknownDomain || f == trust.FaultDomain
}

// look asks silent connections whether they live, and reports whether any has streams to
// look after.
func (d *Dialer) look(ctx context.Context) bool {
	busy := false
	d.each(func(c *conn) {
		if c.InFlight() == 0 || c.pinging {
			busy = busy || c.pinging
			return
		}
		busy = true
		if d.sinceRead(c) < c.rtt+max(quietFloor, c.rtt/2) {
			return
		}
		c.pinging = true
		d.dials.Go(func() { d.ping(ctx, c) })
	})
	return busy
}

// ping closes a connection that does not answer: its streams then fail, and are tried
// elsewhere where that is allowed.
func (d *Dialer) ping(ctx context.Context, c *conn) {
	ctx, stop := context.WithTimeout(ctx, c.rtt+max(silentFloor, 2*c.rtt))
	defer stop()
	_, err := c.Ping(ctx)
	if errors.Is(err, context.DeadlineExceeded) && d.sinceRead(c) > c.rtt+silentFloor {
		d.cfg.Log.Warn("a connection is closed: its peer has been silent", "peer", c.state.ServerName)
		c.Close()
	}
	d.mu.Lock()
	c.pinging = false
	d.mu.Unlock()
}

// sinceRead is how long the connection has been quiet.
func (d *Dialer) sinceRead(c *conn) time.Duration {
	return time.Duration(d.cfg.Now().UnixNano() - c.LastRead())
}

func (d *Dialer) close() {
	d.mu.Lock()
	d.closed = true
	var all []*conn
	for _, t := range d.targets {
		all = append(all, t.conns...)
	}
	d.mu.Unlock()
	for _, c := range all {
		c.Close()
	}
	d.dials.Wait()
}

// ConnInfo is one connection, for people.
type ConnInfo struct {
	Server   string
	InFlight int
	RTT      time.Duration
}

// Conns lists the live connections.
func (d *Dialer) Conns() []ConnInfo {
	var out []ConnInfo
	d.each(func(c *conn) { out = append(out, ConnInfo{c.state.ServerName, c.InFlight(), c.rtt}) })
	return out
}
