package load

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// Bytes counts what requests of the own applications carried and how long they took, by service: what a call costs where bytes
// have a price, and whoever waits for it. It is safe for concurrent use. The zero Bytes is ready.
type Bytes struct {
	by   atomic.Pointer[map[mesh.ServiceName]*carried]
	grow sync.Mutex // makes the next map; readers never wait
}

type carried struct{ sent, received, took atomic.Int64 }

// bytesMost bounds the services that are counted.
const bytesMost = 4096

// longest is the longest time that somebody waits for: a stream that was open for longer is no call.
const longest = 10 * time.Second

// Add counts a request that ended. It allocates only for a service's first.
func (b *Bytes) Add(n mesh.ServiceName, sent, received int64, took time.Duration) {
	if c := b.of(n); c != nil {
		c.sent.Add(sent)
		c.received.Add(received)
		if took < longest {
			c.took.Add(int64(took))
		}
	}
}

func (b *Bytes) of(n mesh.ServiceName) *carried {
	if m := b.by.Load(); m != nil && (*m)[n] != nil {
		return (*m)[n]
	}
	b.grow.Lock()
	defer b.grow.Unlock()
	next := map[mesh.ServiceName]*carried{}
	if m := b.by.Load(); m != nil {
		if c := (*m)[n]; c != nil || len(*m) >= bytesMost {
			return c
		}
		next = maps.Clone(*m)
	}
	next[n] = new(carried)
	b.by.Store(&next)
	return next[n]
}

// read is what was carried until now, and how long it took together, in nanoseconds.
func (b *Bytes) read(n mesh.ServiceName) (sent, received, took int64) {
	if m := b.by.Load(); m != nil {
		if c := (*m)[n]; c != nil {
			return c.sent.Load(), c.received.Load(), c.took.Load()
		}
	}
	return 0, 0, 0
}
