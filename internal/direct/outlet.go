package direct

import (
	"errors"
	"net"
	"sync"
)

// keptMax bounds what an Outlet keeps, in bytes.
const keptMax = 512 << 10

var errKept = errors.New("the other side takes nothing, and makes more be written")

// Outlet is a connection whose writes, once Hasty was called, wait for nothing: what the socket has no room for is kept until Rest, which
// waits. It is for what lies under TLS, whose records are written whole or the connection is of no more use. Writes may be made beside each
// other and beside Rest, which is called by one goroutine at a time; what is written keeps its order.
type Outlet struct {
	net.Conn
	attempt func(p []byte) (int, error) // writes what there is room for; nil: writes wait

	mu   sync.Mutex
	kept []byte
	busy bool // Rest writes what comes before kept
}

// NewOutlet is New as an Outlet. Until Hasty its writes wait.
func NewOutlet(c net.Conn) *Outlet { return &Outlet{Conn: New(c)} }

// Hasty has writes wait no more, and reports whether they do not: it takes a descriptor. To be called before any but the caller writes.
func (o *Outlet) Hasty() bool {
	inner := o.Conn
	if c, ok := inner.(interface{ Inner() net.Conn }); ok {
		inner = c.Inner()
	}
	o.attempt = attempts(inner)
	return o.attempt != nil
}

// Room is where buffers are taken from, and put back whole. Both are safe for concurrent use.
type Room interface {
	Get() []byte
	Put([]byte)
}

// Draw is Conn.Draw; of a connection without a descriptor the buffer is held while it waits.
func (o *Outlet) Draw(room Room) ([]byte, error) {
	if c, ok := o.Conn.(interface{ Draw(Room) ([]byte, error) }); ok {
		return c.Draw(room)
	}
	p := room.Get()
	n, err := o.Conn.Read(p)
	if n == 0 && err != nil {
		room.Put(p)
		return nil, err
	}
	return p[:n], nil // an error comes again
}

// Write implements net.Conn. A deadline is not heeded by one that does not wait.
func (o *Outlet) Write(p []byte) (int, error) {
	if o.attempt == nil {
		return o.Conn.Write(p)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	n := 0
	if !o.busy && len(o.kept) == 0 {
		var err error
		if n, err = o.attempt(p); err != nil || n == len(p) {
			return n, err
		}
	}
	if len(o.kept)+len(p)-n > keptMax {
		return n, errKept
	}
	o.kept = append(o.kept, p[n:]...)
	return len(p), nil
}

// Kept reports whether something waits for Rest.
func (o *Outlet) Kept() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.kept) > 0
}

// Rest writes what was kept, within the connection's write deadline.
func (o *Outlet) Rest() error {
	for {
		o.mu.Lock()
		p := o.kept
		o.kept, o.busy = nil, len(p) > 0
		o.mu.Unlock()
		if len(p) == 0 {
			return nil
		}
		if _, err := o.Conn.Write(p); err != nil {
			return err
		}
	}
}
