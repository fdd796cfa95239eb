package tunnel

import (
	"crypto/x509"
	"net/netip"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/http2"
	"github.com/isthmus-mesh/isthmus/dataplane/socket"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

// conn is one connection and what is needed to judge it again. What changes is guarded by
// Dialer.mu.
type conn struct {
	*http2.ClientConn
	wire    *wire
	socket  *heard
	arrived *arrivals
	chain   []*x509.Certificate
	peer    mesh.Identity
	name    string // the server name asked for
	// gateway is the one that passes it, and by is its trust domain; invalid where the server is reached directly.
	gateway  netip.AddrPort
	by       mesh.TrustDomain
	accept   trust.Accept
	material trust.Material // of the handshake
	endsAt   time.Time      // when the first of both certificates does

	wornAt   time.Time // from then on another is made in its place as soon as it is used
	lastUsed time.Time
	rtt      estimate

	queueSeen int64 // when the kernel was asked for its send queue, in nanoseconds of Dialer.nanos; 0 never
	waits     bool  // something waited there

	// Silence, in nanoseconds of Dialer.nanos; see watch.
	watched  bool
	needed   int64 // since when it carries streams
	pinging  bool
	began    int64  // when the last PING was sent
	asked    int64  // since when its answer is waited for, which a stop of our own sets anew
	answered int64  // when the last PING was answered
	acked    uint64 // bytes that the peer's kernel had acknowledged at the last PING or look
	moved    int64  // when a look last found more of them than the one before, since the last PING; 0 none has
	calm     int    // PINGs since the last stream was opened
}

// lives sets the ends of a connection by both certificates: it is replaced when a quarter of
// either life is left, long after a peer that can renew has renewed. If a peer has not, another
// connection would be no better.
func (c *conn) lives(now time.Time, certs ...*x509.Certificate) {
	for _, x := range certs {
		c.endsAt = earlier(c.endsAt, x.NotAfter)
	}
	c.wornAt = c.endsAt
	for _, x := range certs {
		if old := x.NotAfter.Add(-x.NotAfter.Sub(x.NotBefore) / 4); old.After(now) {
			c.wornAt = earlier(c.wornAt, old)
		}
	}
}

// earlier is the earlier time that is not zero.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

func (c *conn) worn(now time.Time) bool { return !now.Before(c.wornAt) }

func (c *conn) done() bool {
	select {
	case <-c.Done():
		return true
	default:
		return false
	}
}

// congested is from when on a connection's send queue is too long for another stream: it
// has not been empty for a round trip. The time that writes take is a hint only: a proxy that did not get to run
// has slow writes as well, and would answer that by making connections, which costs it the more. The kernel
// says whether something waits, and is asked every lookQueue at most. The caller holds Dialer.mu.
func (c *conn) congested(now int64) bool {
	if c.wire.queued(now) <= max(c.rtt.srtt, 50*time.Millisecond) {
		return false
	}
	if c.queueSeen == 0 || now-c.queueSeen >= int64(lookQueue) {
		unsent, ok := socket.Unsent(c.socket.Conn)
		c.queueSeen, c.waits = now, unsent > 0 || !ok
	}
	return c.waits
}

// lookQueue is how long what the kernel said of a send queue is believed.
const lookQueue = 10 * time.Millisecond

// target is the connections to one place. Its fields are guarded by Dialer.mu.
type target struct {
	conns    []*conn
	attempt  *attempt
	failed   error // of the last attempt
	until    time.Time
	besideAt time.Time
}

// Handicaps, in streams, by which connections are compared.
const (
	handicapBusy = 1 << 16
	handicapWorn = 1 << 24
)

// choose is the connection for another stream, nil if there is none, and whether there had
// better be one more. The first one that has room is taken rather than the emptiest: requests that share
// a connection share writes, and those made in a rush fall idle again.
func (t *target) choose(w *Want, wall time.Time, now int64) (best *conn, more bool) {
	least := 0
	for _, c := range t.conns {
		if !c.Usable() || !slices.Contains(w.Identities, c.peer) {
			continue
		}
		if !wall.Before(c.endsAt) {
			c.Drain()
			continue
		}
		n := c.InFlight()
		if n >= busyStreams || c.congested(now) {
			n += handicapBusy
		}
		if c.worn(wall) {
			n += handicapWorn
		}
		if n < busyStreams {
			return c, false
		}
		if best == nil || n < least {
			best, least = c, n
		}
	}
	return best, best != nil
}

// live counts the connections that are neither worn nor at their end, and forgets those
// that have ended.
func (t *target) live() int {
	t.conns = slices.DeleteFunc(t.conns, (*conn).done)
	n := 0
	for _, c := range t.conns {
		if c.Usable() {
			n++
		}
	}
	return n
}
