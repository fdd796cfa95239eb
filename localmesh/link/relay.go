package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// acceptBackoffMax bounds the pause after a failed accept (of a process out of descriptors, usually).
const acceptBackoffMax = time.Second

// relay is a running link.
type relay struct {
	cfg    Config
	log    *slog.Logger
	ctx    context.Context
	now    func() time.Duration // since the link's origin
	ways   [2]*way              // by direction
	lanes  [traffics][2]*lane
	blocks blockPool
	held   atomic.Int64 // bytes in flight, of all connections
	tap    *tap
	wg     sync.WaitGroup // every goroutine but Run's own

	ops sync.Mutex // held through a whole operation of the control socket: they are one after the other

	mu       sync.Mutex
	forwards []*forward
	control  *control
	conns    map[*conn]struct{}
	nextID   uint64
	refusing bool
	stopped  bool
}

// forward is one Forward at work.
type forward struct {
	cfg      Forward      // Listen with its real port; written under the relay's lock before the first accept
	listener net.Listener // nil while refusing; guarded by the relay's lock
	dial     func(context.Context) (stream, error)

	sent, received, lost            counter
	opened, closed, failed, refused counter
}

// Run opens the listeners of the link, then its control socket, so that one who can dial the socket finds a link that
// works, and relays until ctx is done. It then resets what is left of its connections, removes the socket and returns nil
// when all its goroutines have ended. An error means that it could not start, and left nothing behind.
func Run(ctx context.Context, cfg Config, log *slog.Logger) error {
	cfg = cfg.withDefaults()
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("run link %s--%s: %w", cfg.A, cfg.B, err)
	}
	// What is in flight ends by stop, in order, and not by the context, at once.
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	r := newRelay(inner, cfg, log.With("link", cfg.A+"--"+cfg.B))
	defer r.stop()
	if err := r.start(); err != nil {
		return fmt.Errorf("run link %s--%s: %w", cfg.A, cfg.B, err)
	}
	r.log.Info("link is up", "rtt", cfg.Shape.RTT, "forwards", len(cfg.Forwards))
	<-ctx.Done()
	return nil
}

func newRelay(ctx context.Context, cfg Config, log *slog.Logger) *relay {
	origin := time.Now()
	r := &relay{
		cfg: cfg, log: log, ctx: ctx,
		now:   func() time.Duration { return time.Since(origin) },
		conns: map[*conn]struct{}{},
	}
	for d := range r.ways {
		r.ways[d] = newWay(r.now, cfg.Shape, cfg.Seed<<1|uint64(d))
		for t := range r.lanes {
			r.lanes[t][d] = &lane{way: r.ways[d]}
		}
	}
	for _, f := range cfg.Forwards {
		r.forwards = append(r.forwards, &forward{
			cfg:  f,
			dial: func(ctx context.Context) (stream, error) { return dialTCP(ctx, f.Source, f.Target) },
		})
	}
	return r
}

// start opens everything; what it opened before an error is closed by stop.
func (r *relay) start() error {
	var err error
	if r.tap, err = openTap(r.cfg.Tap, r.cfg.TapMax); err != nil {
		return err
	}
	r.mu.Lock()
	err = r.listen()
	r.mu.Unlock()
	if err != nil {
		return err
	}
	return r.startControl()
}

// listen opens the listeners that are closed, all or, with an error that names each failure, as many as it could. The
// caller holds r.mu.
func (r *relay) listen() error {
	var faults []error
	for _, f := range r.forwards {
		if f.listener != nil {
			continue
		}
		l, err := listenTCP(r.ctx, f.cfg.Listen)
		if err != nil {
			faults = append(faults, fmt.Errorf("listen for forward %q: %w", f.cfg.Name, err))
			continue
		}
		f.listener = l
		if f.cfg.Listen.Port() == 0 { // and the same port after refuse and heal
			f.cfg.Listen = l.Addr().(*net.TCPAddr).AddrPort()
		}
		r.wg.Go(func() { r.accept(f, l) })
	}
	return errors.Join(faults...)
}

// unlisten closes the listeners. The caller holds r.mu.
func (r *relay) unlisten() {
	for _, f := range r.forwards {
		if f.listener != nil {
			_ = f.listener.Close() // its accept loop ends
			f.listener = nil
		}
	}
}

func (r *relay) accept(f *forward, l *net.TCPListener) {
	var pause time.Duration
	var w waiter
	defer w.stop()
	for {
		nc, err := l.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			if pause == 0 {
				r.log.Warn("accept failed", "forward", f.cfg.Name, "error", err)
			}
			pause = min(max(2*pause, 5*time.Millisecond), acceptBackoffMax)
			if !w.wait(r.ctx, pause, nil) {
				return
			}
			continue
		}
		pause = 0
		client, err := newTCPStream(nc)
		if err != nil {
			_ = nc.Close()
			continue
		}
		r.relay(f, client)
	}
}

// relay begins a connection, or resets it where none may begin.
func (r *relay) relay(f *forward, client stream) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped || r.refusing || len(r.conns) >= r.cfg.ConnectionsMax {
		f.refused.add(1)
		client.reset()
		return
	}
	r.nextID++
	c := &conn{relay: r, forward: f, id: r.nextID, client: client, wake: make(chan struct{}, 1)}
	c.ctx, c.cancel = context.WithCancel(r.ctx)
	for i := range c.halves {
		c.halves[i].readWake = make(chan struct{}, 1)
		c.halves[i].writeWake = make(chan struct{}, 1)
	}
	r.conns[c] = struct{}{}
	f.opened.add(1)
	r.wg.Go(func() {
		c.run()
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.conns, c)
		f.closed.add(1)
	})
}

// each calls do for every connection there is now.
func (r *relay) each(do func(*conn)) {
	r.mu.Lock()
	conns := make([]*conn, 0, len(r.conns))
	for c := range r.conns {
		conns = append(conns, c)
	}
	r.mu.Unlock()
	for _, c := range conns {
		do(c)
	}
}

// stop ends everything and returns when it has ended.
func (r *relay) stop() {
	r.mu.Lock()
	r.stopped = true
	r.unlisten()
	r.mu.Unlock()
	r.stopControl()
	r.each(func(c *conn) { c.finish(true) })
	r.wg.Wait()
	if err := r.tap.close(); err != nil {
		r.log.Warn("tap not closed", "path", r.cfg.Tap, "error", err)
	}
}

// setGate opens, stalls or cuts directions for kinds of traffic.
func (r *relay) setGate(g gate, of kinds, directions ...Direction) {
	for _, d := range directions {
		for _, t := range of {
			r.lanes[t][d].set(g)
		}
	}
	r.each((*conn).look)
	r.log.Info("link changed", "state", g.String(), "directions", directions, "traffic", of)
}

// reshape changes both directions, unless the shape has a fault.
func (r *relay) reshape(shape Shape) error {
	if err := shape.Validate(); err != nil {
		return fmt.Errorf("shape link: %w", err)
	}
	for _, w := range r.ways {
		w.reshape(shape)
	}
	r.each((*conn).look)
	r.log.Info("link reshaped", "rtt", shape.RTT, "jitter", shape.Jitter, "loss", shape.Loss, "bandwidth", shape.Bandwidth)
	return nil
}

// refuse closes the listeners and resets every connection.
func (r *relay) refuse() {
	r.mu.Lock()
	r.refusing = true
	r.unlisten()
	r.mu.Unlock()
	r.each(func(c *conn) { c.finish(true) })
	r.log.Info("link refuses")
}

// accord ends refuse, where it is in force.
func (r *relay) accord() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.refusing {
		return nil
	}
	if r.stopped {
		return errors.New("listen again: the link is stopping")
	}
	if err := r.listen(); err != nil {
		return err
	}
	r.refusing = false
	return nil
}
