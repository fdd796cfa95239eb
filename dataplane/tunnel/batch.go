package tunnel

import (
	"net"
	"sync"
	"syscall"

	"github.com/isthmus-mesh/isthmus/dataplane/socket"
)

const (
	// recordMax is the most that a record of TLS carries (RFC 8446 §5.1), in bytes.
	recordMax = 16 << 10
	// batchSize is what is asked of the kernel, or given to it, at once when records follow each other: four
	// records with what TLS adds.
	batchSize = 66 << 10
	// batchAfter is the write, in bytes, that TLS may cut into several records: at first it makes them as
	// small as a segment.
	batchAfter = 1 << 10
)

// batches are shared by all connections: one that waits holds none.
var batches = sync.Pool{New: func() any { return new([batchSize]byte) }}

// batch is the socket under TLS. crypto/tls reads and writes one record at a time; where records follow each
// other batch makes one system call for several, and copies. It is read by one goroutine at a time.
type batch struct {
	net.Conn // of package socket
	raw      syscall.RawConn

	try  func(fd uintptr) bool
	in   *[batchSize]byte // in[r:w] is to be read; nil while there is none
	r, w int
	err  error
	more bool // the last read gave a record or more: the next one may

	mu   sync.Mutex // TLS writes alerts from goroutines of its own
	held bool
	out  *[batchSize]byte
	n    int
}

func newBatch(c net.Conn) *batch {
	b := &batch{Conn: socket.New(c), raw: socket.Raw(c)}
	b.try = b.tryRead
	return b
}

// Inner is the connection under it.
func (b *batch) Inner() net.Conn { return b.Conn }

func (b *batch) Read(p []byte) (int, error) {
	if b.in == nil && (!b.more || b.raw == nil) {
		n, err := b.Conn.Read(p)
		b.more = n >= recordMax
		return n, err
	}
	if b.in == nil {
		b.err = nil
		if err := b.raw.Read(b.try); err != nil {
			return 0, err
		}
		if b.in == nil {
			return 0, b.err
		}
	}
	n := copy(p, b.in[b.r:b.w])
	if b.r += n; b.r == b.w {
		batches.Put(b.in)
		b.in = nil
	}
	return n, nil
}

// hold keeps what is written until release, or until there is a batch of it.
func (b *batch) hold() {
	b.mu.Lock()
	b.held = true
	b.mu.Unlock()
}

// release writes what was held.
func (b *batch) release() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held = false
	return b.flush()
}

func (b *batch) flush() error {
	if b.out == nil {
		return nil
	}
	_, err := b.Conn.Write(b.out[:b.n])
	batches.Put(b.out)
	b.out, b.n = nil, 0
	return err
}

func (b *batch) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.n+len(p) > batchSize {
		if err := b.flush(); err != nil {
			return 0, err
		}
	}
	if !b.held || len(p) > batchSize {
		return b.Conn.Write(p)
	}
	if b.out == nil {
		b.out = batches.Get().(*[batchSize]byte)
	}
	b.n += copy(b.out[b.n:], p)
	return len(p), nil
}

// batched writes p through TLS over b.
func batched(b *batch, tls net.Conn, p []byte) (int, error) {
	if len(p) <= batchAfter {
		return tls.Write(p)
	}
	b.hold()
	n, err := tls.Write(p)
	if rerr := b.release(); err == nil && rerr != nil {
		return 0, rerr
	}
	return n, err
}
