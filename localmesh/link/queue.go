package link

import (
	"sync"
	"time"
)

// blockBytes is the size of a pooled buffer: large enough that bulk costs few system calls, small enough that a
// connection with one small message in flight is cheap.
const blockBytes = 32 << 10

type block [blockBytes]byte

// blockPool lends buffers. A connection with nothing in flight holds none.
type blockPool struct{ pool sync.Pool }

func (p *blockPool) get() *block {
	if b, ok := p.pool.Get().(*block); ok {
		return b
	}
	return new(block)
}

func (p *blockPool) put(b *block) { p.pool.Put(b) }

// kind is what a piece of a stream is.
type kind uint8

const (
	kindData kind = iota
	kindFIN
	kindRST
)

// piece is bytes that were read together, or the end of a stream, with the instant of its arrival.
type piece struct {
	due  time.Duration
	n    int32
	kind kind
}

// queue is the pieces of one direction of one connection that have been sent and not delivered, oldest first, and their
// bytes in a chain of blocks. Small pieces share a block, so the bytes held are those in flight plus less than two blocks.
// Callers serialise its methods; the slice that room returned may be filled meanwhile.
type queue struct {
	pool     *blockPool
	blocks   ring[*block]
	head     int  // first undelivered byte of the first block
	tail     int  // first free byte of the last block
	reserved bool // room was lent and neither filled nor given back
	pieces   ring[piece]
}

// room lends free space of at most max bytes, at least one, until push or unused.
func (q *queue) room(max int) []byte {
	if q.blocks.len() == 0 || q.tail == blockBytes {
		q.blocks.push(q.pool.get())
		q.tail = 0
	}
	q.reserved = true
	return q.blocks.at(q.blocks.len() - 1)[q.tail:min(blockBytes, q.tail+max)]
}

// unused gives back room that was not filled.
func (q *queue) unused() {
	q.reserved = false
	q.trim()
}

// push appends a piece; the n bytes of a data piece stand at the start of the room that was lent.
func (q *queue) push(p piece) {
	if p.kind == kindData { // an RST may come from elsewhere while the reader has its room
		q.tail += int(p.n)
		q.reserved = false
	}
	q.pieces.push(p)
}

// due appends to bufs the bytes of the leading data pieces that arrived by now, at most max of them (or one piece), and
// returns their number, in bytes and in pieces.
func (q *queue) due(now time.Duration, max int, bufs [][]byte) (_ [][]byte, bytes, pieces int) {
	for pieces < q.pieces.len() {
		p := q.pieces.at(pieces)
		if p.kind != kindData || p.due > now || (pieces > 0 && bytes+int(p.n) > max) {
			break
		}
		bytes += int(p.n)
		pieces++
	}
	from := q.head
	for i, left := 0, bytes; left > 0; i++ {
		part := q.blocks.at(i)[from:min(blockBytes, from+left)]
		bufs = append(bufs, part)
		left -= len(part)
		from = 0
	}
	return bufs, bytes, pieces
}

// discard removes the first pieces and their bytes.
func (q *queue) discard(bytes, pieces int) {
	for range pieces {
		q.pieces.pop()
	}
	q.head += bytes
	for q.head >= blockBytes {
		q.pool.put(q.blocks.pop())
		q.head -= blockBytes
	}
	q.trim()
}

// trim returns the last block when it holds nothing.
func (q *queue) trim() {
	if q.pieces.len() == 0 && !q.reserved {
		q.release()
	}
}

// release drops everything. Lent room is left to the garbage collector, since its borrower may be writing to it.
func (q *queue) release() {
	for q.blocks.len() > 0 {
		b := q.blocks.pop()
		if q.blocks.len() > 0 || !q.reserved {
			q.pool.put(b)
		}
	}
	for q.pieces.len() > 0 {
		q.pieces.pop()
	}
	q.head, q.tail, q.reserved = 0, 0, false
}

// ring is a first-in first-out queue that reuses its memory and gives it back when it has grown large and is empty. Its
// bound is its user's.
type ring[T any] struct {
	items []T
	first int
	n     int
}

const ringKeep = 64

func (r *ring[T]) len() int { return r.n }

func (r *ring[T]) at(i int) T { return *r.ref(i) }

// ref returns the i-th item in place; it is valid until the next push.
func (r *ring[T]) ref(i int) *T { return &r.items[(r.first+i)&(len(r.items)-1)] }

func (r *ring[T]) push(v T) {
	if r.n == len(r.items) {
		grown := make([]T, max(4, 2*r.n))
		for i := range r.n {
			grown[i] = r.at(i)
		}
		r.items, r.first = grown, 0
	}
	r.items[(r.first+r.n)&(len(r.items)-1)] = v
	r.n++
}

func (r *ring[T]) pop() T {
	v := r.at(0)
	var zero T
	*r.ref(0) = zero
	r.first = (r.first + 1) & (len(r.items) - 1)
	r.n--
	if r.n == 0 {
		r.first = 0
		if len(r.items) > ringKeep {
			r.items = nil
		}
	}
	return v
}
