// Package tenancy says who may hold an application's attention. A request holds a connection of the application
// from its head to the last octet of its answer, and how long that is may be the client's choice: one who
// does not take his answer, or dribbles his body, holds it for nothing. The idea is that a place is lent:
// there are so many; no caller takes the last quarter alone; and where none is free, the request
// whose client has kept us waiting for longest gives its place to one that waits.
//
// While there is room nothing is decided: to enter and to leave is a few words under a lock. It counts
// no rates, knows no protocol and runs nothing but a timer while somebody waits. Read Table first, then Tenant.
package tenancy

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// Config bounds a Table; a zero is its default.
type Config struct {
	// Most is how many hold a place at once. Default 1,024.
	Most int
	// Grace is how long a client may keep a place for nothing while others wait for one. Default 500 ms.
	Grace time.Duration
	// Wait bounds the wait for a place. Default 2 s.
	Wait time.Duration
	// Now tells the time. Required.
	Now func() time.Time
}

// Table is the places at one application. Make one with New; it is safe for concurrent use.
type Table struct {
	cfg Config

	mu      sync.Mutex
	all     Tenant // a ring
	n       int
	waiting []*waiter // in order of arrival; at most Config.Most, and of one caller half as many
	timer   *time.Timer
	// held and asking are places and waiters of each caller, kept while room is short.
	held, asking map[mesh.Identity]int
	// looked is when it was last seen who moves, and slack how many clients then kept us waiting since
	// the look before; since tells when room became short.
	looked, since time.Time
	slack         int
}

// Tenant is one request in a Table. The zero value is ready for use, again after each Leave; it must
// not be copied.
type Tenant struct {
	// Evict is called when the place goes to another: the request must end soon, and then Leave. It is
	// called under the table's lock, once, and must not call back. Who sets none is never evicted.
	Evict func()

	caller     mesh.Identity
	answer     atomic.Uint32 // odd: waits for the client to take the answer
	body       atomic.Uint32 // odd: waits for the client to send of the body
	prev, next *Tenant
	evicted    bool
	// What was seen of answer and body, and since when they have been so.
	seenAnswer, seenBody uint32
	since                time.Time
}

type waiter struct {
	t     *Tenant
	ready chan struct{} // closed when the place is t's
}

// lookEvery is how often it is looked who moves, while room is short.
const lookEvery = 50 * time.Millisecond

// ErrFull is returned by Enter when no place has become free in time, or nobody could be made to leave one.
var ErrFull = errors.New("as many requests as may be are held by the application or by clients that do not take their answers")

// New returns an empty table.
func New(cfg Config) *Table {
	if cfg.Most == 0 {
		cfg.Most = 1024
	}
	if cfg.Grace == 0 {
		cfg.Grace = 500 * time.Millisecond
	}
	if cfg.Wait == 0 {
		cfg.Wait = 2 * time.Second
	}
	t := &Table{cfg: cfg}
	t.all.prev, t.all.next = &t.all, &t.all
	return t
}

// Giving says that the request is about to wait for its client to take of its answer; Given that it did.
func (n *Tenant) Giving() { n.answer.Store(n.answer.Load() | 1) }

// Given ends what Giving began.
func (n *Tenant) Given() { n.answer.Store((n.answer.Load() + 1) &^ 1) }

// Asking says that the request is about to wait for its client to send of its body; Told that it did.
func (n *Tenant) Asking() { n.body.Store(n.body.Load() | 1) }

// Told ends what Asking began.
func (n *Tenant) Told() { n.body.Store((n.body.Load() + 1) &^ 1) }

// Enter takes a place for a request of caller. Where there is none it waits, but only while clients keep
// places for nothing: if it is the application that is slow, waiting would only add to its load. It waits until
// deadline, unless that is zero, until gone is readable, or for Config.Wait. Its error is ErrFull.
func (t *Table) Enter(n *Tenant, caller mesh.Identity, deadline time.Time, gone <-chan struct{}) error {
	n.caller = caller
	t.mu.Lock()
	if !t.short() {
		t.link(n)
		t.mu.Unlock()
		return nil
	}
	now := t.cfg.Now()
	t.count(now)
	if t.fits(n) { // whoever waits does not: a caller who has too much must hold up no other
		t.link(n)
		t.mu.Unlock()
		return nil
	}
	if !t.mayWait(caller, now) {
		t.mu.Unlock()
		return ErrFull
	}
	w := &waiter{n, make(chan struct{})}
	t.waiting = append(t.waiting, w)
	t.asking[caller]++
	t.serve(now)
	t.mu.Unlock()
	end := now.Add(t.cfg.Wait)
	if !deadline.IsZero() && deadline.Before(end) {
		end = deadline
	}
	late := time.NewTimer(end.Sub(now))
	defer late.Stop()
	select {
	case <-w.ready:
		return nil
	case <-gone:
	case <-late.C:
	}
	return t.giveUp(w)
}

// giveUp ends a wait; nil if the place came meanwhile.
func (t *Table) giveUp(w *waiter) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.Index(t.waiting, w)
	if i < 0 {
		return nil
	}
	t.waiting = slices.Delete(t.waiting, i, i+1)
	t.asking[w.t.caller]--
	return ErrFull
}

// Leave gives the place back. It does nothing for one that has none.
func (t *Table) Leave(n *Tenant) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n.next == nil {
		return
	}
	n.prev.next, n.next.prev = n.next, n.prev
	t.n--
	if t.held != nil {
		if t.held[n.caller]--; t.n < t.cfg.Most/2 && len(t.waiting) == 0 {
			t.held, t.asking = nil, nil
		}
	}
	n.prev, n.next, n.caller, n.evicted, n.since = nil, nil, mesh.Identity{}, false, time.Time{}
	n.answer.Store(0)
	n.body.Store(0)
	if len(t.waiting) > 0 {
		t.admit()
	}
}

// Held is how many places are taken, for metrics and tests.
func (t *Table) Held() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.n
}

// link gives n a place. mu is held.
func (t *Table) link(n *Tenant) {
	n.prev, n.next = t.all.prev, &t.all
	n.prev.next, t.all.prev = n, n
	t.n++
	if t.held != nil {
		t.held[n.caller]++
	}
}

// count begins to keep account of callers, when room has become short. mu is held.
func (t *Table) count(now time.Time) {
	if t.held == nil {
		t.held, t.asking, t.since = map[mesh.Identity]int{}, map[mesh.Identity]int{}, now
		for m := t.all.next; m != &t.all; m = m.next {
			t.held[m.caller]++
		}
	}
	if now.Sub(t.looked) >= lookEvery {
		t.look(now)
	}
}

// short reports whether room is short: three quarters are taken. mu is held.
func (t *Table) short() bool { return t.n >= t.cfg.Most-t.cfg.Most/4 }

// fits reports whether there is a place for n: any, unless its caller has half of all and would take of
// the last quarter. mu is held.
func (t *Table) fits(n *Tenant) bool {
	return t.n < t.cfg.Most && (!t.short() || !t.sated(n.caller))
}

// sated reports whether caller has half of all places. mu is held.
func (t *Table) sated(caller mesh.Identity) bool { return t.held[caller] >= (t.cfg.Most+1)/2 }

// mayWait reports whether to wait is of use: clients keep us waiting, or it is not known yet. mu is held.
func (t *Table) mayWait(caller mesh.Identity, now time.Time) bool {
	return len(t.waiting) < t.cfg.Most && t.asking[caller] < t.cfg.Most/2 && (t.slack > 0 || now.Sub(t.since) <= 2*lookEvery)
}

// admit gives places to those who have waited longest and may have one. mu is held.
func (t *Table) admit() {
	kept := t.waiting[:0]
	for i, w := range t.waiting {
		switch {
		case t.n >= t.cfg.Most:
			kept = append(kept, t.waiting[i:]...)
		case t.fits(w.t):
			t.link(w.t)
			t.asking[w.t.caller]--
			close(w.ready)
			continue
		default:
			kept = append(kept, w)
			continue
		}
		break
	}
	clear(t.waiting[len(kept):])
	t.waiting = kept
}

// look sees who has moved since the last look. mu is held.
func (t *Table) look(now time.Time) {
	t.looked, t.slack = now, 0
	for m := t.all.next; m != &t.all; m = m.next {
		a, b := m.answer.Load(), m.body.Load()
		if m.since.IsZero() || a != m.seenAnswer || b != m.seenBody {
			m.seenAnswer, m.seenBody, m.since = a, b, now
		} else if m.idle() {
			t.slack++
		}
	}
}

// idle reports whether the client has kept the request waiting since it was last seen to move.
func (n *Tenant) idle() bool { return n.seenAnswer&1 != 0 || n.seenBody&1 != 0 }

// serve makes room for those who wait, now and until none does. mu is held.
func (t *Table) serve(now time.Time) {
	if t.admit(); len(t.waiting) == 0 {
		return
	}
	if now.Sub(t.looked) >= lookEvery {
		t.look(now)
	}
	t.makeRoom(now)
	if t.timer == nil {
		t.timer = time.AfterFunc(lookEvery, func() {
			t.mu.Lock()
			defer t.mu.Unlock()
			t.timer = nil
			t.serve(t.cfg.Now())
		})
	}
}

// makeRoom takes places from the requests whose clients have kept us waiting for longest, beyond Grace:
// one for each that waits, from one of its own caller where it is the caller's share that is used up. mu is held.
func (t *Table) makeRoom(now time.Time) {
	var late []*Tenant
	leaving := 0
	for m := t.all.next; m != &t.all; m = m.next {
		if m.evicted {
			leaving++
		} else if m.idle() && m.Evict != nil && now.Sub(m.since) >= t.cfg.Grace {
			late = append(late, m)
		}
	}
	if len(late) == 0 {
		return
	}
	slices.SortFunc(late, func(a, b *Tenant) int { return a.since.Compare(b.since) })
	for _, w := range t.waiting[min(leaving, len(t.waiting)):] {
		own := t.sated(w.t.caller)
		i := slices.IndexFunc(late, func(m *Tenant) bool { return !m.evicted && (!own || m.caller == w.t.caller) })
		if i >= 0 {
			late[i].evicted = true
			late[i].Evict()
		}
	}
}
