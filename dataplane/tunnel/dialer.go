package tunnel

import (
	"cmp"
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

	"github.com/isthmus-mesh/isthmus/core/limit"
	"github.com/isthmus-mesh/isthmus/dataplane/http2"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/socket"
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
	// Paths is where server proxies are connected to.
	Paths Paths
	// IdleTimeout closes connections that carry nothing; 0 is 60 s.
	IdleTimeout time.Duration
	// MaxConns bounds the connections to one target; 0 is 8.
	MaxConns int
	// Budget is where windows grow from; nil is one of the dialer's own.
	Budget http2.Budget
	Now    func() time.Time
	Log    *slog.Logger
}

const (
	// busyStreams is how many streams a connection carries before another is made beside it.
	busyStreams = 100
	// streamsMax is how many it carries at most, and streamWindow, in bytes, what each may have unread
	// before it has grown (RFC 9113 §6.9.2). There is room for all of them: applications that do not take
	// their answers must not hold up the answers of others.
	streamsMax   = 256
	streamWindow = 65535
	// failFor is how long a failed dial answers for others that want the same: the caller
	// tries elsewhere meanwhile.
	failFor = 50 * time.Millisecond
	// besideEvery is the least time between two attempts to put a connection beside one that
	// still serves.
	besideEvery = time.Second
	// avoidFor is how long an address that could not be connected to is tried last.
	avoidFor = 2 * time.Second
	// settleFor is how long the gateways may route by an older slot table than ours. A
	// connection made to a slot that has just moved is made once more after it.
	settleFor = 2 * time.Second
	// openTries bounds how often Open chooses: a connection may end between choice and use.
	openTries = 4
	// goodbyes bounds how often in a row an address is dialled again at once because who accepted there was
	// leaving. Such a one listens no more: its successor does, or nobody.
	goodbyes = 3
)

// Dialer opens streams to server proxies over shared connections. It is safe for
// concurrent use; Run must be running.
type Dialer struct {
	cfg   DialerConfig
	h2    http2.Config
	epoch time.Time
	// ctx ends with the dialer; over has ended always: Open of http2 with it does not wait.
	ctx, over context.Context
	stop      context.CancelFunc
	wake      chan struct{} // capacity 1: the first connection to watch
	work      sync.WaitGroup

	mu      sync.Mutex
	targets map[Target]*target
	watched []*conn // those that carry streams
	avoid   map[netip.AddrPort]time.Time
	// gateways are those of each trust domain that SetGateways has told.
	gateways map[mesh.TrustDomain][]netip.AddrPort
	closed   bool
}

// NewDialer returns a dialer without connections.
func NewDialer(cfg DialerConfig) *Dialer {
	if cfg.IdleTimeout == 0 {
		cfg.IdleTimeout = 60 * time.Second
	}
	if cfg.MaxConns == 0 {
		cfg.MaxConns = 8
	}
	if cfg.Budget == nil {
		cfg.Budget = NewBudget(budgetDefault)
	}
	d := &Dialer{cfg: cfg, epoch: cfg.Now(), wake: make(chan struct{}, 1), targets: map[Target]*target{}, avoid: map[netip.AddrPort]time.Time{},
		gateways: map[mesh.TrustDomain][]netip.AddrPort{}}
	d.h2 = http2.Config{Now: d.nanos, Budget: cfg.Budget, MaxConcurrentStreams: streamsMax, ConnBuffer: streamsMax * streamWindow}
	d.ctx, d.stop = context.WithCancel(context.Background())
	over, end := context.WithCancel(context.Background())
	end()
	d.over = over
	return d
}

// nanos is a monotonic clock.
func (d *Dialer) nanos() int64 { return int64(d.cfg.Now().Sub(d.epoch)) }

// Want is one stream to open. The slices are not changed and not kept.
type Want struct {
	Target Target
	// Gateway says that Target.Addr and Alternates, if any, are gateways to the same place, or pass on to it (Target.By).
	Gateway    bool
	Alternates []netip.AddrPort
	// Identities may serve it. A live connection whose peer is not among them is not used.
	Identities []mesh.Identity
	// ConnectTimeout bounds the making of a connection, handshake included.
	ConnectTimeout time.Duration
	// Pending, if set, counts who waits; beyond PendingMost, unless that is 0, nobody else does.
	Pending     *limit.Gauge
	PendingMost int
}

// Open returns a stream to the target: on a connection that lives, or on a new one,
// which all who want it meanwhile share. It waits until deadline at most; zero is no bound but
// that of the connection. The error is an *Error. On a connection that has room it neither
// waits nor allocates.
func (d *Dialer) Open(deadline time.Time, w *Want) (message.Stream, error) {
	s, full, attempt, err := d.reserve(w)
	switch {
	case s != nil:
		return s, nil
	case err != nil:
		return nil, &Error{w.Target, reasonOf(err), err}
	}
	if w.Pending != nil {
		if !w.Pending.Enter(w.PendingMost) {
			return nil, &Error{w.Target, mesh.ReasonOverloaded, errPending}
		}
		defer w.Pending.Leave()
	}
	return d.await(deadline, w, full, attempt)
}

// await waits for what reserve found wanting, and asks again.
func (d *Dialer) await(deadline time.Time, w *Want, full *conn, attempt *attempt) (message.Stream, error) {
	var timer *time.Timer
	var late <-chan time.Time
	for i := range openTries + d.cfg.MaxConns {
		if i > 0 {
			var s message.Stream
			var err error
			s, full, attempt, err = d.reserve(w)
			switch {
			case s != nil:
				return s, nil
			case err != nil:
				return nil, &Error{w.Target, reasonOf(err), err}
			}
		}
		if attempt != nil {
			if timer == nil && !deadline.IsZero() {
				timer = time.NewTimer(deadline.Sub(d.cfg.Now()))
				defer timer.Stop()
				late = timer.C
			}
			select {
			case <-attempt.done:
			case <-late:
				return nil, &Error{w.Target, mesh.ReasonConnectTimeout, errWait}
			}
			switch {
			case attempt.err == nil:
				continue
			case full == nil:
				return nil, &Error{w.Target, reasonOf(attempt.err), attempt.err}
			}
		}
		switch s, err := d.queue(deadline, full); {
		case s != nil:
			return s, nil
		case err != nil && d.ctx.Err() != nil:
			return nil, &Error{w.Target, mesh.ReasonDraining, errStopping}
		case err != nil: // all live connections are full: load, not death
			return nil, &Error{w.Target, mesh.ReasonOverloaded, err}
		}
	}
	return nil, &Error{w.Target, mesh.ReasonUnreachable, errEnding}
}

// reserve returns a stream; or why there is none; or, with the emptiest connection if all
// are full, an attempt to wait for, if there may be one more.
func (d *Dialer) reserve(w *Want) (s message.Stream, full *conn, a *attempt, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, nil, nil, errStopping
	}
	t := d.targets[w.Target]
	if t == nil {
		t = &target{}
		d.targets[w.Target] = t
	}
	wall := d.cfg.Now()
	now := int64(wall.Sub(d.epoch)) // nanos, of one reading
	c, more := t.choose(w, wall, now)
	if c != nil {
		// What Open waits for with a context that is over is nothing.
		if s, err := c.Open(d.over); err == nil {
			d.watch(c, wall, now)
			if more && t.attempt == nil && !wall.Before(t.besideAt) && t.live() < d.cfg.MaxConns {
				t.besideAt = wall.Add(besideEvery)
				d.begin(t, w)
			}
			return s, nil, nil, nil
		}
		if c.Usable() {
			full = c
		}
	}
	if t.failed != nil && wall.Before(t.until) {
		if full == nil {
			err = t.failed
		}
		return nil, full, nil, err
	}
	if t.attempt == nil && (full == nil || t.live() < d.cfg.MaxConns) {
		d.begin(t, w)
	}
	return nil, full, t.attempt, nil
}

// queue waits for a stream of c, on which all are in use. Both results are nil if c ended
// meanwhile.
func (d *Dialer) queue(deadline time.Time, c *conn) (message.Stream, error) {
	ctx := d.ctx
	if !deadline.IsZero() {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, deadline.Sub(d.cfg.Now()))
		defer stop()
	}
	s, err := c.Open(ctx)
	if err != nil {
		if !c.Usable() && ctx.Err() == nil {
			return nil, nil
		}
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.watch(c, d.cfg.Now(), d.nanos())
	return s, nil
}

// attempt is the making of one connection, which several callers may wait for.
type attempt struct {
	done chan struct{}
	err  error
}

// begin starts an attempt; the goroutine ends with the attempt, which ConnectTimeout
// bounds. The caller holds mu, and the dialer is not closed.
func (d *Dialer) begin(t *target, w *Want) {
	a := &attempt{done: make(chan struct{})}
	t.attempt = a
	want := *w
	want.Identities, want.Alternates = slices.Clone(w.Identities), slices.Clone(w.Alternates)
	d.work.Go(func() {
		c, err := d.dial(&want)
		d.mu.Lock()
		defer d.mu.Unlock()
		if err == nil && d.closed {
			err = errStopping
			d.cut(c, err)
		}
		a.err, t.failed, t.attempt = err, err, nil
		if err != nil {
			t.until = d.cfg.Now().Add(failFor)
		} else {
			d.admit(t, c, &want)
		}
		close(a.done)
	})
}

// admit puts a new connection into use, and lets those that it replaces end. The caller
// holds mu.
func (d *Dialer) admit(t *target, c *conn, w *Want) {
	now := d.cfg.Now()
	c.lastUsed = now
	for _, o := range t.conns {
		if o.worn(now) {
			o.Drain()
		}
	}
	t.conns = append(t.conns, c)
	// One whose gateway has been withdrawn meanwhile is used all the same, for who waits for it learnt of its gateway a
	// moment ago, and may know no other. look ends it with its streams; another would be led to the same gateway.
	for k, o := range d.targets {
		if k.SNI == w.Target.SNI && k.Connect == w.Target.Connect && k.Moved < w.Target.Moved && len(o.conns) > 0 {
			for _, oc := range o.conns {
				oc.Drain()
			}
			// The gateway may not know yet that the slot has moved, and then this one
			// leads to the old place.
			c.wornAt = earlier(c.wornAt, now.Add(settleFor))
		}
	}
	// Trust may have changed between the handshake and now, when nobody could see c.
	if m := d.cfg.Source.Current(); m.Generation != c.material.Generation {
		d.rejudge(c, m)
	}
}

// dial makes a connection to the first of the addresses that answers.
func (d *Dialer) dial(w *Want) (*conn, error) {
	timeout := w.ConnectTimeout
	if timeout <= 0 {
		timeout = mesh.DefaultConnectTimeout
	}
	ctx, stop := context.WithTimeout(d.ctx, timeout)
	defer stop()
	began := d.cfg.Now()
	var errs []error
	addrs := d.order(w)
	for i, a := range addrs {
		var c *conn
		err := http2.ErrClosed
		for n := 0; n <= goodbyes && errors.Is(err, http2.ErrClosed) && ctx.Err() == nil; n++ { // it ended in order, by GOAWAY
			// What is left is shared between the addresses not tried yet.
			left := timeout - d.cfg.Now().Sub(began)
			c, err = d.dialOne(ctx, a, left/time.Duration(len(addrs)-i), w)
		}
		if err == nil {
			return c, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", a, err))
		if ctx.Err() != nil {
			break
		}
	}
	if d.ctx.Err() != nil {
		return nil, errStopping
	}
	return nil, errors.Join(errs...)
}

// order is the addresses of w, those that failed lately last.
func (d *Dialer) order(w *Want) []netip.AddrPort {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.cfg.Now()
	addrs := append([]netip.AddrPort{w.Target.Addr}, w.Alternates...)
	var last []netip.AddrPort
	addrs = slices.DeleteFunc(addrs, func(a netip.AddrPort) bool {
		if d.avoid[a].After(now) {
			last = append(last, a)
			return true
		}
		return false
	})
	return append(addrs, last...)
}

// connect makes the TCP connection, and remembers where that fails.
func (d *Dialer) connect(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	raw, err := socket.Dial(ctx, d.cfg.Paths.Guard(socket.Unhoarding), d.cfg.Local, d.cfg.Paths.To(addr).String())
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		d.avoid[addr] = d.cfg.Now().Add(avoidFor)
	} else {
		delete(d.avoid, addr)
	}
	return raw, err
}

// nearRTT is the round trip below which a few more of them cost less than memory for who does not read.
const nearRTT = 5 * time.Millisecond

// nearWindow is the window, in bytes, that a stream from a near server begins with: what an answer leaves here that nobody takes.
const nearWindow = 32 << 10

// near reports whether all of the path to addr is as short as the kernel has measured: beyond a gateway, or a link, there is more.
func (d *Dialer) near(raw net.Conn, addr netip.AddrPort, w *Want) bool {
	rtt, ok := socket.RoundTrip(raw)
	return ok && rtt < nearRTT && !w.Gateway && d.cfg.Paths.To(addr) == addr
}

func (d *Dialer) dialOne(ctx context.Context, addr netip.AddrPort, timeout time.Duration, w *Want) (*conn, error) {
	ctx, stop := context.WithTimeout(ctx, timeout)
	defer stop()
	material := d.cfg.Source.Current()
	if material.SVID == nil {
		return nil, &trust.Error{Fault: trust.FaultOwnCertificate, Detail: "this proxy has no certificate yet"}
	}
	raw, err := d.connect(ctx, addr)
	if err != nil {
		return nil, err
	}
	if w.Target.By != "" { // some octets into an empty queue: it does not wait
		if _, err := raw.Write(mesh.PassOn(w.Target.By)); err != nil {
			raw.Close()
			return nil, err
		}
	}
	accept := trust.AcceptServers(w.Target.SNI.TrustDomain, w.Identities...)
	records := newBatch(raw)
	below := &heard{Conn: records, nanos: d.nanos}
	tc := tls.Client(below, trust.ClientConfig(d.cfg.Source, accept, w.Target.SNI.String(), ALPN))
	if err := tc.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	state := tc.ConnectionState()
	peer, err := trust.PeerIdentity(state)
	if err != nil {
		raw.Close()
		return nil, err
	}
	c := &conn{wire: &wire{Conn: tc, records: records, nanos: d.nanos}, socket: below, arrived: &arrivals{nanos: d.nanos}, chain: state.PeerCertificates, peer: peer, name: state.ServerName, accept: accept, material: material}
	if w.Gateway {
		c.gateway, c.by = addr, cmp.Or(w.Target.By, w.Target.SNI.TrustDomain)
	}
	c.lives(d.cfg.Now(), material.SVID.Leaf, state.PeerCertificates[0])
	h2 := d.h2
	h2.Reported = c.arrived.note
	if h2.Near = d.near(raw, addr, w); h2.Near {
		h2.InitialWindow = nearWindow
	}
	if c.ClientConn, err = http2.NewClientConn(c.wire, h2); err != nil {
		return nil, err
	}
	// In TLS 1.3 the client has finished before the server has judged its certificate:
	// the first answer of HTTP/2 proves that it was let in.
	rtt, err := c.Ping(ctx)
	if err != nil {
		if cause := c.Err(); cause != nil {
			err = cause
		}
		c.wire.cut(err)
		c.Close()
		return nil, err
	}
	c.rtt.add(rtt)
	c.answered = d.nanos()
	return c, nil
}
