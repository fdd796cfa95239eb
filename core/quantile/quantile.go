// Package quantile knows how long nearly all of many requests take, without keeping them: a histogram whose buckets widen with the
// time, and whose past fades. Nothing is allocated, and nobody waits.
package quantile

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// Latency knows about how long all but the slowest hundredth of a service's requests take
// (the p99): a histogram of buckets a quarter of a power of two wide, whose past fades by halves. The
// zero value knows nothing. It is safe for concurrent use; counts that meet in a race may be lost,
// which moves a quantile less than the width of a bucket does.
type Latency struct {
	counts [latencyBuckets]atomic.Uint32
	total  atomic.Uint32
	p99    atomic.Int64
}

const (
	// latencyBuckets cover a microsecond to 2^31 µs (36 minutes), four to each power of two.
	latencyBuckets = 4 * 32
	// latencyEvery is how many samples lie between two readings, latencyFade how many are kept:
	// at that number all counts are halved.
	latencyEvery, latencyFade = 64, 4096
	// latencyKnown is how many samples it takes to speak of a hundredth.
	latencyKnown = 128
)

// Observe adds how long one request took.
func (l *Latency) Observe(took time.Duration) {
	l.counts[latencyBucket(took)].Add(1)
	n := l.total.Add(1)
	if n%latencyEvery != 0 || n < latencyKnown {
		return
	}
	var sum, above uint32
	for i := range l.counts {
		sum += l.counts[i].Load()
	}
	at := len(l.counts) - 1
	for ; at > 0; at-- {
		if above += l.counts[at].Load(); above*100 > sum {
			break
		}
	}
	l.p99.Store(int64(latencyEnd(at)))
	if n >= latencyFade {
		for i := range l.counts {
			l.counts[i].Store(l.counts[i].Load() / 2)
		}
		l.total.Store(n / 2)
	}
}

// P99 is an upper bound of the 99th percentile, at most a quarter too large; 0 is unknown.
func (l *Latency) P99() time.Duration { return time.Duration(l.p99.Load()) }

func latencyBucket(d time.Duration) int {
	us := uint64(max(d/time.Microsecond, 4))
	log := bits.Len64(us) - 1 // the power of two, and the two digits behind it
	return min(4*log+int(us>>(log-2)&3), latencyBuckets-1)
}

// latencyEnd is where a bucket ends.
func latencyEnd(i int) time.Duration {
	return time.Duration(uint64(5+i%4)<<(i/4)/4) * time.Microsecond
}
