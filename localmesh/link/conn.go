package link

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// handshakeMax is how long a connection is tried before the caller is told: Linux's tcp_syn_retries of 6, the only
// answer to a SYN that a relay can still give then being a reset.
const handshakeMax = 127 * time.Second

// conn is one relayed connection: two streams and the halves between them.
type conn struct {
	relay   *relay
	forward *forward
	id      uint64
	ctx     context.Context // done when the connection is over
	cancel  context.CancelFunc
	wake    chan struct{} // of the handshake
	halves  [2]half       // by direction
	fins    atomic.Int32

	mu     sync.Mutex
	over   bool
	client stream
	server stream // nil until dialled
}

// run relays until both ends have ended, one was reset, or finish was called.
func (c *conn) run() {
	defer c.finish(true)
	server, err := c.handshake()
	if err != nil {
		if c.ctx.Err() == nil {
			c.forward.failed.add(1)
			c.relay.log.Debug("connection not relayed", "forward", c.forward.cfg.Name, "error", err)
		}
		return
	}
	near := c.forward.cfg.Direction
	far := near.Reverse()
	// The server may speak once the client's ACK, which sets out now, has reached it: heard after one more RTT.
	reply := After(c.relay.now() + c.relay.ways[near].shape().RTT)
	c.halves[near].init(c, near, c.client, server, &c.forward.sent, Flow{})
	c.halves[far].init(c, far, server, c.client, &c.forward.received, reply)
	var wg sync.WaitGroup
	for i := range c.halves {
		wg.Go(c.halves[i].read)
		wg.Go(c.halves[i].write)
	}
	wg.Wait()
}

// handshake carries the SYN over, dials the target and carries the SYN-ACK, or the target's refusal, back.
func (c *conn) handshake() (stream, error) {
	near := c.lane(c.forward.cfg.Direction)
	far := c.lane(c.forward.cfg.Direction.Reverse())
	start := c.relay.now()
	if err := c.cross(near, start); err != nil {
		return nil, fmt.Errorf("carry SYN from %v: %w", c.forward.cfg.Listen, err)
	}
	// A caller that gave up on a long handshake must not have its request delivered after all. Within a second a FIN may
	// be that of a caller that sent all it had to say at once: our kernel told it that it is connected.
	fin, rst := c.client.closed()
	if rst || fin && c.relay.now()-start > near.shape().RTT+rtoInitial {
		return nil, fmt.Errorf("carry SYN from %v: the caller has gone", c.forward.cfg.Listen)
	}
	ctx, cancel := context.WithTimeout(c.ctx, handshakeMax)
	defer cancel()
	server, dialErr := c.forward.dial(ctx)
	if server != nil && !c.adopt(server) {
		return nil, c.ctx.Err()
	}
	if err := c.cross(far, start); err != nil {
		return nil, fmt.Errorf("carry SYN-ACK from %v: %w", c.forward.cfg.Target, err)
	}
	if dialErr != nil {
		return nil, fmt.Errorf("dial %v from %v: %w", c.forward.cfg.Target, c.forward.cfg.Source, dialErr)
	}
	return server, nil
}

// lane is a direction of the link as the connection has it.
func (c *conn) lane(d Direction) *lane { return c.relay.lanes[c.forward.cfg.Traffic][d] }

// cross returns when a handshake segment has crossed the lane. It is sent again, from now, after each cut.
func (c *conn) cross(w *lane, start time.Duration) error {
	var (
		timer waiter
		sent  bool
		due   time.Duration
		heals uint64
	)
	defer timer.stop()
	for {
		left := start + handshakeMax - c.relay.now()
		if left <= 0 {
			return fmt.Errorf("no answer in %v", handshakeMax)
		}
		cond := w.condition()
		if cond.gate == gateCut {
			sent = false
		} else if !sent || heals != cond.heals {
			sent, due, heals = true, w.handshake(), cond.heals
		}
		wait := left
		if sent {
			switch late := due - c.relay.now(); {
			case late > 0:
				wait = min(wait, late)
			case cond.gate == gateOpen:
				return nil
			}
		}
		if !timer.wait(c.ctx, wait, c.wake) {
			return c.ctx.Err()
		}
	}
}

// adopt takes the server's stream into the connection's care, unless the connection is over.
func (c *conn) adopt(server stream) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		server.reset()
		return false
	}
	c.server = server
	return true
}

// finish ends the connection and both streams, by resets or quietly. Only the first call counts.
func (c *conn) finish(reset bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return
	}
	c.over = true
	c.cancel()
	for _, s := range [2]stream{c.client, c.server} {
		switch {
		case s == nil:
		case reset:
			s.reset()
		default:
			s.close()
		}
	}
}

// look makes every goroutine of the connection look at its way again.
func (c *conn) look() {
	wake(c.wake)
	for i := range c.halves {
		wake(c.halves[i].readWake)
		wake(c.halves[i].writeWake)
	}
}
