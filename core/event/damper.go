package event

import "time"

// Bounds of what is written down of one kind and subject: so many at once, and one each refill in the long run. The fastest
// that a path may change is 150 times an hour (core/liveness), which passes.
const (
	burst  = 12
	refill = 20 * time.Second
	// subjectsMax bounds those that are remembered; beyond, whoever is new is written down undamped: the ring is bounded too.
	subjectsMax = 4096
)

// Damper holds back events that come too fast, so that one thing that wavers does not push all others out of the ring. The
// zero Damper is ready. It is not safe for concurrent use.
type Damper struct {
	buckets map[subject]*bucket
	swept   time.Time
}

type subject struct {
	kind Kind
	name string
}

// bucket is what one subject may still write.
type bucket struct {
	tokens float64
	at     time.Time
	held   int
}

// Pass reports whether e may be written down, and notes in it how many before it were not.
func (d *Damper) Pass(e *Event) bool {
	k := subject{e.Kind, e.Subject}
	b := d.buckets[k]
	if b == nil {
		if d.buckets == nil {
			d.buckets = map[subject]*bucket{}
		}
		if len(d.buckets) >= subjectsMax && e.Time.Sub(d.swept) >= time.Second { // it looks at all
			d.sweep(e.Time)
		}
		if len(d.buckets) >= subjectsMax {
			return true
		}
		b = &bucket{tokens: burst, at: e.Time}
		d.buckets[k] = b
	}
	b.fill(e.Time)
	if b.tokens < 1 {
		b.held++
		return false
	}
	b.tokens--
	e.Unwritten, b.held = b.held, 0
	return true
}

func (b *bucket) fill(now time.Time) {
	b.tokens = min(burst, b.tokens+max(0, now.Sub(b.at).Seconds())/refill.Seconds())
	b.at = now
}

// sweep forgets who could write as much as anybody new.
func (d *Damper) sweep(now time.Time) {
	d.swept = now
	for k, b := range d.buckets {
		if b.fill(now); b.tokens >= burst && b.held == 0 {
			delete(d.buckets, k)
		}
	}
}
