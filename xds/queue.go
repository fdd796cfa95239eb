package xds

import (
	"math"
	"slices"
)

const none = math.MaxUint64

// queue is a first-in-first-out queue of names, by ID, with the publish that made them due. Names that follow one another
// and became due by the same publish, as all of a first configuration do, are one run.
type queue struct {
	runs []run
	head int
	n    int
}

// run are the names from first to last, both included. seq is the publish that made them what
// they are now, additions or removals; since is the one from which on the stream holds
// something else than what is.
type run struct {
	first, last uint32
	seq, since  uint64
}

// due is a name that the stream must be told of, as of its run.
type due struct {
	id         uint32
	seq, since uint64
}

func (q *queue) len() int { return q.n }

func (q *queue) push(d due) {
	q.n++
	if k := len(q.runs) - 1; k >= q.head {
		if r := &q.runs[k]; r.last+1 == d.id && r.seq == d.seq && r.since == d.since {
			r.last++
			return
		}
	}
	q.runs = append(q.runs, run{d.id, d.id, d.seq, d.since})
}

// peek is the head of a queue that is not empty.
func (q *queue) peek() due {
	r := &q.runs[q.head]
	return due{r.first, r.seq, r.since}
}

// first is the publish of the head, or none.
func (q *queue) first() uint64 {
	if q.n == 0 {
		return none
	}
	return q.runs[q.head].seq
}

// oldest is the least since of all, or none.
func (q *queue) oldest() uint64 {
	least := uint64(none)
	for _, r := range q.runs[q.head:] {
		least = min(least, r.since)
	}
	return least
}

func (q *queue) pop() {
	q.n--
	if r := &q.runs[q.head]; r.first < r.last {
		r.first++
		return
	}
	q.head++
	if q.head == len(q.runs) {
		q.runs, q.head = q.runs[:0], 0
		if cap(q.runs) > 64 {
			q.runs = nil
		}
	}
}

// filter keeps the names for which keep says so, which is called in their order.
func (q *queue) filter(keep func(due) bool) {
	old := q.runs[q.head:]
	*q = queue{}
	for _, r := range old {
		for id := r.first; ; id++ {
			if d := (due{id, r.seq, r.since}); keep(d) {
				q.push(d)
			}
			if id == r.last {
				break
			}
		}
	}
}

// take takes a name out and returns since when it was due.
func (q *queue) take(id uint32) (since uint64) {
	since = none
	for k := q.head; k < len(q.runs); k++ {
		r := q.runs[k]
		if id < r.first || id > r.last {
			continue
		}
		since = min(since, r.since)
		q.n--
		switch {
		case r.first == r.last:
			q.runs = slices.Delete(q.runs, k, k+1)
			k--
		case id == r.first:
			q.runs[k].first++
		case id == r.last:
			q.runs[k].last--
		default:
			q.runs[k].last = id - 1
			r.first = id + 1
			q.runs = slices.Insert(q.runs, k+1, r)
			k++
		}
	}
	if q.n == 0 {
		q.runs, q.head = q.runs[:0], 0
	}
	return since
}
