package tunnel

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/socket"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

const (
	// lookEvery is how often connections with streams are looked at for silence.
	lookEvery = 100 * time.Millisecond
	// pingEvery is how often a connection on which bytes arrive is asked nevertheless: the other
	// direction may be dead.
	pingEvery = time.Second
	// deafAfter is how long a PING may go unanswered while other bytes arrive, beyond what silence
	// may last: it may stand behind much else.
	deafAfter = 3 * time.Second
	// calmPings is after how many PINGs without a new stream the pause between them doubles, up
	// to quietMax: for streams that idle for hours.
	calmPings = 8
	quietMax  = 3 * time.Second
	// starved is how late a look comes when we ourselves have been stopped or starved: what happened meanwhile
	// is no evidence, and silence is measured anew, until a PING is older than graceMax.
	starved  = 25 * time.Millisecond
	graceMax = 3 * time.Second
	// acknowledged is how long a peer may be silent, beyond a round trip, whose kernel has acknowledged all
	// that we have sent, or says that its queue is full: the path lives, and it is a process that is stopped or
	// does not get to run. While more of what we have sent is acknowledged, bodiesMax: that may be a slow path,
	// or the queue of a stopped process that fills.
	acknowledged = time.Second
)

// Run looks after the connections until ctx ends, then closes them: silent ones are closed, idle
// ones drained, and all are judged again when trust changes.
func (d *Dialer) Run(ctx context.Context) error {
	defer d.close()
	_, changed := d.cfg.Source.Watch()
	sweep := time.NewTicker(d.cfg.IdleTimeout / 4)
	defer sweep.Stop()
	look := time.NewTimer(lookEvery)
	defer look.Stop()
	due := d.cfg.Now().Add(lookEvery)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
			var m trust.Material
			m, changed = d.cfg.Source.Watch()
			d.each(func(c *conn) { d.rejudge(c, m) })
			continue
		case <-sweep.C:
			d.sweep()
			continue
		case <-d.wake: // the timer had fired and was not set again
			due = d.cfg.Now().Add(lookEvery)
			look.Reset(lookEvery)
			continue
		case <-look.C:
		}
		now := d.cfg.Now()
		if next := d.look(now.Sub(due) > starved); next > 0 {
			due = now.Add(next)
			look.Reset(next)
		}
	}
}

// watch notes that a stream was opened on c. The caller holds mu.
func (d *Dialer) watch(c *conn, wall time.Time, now int64) {
	c.lastUsed, c.calm = wall, 0
	if c.watched {
		return
	}
	c.watched, c.needed = true, now
	d.watched = append(d.watched, c)
	if now-max(c.LastRead(), c.socket.at.Load()) > int64(c.rtt.answer()) {
		d.ask(c, now) // it may have died while nobody looked
	}
	if len(d.watched) == 1 {
		select {
		case d.wake <- struct{}{}:
		default:
		}
	}
}

// look judges the watched connections and returns when to look again, 0 if there are
// none. late says that this look comes later than it should: then what a peer has sent may
// lie unread, and silence proves nothing.
func (d *Dialer) look(late bool) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	now, next := d.nanos(), lookEvery
	d.watched = slices.DeleteFunc(d.watched, func(c *conn) bool {
		if c.done() || c.InFlight() == 0 && !c.pinging {
			if d.withdrawn(c) { // made while its gateway was withdrawn, for who waited: nobody asks for that gateway again
				c.Drain()
			}
			c.watched = false
			return true
		}
		if late && c.pinging && now-c.began < int64(graceMax) {
			c.asked, c.needed = now, now
		}
		next = min(next, d.judge(c, now))
		return false
	})
	if len(d.watched) == 0 {
		return 0
	}
	return max(next, time.Millisecond)
}

// judge asks a quiet connection whether it lives, cuts a silent one, and returns when to
// look again at the latest.
func (d *Dialer) judge(c *conn, now int64) time.Duration {
	read := max(c.LastRead(), c.socket.at.Load())
	quiet := time.Duration(now - max(read, c.needed))
	if !c.pinging {
		pause := min(c.rtt.answer()<<min(c.calm/calmPings, 8), max(quietMax, c.rtt.answer()))
		if quiet >= pause || time.Duration(now-c.answered) >= max(pause, pingEvery) {
			d.ask(c, now)
			return lookEvery
		}
		return pause - quiet
	}
	out := time.Duration(now-c.asked) - c.draining()
	if read >= c.asked { // bytes arrive, but no answer
		out = min(out, time.Duration(now-c.arrived.at.Load())) // what we send arrives, and the answer will
		if out >= c.rtt.silence()+deafAfter && c.wire.queued(now) == 0 && !c.behindBulk(now) {
			d.cutSilent(c, out)
		}
		return lookEvery
	}
	if left := max(c.rtt.silence()+c.draining()-quiet, c.rtt.answer()-out); left > 0 {
		return left
	}
	if left := c.excused(now, quiet); left > 0 {
		return left
	}
	d.cutSilent(c, time.Duration(now-read))
	return lookEvery
}

// behindBulk reports whether the answer to the PING may stand behind bulk. Small messages that came together because
// we were late to read them are none: a link that bulk fills is not as slow.
func (c *conn) behindBulk(now int64) bool {
	bulk := c.socket.big.Load()
	return bulk <= aheadMax && time.Duration(bulk)*time.Second/slowestBulk >= time.Duration(now-c.began)
}

// excused is how much longer a connection may be silent for what its socket shows: something has come and it is
// we who do not get to read it, or the peer's kernel lives.
func (c *conn) excused(now int64, quiet time.Duration) time.Duration {
	unread, unacknowledged, ok := socket.Queues(c.socket.Conn)
	switch {
	case !ok:
		return 0
	case unread > 0 && now-c.began < int64(graceMax):
		return starved
	}
	acks, ok := socket.Acknowledged(c.socket.Conn)
	if !ok {
		return 0
	}
	if acks.Bytes > c.acked {
		c.acked, c.moved = acks.Bytes, now
	}
	most, again := acknowledged, lookEvery
	if unacknowledged > 0 {
		if c.moved > 0 && time.Duration(now-c.moved) < c.rtt.silence() {
			most = bodiesMax
		}
		if acks.Owed { // where that is not acknowledged the path is dead, or the host
			again = min(again, c.rtt.silence()-acks.Quiet)
		}
	}
	return min(c.rtt.srtt+most-quiet, again)
}

// draining is how long what was sent may take to reach the peer, and a PING behind it.
// That something was read meanwhile does not prove that later bodies have arrived: their window tells.
func (c *conn) draining() time.Duration {
	out := min(time.Duration(c.Unacknowledged())*time.Second/slowestLink, bodiesMax)
	if come := c.arrived.most.Load(); come > 0 { // the server says: no need to guess from what was read
		return max(out, min(time.Duration(c.socket.sent.Load()-int64(come))*time.Second/slowestLink, queueMax))
	}
	return max(out, c.wire.draining())
}

// ask sends a PING, whose goroutine ends with the answer or the connection. The caller holds mu,
// and the dialer is not closed.
func (d *Dialer) ask(c *conn, now int64) {
	c.pinging, c.asked, c.began = true, now, now
	c.socket.big.Store(0)
	acks, _ := socket.Acknowledged(c.socket.Conn)
	c.acked, c.moved = acks.Bytes, 0
	c.calm++
	d.work.Go(func() {
		rtt, err := c.Ping(d.ctx)
		d.mu.Lock()
		defer d.mu.Unlock()
		c.pinging = false
		if err == nil {
			c.rtt.add(rtt)
			c.answered = d.nanos()
		}
	})
}

func (d *Dialer) cutSilent(c *conn, silent time.Duration) {
	d.cfg.Log.Warn("a connection is closed: its peer has been silent", "server", c.name, "remote", c.wire.RemoteAddr().String(), "silent", silent, "rtt", c.rtt.srtt)
	d.cut(c, fmt.Errorf("%w for %s", ErrSilent, silent.Round(time.Millisecond)))
}

// cut ends a connection at once: its streams fail, and are tried elsewhere where that is
// allowed. The caller holds mu, and the dialer's work is not over.
func (d *Dialer) cut(c *conn, cause error) {
	c.wire.cut(cause)
	d.work.Go(func() {
		<-c.Done() // by the cause, not by Close
		c.Close()
	})
}

// each calls f for every connection that lives and forgets those that do not.
func (d *Dialer) each(f func(*conn)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.cfg.Now()
	for k, t := range d.targets {
		t.live()
		if len(t.conns) == 0 && t.attempt == nil && !now.Before(t.until) {
			delete(d.targets, k)
		}
		for _, c := range t.conns {
			f(c)
		}
	}
	for a, until := range d.avoid {
		if now.After(until) {
			delete(d.avoid, a)
		}
	}
}

// SetGateways tells which gateways lead to the clusters of a trust domain now. Connections that one
// passes which is not among them take no further streams and end when theirs have: it is
// leaving, cannot say so on what it cannot read, and will cut what is left when its patience ends. None
// is no news: there is nothing to move to. The slice is kept, and must not change.
func (d *Dialer) SetGateways(td mesh.TrustDomain, now []netip.AddrPort) {
	if len(now) == 0 {
		return
	}
	d.mu.Lock()
	same := slices.Equal(d.gateways[td], now)
	d.gateways[td] = now
	d.mu.Unlock()
	if same {
		return
	}
	d.each(func(c *conn) {
		if d.withdrawn(c) {
			c.Drain()
		}
	})
}

// withdrawn reports whether a connection passes through a gateway that is none any more. The caller
// holds mu.
func (d *Dialer) withdrawn(c *conn) bool {
	if !c.gateway.IsValid() {
		return false
	}
	now := d.gateways[c.by]
	return len(now) > 0 && !slices.Contains(now, c.gateway)
}

// sweep drains what has been idle too long, whose certificates have ended, or whose gateway is leaving.
func (d *Dialer) sweep() {
	now, nanos := d.cfg.Now(), d.nanos()
	d.each(func(c *conn) {
		idle := c.InFlight() == 0 && now.Sub(c.lastUsed) > d.cfg.IdleTimeout && time.Duration(nanos-c.LastRead()) > d.cfg.IdleTimeout
		if idle || !now.Before(c.endsAt) || d.withdrawn(c) {
			c.Drain()
		}
	})
}

// rejudge holds a live connection against new trust: after a new certificate of our own it
// is replaced gently, when it is used next; a peer that is trusted no more is cut off. The
// caller holds mu.
func (d *Dialer) rejudge(c *conn, m trust.Material) {
	now := d.cfg.Now()
	if err := expelled(m.Bundles, c.chain, now, c.accept); err != nil {
		d.cfg.Log.Warn("a connection is cut: its peer is no longer trusted", "server", c.name, "error", err)
		d.cut(c, fmt.Errorf("%w: %w", errExpelled, err))
		return
	}
	if m.SVID != c.material.SVID {
		c.wornAt = earlier(c.wornAt, now)
	}
}

func (d *Dialer) close() {
	d.mu.Lock()
	d.closed = true
	d.stop()
	for _, t := range d.targets {
		for _, c := range t.conns {
			d.work.Go(func() {
				// A goodbye, but not for longer than a moment.
				t := time.AfterFunc(time.Second, func() { c.wire.cut(errStopping) })
				defer t.Stop()
				c.Close()
			})
		}
	}
	d.mu.Unlock()
	d.work.Wait()
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
	d.each(func(c *conn) { out = append(out, ConnInfo{c.name, c.InFlight(), c.rtt.srtt}) })
	return out
}
