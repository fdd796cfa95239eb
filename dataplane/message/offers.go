package message

import (
	"math"
	"runtime"
)

// What an end of a request may offer beside what it must; one that does not is taken for the common case.

// Cork lets ex hold writes back until Flush, or until it would wait (http1); one that cannot sends at once.
func Cork(ex Exchange) {
	if c, ok := ex.(interface{ Cork() }); ok {
		c.Cork()
	}
}

// Flush sends what Cork held back.
func Flush(ex Exchange) error {
	if f, ok := ex.(interface{ Flush() error }); ok {
		return f.Flush()
	}
	return nil
}

// Room is how many bytes ex could send at once, as far as it knows (http2).
func Room(ex Exchange) int {
	if r, ok := ex.(interface{ Room() int }); ok {
		return r.Room()
	}
	return math.MaxInt
}

// Settle has an end hold little while the client takes nothing, if it can: of what it gave (http1), or of what it asked
// with (http2).
func Settle(s any) {
	if h, ok := s.(interface{ Settle() }); ok {
		h.Settle()
	}
}

// Ready reports whether a Read would return at once; what cannot say is taken to wait.
func Ready(s any) bool {
	r, ok := s.(interface{ Ready() bool })
	return ok && r.Ready()
}

// Soon is Ready after whoever reads for s has run once: the body's first bytes often stand behind the
// head in the same packet, and then leave with it in one write.
func Soon(s Stream) bool {
	runtime.Gosched()
	return Ready(s)
}
