package ca

import (
	"sync"
	"time"
)

// ledgerMax bounds what is remembered of certificates; beyond, they are signed and not counted.
const ledgerMax = 1 << 17

// ledger is which root signed the certificates that are in use, as far as this process signed them: a renewal takes the
// place of the certificate by which it was asked for. The zero ledger is ready. It is safe for concurrent use.
type ledger struct {
	mu    sync.Mutex
	live  map[string]entry // by serial number
	swept time.Time
}

type entry struct {
	root uint64
	end  time.Time
}

func (l *ledger) add(serial, replaces string, root uint64, end, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.live == nil {
		l.live = map[string]entry{}
	}
	delete(l.live, replaces)
	if len(l.live) >= ledgerMax && now.Sub(l.swept) > time.Minute { // it looks at all
		l.sweep(now)
	}
	if len(l.live) < ledgerMax {
		l.live[serial] = entry{root, end}
	}
}

// count is how many each root signed that have neither ended nor been renewed.
func (l *ledger) count(now time.Time) map[uint64]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sweep(now)
	out := map[uint64]int{}
	for _, e := range l.live {
		out[e.root]++
	}
	return out
}

// sweep forgets those that have ended. The caller holds mu.
func (l *ledger) sweep(now time.Time) {
	l.swept = now
	for serial, e := range l.live {
		if !now.Before(e.end) {
			delete(l.live, serial)
		}
	}
}
