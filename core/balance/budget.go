package balance

import "sync/atomic"

// BudgetRate is how many of a hundred requests may be retries in the long run, and how many
// may be saved up for a bad moment. The zero value is the default.
type BudgetRate struct{ Percent, Burst int }

// The defaults of a budget (mesh.RetryPolicy), and the share of requests that may be retried
// in another cluster than the one that failed: what crosses clusters crosses a link that all share.
const (
	budgetPercent = 20
	budgetBurst   = 100
	acrossPercent = 10
)

// Across is the rate of retries that go to another cluster, for a budget of its own.
func (r BudgetRate) Across() BudgetRate {
	r = r.complete()
	return BudgetRate{min(r.Percent, acrossPercent), r.Burst}
}

func (r BudgetRate) complete() BudgetRate {
	if r.Percent <= 0 {
		r.Percent = budgetPercent
	}
	if r.Burst <= 0 {
		r.Burst = budgetBurst
	}
	return r
}

// Budget is a token bucket for retries: each request earns a share of a token, each retry
// costs one. So retries never multiply load by more than one and the share in the long run. The zero
// Budget is full, whatever the rate, which may change. It is safe for concurrent use.
type Budget struct {
	// spent is what is missing from a full bucket, in hundredths of a token.
	spent atomic.Int64
}

// token is one retry.
const token = 100

// Earn records a request.
func (b *Budget) Earn(r BudgetRate) {
	r = r.complete()
	for {
		n := b.spent.Load()
		if n == 0 || b.spent.CompareAndSwap(n, max(0, n-int64(r.Percent))) {
			return
		}
	}
}

// Spend takes a token for a retry and reports whether there was one.
func (b *Budget) Spend(r BudgetRate) bool {
	r = r.complete()
	for {
		n := b.spent.Load()
		if n+token > int64(r.Burst)*token {
			return false
		}
		if b.spent.CompareAndSwap(n, n+token) {
			return true
		}
	}
}
