package virtual

import "time"

// Clock is virtual time and the queue of what happens in it. Events at one instant
// happen in the order in which they were scheduled. It is not safe for concurrent use.
type Clock struct {
	// Now is the time; only RunUntil changes it.
	Now   time.Time
	queue []event // a binary heap, the next first (container/heap would box every event)
	count uint64
}

type event struct {
	at  time.Time
	seq uint64
	do  func()
}

func (e *event) before(o *event) bool {
	if c := e.at.Compare(o.at); c != 0 {
		return c < 0
	}
	return e.seq < o.seq
}

// After schedules do; it returns at once.
func (c *Clock) After(d time.Duration, do func()) {
	c.count++
	c.queue = append(c.queue, event{c.Now.Add(d), c.count, do})
	q, i := c.queue, len(c.queue)-1
	for i > 0 {
		up := (i - 1) / 2
		if !q[i].before(&q[up]) {
			return
		}
		q[i], q[up] = q[up], q[i]
		i = up
	}
}

// RunUntil lets events happen up to and including an instant.
func (c *Clock) RunUntil(t time.Time) {
	for len(c.queue) > 0 && !c.queue[0].at.After(t) {
		e := c.pop()
		c.Now = e.at
		e.do()
	}
	c.Now = t
}

// pop takes out the next event.
func (c *Clock) pop() event {
	q := c.queue
	e, last := q[0], len(q)-1
	q[0], q[last] = q[last], event{}
	q = q[:last]
	c.queue = q
	for i := 0; ; {
		next := 2*i + 1
		if next >= last {
			return e
		}
		if next+1 < last && q[next+1].before(&q[next]) {
			next++
		}
		if !q[next].before(&q[i]) {
			return e
		}
		q[i], q[next] = q[next], q[i]
		i = next
	}
}
