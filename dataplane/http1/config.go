package http1

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Config is shared by many connections, together with the pools of buffers inside it.
// It must not be changed or copied once a connection uses it. The zero Config is ready
// for use; a zero limit is its default, a zero rate is none.
type Config struct {
	// HeadBytesMax bounds a head from its first byte to its empty line. Default 64 KiB,
	// at most 1 MiB.
	HeadBytesMax int
	// FieldsMax bounds the field lines of one head or trailer section. Default 128, at most 1024.
	FieldsMax int
	// TrailerBytesMax bounds a trailer section. Default 16 KiB.
	TrailerBytesMax int
	// DrainBytesMax is how much of an unread request body is read and thrown away to
	// keep the connection after an early response. Default 256 KiB; negative is none.
	DrainBytesMax int

	// ReadHeaderTimeout runs from the first byte of a request's head to its last. Default
	// 10 s; negative is none.
	ReadHeaderTimeout time.Duration
	// IdleTimeout bounds the wait for the first byte of a request. It may last an
	// eighth longer, which saves re-arming a timer for each request. Default 3 min; negative is none.
	IdleTimeout time.Duration
	// RestAfter is how long Next waits for a request before it returns ErrIdle, so that the caller
	// may go on to wait with a smaller stack (Rest); it may last twice as long. Zero is for as
	// long as IdleTimeout.
	RestAfter time.Duration
	// LingerTimeout bounds the reading that follows the closing of our direction
	// (RFC 9112 §9.6), and the draining of an unread body. Default 2 s.
	LingerTimeout time.Duration

	// ReadRateMin is the least rate in bytes a second at which a client must deliver a
	// request's body. Only time spent waiting for the client counts. Zero is none.
	ReadRateMin int
	// WriteRateMin is the same for a client that takes a response, per Write.
	WriteRateMin int
	// RateGrace is what a client may fall behind either rate. Default 10 s.
	RateGrace time.Duration

	// HTTP2 makes Next look for the preface of HTTP/2 at the beginning of a connection, and
	// return ErrHTTP2 when it is there.
	HTTP2 bool

	// Refused, if set, may change the head of the engine's own answer to a request it
	// could not accept. The head bears the status and isthmus-reason.
	Refused func(e *ParseError, h *message.Head)

	// Now tells the time; time.Now if nil.
	Now func() time.Time

	holdMost time.Duration // of tests; holdMost if zero

	buffers sync.Pool // *buffer
	heads   sync.Pool // *heads
}

// Validate reports every fault of c.
func (c *Config) Validate() error {
	var errs []error
	check := func(name string, v, limit int) {
		if v < 0 || v > limit {
			errs = append(errs, fmt.Errorf("http1: %s is %d, want 0 to %d", name, v, limit))
		}
	}
	check("HeadBytesMax", c.HeadBytesMax, 1<<20)
	check("FieldsMax", c.FieldsMax, 1024)
	check("TrailerBytesMax", c.TrailerBytesMax, 1<<20)
	check("ReadRateMin", c.ReadRateMin, 1<<30)
	check("WriteRateMin", c.WriteRateMin, 1<<30)
	return errors.Join(errs...)
}

func (c *Config) headBytesMax() int {
	return min(orDefault(c.HeadBytesMax, 64<<10), 1<<20)
}
func (c *Config) fieldsMax() int           { return min(orDefault(c.FieldsMax, 128), 1024) }
func (c *Config) trailerBytesMax() int     { return orDefault(c.TrailerBytesMax, 16<<10) }
func (c *Config) drainBytesMax() int       { return orDefault(c.DrainBytesMax, 256<<10) }
func (c *Config) header() time.Duration    { return orDefault(c.ReadHeaderTimeout, 10*time.Second) }
func (c *Config) idle() time.Duration      { return orDefault(c.IdleTimeout, 3*time.Minute) }
func (c *Config) linger() time.Duration    { return orDefault(c.LingerTimeout, 2*time.Second) }
func (c *Config) rateGrace() time.Duration { return orDefault(c.RateGrace, 10*time.Second) }

func orDefault[T int | time.Duration](v, def T) T {
	if v == 0 {
		return def
	}
	return v
}

func (c *Config) now() time.Time {
	if c.Now != nil {
		return c.Now()
	}
	return time.Now()
}

// bufferSize is the size in bytes of every pooled buffer.
const bufferSize = 16 << 10

// A buffer is lent to a connection while bytes lie in it.
type buffer struct{ b []byte }

func (c *Config) getBuffer() *buffer {
	if b, ok := c.buffers.Get().(*buffer); ok {
		return b
	}
	return &buffer{make([]byte, bufferSize)}
}

// putBuffer takes b back; one that had to grow goes to the collector.
func (c *Config) putBuffer(b *buffer) {
	if len(b.b) == bufferSize {
		c.buffers.Put(b)
	}
}

// heads are what a connection needs only while a message is on it.
type heads struct{ request, trailer message.Head }

func (c *Config) getHeads() *heads {
	if h, ok := c.heads.Get().(*heads); ok {
		return h
	}
	return new(heads)
}

func (c *Config) putHeads(h *heads) {
	h.request.Reset()
	h.trailer.Reset()
	c.heads.Put(h)
}

// A ParseError says why bytes were not accepted as a message.
type ParseError struct {
	Status int         // what a server answers; 502 if a response was at fault
	Reason mesh.Reason // for the header isthmus-reason and the log
	Detail string      // constant, never the peer's bytes: safe to log
	// RequestID is what Config.Refused, if it does, called the request in its answer.
	RequestID string
}

func (e *ParseError) Error() string {
	return fmt.Sprintf("http1: malformed message (%d): %s", e.Status, e.Detail)
}

func malformed(detail string) *ParseError {
	return &ParseError{Status: 400, Reason: mesh.ReasonMalformed, Detail: detail}
}

func refuse(status int, detail string) *ParseError {
	reason := mesh.ReasonMalformed
	if status == 431 || status == 414 {
		reason = mesh.ReasonHeadTooLarge
	}
	return &ParseError{Status: status, Reason: reason, Detail: detail}
}

// Errors of connections.
var (
	// ErrTooSlow is wrapped, with os.ErrDeadlineExceeded, when a client stays below a rate.
	ErrTooSlow = errors.New("http1: the client is slower than the least rate")
	// ErrDraining is returned by Next once EndIdle was called and no request waits.
	ErrDraining = errors.New("http1: the connection is draining")
	// ErrHTTP2 is returned by Next when the client has begun to speak HTTP/2 with prior knowledge
	// (RFC 9113 §3.3): HandOver then gives the connection to who speaks it too.
	ErrHTTP2 = errors.New("http1: the client speaks HTTP/2")
	// ErrIdle says that no request has come within Config.RestAfter. The connection is as it was.
	ErrIdle = errors.New("http1: no request yet")
	// ErrState is wrapped when calls come in an order that no message has.
	ErrState = errors.New("http1: call out of order")
	// ErrHead is wrapped when a Head cannot be written as an HTTP/1.1 message.
	ErrHead = errors.New("http1: head cannot be written")
	// ErrPoolFull is wrapped, with message.ErrNotExecuted, when a target has all its connections in use.
	ErrPoolFull error = poolFull{}
	// ErrPoolClosed is wrapped, with message.ErrNotExecuted, after Pool.Close.
	ErrPoolClosed = errors.New("http1: the pool is closed")
)

// errUnsendable is a connection of a pool on which nothing may be sent any more.
var errUnsendable = errors.New("http1: the pooled connection is not good")

type poolFull struct{}

func (poolFull) Error() string { return "http1: every connection to the target is in use" }

// Reason says that this is load, and not death.
func (poolFull) Reason() mesh.Reason { return mesh.ReasonOverloaded }
