package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

// Bounds of a stream, on both sides.
const (
	// MessageMax is the largest message, in octets: a response of MaxResponse with its
	// envelope. What two honest sides exchange is half of it.
	MessageMax = 2 * replica.MaxResponse
	// StreamsMax is how many streams of one peer and owner live: one a replica, and those of the
	// recent past whose end has not been noticed yet. One more ends the oldest.
	StreamsMax = 8
	// connStreamsMax bounds the streams of one connection. A remote cluster's carries one each way for each cluster
	// of the mesh, and one each in reserve.
	connStreamsMax = 1024
	// tick is how often a state machine is shown the time.
	tick = 500 * time.Millisecond
	// sendMax bounds a Send, which blocks for as long as the other side does not read.
	sendMax = 30 * time.Second
	// silentMax without one octet a connection is dead: heartbeats come every second. It is
	// octets that count and not messages, so that a large message over a slow link is no silence.
	silentMax = 4 * time.Second
	// pingAfter and pingMax are HTTP/2 pings, by which a server notices a path that swallows.
	pingAfter = 5 * time.Second
	pingMax   = 5 * time.Second
)

// ServerOptions are what a gRPC server of the federation is made with; credentials are the
// caller's to add.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(MessageMax),
		grpc.MaxConcurrentStreams(connStreamsMax),
		grpc.ConnectionTimeout(10 * time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingAfter, Timeout: pingMax}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingAfter}),
	}
}

// received is a message or the end of a stream.
type received[M any] struct {
	value M
	err   error
}

// receive turns a blocking Recv into a channel, which is closed at the end. Its goroutine ends with
// the stream; at most one message waits.
func receive[P, M any](ctx context.Context, recv func() (P, error), decode func(P) (M, error)) <-chan received[M] {
	out := make(chan received[M])
	go func() {
		defer close(out)
		for {
			var r received[M]
			p, err := recv()
			if err == nil {
				r.value, err = decode(p)
			}
			if errors.Is(err, io.EOF) {
				return
			}
			r.err = err
			select {
			case out <- r:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return out
}

// sender is a Send with a deadline. When it passes, the caller ends the stream, and with
// it the Send that still waits.
type sender[M any] struct {
	send  func(M) error
	clock clock.Clock
	// waiting are Sends that outlived their deadline.
	waiting *sync.WaitGroup
}

func (s sender[M]) Send(ctx context.Context, m M) error {
	sent := make(chan error, 1)
	s.waiting.Go(func() { sent <- s.send(m) })
	t := s.clock.NewTimer(sendMax)
	defer t.Stop()
	select {
	case err := <-sent:
		return err
	case <-t.C():
		return fmt.Errorf("the other side has not read for %v", sendMax)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// listener notes when octets last came over a connection, and counts them.
type listener struct {
	net.Conn
	heard   *heard
	traffic *Traffic
}

func (l listener) Read(b []byte) (int, error) {
	n, err := l.Conn.Read(b)
	if n > 0 {
		l.heard.spoken.Store(true)
		l.heard.note()
	}
	l.traffic.add(n, 0)
	return n, err
}

func (l listener) Write(b []byte) (int, error) {
	n, err := l.Conn.Write(b)
	l.traffic.add(0, n)
	return n, err
}

// heard is when a connection was last heard. It is safe for concurrent use.
type heard struct {
	clock clock.Clock
	since time.Time
	after atomic.Int64 // of since, in nanoseconds
	// spoken says that an octet came, ever.
	spoken atomic.Bool
}

func newHeard(c clock.Clock) *heard { return &heard{clock: c, since: c.Now()} }

func (h *heard) note() { h.after.Store(int64(h.clock.Now().Sub(h.since))) }

// silence is for how long nothing has come.
func (h *heard) silence() time.Duration {
	return h.clock.Now().Sub(h.since) - time.Duration(h.after.Load())
}
