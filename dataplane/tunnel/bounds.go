package tunnel

import "sync/atomic"

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
