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

// condition is what a connection must know of its lane before it acts. The counters tell one that slept what it
// missed.
type condition struct {
	gate     gate
	heals    uint64 // how often a cut ended: what was in flight then must be sent again
	reshapes uint64 // how often the shape changed: what is in flight may arrive earlier
}

// way is one direction of the link at work: its Path, behind a lock.
type way struct {
	now    func() time.Duration
	window atomic.Int64
	lost   atomic.Uint64

	mu       sync.Mutex
	path     *Path
	reshapes uint64
}

// lane is a way as one kind of traffic has it: the path is everybody's, the gate its own. The way's lock guards it.
type lane struct {
	*way
	gate  gate
	heals uint64
}

func newWay(now func() time.Duration, shape Shape, seed uint64) *way {
	w := &way{now: now, path: NewPath(shape, seed)}
	w.window.Store(shape.Window())
	return w
}

// condition returns the lane's condition now.
func (l *lane) condition() condition {
	l.mu.Lock()
	defer l.mu.Unlock()
	return condition{l.gate, l.heals, l.reshapes}
}

// set changes the gate; healing a cut is counted.
func (l *lane) set(g gate) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gate == gateCut && g != gateCut {
		l.heals++
		// What the bottleneck held when the cut began is gone with the rest.
		l.path.Reshape(l.now(), l.path.Shape())
	}
	l.gate = g
}

func (w *way) reshape(shape Shape) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.path.Reshape(w.now(), shape)
	w.window.Store(shape.Window())
	w.reshapes++
}

func (w *way) shape() Shape {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.path.Shape()
}

// send schedules one piece and returns how many of its segments were lost. In a cut lane it arrives never, until it is
// scheduled again after the heal.
func (l *lane) send(f *Flow, k kind, n int) (due time.Duration, lost int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gate == gateCut {
		return never, 0
	}
	now := l.now() // read under the lock: a Path's instants must not decrease
	if k == kindRST {
		return l.path.Reset(f, now), 0
	}
	due, lost = l.path.Send(f, now, n)
	l.lost.Add(uint64(lost))
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
