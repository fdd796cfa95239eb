package virtual

import (
	"container/heap"
	"time"
)

// Clock is virtual time and the queue of what happens in it. Events at one instant
// happen in the order in which they were scheduled. It is not safe for concurrent use.
type Clock struct {
	// Now is the time; only RunUntil changes it.
	Now   time.Time
	queue eventQueue
	count uint64
}

type event struct {
	at  time.Time
	seq uint64
	do  func()
}

// After schedules do; it returns at once.
func (c *Clock) After(d time.Duration, do func()) {
	c.count++
	heap.Push(&c.queue, event{c.Now.Add(d), c.count, do})
}

// RunUntil lets events happen up to and including an instant.
func (c *Clock) RunUntil(t time.Time) {
	for len(c.queue) > 0 && !c.queue[0].at.After(t) {
		e := heap.Pop(&c.queue).(event)
		c.Now = e.at
		e.do()
	}
	c.Now = t
}

type eventQueue []event

func (q eventQueue) Len() int { return len(q) }
func (q eventQueue) Less(i, j int) bool {
	if q[i].at.Equal(q[j].at) {
		return q[i].seq < q[j].seq
	}
	return q[i].at.Before(q[j].at)
}
func (q eventQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }

// Push is heap.Interface's.
func (q *eventQueue) Push(x any) { *q = append(*q, x.(event)) }

// Pop is heap.Interface's.
func (q *eventQueue) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = event{}
	*q = old[:len(old)-1]
	return e
}
