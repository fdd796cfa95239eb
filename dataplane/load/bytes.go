package load

import (
	"maps"
	"sync"
	"sync/atomic"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// Bytes counts what requests of the own applications carried, by service: what a call costs where bytes have a price. It
// is safe for concurrent use. The zero Bytes is ready.
type Bytes struct {
	by   atomic.Pointer[map[mesh.ServiceName]*carried]
	grow sync.Mutex // makes the next map; readers never wait
}

type carried struct{ sent, received atomic.Int64 }

// bytesMost bounds the services that are counted.
const bytesMost = 4096

// Add counts a request that ended. It allocates only for a service's first.
func (b *Bytes) Add(n mesh.ServiceName, sent, received int64) {
	if c := b.of(n); c != nil {
		c.sent.Add(sent)
		c.received.Add(received)
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

// read is what was carried until now.
func (b *Bytes) read(n mesh.ServiceName) (sent, received int64) {
	if m := b.by.Load(); m != nil {
		if c := (*m)[n]; c != nil {
			return c.sent.Load(), c.received.Load()
		}
	}
	return 0, 0
}
