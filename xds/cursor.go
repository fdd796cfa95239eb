package xds

import "slices"

// sub is one stream's subscription to one type: what it asked for and how far it is.
// It holds no resource, only the sum of what was sent of each name. Guarded by the
// server's mutex.
type sub struct {
	st *stream
	g  *group
	no uint32 // among the group's

	wild       bool
	broad      bool // see group.broaden
	named      int  // names asked for
	unanswered int  // of them, those of which the source has not spoken
	owes       bool // a response that completes the set is due
	// fresh until the first set has been sent. Its additions count as older than any publish:
	// a removal may not overtake them, since what the client holds of this type from
	// before may refer to anything.
	fresh bool

	marks []mark
	ids   []uint32 // of the marks, ascending; not to be written to unless own
	own   bool
	// ups are resources to send and absences to tell, downs are removals of what the stream
	// holds; by publish. A name is at most once in each, so they are as long as the names.
	ups, downs queue

	inflight *frame
	oldest   uint64   // publish of the oldest addition in flight; none if there is no addition
	prev     []uint64 // sums before the items of inflight; none if they were all sumNone, as of a first configuration

	held    uint64 // sum of sums sent
	heldN   int
	acked   uint64 // the same at the last answer
	ackedN  int
	refused map[uint32]refused
}

// refused is a version that a client refused.
type refused struct {
	sum              uint64
	version, message string
}

// find is the place of an entry's mark, or where it would be. IDs are distinct and ascend, so a mark lies no further from either
// end than its ID does: where a stream asks for all there is, that is the place itself.
func (b *sub) find(id uint32) (int, bool) {
	n := len(b.ids)
	if n == 0 || b.ids[n-1] < id { // the common case while a set is sent
		return n, false
	}
	if id < b.ids[0] {
		return 0, false
	}
	low, high := max(n-1-int(b.ids[n-1]-id), 0), min(int(id-b.ids[0])+1, n)
	i, ok := slices.BinarySearch(b.ids[low:high], id)
	return low + i, ok
}

// mark returns the place of an entry's mark, made if there is none.
func (b *sub) mark(e *entry) int {
	i, ok := b.find(e.id)
	if !ok {
		b.insert(i, e.id)
		e.refs++
	}
	return i
}

// forget drops the mark at i.
func (b *sub) forget(i int, e *entry) {
	m := b.marks[i]
	if m.is(inDowns) {
		b.downs.take(e.id)
	}
	b.set(i, sumNone)
	b.accept(e)
	b.remove(i)
	e.refs--
	b.g.release(e)
}

// leave drops all marks of a stream that is closed: nobody looks at its queues and digests any more.
func (b *sub) leave() {
	for i, m := range b.marks {
		e := b.g.byID(b.ids[i])
		b.dropName(e, i)
		b.g.sums.drop(m.number())
		b.accept(e)
		e.refs--
		b.g.release(e)
	}
	b.marks, b.ids, b.own, b.ups, b.downs = nil, nil, false, queue{}, queue{}
}

// set moves the mark at i to what was sent, and the digest with it.
func (b *sub) set(i int, sum uint64) { b.move(i, sum, b.g.sums.hold(sum)) } // held before the old is dropped: it may be the same

// move is set with the number of the sum, which is held for the mark.
func (b *sub) move(i int, sum uint64, no uint32) {
	m := &b.marks[i]
	was := b.g.sum(*m)
	b.held += countable(sum) - countable(was)
	if was > sumAbsent {
		b.heldN--
	}
	if sum > sumAbsent {
		b.heldN++
	}
	b.g.sums.drop(m.number())
	m.move(no)
}

type need int

const (
	needNothing need = iota
	needUp
	needDown
)

// need says what the stream must be told of an entry.
func (b *sub) need(e *entry, m mark) need {
	if e.cur != nil {
		if e.cur.sum == b.g.sum(m) {
			return needNothing
		}
		if len(b.refused) > 0 && b.refused[e.id].sum == e.cur.sum {
			return needNothing // until it changes
		}
		return needUp
	}
	if known := e.known || (b.wild && b.g.complete); !known {
		return needNothing
	}
	if m.number() > sumAbsent {
		return needDown
	}
	if m.is(isNamed) && m.number() == sumNone {
		return needUp
	}
	return needNothing
}

// touch queues an entry if the stream must be told of it. seq is the publish.
func (b *sub) touch(e *entry, seq uint64) {
	i, ok := b.find(e.id)
	if !ok {
		if !b.wild || e.cur == nil {
			return
		}
		i = b.mark(e)
	}
	m := &b.marks[i]
	n := b.need(e, *m)
	if e.cur != nil && e.cur.sum == b.g.sum(*m) {
		b.accept(e) // back to what the client holds
	}
	since := seq
	if b.fresh {
		since = 0
	}
	if n != needUp && m.is(inUps) {
		m.unmark(inUps)
		since = min(since, b.ups.take(e.id))
	}
	if n != needDown && m.is(inDowns) {
		m.unmark(inDowns)
		since = min(since, b.downs.take(e.id))
	}
	switch {
	case n == needUp && !m.is(inUps):
		m.mark(inUps)
		b.ups.push(due{e.id, seq, since})
		b.compact()
	case n == needDown && !m.is(inDowns):
		m.mark(inDowns)
		b.downs.push(due{e.id, seq, since})
	case n == needNothing && m.number() == sumNone && m.plain():
		b.forget(i, e)
	}
}

// compact takes what was unsubscribed out of a queue that a stream does not drain.
func (b *sub) compact() {
	if b.ups.len() <= 2*len(b.marks)+64 {
		return
	}
	seen := make(map[uint32]bool, len(b.marks))
	b.ups.filter(func(d due) bool {
		i, ok := b.find(d.id)
		keep := ok && b.marks[i].is(inUps) && !seen[d.id]
		seen[d.id] = true
		return keep
	})
}

// accept forgets that the client refused a version of the entry.
func (b *sub) accept(e *entry) {
	if len(b.refused) == 0 {
		return
	}
	if r, ok := b.refused[e.id]; ok {
		delete(b.refused, e.id)
		b.st.s.report(b.g, e.name, r, -1)
	}
}

// held back: a wildcard is sent nothing until it can be sent whole.
func (b *sub) heldBack() bool { return b.wild && !b.g.complete }

// satisfied reports that everything asked for has been sent.
func (b *sub) satisfied() bool {
	return !b.heldBack() && b.unanswered == 0 && b.ups.len() == 0 && b.downs.len() == 0
}

// send makes and queues the next response, of additions, removals or both. There must
// be none in flight. additions and removals before the publish given are meant.
func (b *sub) send(ups bool, downsBefore uint64) {
	s := b.st.s
	items, size := s.scratch[:0], s.headerSize(b.g.typ)
	b.oldest, b.prev = none, b.prev[:0]
	for ups && b.ups.len() > 0 {
		d := b.ups.peek()
		i, ok := b.find(d.id)
		if !ok || !b.marks[i].is(inUps) {
			b.ups.pop()
			continue
		}
		e := b.g.byID(d.id)
		if b.need(e, b.marks[i]) != needUp {
			b.ups.pop()
			b.marks[i].unmark(inUps)
			b.touch(e, d.seq)
			continue
		}
		n, sum := removedSize(e.name), uint64(sumAbsent)
		if e.cur != nil {
			n, sum = e.cur.size, e.cur.sum
		}
		if size+n > MaxMessage && len(items) > 0 {
			break
		}
		size += n
		b.ups.pop()
		b.marks[i].unmark(inUps)
		b.oldest = min(b.oldest, d.since)
		items = b.give(items, i, e, sum)
	}
	for b.downs.first() < downsBefore {
		d := b.downs.peek()
		e := b.g.byID(d.id)
		n := removedSize(e.name)
		if size+n > MaxMessage && len(items) > 0 {
			break
		}
		size += n
		b.downs.pop()
		i, _ := b.find(d.id) // in downs only while marked
		b.marks[i].unmark(inDowns)
		items = b.give(items, i, e, sumAbsent)
		b.accept(e)
		if !b.marks[i].is(isNamed) {
			b.forget(i, e)
		}
	}
	s.scratch = items
	if b.ups.len() == 0 {
		b.fresh = false
		b.share()
	}
	whole := b.owes && b.satisfied()
	if len(items) == 0 && !whole {
		return
	}
	if whole {
		b.owes = false
	}
	b.inflight = s.frame(b.g, items, whole)
	clear(s.scratch)
	s.counters.Responses++
	s.counters.Resources[b.g.typ] += uint64(len(items))
	b.st.told = s.cfg.Now()
	b.st.out <- b.inflight // never blocks: it has room for one response a type
	b.st.wake(false)
}

// give adds what the stream is to be told of an entry to a response, and moves its mark, at i, to sum.
func (b *sub) give(items []item, i int, e *entry, sum uint64) []item {
	if was := b.g.sum(b.marks[i]); was != sumNone || len(b.prev) > 0 {
		b.prev = append(append(b.prev, make([]uint64, len(items)-len(b.prev))...), was)
	}
	if p := e.cur; p != nil && sum == p.sum {
		p.no = b.g.sums.again(sum, p.no)
		b.move(i, sum, p.no)
	} else {
		b.set(i, sum)
	}
	return append(items, item{e, e.cur})
}

// answer takes an ACK or NACK of the response in flight.
func (b *sub) answer(r *request) {
	f := b.inflight
	if f == nil || r.answers != f.nonce {
		return // stale: it answers what was superseded, or nothing
	}
	b.inflight = nil
	if r.nack {
		b.reject(f, r)
	}
	if len(b.refused) > 0 {
		for _, it := range f.items {
			if i, ok := b.find(it.e.id); ok && it.p != nil && b.g.sum(b.marks[i]) == it.p.sum {
				b.accept(it.e)
			}
		}
	}
	if cap(b.prev) > 64 {
		b.prev = nil
	}
	b.acked, b.ackedN = b.held, b.heldN
}

// reject puts the marks of refused resources back to what the client still holds. A NACK
// that names none refuses all.
func (b *sub) reject(f *frame, r *request) {
	named := make(map[string]string, len(r.refused))
	for _, x := range r.refused {
		named[x.name] = x.message
	}
	for i, it := range f.items {
		if it.p == nil {
			continue
		}
		message, ok := named[it.e.name]
		if !ok && len(named) > 0 {
			continue
		}
		if message == "" {
			message = r.message
		}
		k, ok := b.find(it.e.id)
		if !ok || b.g.sum(b.marks[k]) != it.p.sum {
			continue // it is no longer subscribed
		}
		b.accept(it.e) // what it refused before, in favour of
		x := refused{it.p.sum, it.p.version, message}
		if b.refused == nil {
			b.refused = map[uint32]refused{}
		}
		b.refused[it.e.id] = x
		b.st.s.report(b.g, it.e.name, x, 1)
		was := uint64(sumNone)
		if i < len(b.prev) {
			was = b.prev[i]
		}
		b.set(k, was)
		b.touch(it.e, b.st.s.seq)
	}
}
