package traffic

// event is something that happens at a time. What it means is its kind's.
type event struct {
	at   int64 // virtual nanoseconds
	kind kind
	tier uint8 // the service whose world it happens in
	a, b int32
}

type kind uint8

const (
	arrival kind = iota // a: region
	reach               // a: try; it reaches its endpoint
	finish              // a: try; its lane is done with it
	answer              // a: try; the answer reaches the proxy
	giveUp              // a: try; the time of one try is over
	silence             // a: proxy, b: region; is the path silent?
	probe               // a: region, b: region; the answer of a gateway, or the lack of one
	tick                // control planes and policies
	early               // a: region; proxies that ask for much more do not wait for the tick
	change              // a: index of a fault's beginning or end
)

// queue is the events to come, a heap with four children a node: half as deep as one of two. Equal times
// leave it in an order that the calls before determine.
type queue []event

// agenda are the events of one tier among those of all.
type agenda struct {
	*queue
	tier uint8
}

func (a agenda) push(e event) {
	e.tier = a.tier
	a.queue.push(e)
}

func (q *queue) push(e event) {
	h := append(*q, e)
	i := len(h) - 1
	for i > 0 {
		up := (i - 1) / 4
		if h[up].at <= e.at {
			break
		}
		h[i] = h[up]
		i = up
	}
	h[i] = e
	*q = h
}

func (q *queue) pop() event {
	h := *q
	first, last := h[0], h[len(h)-1]
	h = h[:len(h)-1]
	i := 0
	for {
		least := 4*i + 1
		if least >= len(h) {
			break
		}
		for c := least + 1; c < min(least+4, len(h)); c++ {
			if h[c].at < h[least].at {
				least = c
			}
		}
		if h[least].at >= last.at {
			break
		}
		h[i] = h[least]
		i = least
	}
	if len(h) > 0 {
		h[i] = last
	}
	*q = h
	return first
}
