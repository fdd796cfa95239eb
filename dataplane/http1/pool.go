package http1

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// PoolConfig says how a Pool dials and how much it keeps.
type PoolConfig struct {
	// Conn is for every connection of the pool. Required.
	Conn *Config
	// Dial makes a connection to a target, an opaque key to the pool. Required.
	Dial func(ctx context.Context, target string) (net.Conn, error)
	// DialTimeout bounds Dial beside the caller's context. Default 5 s.
	DialTimeout time.Duration
	// IdleTimeout is how long a connection may lie unused. It should be shorter than the
	// servers' own. Default 60 s.
	IdleTimeout time.Duration
	// IdleMax bounds the idle connections of the whole pool; one more is closed instead of
	// kept. Default 1,024.
	IdleMax int
	// IdlePerTargetMax bounds those of one target. Default 128.
	IdlePerTargetMax int
	// PerTargetMax bounds connections to one target, idle, in use or being made. Beyond it Get
	// fails at once: waiting is the business of admission, not of a pool. Default 1,024.
	PerTargetMax int
	// Now tells the time; time.Now if nil.
	Now func() time.Time
}

// A Pool keeps connections to targets for further requests. It hands out the last returned first,
// so that the rest can grow old and be closed. It is safe for concurrent use.
type Pool struct {
	cfg    PoolConfig
	stop   context.Context // ends with Close, and dials with it
	cancel context.CancelFunc

	mu      sync.Mutex
	targets map[string]*poolTarget
	live    map[*ClientConn]struct{}
	count   int // live connections and dials in progress
	idle    int
	closed  bool
	empty   chan struct{} // closed once closed and count is 0
}

type poolTarget struct {
	name  string
	idle  []*ClientConn // oldest first
	count int           // idle, in use and being made
	doubt time.Time     // when a connection was last found closed only when it was used
}

const (
	// freshFor is for how long a connection that was used is given out unseen: whether it is still good is found out
	// when the request is sent.
	freshFor = time.Second
	// doubtFor is how long none is to a target where that was wrong, so that a request meets one such connection and
	// not all that there are.
	doubtFor = time.Second
)

// NewPool makes a pool. Nothing runs until Get, or Run.
func NewPool(cfg PoolConfig) *Pool {
	cfg.DialTimeout = orDefault(cfg.DialTimeout, 5*time.Second)
	cfg.IdleTimeout = orDefault(cfg.IdleTimeout, time.Minute)
	cfg.IdleMax = orDefault(cfg.IdleMax, 1024)
	cfg.IdlePerTargetMax = orDefault(cfg.IdlePerTargetMax, 128)
	cfg.PerTargetMax = orDefault(cfg.PerTargetMax, 1024)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	p := &Pool{
		cfg:     cfg,
		targets: make(map[string]*poolTarget),
		live:    make(map[*ClientConn]struct{}),
		empty:   make(chan struct{}),
	}
	p.stop, p.cancel = context.WithCancel(context.Background())
	return p
}

// Get returns a stream on an idle connection to target, or on a new one. An idle one is seen to be open, unless it was
// used a moment ago: then Send, or for a request without a body Receive, sees to that before anything is sent, and
// fails with message.ErrNotExecuted where it is not. ctx bounds the dial only. Every error wraps
// message.ErrNotExecuted.
func (p *Pool) Get(ctx context.Context, target string) (s message.Stream, reused bool, err error) {
	for {
		c, t, err := p.take(target)
		if err != nil {
			return nil, false, fmt.Errorf("connect to %s: %w: %w", target, message.ErrNotExecuted, err)
		}
		if c == nil {
			s, err := p.dial(ctx, t)
			return s, false, err
		}
		if c.fresh || c.Usable() { // a system call: outside the lock
			return c.Open(), true, nil
		}
		_ = c.conn.Close()
		p.drop(c, t)
	}
}

// take removes the youngest idle connection, or reserves the place of a new one.
func (p *Pool) take(target string) (*ClientConn, *poolTarget, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, nil, ErrPoolClosed
	}
	t := p.targets[target]
	if t == nil {
		t = &poolTarget{name: target}
		p.targets[target] = t
	}
	now := p.cfg.Now()
	p.expire(t, now)
	if n := len(t.idle); n > 0 {
		c := t.idle[n-1]
		c.fresh = c.in.raw != nil && now.Sub(c.since) < freshFor && now.Sub(t.doubt) >= doubtFor
		t.idle[n-1] = nil
		t.idle = t.idle[:n-1]
		p.idle--
		return c, t, nil
	}
	if t.count >= p.cfg.PerTargetMax {
		return nil, nil, ErrPoolFull
	}
	t.count++
	p.count++
	p.targets[target] = t // expire may have removed it
	return nil, t, nil
}

// dial fills a reserved place.
func (p *Pool) dial(ctx context.Context, t *poolTarget) (message.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.DialTimeout)
	defer cancel()
	defer context.AfterFunc(p.stop, cancel)()
	conn, err := p.cfg.Dial(ctx, t.name)
	if err != nil {
		p.drop(nil, t)
		return nil, fmt.Errorf("connect to %s: %w: %w", t.name, message.ErrNotExecuted, err)
	}
	c := NewClientConn(conn, p.cfg.Conn)
	c.pool, c.to = p, t
	p.mu.Lock()
	closed := p.closed
	if !closed {
		p.live[c] = struct{}{}
	}
	p.mu.Unlock()
	if closed {
		_ = conn.Close()
		p.drop(nil, t)
		return nil, fmt.Errorf("connect to %s: %w: %w", t.name, message.ErrNotExecuted, ErrPoolClosed)
	}
	return c.Open(), nil
}

// put takes a connection back from its stream; a dead one is closed already.
func (p *Pool) put(c *ClientConn) {
	p.mu.Lock()
	t := c.to
	keep := !c.dead && !p.closed && p.idle < p.cfg.IdleMax && len(t.idle) < p.cfg.IdlePerTargetMax
	if keep {
		c.since = p.cfg.Now()
		t.idle = append(t.idle, c)
		p.idle++
		p.mu.Unlock()
		return
	}
	p.forget(c, t)
	p.mu.Unlock()
	_ = c.conn.Close()
}

// doubt has the connections to t looked at before they are given out.
func (p *Pool) doubt(t *poolTarget) {
	now := p.cfg.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	t.doubt = now
}

// drop frees the place of c, or of a dial that failed if c is nil.
func (p *Pool) drop(c *ClientConn, t *poolTarget) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forget(c, t)
}

// forget is drop under the lock.
func (p *Pool) forget(c *ClientConn, t *poolTarget) {
	if c != nil {
		delete(p.live, c)
	}
	t.count--
	p.count--
	if t.count == 0 && p.targets[t.name] == t {
		delete(p.targets, t.name)
	}
	if p.closed && p.count == 0 {
		close(p.empty)
	}
}

// expire closes what has been idle too long; idle is in order of age.
func (p *Pool) expire(t *poolTarget, now time.Time) {
	n := 0
	for n < len(t.idle) && now.Sub(t.idle[n].since) >= p.cfg.IdleTimeout {
		n++
	}
	p.closeIdle(t, n)
}

// closeIdle closes the n oldest idle connections of t. Close does not block: nothing
// is buffered and no linger is set.
func (p *Pool) closeIdle(t *poolTarget, n int) {
	for _, c := range t.idle[:n] {
		_ = c.conn.Close()
		p.idle--
		p.forget(c, t)
	}
	if n > 0 {
		kept := copy(t.idle, t.idle[n:])
		clear(t.idle[kept:])
		t.idle = t.idle[:kept]
	}
}

// Sweep closes every connection that has been idle too long.
func (p *Pool) Sweep() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.cfg.Now()
	for _, t := range p.targets {
		p.expire(t, now)
	}
}

// CloseIdle closes the idle connections to target, for one that has gone or changed.
func (p *Pool) CloseIdle(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t := p.targets[target]; t != nil {
		p.closeIdle(t, len(t.idle))
	}
}

// Idle returns the number of idle connections, for metrics.
func (p *Pool) Idle() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.idle
}

// Run sweeps twice an IdleTimeout until ctx ends. Without it idle connections are closed
// only when their target is asked for again.
func (p *Pool) Run(ctx context.Context) error {
	tick := time.NewTicker(max(p.cfg.IdleTimeout/2, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			p.Sweep()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Close refuses further Gets, closes what is idle and waits until every stream is closed.
// When ctx ends first, the remaining connections are closed under their streams, which
// then fail, and the error wraps ctx's.
func (p *Pool) Close(ctx context.Context) error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return p.waitEmpty(ctx)
	}
	p.closed = true
	if p.count == 0 {
		close(p.empty)
	}
	for _, t := range p.targets {
		p.closeIdle(t, len(t.idle))
	}
	p.mu.Unlock()
	p.cancel()
	return p.waitEmpty(ctx)
}

func (p *Pool) waitEmpty(ctx context.Context) error {
	select {
	case <-p.empty:
		return nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.count == 0 {
		return nil
	}
	var errs []error
	for c := range p.live {
		errs = append(errs, c.conn.Close())
	}
	return fmt.Errorf("close pool: %d connections in use: %w", p.count, errors.Join(append(errs, ctx.Err())...))
}
