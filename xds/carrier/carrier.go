// Package carrier serves gRPC over HTTP/2 to thousands of clients that are quiet most of the
// time. Its one idea is that a stream which waits holds no goroutine: what arrives is taken
// by the connection's one reader, and what is due is sent by a goroutine that begins with it and ends
// when there is no more, so that a message to a client costs one write and an answer one read.
//
// On the wire it is gRPC as any client speaks it (gRPC over HTTP/2, PROTOCOL-HTTP2.md;
// RFC 9113): unary calls of generated services, and methods whose streams are Conversations. It has
// no client, no other streaming calls, no compression, and knows nothing of what it carries.
//
// Read Server first, then conn (reads) and writer (writes).
package carrier

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
)

// Conversation is one stream of a method that was given to Converse. There is one call of Take at a
// time and one of Next, which may be made beside each other and beside Close.
type Conversation interface {
	// Take takes one message of the client; the bytes are the caller's again afterwards. It must not
	// wait. An error ends the stream with its status.
	Take(message []byte) error
	// Next is the next message to send, in pieces that nobody changes any more; nil if there is none
	// before the next wake, or, when ended, none ever again: the stream then ends with the status of err.
	Next() (message mem.BufferSlice, ended bool, err error)
	// Close is the last call: the stream has ended, for whatever reason.
	Close()
}

// Opener begins a conversation. ctx is the stream's, with the peer's credentials as grpc has
// them (peer.FromContext). wake says that there is something for Next; it never waits, and may
// be called by anybody at any time. here has the caller's goroutine send it, where that need not wait: for who has a
// word for many streams at once, none of which then begins a goroutine.
type Opener func(ctx context.Context, wake func(here bool)) (Conversation, error)

// Config is what a Server works with. TLS is required, or Plain.
type Config struct {
	// TLS must offer the protocol h2.
	TLS *tls.Config
	// Plain serves without TLS: for tests.
	Plain bool
	// MessageMax bounds a message in bytes; 0 is 4 MiB. Windows hold one message of a stream, and
	// four of a connection.
	MessageMax int
	// MaxConns bounds the connections; 0 is 20,000. More are closed as they come.
	MaxConns int
	// PingAfter is after what silence a client is asked whether it lives, and Patience how long
	// it has for any sign; 0 are two minutes and 20 s.
	PingAfter, Patience time.Duration
	Log                 *slog.Logger // nil discards
}

const (
	handshakeTime = 10 * time.Second
	// streamsMax is how many calls a client may have at once on a connection (RFC 9113 §5.1.2).
	streamsMax = 100
	headMax    = 16 << 10
)

// Server serves connections. Register and Converse are called before Serve.
type Server struct {
	cfg       Config
	unary     map[string]unary
	converses map[string]Opener

	mu    sync.Mutex
	conns map[*conn]struct{}
	ended bool
}

// unary is a method of a registered service.
type unary struct {
	desc *grpc.MethodDesc
	impl any
}

// New returns a server without methods.
func New(cfg Config) *Server {
	if cfg.MessageMax == 0 {
		cfg.MessageMax = 4 << 20
	}
	if cfg.MaxConns == 0 {
		cfg.MaxConns = 20_000
	}
	if cfg.PingAfter == 0 {
		cfg.PingAfter = 2 * time.Minute
	}
	if cfg.Patience == 0 {
		cfg.Patience = 20 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{cfg: cfg, unary: map[string]unary{}, converses: map[string]Opener{}, conns: map[*conn]struct{}{}}
}

// RegisterService implements grpc.ServiceRegistrar for services of unary methods. It panics for a
// service with streams, as such a one would be a fault of the program.
func (s *Server) RegisterService(d *grpc.ServiceDesc, impl any) {
	if len(d.Streams) > 0 {
		panic(fmt.Sprintf("service %s has streams: give them to Converse", d.ServiceName))
	}
	for i := range d.Methods {
		s.unary["/"+d.ServiceName+"/"+d.Methods[i].MethodName] = unary{&d.Methods[i], impl}
	}
}

// Converse has the streams of a method, "/service/method", opened by open.
func (s *Server) Converse(method string, open Opener) { s.converses[method] = open }

// Serve accepts on ln until ctx ends or ln is closed, then closes every connection, and returns when all have ended. It closes ln.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	var running sync.WaitGroup
	defer running.Wait()
	defer s.closeAll() // not when ctx ends: its end may close ln before it reaches who else waits for it
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	for pause := time.Duration(0); ; {
		raw, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			// A lack of descriptors or memory passes.
			if pause = min(max(2*pause, 5*time.Millisecond), time.Second); !sleep(ctx, pause) {
				return ctx.Err()
			}
			continue
		}
		pause = 0
		c := newConn(s, raw)
		if !s.enter(c) {
			raw.Close()
			continue
		}
		running.Go(func() {
			defer s.leave(c)
			c.run(ctx)
		})
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (s *Server) enter(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || len(s.conns) >= s.cfg.MaxConns {
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

func (s *Server) leave(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

func (s *Server) closeAll() {
	s.mu.Lock()
	s.ended = true
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	for _, c := range conns {
		c.raw.Close()
	}
}

// shown is a method's path as a status may carry it.
func shown(path string) string {
	return strings.ToValidUTF8(path[:min(len(path), 256)], "\uFFFD")
}
