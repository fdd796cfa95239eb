package http2

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// PoolConfig says how a Pool dials and how many connections it makes.
type PoolConfig struct {
	// Conn is for every connection of the pool; its Now is set by the pool.
	Conn Config
	// Dial makes a connection to a target, an opaque key to the pool. Required.
	Dial func(ctx context.Context, target string) (net.Conn, error)
	// DialTimeout bounds Dial, and the wait for a stream on a connection whose server allows
	// no more, beside the caller's context. Default 5 s.
	DialTimeout time.Duration
	// IdleTimeout is how long a connection without streams is kept. Default 60 s.
	IdleTimeout time.Duration
	// StreamsMax is how many streams a connection has before another is made: one connection is one
	// lock and one flow-control window. Default 100, which servers allow at least (RFC 9113 §6.5.2).
	StreamsMax int
	// PerTargetMax bounds the connections to one target; beyond it their streams share them. Default 8.
	PerTargetMax int
}

// A Pool keeps connections to targets and gives out their streams. It is safe for concurrent
// use.
type Pool struct {
	cfg    PoolConfig
	epoch  time.Time
	stop   context.Context // ends with Close, and dials with it
	cancel context.CancelFunc
	dials  sync.WaitGroup

	mu      sync.Mutex
	targets map[string]*poolTarget
	leaving []*ClientConn // they take no more streams, and may have some
	closed  bool
}

type poolTarget struct {
	conns   []*ClientConn
	dialing chan struct{} // closed when the dial under way has ended; nil: none
}

// ErrPoolClosed is wrapped, with message.ErrNotExecuted, after Pool.Close.
var ErrPoolClosed = errors.New("http2: the pool is closed")

// NewPool makes a pool. Nothing runs until Get, or Run.
func NewPool(cfg PoolConfig) *Pool {
	orDuration(&cfg.DialTimeout, 5*time.Second)
	orDuration(&cfg.IdleTimeout, time.Minute)
	orInt(&cfg.StreamsMax, 100)
	orInt(&cfg.PerTargetMax, 8)
	p := &Pool{cfg: cfg, epoch: time.Now(), targets: map[string]*poolTarget{}}
	p.cfg.Conn.Now = p.now
	p.stop, p.cancel = context.WithCancel(context.Background())
	return p
}

func (p *Pool) now() int64 { return int64(time.Since(p.epoch)) }

// getTries bounds how often Get begins again because a connection ended under it.
const getTries = 3

// Get returns a stream to target: on the connection with the fewest, or on a new one where all
// are busy. Every error wraps message.ErrNotExecuted.
func (p *Pool) Get(ctx context.Context, target string) (message.Stream, error) {
	var last error
	for range getTries {
		s, err := p.get(ctx, target)
		if err == nil {
			return s, nil
		}
		last = err
		var ended *StreamError
		if !errors.As(err, &ended) { // a dial, the caller's time, or the pool's end
			break
		}
	}
	return nil, fmt.Errorf("connect to %s: %w: %w", target, message.ErrNotExecuted, last)
}

func (p *Pool) get(ctx context.Context, target string) (message.Stream, error) {
	for {
		c, wait, err := p.choose(target)
		switch {
		case err != nil:
			return nil, err
		case c != nil:
			if s := c.tryOpen(); s != nil {
				return s, nil
			}
			ctx, stop := context.WithTimeout(ctx, p.cfg.DialTimeout)
			defer stop()
			return c.Open(ctx)
		case wait == nil:
			if c, err = p.dial(ctx, target); err != nil {
				return nil, err
			}
			return c.Open(ctx)
		}
		timeout := time.NewTimer(p.cfg.DialTimeout)
		select {
		case <-wait:
			timeout.Stop()
		case <-ctx.Done():
			timeout.Stop()
			return nil, ctx.Err()
		case <-timeout.C:
			return nil, fmt.Errorf("no connection within %v", p.cfg.DialTimeout)
		}
	}
}

// choose returns a connection to use, or what to wait for, or neither: then the caller dials,
// and must.
func (p *Pool) choose(target string) (*ClientConn, chan struct{}, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, nil, ErrPoolClosed
	}
	t := p.targets[target]
	if t == nil {
		t = &poolTarget{}
		p.targets[target] = t
	}
	var best *ClientConn
	fewest, kept := 0, t.conns[:0]
	for _, c := range t.conns {
		n, usable := c.load()
		if !usable {
			p.leave(c)
			continue
		}
		kept = append(kept, c)
		if best == nil || n < fewest {
			best, fewest = c, n
		}
	}
	clear(t.conns[len(kept):])
	t.conns = kept
	switch {
	case best != nil && (fewest < p.cfg.StreamsMax || len(t.conns) >= p.cfg.PerTargetMax || t.dialing != nil):
		return best, nil, nil
	case t.dialing != nil:
		return nil, t.dialing, nil
	}
	t.dialing = make(chan struct{})
	p.dials.Add(1)
	return nil, nil, nil
}

// leave keeps sight of a connection until its streams have ended. mu is held.
func (p *Pool) leave(c *ClientConn) {
	c.Drain()
	p.leaving = append(p.leaving, c)
	p.forget()
}

// forget drops the connections that have ended. mu is held.
func (p *Pool) forget() {
	kept := p.leaving[:0]
	for _, c := range p.leaving {
		select {
		case <-c.Done():
		default:
			kept = append(kept, c)
		}
	}
	clear(p.leaving[len(kept):])
	p.leaving = kept
}

// dial makes the connection that choose asked for.
func (p *Pool) dial(ctx context.Context, target string) (*ClientConn, error) {
	defer p.dials.Done()
	ctx, cancel := context.WithTimeout(ctx, p.cfg.DialTimeout)
	defer cancel()
	defer context.AfterFunc(p.stop, cancel)()
	nc, err := p.cfg.Dial(ctx, target)
	var c *ClientConn
	if err == nil {
		c, err = NewClientConn(nc, p.cfg.Conn)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.targets[target]
	close(t.dialing)
	t.dialing = nil
	switch {
	case err != nil:
		if len(t.conns) == 0 {
			delete(p.targets, target)
		}
		return nil, err
	case p.closed:
		p.leave(c)
		return nil, ErrPoolClosed
	}
	t.conns = append(t.conns, c)
	return c, nil
}

// Sweep drains every connection that has had no stream for IdleTimeout.
func (p *Pool) Sweep() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	for name, t := range p.targets {
		kept := t.conns[:0]
		for _, c := range t.conns {
			n, usable := c.load()
			if usable && (n > 0 || now-c.LastRead() < int64(p.cfg.IdleTimeout)) {
				kept = append(kept, c)
				continue
			}
			p.leave(c)
		}
		clear(t.conns[len(kept):])
		t.conns = kept
		if len(kept) == 0 && t.dialing == nil {
			delete(p.targets, name)
		}
	}
	p.forget()
}

// Conns counts the connections that take streams, for metrics.
func (p *Pool) Conns() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, t := range p.targets {
		n += len(t.conns)
	}
	return n
}

// Run sweeps twice an IdleTimeout until ctx ends.
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

// Close refuses further Gets, lets streams end, and returns when every connection has ended.
// When ctx ends first the connections are closed under their streams, which then fail.
func (p *Pool) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	for name, t := range p.targets {
		for _, c := range t.conns {
			p.leave(c)
		}
		t.conns = nil
		if t.dialing == nil {
			delete(p.targets, name)
		}
	}
	p.mu.Unlock()
	p.cancel()
	p.dials.Wait()
	p.mu.Lock()
	leaving := p.leaving
	p.leaving = nil
	p.mu.Unlock()
	var errs []error
	for _, c := range leaving {
		select {
		case <-c.Done():
		case <-ctx.Done():
			errs = append(errs, ctx.Err())
		}
		errs = append(errs, c.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close the pool: %w", err)
	}
	return nil
}

// load counts what InFlight does, and says whether the connection takes another stream.
func (c *ClientConn) load() (streams int, usable bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.held + len(c.waiting), c.cannotOpen() == nil
}

// tryOpen is Open if that need not wait; nil otherwise.
func (c *ClientConn) tryOpen() message.Stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cannotOpen() != nil || c.held >= c.limit() || len(c.waiting) > 0 {
		return nil
	}
	c.held++
	return c.takeStream()
}
