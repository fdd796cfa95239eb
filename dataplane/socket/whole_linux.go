package socket

import (
	"errors"
	"net"
	"os"
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

	gathered
	try func(fd uintptr) bool // tryGather
}

// NewWhole reads from c.
func NewWhole(c net.Conn) *Whole {
	w := &Whole{conn: c, raw: rawUnder(c), low: 1}
	w.try = w.tryGather
	return w
}

// Gather reads until there is as much as total says, which is asked again whenever there is; nothing beyond that is read. It
// calls little, and what it needs is readied before, so that a goroutine which has just begun waits on the 2 KiB of stack
// that it began with. The error is io.EOF if nothing came.
func (w *Whole) Gather() error {
	if w.raw == nil {
		return w.gatherFrom(w.conn)
	}
	if err := w.raw.Read(w.try); err != nil {
		return err
	}
	return w.err
}

// tryGather reads what has come, and returns false when there is to be more.
func (w *Whole) tryGather(fd uintptr) bool {
	for w.wants() {
		n, err := Read(fd, w.room())
		switch {
		case errors.Is(err, syscall.EAGAIN):
			if n = w.need - len(w.b); n != w.low {
				w.low = n
				_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVLOWAT, n) // refused: it is woken more often
			}
			return false
		case err != nil:
			w.err = os.NewSyscallError("read", err)
			return true
		case n == 0:
			w.err = w.early()
			return true
		}
		w.b = w.b[:len(w.b)+n]
	}
	return true
}

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
