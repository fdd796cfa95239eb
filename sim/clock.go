package sim

import (
	"container/heap"
	"time"
)

// clock is virtual time and the queue of what happens in it. Events at one instant
// happen in the order in which they were scheduled.
type clock struct {
	now   time.Time
	queue eventQueue
	count uint64
}

type event struct {
	at  time.Time
	seq uint64
	do  func()
}

// start is an arbitrary instant; stamps and epochs are real Unix times.
var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// after schedules do; it returns at once.
func (c *clock) after(d time.Duration, do func()) {
	c.count++
	heap.Push(&c.queue, event{c.now.Add(d), c.count, do})
}

// runUntil lets events happen up to and including an instant.
func (c *clock) runUntil(t time.Time) {
	for len(c.queue) > 0 && !c.queue[0].at.After(t) {
		e := heap.Pop(&c.queue).(event)
		c.now = e.at
		e.do()
	}
	c.now = t
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
