package tunnel

import (
	"crypto/tls"
	"sync/atomic"
	"time"
)

// wire is the TLS connection under a client's HTTP/2. It sees how long writes wait, and
// remembers why we cut it, so that the streams that break say so.
type wire struct {
	*tls.Conn
	records *batch
	nanos   func() int64 // monotonic

	writing atomic.Int64 // when the write under way began; 0 if there is none
	slow    atomic.Int64 // when the first of the slow writes in a row began; 0 if the last was quick
	unheard atomic.Int64 // bytes written since something was read
	cause   atomic.Pointer[error]
}

// slowWrite is what a write to a socket that has room does not take. With socket.Unhoard a socket
// without room is one whose link has been busy for so long.
const slowWrite = int64(time.Millisecond)

// Write is called by the connection's flusher only, one at a time.
func (w *wire) Write(p []byte) (int, error) {
	start := w.nanos()
	w.writing.Store(start)
	w.unheard.Add(int64(len(p)))
	n, err := batched(w.records, w.Conn, p)
	w.writing.Store(0)
	switch {
	case w.nanos()-start < slowWrite:
		w.slow.Store(0)
	case w.slow.Load() == 0:
		w.slow.Store(start)
	}
	return n, w.because(err)
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if n > 0 {
		w.unheard.Store(0)
	}
	return n, w.because(err)
}

// because replaces the error of a connection that we cut by the reason.
func (w *wire) because(err error) error {
	if err != nil {
		if cause := w.cause.Load(); cause != nil {
			return *cause
		}
	}
	return err
}

// queued is for how long the send queue has not been empty, as far as writes tell.
func (w *wire) queued(now int64) time.Duration {
	since := w.slow.Load()
	if since == 0 {
		if since = w.writing.Load(); since == 0 || now-since < slowWrite {
			return 0
		}
	}
	return time.Duration(now - since)
}

// Queues in the path, a gateway's among them, hold what was written; a PING stands behind it. A server
// says what reaches it (see progress), however slowly; these bound the wait where none has said anything.
const (
	slowestLink = 1 << 20 // bytes a second below which a link is taken for silent
	queueMax    = 5 * time.Second
	// bodiesMax bounds what bodies on their way put silence off: what a server's threshold keeps
	// back looks the same.
	bodiesMax = 2 * time.Second
	// aheadMax is more, in bytes, than the queues of sockets between a server and us hold: the answer to a PING
	// may stand behind as much of a body that is bulk.
	aheadMax = 16 << 20
	// slowestBulk is bytes a second below which what comes in long reads fills no link.
	slowestBulk = 4 << 10
)

// arrivals is what the server has said of how much has reached it.
type arrivals struct {
	nanos func() int64
	most  atomic.Uint64 // bytes; the reader alone writes it
	at    atomic.Int64  // when more had reached it; 0 never
}

// note implements http2.Config.Reported.
func (a *arrivals) note(count uint64) {
	if count > a.most.Load() {
		a.most.Store(count)
		a.at.Store(a.nanos())
	}
}

// draining is how long what was written since the peer was heard of may take to reach it.
func (w *wire) draining() time.Duration {
	return min(time.Duration(w.unheard.Load())*time.Second/slowestLink, queueMax)
}

// cut ends the connection under TLS and HTTP/2 at once; both sides' calls fail with the
// first cause. It does not block: there is no goodbye, which would wait for a peer that does
// not drain.
func (w *wire) cut(cause error) {
	w.cause.CompareAndSwap(nil, &cause)
	w.NetConn().Close()
}

// estimate is a round trip by RFC 6298 §2, without its floor of a second.
type estimate struct {
	srtt, rttvar time.Duration
}

func (e *estimate) add(r time.Duration) {
	if e.srtt == 0 {
		e.srtt, e.rttvar = max(r, 1), r/2
		return
	}
	e.rttvar += ((e.srtt - r).Abs() - e.rttvar) / 4
	e.srtt = max(e.srtt+(r-e.srtt)/8, 1)
}

const (
	// quietFloor is the least quiet, beyond a round trip, after which a PING asks.
	quietFloor = 100 * time.Millisecond
	// silentFloor is the least silence, beyond a round trip, that ends a connection.
	silentFloor = 300 * time.Millisecond
)

// answer is how long a PING may take before its absence means anything.
func (e *estimate) answer() time.Duration { return e.srtt + max(quietFloor, 4*e.rttvar) }

// silence is what no living peer keeps while it owes us an answer: two retransmissions of
// one segment fit.
func (e *estimate) silence() time.Duration {
	return e.srtt + max(silentFloor, 2*(e.srtt+4*e.rttvar))
}
