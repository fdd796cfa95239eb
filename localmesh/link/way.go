package link

import (
	"sync"
	"sync/atomic"
	"time"
)

// gate is whether a direction lets bytes through.
type gate uint8

const (
	gateOpen gate = iota
	gateStalled
	gateCut
)

func (g gate) String() string {
	switch g {
	case gateStalled:
		return "stalled"
	case gateCut:
		return "cut"
	}
	return "open"
}

// condition is what a connection must know of a direction before it acts. The counters tell one that slept what it
// missed.
type condition struct {
	gate     gate
	heals    uint64 // how often a cut ended: what was in flight then must be sent again
	reshapes uint64 // how often the shape changed: what is in flight may arrive earlier
}

// way is one direction of the link at work: its Path, behind a lock, and its gate.
type way struct {
	now    func() time.Duration
	window atomic.Int64
	lost   atomic.Uint64

	mu   sync.Mutex
	path *Path
	cond condition
}

func newWay(now func() time.Duration, shape Shape, seed uint64) *way {
	w := &way{now: now, path: NewPath(shape, seed)}
	w.window.Store(shape.Window())
	return w
}

// condition returns the direction's condition now.
func (w *way) condition() condition {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cond
}

// set changes the gate; healing a cut is counted.
func (w *way) set(g gate) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cond.gate == gateCut && g != gateCut {
		w.cond.heals++
		// What the bottleneck held when the cut began is gone with the rest.
		w.path.Reshape(w.now(), w.path.Shape())
	}
	w.cond.gate = g
}

func (w *way) reshape(shape Shape) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.path.Reshape(w.now(), shape)
	w.window.Store(shape.Window())
	w.cond.reshapes++
}

func (w *way) shape() Shape {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.path.Shape()
}

// send schedules one piece and returns how many of its segments were lost. In a cut way it arrives never, until it is
// scheduled again after the heal.
func (w *way) send(f *Flow, k kind, n int) (due time.Duration, lost int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cond.gate == gateCut {
		return never, 0
	}
	now := w.now() // read under the lock: a Path's instants must not decrease
	if k == kindRST {
		return w.path.Reset(f, now), 0
	}
	due, lost = w.path.Send(f, now, n)
	w.lost.Add(uint64(lost))
	return due, lost
}

// handshake schedules a SYN or SYN-ACK, in a way that is not cut.
func (w *way) handshake() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	due, lost := w.path.Handshake(w.now())
	w.lost.Add(uint64(lost))
	return due
}

// acknowledgement schedules the acknowledgement of what has just been delivered over the opposite way.
func (w *way) acknowledgement() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.path.Acknowledgement(w.now())
}

// backlog returns how long the bottleneck needs for what it has.
func (w *way) backlog() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.path.Backlog(w.now())
}
