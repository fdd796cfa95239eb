package tunnel

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
)

// Budget is memory for the growth of stream windows, shared by the connections of a
// proxy: it is an http2.Budget. Who asks when it is used up keeps a small window.
type Budget struct{ left atomic.Int64 }

// budgetDefault is the Budget of who is given none, in bytes.
const budgetDefault = 64 << 20

// NewBudget returns a budget of so many bytes.
func NewBudget(bytes int64) *Budget {
	b := &Budget{}
	b.left.Store(bytes)
	return b
}

// Take implements http2.Budget.
func (b *Budget) Take(n int) bool {
	if b.left.Add(-int64(n)) >= 0 {
		return true
	}
	b.left.Add(int64(n))
	return false
}

// Give implements http2.Budget.
func (b *Budget) Give(n int) { b.left.Add(int64(n)) }

// places bounds connections, all together and of one source, so that one host cannot keep
// all others out.
type places struct {
	max, each int

	mu    sync.Mutex
	taken int
	by    map[netip.Addr]int
}

func newPlaces(most, each int) *places {
	return &places{max: most, each: each, by: map[netip.Addr]int{}}
}

// take takes a place for c and returns how to give it back; false if there is none.
func (p *places) take(c net.Conn) (give func(), ok bool) {
	var from netip.Addr
	if a, err := netip.ParseAddrPort(c.RemoteAddr().String()); err == nil {
		from = a.Addr()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken >= p.max || p.by[from] >= p.each {
		return nil, false
	}
	p.taken++
	p.by[from]++
	return sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.taken--
		if p.by[from]--; p.by[from] == 0 {
			delete(p.by, from)
		}
	}), true
}
