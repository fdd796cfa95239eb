package failback

import "sync/atomic"

// Tally counts how tries at one place ended. It is safe for concurrent use, and allocates nothing. The zero Tally is ready.
type Tally struct{ ended, failed atomic.Uint64 }

// Count counts one that succeeded, or failed, if it tells anything: what was shed does not, overload is no illness.
func (t *Tally) Count(failed, tells bool) {
	if tells {
		t.ended.Add(1)
	}
	if failed && tells {
		t.failed.Add(1)
	}
}

// Read is what was counted. One is counted as ended before it is as failed, and read in the other order: failed is never more.
func (t *Tally) Read() (ended, failed uint64) {
	failed = t.failed.Load()
	return t.ended.Load(), failed
}
