package derive

// worker evaluates nodes, one inside the other as they read each other. Between waves it is idle and its lists are empty.
type worker struct {
	engine    *Engine
	tables    map[*family]anyTable // the engine's, without its lock
	done      []*node              // evaluated in this wave
	born      []*node              // created in this wave
	suspended int                  // evaluations broken off in this wave
	waiting   *node                // that another worker owns
}

// outcome is how an attempt to make a node current ended.
type outcome uint8

const (
	current   outcome = iota // its value may be read
	failed                   // it reads itself, or something that does
	suspended                // the slice ran out
	mine                     // from claim only: the caller must do it
)

// bring makes n current in this revision.
//
// Waves run from low to high, so most of what an evaluation reads is current without a look: a clean node no higher than
// the wave stands above nothing that could still change. What is higher, read by this reader for the first time, is
// checked through its own deps; what is dirty or new is evaluated here and now.
func (w *worker) bring(n *node) outcome {
	e := w.engine
	if n.verified.Load() == e.revision {
		return n.outcome()
	}
	if !n.dirty && n.height <= e.level {
		return n.outcome()
	}
	if got := w.claim(n); got != mine {
		return got
	}
	if !n.dirty {
		switch w.check(n) {
		case current:
			w.release(n, true)
			return current
		case suspended:
			w.release(n, false)
			return suspended
		}
	}
	return w.evaluate(n)
}

func (n *node) outcome() outcome {
	if n.failed != nil {
		return failed
	}
	return current
}

// claim makes w the owner of n, or waits until n's owner has finished. Waiting would never end if the owner waits for
// something of ours; then every node on the way round has really read the next, so it is a cycle in the data.
func (w *worker) claim(n *node) outcome {
	e := w.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	for {
		switch {
		case n.verified.Load() == e.revision:
			return n.outcome()
		case n.owner != nil && n.owner.waitsFor(w):
			return failed // even when stopping: whom a failed node blames must itself fail in the same slice
		case e.stop.Load():
			return suspended
		case n.owner == nil:
			n.owner = w
			return mine
		}
		w.waiting = n
		e.sleeper++
		e.wake.Wait()
		e.sleeper--
		w.waiting = nil
	}
}

// waitsFor says whether w is other or waits for it, directly or not. Engine.mu is held.
func (w *worker) waitsFor(other *worker) bool {
	for w != nil && w != other && w.waiting != nil {
		w = w.waiting.owner
	}
	return w == other
}

// release gives up n. With verified, what the owner wrote becomes everyone's to read.
func (w *worker) release(n *node, verified bool) {
	e := w.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	n.owner = nil
	if verified {
		n.verified.Store(e.revision)
		if e.yield != nil && !e.stop.Load() && e.yield() {
			e.stop.Store(true)
		}
	}
	if e.sleeper > 0 {
		e.wake.Broadcast()
	}
}

// check asks whether the clean node n is current: whether none of what it read has changed in this wave. It asks in the
// order of reading and stops at the first change, so it brings up only what n would really read again. The answer is
// current, suspended, or anything else for "must be evaluated".
func (w *worker) check(n *node) outcome {
	for _, dep := range n.deps {
		if dep.node.memo == nil {
			continue // a changed cell would have made n dirty
		}
		if got := w.bring(dep.node); got != current {
			return got
		}
		if dep.node.changed == w.engine.revision {
			return mine
		}
	}
	return current
}

// evaluate computes the owned node n and releases it.
func (w *worker) evaluate(n *node) outcome {
	c := &Ctx{worker: w, node: n}
	changed, ok := n.memo.compute(c)
	c.node = nil
	if !ok && c.blame == nil {
		w.suspended++
		w.release(n, false)
		return suspended
	}
	if !ok {
		changed = n.failed == nil // those who read the value until now must hear of it
	}
	n.keep, n.extra, n.failed = c.keep, c.extra, c.blame
	if changed {
		n.changed = w.engine.revision
	}
	w.done = append(w.done, n)
	w.release(n, true)
	return n.outcome()
}
