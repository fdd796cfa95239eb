package link

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

const (
	// deliveryMax is how much one write hands to the kernel: enough to amortise the call, little enough that a gate that
	// closes meanwhile lets no more than this through.
	deliveryMax = 256 << 10
	// pieceCostMin is the least that a piece takes of its window, so that a stream of single bytes is bounded in pieces as
	// well (what Linux calls truesize).
	pieceCostMin = 512
	// ackMerge is the time within which acknowledgements are taken for one, at the later's instant.
	ackMerge = time.Millisecond
	// backlogMax is the bottleneck's queue above which a sender with more than an initial window in flight waits: the
	// router's buffer, without which many bulk streams would delay everybody by the sum of their windows. backlogResume
	// is where such a sender goes on, apart from it so that it wakes rarely.
	backlogMax    = 25 * time.Millisecond
	backlogResume = 20 * time.Millisecond
	// retransmitMax is how long unacknowledged data is sent again before TCP gives up: Linux's tcp_retries2 of 15 (RFC
	// 9293, section 3.8.3: R2, at least 100 seconds).
	retransmitMax = 924600 * time.Millisecond
)

// ack is an acknowledgement on its way back.
type ack struct {
	at   time.Duration
	cost int64
}

// half is one direction of one connection: a reader that sends what src has to say over a way, and a writer that hands
// it to dst when it has arrived.
type half struct {
	conn      *conn
	opposite  *half
	way, back *lane // of its bytes, of its acknowledgements
	src, dst  stream
	delivered *counter
	readWake  chan struct{}
	writeWake chan struct{}
	out       net.Buffers // of the write in progress

	mu       sync.Mutex
	queue    queue
	flow     Flow
	seen     condition // of way, when the queue was last scheduled
	acks     ring[ack]
	charged  int64 // of the window: sent and not acknowledged
	credit   int   // what may be read next
	reset    bool  // an RST was sent
	dead     bool  // dst takes no more
	cutFound time.Duration
}

func (h *half) init(c *conn, d Direction, src, dst stream, delivered *counter, flow Flow) {
	h.conn, h.opposite = c, &c.halves[d.Reverse()]
	h.way, h.back = c.lane(d), c.lane(d.Reverse())
	h.src, h.dst, h.delivered, h.flow = src, dst, delivered, flow
	h.queue.pool = &c.relay.blocks
	h.seen = h.way.condition()
}

// read sends what src says until it ends.
func (h *half) read() {
	var w waiter
	defer w.stop()
	for {
		for wait := h.grant(); wait > 0; wait = h.grant() {
			if !w.wait(h.conn.ctx, wait, h.readWake) {
				return
			}
		}
		n, err := h.src.fill(h)
		switch {
		case err == nil:
			if !h.send(kindData, n) {
				return
			}
		case errors.Is(err, io.EOF):
			h.send(kindFIN, 0)
			return
		default:
			h.send(kindRST, 0) // of a connection that the relay closed itself, nobody will see it
			return
		}
	}
}

// grant sets the credit of the next read and returns 0, or returns how long to wait for one.
func (h *half) grant() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.dead {
		return never
	}
	now := h.conn.relay.now()
	open := h.back.condition().gate == gateOpen
	for open && h.acks.len() > 0 && h.acks.at(0).at <= now {
		h.charged -= h.acks.pop().cost
	}
	window := h.way.window.Load()
	if r := h.conn.relay; r.held.Load() > r.cfg.MemoryMax {
		window = windowMinBytes
	}
	free := window - h.charged
	if free < blockBytes && h.charged > 0 { // a receiver's silly window avoidance (RFC 9293, section 3.8.6.2.2)
		if open && h.acks.len() > 0 {
			return h.acks.at(0).at - now
		}
		return never
	}
	if h.charged > initialWindowBytes {
		if b := h.way.backlog(); b > backlogMax {
			return b - backlogResume
		}
	}
	h.credit = int(free)
	return 0
}

// room implements buffer.
func (h *half) room() []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.dead {
		return nil
	}
	return h.queue.room(h.credit)
}

// unused implements buffer.
func (h *half) unused() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.queue.unused()
}

// send schedules and queues what was read, and reports whether there is still somebody to read it for. An RST may come
// from the opposite half's writer as well; where it finds this half dead, both ends are gone.
func (h *half) send(k kind, n int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.dead || h.reset {
		if h.dead && k == kindRST {
			h.conn.finish(true)
		}
		if k == kindData {
			h.queue.unused()
		}
		return false
	}
	due, lost := h.way.send(&h.flow, k, n)
	h.conn.forward.lost.add(lost)
	h.queue.push(piece{due: due, n: int32(n), kind: k})
	h.reset = k == kindRST
	if k == kindData {
		h.charged += pieceCost(n)
		h.conn.relay.held.Add(int64(n))
	}
	if h.queue.pieces.len() == 1 {
		wake(h.writeWake)
	}
	return true
}

func pieceCost(n int) int64 { return int64(max(n, pieceCostMin)) }

// write delivers what arrives until the connection is over.
func (h *half) write() {
	var w waiter
	defer w.stop()
	defer h.abandon()
	bufs := make([][]byte, 0, deliveryMax/blockBytes+2)
	for {
		wait := h.deliver(bufs)
		if h.conn.ctx.Err() != nil {
			return
		}
		if wait > 0 && !w.wait(h.conn.ctx, wait, h.writeWake) {
			return
		}
	}
}

// deliver hands over what is due and returns how long nothing more will be.
func (h *half) deliver(bufs [][]byte) (wait time.Duration) {
	h.mu.Lock()
	if wait := h.arrival(); wait > 0 {
		h.mu.Unlock()
		return wait
	}
	if k := h.queue.pieces.at(0).kind; k != kindData {
		h.queue.discard(0, 1)
		h.mu.Unlock()
		h.end(k)
		return 0
	}
	bufs, n, pieces := h.queue.due(h.conn.relay.now(), deliveryMax, bufs)
	var cost int64
	for i := range pieces {
		cost += pieceCost(int(h.queue.pieces.at(i).n))
	}
	h.mu.Unlock()

	h.conn.relay.tap.record(h.conn.id, h.direction(), bufs)
	h.out = bufs
	if err := h.dst.write(&h.out); err != nil {
		h.abandon()
		h.opposite.send(kindRST, 0)
		return 0
	}
	h.delivered.add(n)

	at := h.back.acknowledgement()
	h.mu.Lock()
	h.conn.relay.held.Add(-int64(n))
	h.queue.discard(n, pieces)
	h.acknowledge(ack{at: at, cost: cost})
	h.mu.Unlock()
	wake(h.readWake)
	return 0
}

// arrival returns how long the first piece is still under way: never while nothing is, or the way lets nothing through.
func (h *half) arrival() time.Duration {
	cond := h.way.condition()
	h.reschedule(cond)
	if h.dead || h.queue.pieces.len() == 0 {
		return never
	}
	now := h.conn.relay.now()
	switch cond.gate {
	case gateCut:
		if h.cutFound == 0 {
			h.cutFound = now
		}
		left := h.cutFound + retransmitMax - now
		if left <= 0 {
			h.conn.finish(true)
		}
		return max(left, 1)
	case gateStalled:
		return never
	}
	h.cutFound = 0
	return h.queue.pieces.at(0).due - now
}

// reschedule sends again what the way has lost or would now carry faster.
func (h *half) reschedule(cond condition) {
	lost, faster := cond.heals != h.seen.heals, cond.reshapes != h.seen.reshapes
	h.seen = cond
	if !lost && !faster {
		return
	}
	h.flow = Flow{}
	for i := range h.queue.pieces.len() {
		p := h.queue.pieces.ref(i)
		due, _ := h.way.send(&h.flow, p.kind, int(p.n))
		if !lost {
			due = min(due, p.due) // never later for it: it was sent under the old shape
		}
		p.due = due
	}
	if n := h.queue.pieces.len(); n > 0 && !lost {
		h.flow.last = h.queue.pieces.at(n - 1).due
	}
}

// acknowledge sends an acknowledgement, or joins it to one just sent.
func (h *half) acknowledge(a ack) {
	if n := h.acks.len(); n > 0 {
		if last := h.acks.ref(n - 1); a.at-last.at < ackMerge {
			last.cost += a.cost
			return
		}
	}
	h.acks.push(a)
}

// end delivers the end of the stream.
func (h *half) end(k kind) {
	if k == kindRST {
		h.conn.finish(true)
		return
	}
	if err := h.dst.closeWrite(); err != nil {
		h.abandon()
		h.opposite.send(kindRST, 0)
		return
	}
	if h.conn.fins.Add(1) == 2 {
		h.conn.finish(false)
	}
}

// abandon drops what was to be delivered.
func (h *half) abandon() {
	h.mu.Lock()
	defer h.mu.Unlock()
	var held int64
	for i := range h.queue.pieces.len() {
		held += int64(h.queue.pieces.at(i).n)
	}
	h.conn.relay.held.Add(-held)
	h.queue.release()
	h.dead = true
	wake(h.readWake)
}

func (h *half) direction() Direction {
	if h == &h.conn.halves[BtoA] {
		return BtoA
	}
	return AtoB
}

// wake makes a waiter look again; one token is as good as many.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// waiter is a goroutine's timer, made at its first use.
type waiter struct{ timer *time.Timer }

// wait returns after d or at a wake, and false when ctx is done. A d of never waits for the wake alone.
func (w *waiter) wait(ctx context.Context, d time.Duration, wake <-chan struct{}) bool {
	var fired <-chan time.Time
	if d < never {
		if w.timer == nil {
			w.timer = time.NewTimer(d)
		} else {
			w.timer.Reset(d)
		}
		fired = w.timer.C
	}
	select {
	case <-ctx.Done():
		return false
	case <-wake:
	case <-fired:
	}
	return true
}

func (w *waiter) stop() {
	if w.timer != nil {
		w.timer.Stop()
	}
}
