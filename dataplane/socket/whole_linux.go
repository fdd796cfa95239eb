package socket

import (
	"net"
	"syscall"
)

// Whole reads messages whose length is known from a connection whose peer may send them in pieces. After a read that came
// short the kernel wakes the next one only when all that is missing has come (SO_RCVLOWAT of socket(7)), the peer has
// ended, or the read deadline is reached: who sends an octet now and then costs a read in all, and not one for each. Who
// sends what is asked for at once costs nothing more. One goroutine uses it; Close takes the wish back.
type Whole struct {
	conn net.Conn
	raw  syscall.RawConn // nil: nothing is asked of the kernel
	low  int             // what it was told
}

// NewWhole reads from c.
func NewWhole(c net.Conn) *Whole { return &Whole{conn: c, raw: rawUnder(c), low: 1} }

// Read reads what has come of p, and wants the rest of it in one piece.
func (w *Whole) Read(p []byte) (int, error) {
	n, err := w.conn.Read(p)
	w.want(len(p) - n)
	return n, err
}

// Close has further reads of the connection wake as usual; the connection stays open.
func (w *Whole) Close() { w.want(1) }

func (w *Whole) want(n int) {
	if n = max(n, 1); w.raw == nil || n == w.low {
		return
	}
	w.low = n
	_ = w.raw.Control(func(fd uintptr) { // refused: it is woken more often
		_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVLOWAT, n)
	})
}
