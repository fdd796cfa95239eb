package door

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// Peer is whom an offence is remembered of: an identity at an address, or, where none was proved, the
// address. The identity alone would hold all workloads of a service account to account for one of them, the address
// alone everybody behind a gateway. Of IPv6 a peer is a network of 64 bits, which is what one host commands (RFC 4291 §2.5.4).
type Peer struct {
	Identity mesh.Identity
	Addr     netip.Addr
}

// PeerOf is the peer at the other end of a connection.
func PeerOf(c net.Conn, id mesh.Identity) Peer { return Peer{id, network(addressOf(c))} }

// network is the address, or the network of one in IPv6.
func network(a netip.Addr) netip.Addr {
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return a
}

const (
	// backOff is how long a peer is turned away after its first offence; each further one doubles that, up to
	// backOffMost: less than the time in which a mesh must have recovered from whatever it was.
	backOff     = time.Second
	backOffMost = 4 * time.Second
	// forgetAfter is how long a peer must have been in order for one offence to be forgotten.
	forgetAfter = 30 * time.Second
	// recordsMax bounds each table of peers. The one that would be forgotten first gives way to a new one.
	recordsMax = 4096
)

// Offences remembers, over connections, which peers had theirs ended for abuse: while a peer is turned away a
// new connection of it costs no more than to learn who it is. What is in order already goes on: the
// back-off concerns new connections only. It is safe for concurrent use; the zero value with Now is ready, and nil
// remembers nothing.
type Offences struct {
	Now func() time.Time

	turned atomic.Int64
	mu     sync.Mutex
	of     table[Peer, offender]
}

type offender struct {
	strikes int
	until   time.Time
}

// Note remembers an offence and returns for how long its peer is turned away.
func (o *Offences) Note(p Peer) time.Duration {
	if o == nil {
		return 0
	}
	now := o.Now()
	o.mu.Lock()
	defer o.mu.Unlock()
	r := o.of.get(p)
	if quiet := now.Sub(r.until); quiet > 0 {
		r.strikes = max(0, r.strikes-int(quiet/forgetAfter))
	}
	wait := min(backOffMost, backOff<<min(r.strikes, 8))
	r.strikes++
	r.until = now.Add(wait)
	o.of.put(p, r, r.until.Add(time.Duration(r.strikes)*forgetAfter), now)
	return wait
}

// Left is for how long a new connection of the peer is still turned away; 0 not at all. What it turns
// away is counted.
func (o *Offences) Left(p Peer) time.Duration {
	if o == nil {
		return 0
	}
	o.mu.Lock()
	r, ok := o.of.peek(p)
	o.mu.Unlock()
	if !ok {
		return 0
	}
	left := r.until.Sub(o.Now())
	if left <= 0 {
		return 0
	}
	o.turned.Add(1)
	return left
}

// Turned counts the connections that were turned away.
func (o *Offences) Turned() int64 {
	if o == nil {
		return 0
	}
	return o.turned.Load()
}

// Allowance bounds what the connections of one address may cost that come to nothing: handshakes that fail, or
// whose peer is turned away. Each takes a token, one that ends well brings one back, and tokens come back with time. So
// who shares an address with many that fail is let in as before while he is among many that do not. It is safe for
// concurrent use; nil bounds nothing.
type Allowance struct {
	mu   sync.Mutex
	left table[netip.Addr, tokens]
}

type tokens struct {
	n    float64
	last time.Time
}

// An address may waste wasteRate handshakes a second, wasteBurst at once. A handshake costs the server 0.5 to 0.9 ms.
const (
	wasteRate  = 50
	wasteBurst = 100
)

// Waste takes a token of the address that c comes from.
func (a *Allowance) Waste(c net.Conn, now time.Time) { a.add(network(addressOf(c)), -1, now) }

// Earn brings one back.
func (a *Allowance) Earn(c net.Conn, now time.Time) { a.add(network(addressOf(c)), 1, now) }

func (a *Allowance) add(from netip.Addr, n float64, now time.Time) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	t, ok := a.left.peek(from)
	if !ok {
		if n > 0 {
			return // nothing was ever wasted
		}
		t = tokens{wasteBurst, now}
	}
	t = t.at(now)
	if t.n += n; t.n >= wasteBurst {
		a.left.drop(from)
		return
	}
	a.left.put(from, t, now.Add(time.Duration((wasteBurst-t.n)/wasteRate*float64(time.Second))), now)
}

// has reports whether the address has a token left.
func (a *Allowance) has(from netip.Addr, now time.Time) bool {
	if a == nil {
		return true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	t, ok := a.left.peek(network(from))
	return !ok || t.at(now).n >= 1
}

func (t tokens) at(now time.Time) tokens {
	return tokens{min(wasteBurst, t.n+now.Sub(t.last).Seconds()*wasteRate), now}
}

// table is a bounded map of what is forgotten in time. The zero value is ready.
type table[K comparable, V any] struct {
	of map[K]kept[V]
}

type kept[V any] struct {
	v   V
	end time.Time // when it may be forgotten
}

// peek returns what is kept under k.
func (t *table[K, V]) peek(k K) (V, bool) {
	r, ok := t.of[k]
	return r.v, ok
}

// get returns it, or the zero value.
func (t *table[K, V]) get(k K) V { return t.of[k].v }

func (t *table[K, V]) drop(k K) { delete(t.of, k) }

// put keeps v under k until end. Where there is no room, of those that are looked at whoever would be forgotten first
// goes: the order in which a map is walked is chance, so that nobody can choose whom he displaces.
func (t *table[K, V]) put(k K, v V, end, now time.Time) {
	const look = 16
	if t.of == nil {
		t.of = map[K]kept[V]{}
	}
	if _, ok := t.of[k]; !ok && len(t.of) >= recordsMax {
		var first K
		var soonest time.Time
		n := 0
		for key, r := range t.of {
			if !now.Before(r.end) {
				delete(t.of, key)
				n = look
			} else if soonest.IsZero() || r.end.Before(soonest) {
				first, soonest = key, r.end
			}
			if n++; n >= look {
				break
			}
		}
		if len(t.of) >= recordsMax {
			delete(t.of, first)
		}
	}
	t.of[k] = kept[V]{v, end}
}
