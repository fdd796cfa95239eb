package tunnel

import (
	"net"
	"sync/atomic"
	"time"
)

// heard is a socket under TLS that notes when bytes came: on a slow link one record of TLS
// takes seconds, in which nothing is read above it.
type heard struct {
	net.Conn
	nanos func() int64 // monotonic

	at   atomic.Int64 // when something came last
	got  atomic.Int64 // bytes
	big  atomic.Int64 // bytes that came in long reads since the owner has set it to 0
	sent atomic.Int64 // bytes
}

// Write is called by one goroutine at a time.
func (h *heard) Write(p []byte) (int, error) {
	n, err := h.Conn.Write(p)
	h.sent.Add(int64(n))
	return n, err
}

// bulkRead is a read, in bytes, that small messages do not make and bulk does: crypto/tls asks for 512 at
// least.
const bulkRead = 512

func (h *heard) Read(p []byte) (int, error) {
	n, err := h.Conn.Read(p)
	if n > 0 {
		h.at.Store(h.nanos())
		h.got.Add(int64(n))
		if n >= bulkRead {
			h.big.Add(int64(n))
		}
	}
	return n, err
}

const (
	// reportEvery is how often a server tells how much has come, and reportLeast of how much more it
	// tells: below that PINGs and their answers would keep each other going.
	reportEvery = 100 * time.Millisecond
	reportLeast = 1 << 10
)

// progress is a server's socket. While bytes come it tells the client how many: what the client has
// sent may stand in queues of the path for seconds, its PINGs behind it, and only this end knows
// that they move.
type progress struct {
	heard
	armed  atomic.Bool
	timer  *time.Timer
	report atomic.Pointer[func(uint64)]
	told   int64 // the timer's own
}

func newProgress(c net.Conn, nanos func() int64) *progress {
	p := &progress{heard: heard{Conn: c, nanos: nanos}}
	p.at.Store(nanos())
	p.timer = time.AfterFunc(reportEvery, p.tell)
	p.timer.Stop()
	return p
}

func (p *progress) Read(b []byte) (int, error) {
	n, err := p.heard.Read(b)
	if n > 0 && !p.armed.Load() && p.report.Load() != nil && p.armed.CompareAndSwap(false, true) {
		p.timer.Reset(reportEvery)
	}
	return n, err
}

// tell runs on a goroutine of the timer; no two at a time, as the timer is set again only after armed
// was cleared.
func (p *progress) tell() {
	got := p.got.Load()
	if got-p.told >= reportLeast {
		p.told = got
		if send := p.report.Load(); send != nil {
			(*send)(uint64(got))
		}
	}
	p.armed.Store(false)
}

// end stops the reports.
func (p *progress) end() {
	p.report.Store(nil)
	p.timer.Stop()
}
