// Package limit says how fast and how much at once. Its one idea is that a limit is a few
// atomic words and the time is a value: taking costs no lock, no allocation and no goroutine that
// refills anything, and whatever callers do, its memory is what it was made with.
//
// It does not know what is limited, reads no clock, hashes no key and makes nobody wait: the
// caller is told how long it would have to. Read Table first, then Gauge.
package limit

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// Rate is Requests per Per in the long run, of which Burst may come at once. Less than one
// counts as one.
type Rate struct {
	Requests int
	Per      time.Duration
	Burst    int
}

// Table limits many streams of requests, each named by a key, to one Rate each, by the
// generic cell rate algorithm (ITU-T I.371, Annex A.1, virtual scheduling): a stream is its
// theoretical arrival time, when its next request would be due if it kept the rate; a request
// that comes too long before that is refused and leaves no trace. It is safe for concurrent use.
//
// Keys beyond its size evict the stream that is the nearest to having its whole burst again. If
// that one was not there yet the newcomer takes over its debt, so that a caller who makes up
// keys, or one that comes back, is never let through faster than the rate of one key: under such
// an attack strangers in the same set pay for each other, and the limit holds.
type Table struct {
	rate Rate
	// sets of ways entries; an entry is a tag of the key and, in the low timeBits, the
	// theoretical arrival time in units.
	entries []atomic.Uint64
	mask    uint64
	burst   uint64 // tolerance and one interval, in units
}

const (
	// ways is how many entries a key may be in: one cache line.
	ways = 8
	// unitsPerInterval is the precision: a time is counted in so many parts of the interval
	// between two requests at the full rate.
	unitsPerInterval = 1 << 10
	// timeBits of an entry are a time modulo 2^40 units: 2^30 intervals. A stream that is older
	// reads as one that has its whole burst, unless it comes back after almost exactly that
	// long; then it is refused for at most the time that a burst takes.
	timeBits = 40
	timeMask = 1<<timeBits - 1
	// burstMax keeps a debt far below the half of the time's range.
	burstMax = 1 << 24
)

// NewTable returns a table of at least keys entries (and at least one), 8 bytes each.
func NewTable(r Rate, keys int) *Table {
	r.Requests, r.Per, r.Burst = max(r.Requests, 1), max(r.Per, 1), min(max(r.Burst, 1), burstMax)
	r.Requests = int(min(int64(r.Requests), int64(r.Per))) // an interval is at least 1 ns
	sets := 1
	for sets*ways < keys {
		sets *= 2
	}
	t := &Table{rate: r, entries: make([]atomic.Uint64, sets*ways), mask: uint64(sets - 1), burst: uint64(r.Burst) * unitsPerInterval}
	return t
}

// Rate is what the table was made with, within its bounds.
func (t *Table) Rate() Rate { return t.rate }

// Take lets one request of the stream named key through, and returns 0; or how long it
// must wait for the next try to succeed, if nothing else of the stream comes first. key is a
// well-mixed hash; now is nanoseconds of any clock that does not go back.
func (t *Table) Take(key uint64, now int64) time.Duration {
	at := t.units(now)
	set := t.entries[(key&t.mask)*ways:][:ways]
	tag := key >> timeBits << timeBits
	if tag == 0 {
		tag = 1 << timeBits // 0 is an entry that was never used
	}
	for {
		slot, entry, due := find(set, tag, at, t.burst)
		debt := ahead(due, at) // 0: the whole burst is there
		if debt > t.burst {    // read wrongly: it is older than the time's range
			debt = 0
		}
		if debt+unitsPerInterval > t.burst {
			return t.duration(debt + unitsPerInterval - t.burst)
		}
		next := tag | (at+debt+unitsPerInterval)&timeMask
		if set[slot].CompareAndSwap(entry, next) {
			return 0
		}
	}
}

// find returns the entry of the tag; or else the one to evict, which owes least.
func find(set []atomic.Uint64, tag, at, burst uint64) (slot int, entry, due uint64) {
	least := ^uint64(0)
	for i := range set {
		e := set[i].Load()
		if e>>timeBits == tag>>timeBits {
			return i, e, e & timeMask
		}
		debt := uint64(0)
		if e != 0 {
			if debt = ahead(e&timeMask, at); debt > burst {
				debt = 0
			}
		}
		if debt < least {
			slot, entry, least = i, e, debt
		}
	}
	return slot, entry, (at + least) & timeMask
}

// ahead is how far due lies after at, 0 if it does not.
func ahead(due, at uint64) uint64 {
	d := (due - at) & timeMask
	if d >= 1<<(timeBits-1) {
		return 0
	}
	return d
}

// units is a time in units, modulo 2^64: floor(now · Requests · unitsPerInterval / Per),
// exactly, so that no rate drifts.
func (t *Table) units(now int64) uint64 {
	hi, lo := bits.Mul64(uint64(max(now, 0)), uint64(t.rate.Requests)*unitsPerInterval)
	q, _ := bits.Div64(hi%uint64(t.rate.Per), lo, uint64(t.rate.Per))
	return q
}

// duration is units in time, rounded up.
func (t *Table) duration(units uint64) time.Duration {
	hi, lo := bits.Mul64(units, uint64(t.rate.Per))
	of := uint64(t.rate.Requests) * unitsPerInterval
	if hi >= of {
		return 1<<63 - 1
	}
	q, rest := bits.Div64(hi, lo, of)
	if rest > 0 {
		q++
	}
	return time.Duration(q)
}

// Gauge counts what is in progress. The zero value is empty. It is safe for concurrent use.
type Gauge struct{ n atomic.Int64 }

// Enter counts one more unless max are in progress; max 0 is no limit, and then nothing is
// refused. Who entered must Leave.
func (g *Gauge) Enter(max int) bool {
	if n := g.n.Add(1); max > 0 && n > int64(max) {
		g.n.Add(-1)
		return false
	}
	return true
}

// Leave ends what Enter began.
func (g *Gauge) Leave() { g.n.Add(-1) }

// Now is how many are in progress.
func (g *Gauge) Now() int { return int(g.n.Load()) }
