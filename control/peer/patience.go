package peer

import (
	"net/netip"
	"sync"
	"time"
)

// Patience is how long connections to each address may take to be made: at first dialTimeout, and more where more was seen to
// be needed: by the path's round trips, by how long the last one took, or by a peer that had begun to answer and was not done in time. One
// that says nothing gets no more: a longer attempt would be later than the next one when the path heals. The zero Patience has
// seen nothing; so has a nil one, for good. It is safe for concurrent use.
type Patience struct {
	mu sync.Mutex
	of map[netip.AddrPort]time.Duration
}

const (
	// patienceMax is the most that is waited: eight round trips of a second, with what a machine that is busy adds.
	patienceMax = 15 * time.Second
	// patienceTimes is how much longer than the last time the next may take, patienceTrips how many of the path's round trips: TCP's, that
	// of TLS 1.3, and as many in reserve.
	patienceTimes = 3
	patienceTrips = 4
	// addressesMax bounds what is remembered; who dials more addresses begins anew.
	addressesMax = 1024
)

// at is that of an address.
func (p *Patience) at(a netip.AddrPort) time.Duration {
	if p == nil {
		return dialTimeout
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(p.of[a], dialTimeout)
}

// made notes that a connection was made, and in what time.
func (p *Patience) made(a netip.AddrPort, took time.Duration) { p.set(a, patienceTimes*took) }

// Path notes how long a round trip to an address takes; 0 is not known.
func (p *Patience) Path(a netip.AddrPort, rtt time.Duration) {
	if d := patienceTrips * rtt; d > p.at(a) {
		p.set(a, d)
	}
}

// late notes that one had begun to answer and was not done in the time it had.
func (p *Patience) late(a netip.AddrPort, had time.Duration) { p.set(a, 2*had) }

func (p *Patience) set(a netip.AddrPort, d time.Duration) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if d <= dialTimeout {
		delete(p.of, a)
		return
	}
	if p.of == nil || len(p.of) >= addressesMax {
		p.of = map[netip.AddrPort]time.Duration{}
	}
	p.of[a] = min(d, patienceMax)
}
