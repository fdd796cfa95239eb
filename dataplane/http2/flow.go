package http2

import "sync"

// bucket is the token bucket of a connection (RFC 9113 §10.5). Every control frame, every
// reset whoever causes it, every empty frame and every header block of more than one
// frame takes a token. Time refills it, and so does work that the peer could not
// have had for nothing: a stream that ended in order, a DATA frame with octets in it. So an honest
// peer that answers each DATA frame by WINDOW_UPDATE and PING never runs dry, and one
// that only resets does at once.
type bucket struct {
	tokens, burst, rate float64 // rate a nanosecond
	last                int64
	spent, earned       float64 // since the connection began
}

func newBucket(rate, burst int, now int64) bucket {
	return bucket{tokens: float64(burst), burst: float64(burst), rate: float64(rate) / 1e9, last: now}
}

// spend takes n tokens and reports whether they were there.
func (b *bucket) spend(n float64, now int64) bool {
	b.tokens = min(b.burst, b.tokens+float64(now-b.last)*b.rate)
	b.last = now
	b.tokens -= n
	b.spent += n
	return b.tokens >= 0
}

func (b *bucket) earn(n float64) {
	b.tokens = min(b.burst, b.tokens+n)
	b.earned += n
}

// What work earns and costs, in tokens.
const (
	// costWaste is a request that its client breaks off while we work for it: the application has
	// been asked, and its connection goes with the request (CVE-2023-44487, CVE-2025-8671). With the
	// default budget a client proxy may break off 400 at once, more than may be open at once.
	costWaste = 5
	// wasteWithin is the age, in nanoseconds, up to which a request costs that much: whoever breaks off what is older had
	// waited for it, as a client of an overloaded application does, and is bounded by how many may be open.
	wasteWithin = 500e6
	// abuseOver is how many more tokens than it earned a peer must have used for what it did to be abuse: more than one
	// field section that is too long in as many frames as an honest encoder makes of it.
	abuseOver     = 8
	earnStream    = 2         // ended in order: its WINDOW_UPDATE and a PING
	earnFrame     = 1         // a DATA frame with octets
	earnOctet     = 1.0 / 512 // of DATA sent
	earnFrameSent = 512       // octets below which a DATA frame that the peer's window cut earns nothing: it would pay for the dribble it causes
)

// bdp measures the product of bandwidth and delay: octets of DATA that arrive between a
// PING and its acknowledgement.
type bdp struct {
	out     bool
	bytes   int
	backoff int // samples to skip after one that did not grow the window
	skip    int
}

// start reports whether a sample should begin now.
func (b *bdp) start() bool {
	if b.out {
		return false
	}
	if b.skip > 0 {
		b.skip--
		return false
	}
	b.out, b.bytes = true, 0
	return true
}

// end takes the acknowledgement and returns the window to have. A sample begins when half of
// the window is given back; so if the other half, or nearly, arrives before the
// acknowledgement, the window was the limit.
func (b *bdp) end(window, windowMax int) int {
	b.out = false
	if 5*b.bytes < 2*window {
		b.backoff = min(2*b.backoff+1, 255)
		b.skip = b.backoff
		return window
	}
	b.backoff = 0
	return min(2*max(b.bytes, window), windowMax)
}

// chunk is a piece of a body that nobody has read yet.
type chunk struct {
	next *chunk
	b    []byte // its storage
	r, w int
}

const (
	chunkSmall = 1 << 10
	chunkLarge = 16 << 10
)

// Chunks are shared by all connections: they outlive none of them.
var (
	smallChunks = sync.Pool{New: func() any { return &chunk{b: make([]byte, chunkSmall)} }}
	largeChunks = sync.Pool{New: func() any { return &chunk{b: make([]byte, chunkLarge)} }}
)

func newChunk(n int) *chunk {
	if n <= chunkSmall {
		return smallChunks.Get().(*chunk)
	}
	return largeChunks.Get().(*chunk)
}

func (k *chunk) free() {
	k.next, k.r, k.w = nil, 0, 0
	if len(k.b) == chunkSmall {
		smallChunks.Put(k)
	} else {
		largeChunks.Put(k)
	}
}

// queue is the unread body of a stream.
type queue struct {
	first, last *chunk
	n           int
}

func (q *queue) push(p []byte) {
	q.n += len(p)
	for len(p) > 0 {
		if q.last == nil || q.last.w == len(q.last.b) {
			// A stream that has something queued will have more: do not dribble.
			size := len(p)
			if q.last != nil {
				size = chunkLarge
			}
			k := newChunk(size)
			if q.last == nil {
				q.first = k
			} else {
				q.last.next = k
			}
			q.last = k
		}
		n := copy(q.last.b[q.last.w:], p)
		q.last.w += n
		p = p[n:]
	}
}

func (q *queue) pop(p []byte) (n int) {
	for n < len(p) && q.first != nil {
		k := q.first
		m := copy(p[n:], k.b[k.r:k.w])
		k.r += m
		n += m
		if k.r == k.w {
			if q.first = k.next; q.first == nil {
				q.last = nil
			}
			k.free()
		}
	}
	q.n -= n
	return n
}

func (q *queue) drop() {
	for k := q.first; k != nil; {
		next := k.next
		k.free()
		k = next
	}
	*q = queue{}
}

// streamTable finds streams by identifier: chains over buckets, which sequential
// identifiers fill evenly. It allocates only to grow.
type streamTable struct {
	buckets []*stream
	n       int
}

func (t *streamTable) get(id uint32) *stream {
	if t.n == 0 {
		return nil
	}
	s := t.buckets[int(id>>1)&(len(t.buckets)-1)]
	for s != nil && s.id != id {
		s = s.next
	}
	return s
}

func (t *streamTable) put(s *stream) {
	if t.n >= len(t.buckets) {
		old := t.buckets
		t.buckets = make([]*stream, max(16, 2*len(old)))
		for _, s := range old {
			for s != nil {
				next := s.next
				t.link(s)
				s = next
			}
		}
	}
	t.link(s)
	t.n++
}

func (t *streamTable) link(s *stream) {
	b := &t.buckets[int(s.id>>1)&(len(t.buckets)-1)]
	s.next, *b = *b, s
}

func (t *streamTable) remove(s *stream) {
	at := &t.buckets[int(s.id>>1)&(len(t.buckets)-1)]
	for *at != s {
		at = &(*at).next
	}
	*at, s.next = s.next, nil
	t.n--
}

// each calls f for every stream; f may remove that stream.
func (t *streamTable) each(f func(*stream)) {
	for _, s := range t.buckets {
		for s != nil {
			next := s.next
			f(s)
			s = next
		}
	}
}

// waitList is a queue of streams whose writers wait for something the connection has.
type waitList struct{ first, last *stream }

func (l *waitList) push(s *stream) {
	s.waitIn, s.waitPrev, s.waitNext = l, l.last, nil
	if l.last == nil {
		l.first = s
	} else {
		l.last.waitNext = s
	}
	l.last = s
}

func (l *waitList) remove(s *stream) {
	if s.waitIn != l {
		return
	}
	if s.waitPrev == nil {
		l.first = s.waitNext
	} else {
		s.waitPrev.waitNext = s.waitNext
	}
	if s.waitNext == nil {
		l.last = s.waitPrev
	} else {
		s.waitNext.waitPrev = s.waitPrev
	}
	s.waitIn, s.waitPrev, s.waitNext = nil, nil, nil
}

// wakeOne takes the first stream out and wakes its writer.
func (l *waitList) wakeOne() {
	if s := l.first; s != nil {
		l.remove(s)
		s.wcond.Signal()
	}
}
