package message

import (
	"io"
	"time"
)

// Unheard is an exchange without a client: a request whose answer nobody hears.
type Unheard struct {
	Head Head
	Body []byte // what is left of it to be read
}

// Request is the head.
func (u *Unheard) Request() *Head { return &u.Head }

// Trailers are none.
func (u *Unheard) Trailers() []Field { return nil }

// Respond takes any head.
func (u *Unheard) Respond(*Head, bool) error { return nil }

// Write takes any body.
func (u *Unheard) Write(p []byte) (int, error) { return len(p), nil }

// Finish does nothing.
func (u *Unheard) Finish([]Field) error { return nil }

// Abort does nothing.
func (u *Unheard) Abort(error) {}

// SetDeadline does nothing: nothing blocks.
func (u *Unheard) SetDeadline(time.Time) {}

// Read reads the body.
func (u *Unheard) Read(p []byte) (int, error) {
	if len(u.Body) == 0 {
		return 0, io.EOF
	}
	n := copy(p, u.Body)
	u.Body = u.Body[n:]
	return n, nil
}
