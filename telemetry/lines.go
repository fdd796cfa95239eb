package telemetry

import (
	"context"
	"io"
	"sync"
	"sync/atomic"
)

// linesBytes bounds what waits for the writer.
const linesBytes = 1 << 20

// Lines is a log that never makes who writes it wait: lines are gathered in memory and written by
// one goroutine; those that find the memory full are dropped and counted. It is safe for concurrent use.
type Lines struct {
	to      io.Writer
	wake    chan struct{}
	dropped atomic.Uint64

	mu          sync.Mutex
	buf, spare  []byte
	boundsBytes int
}

// NewLines writes to w, on Run's goroutine.
func NewLines(w io.Writer) *Lines {
	return &Lines{to: w, wake: make(chan struct{}, 1), boundsBytes: linesBytes}
}

// Add takes a line, of which it keeps nothing; false if it was dropped.
func (l *Lines) Add(line []byte) bool {
	l.mu.Lock()
	if len(l.buf)+len(line) > l.boundsBytes {
		l.mu.Unlock()
		l.dropped.Add(1)
		return false
	}
	l.buf = append(l.buf, line...)
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return true
}

// Dropped counts lines that were not written.
func (l *Lines) Dropped() uint64 { return l.dropped.Load() }

// Run writes until ctx ends, and what is left then.
func (l *Lines) Run(ctx context.Context) error {
	for {
		select {
		case <-l.wake:
			l.flush()
		case <-ctx.Done():
			l.flush()
			return ctx.Err()
		}
	}
}

// linesKeep is the largest buffer that is kept for the next lines.
const linesKeep = 64 << 10

func (l *Lines) flush() {
	l.mu.Lock()
	b := l.buf
	l.buf = l.spare[:0]
	l.mu.Unlock()
	if len(b) > 0 {
		_, _ = l.to.Write(b) // there is no better place to say that this failed
	}
	if cap(b) > linesKeep {
		b = nil
	}
	l.spare = b[:0]
}
