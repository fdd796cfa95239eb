package balance

import "sync/atomic"

// Budget is a token bucket for retries: each request earns a fifth of a token, each retry
// costs one, and a burst of 100 may be saved. So retries never multiply load by more than
// 1.2 in the long run. The zero Budget is full. It is safe for concurrent use.
type Budget struct {
	// spent is what is missing from a full bucket, in fifths of a token.
	spent atomic.Int64
}

const (
	budgetBurst = 100
	budgetShare = 5 // requests that earn a token
)

// Earn records a request.
func (b *Budget) Earn() {
	for {
		n := b.spent.Load()
		if n == 0 || b.spent.CompareAndSwap(n, n-1) {
			return
		}
	}
}

// Spend takes a token for a retry and reports whether there was one.
func (b *Budget) Spend() bool {
	for {
		n := b.spent.Load()
		if n+budgetShare > budgetBurst*budgetShare {
			return false
		}
		if b.spent.CompareAndSwap(n, n+budgetShare) {
			return true
		}
	}
}
