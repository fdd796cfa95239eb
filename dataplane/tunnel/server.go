package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/http2"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

// Peer is who opened a connection, as the handshake proved, and the name it asked for.
type Peer struct {
	Identity mesh.Identity
	SNI      mesh.SNI
}

// ServerConfig is what a Server works with; all fields are required.
type ServerConfig struct {
	Source *trust.Source
	// Serves tells, before a certificate is shown, whether a name is served here. It
	// must not block.
	Serves func(mesh.SNI) bool
	// Handle answers one request; it is called on a goroutine of its own.
	Handle func(message.Exchange, Peer)
	Now    func() time.Time
	Log    *slog.Logger
}

const (
	handshakeTimeout = 10 * time.Second
	// handshakesMax bounds handshakes under way: the dear part of a connection.
	handshakesMax = 256
)

// Server is the server side of inter-proxy connections.
type Server struct {
	cfg ServerConfig
	tls *tls.Config

	mu    sync.Mutex
	conns map[*served]bool
}

type served struct {
	conn  *tls.Conn
	state tls.ConnectionState
}

// NewServer returns a server without connections.
func NewServer(cfg ServerConfig) *Server {
	s := &Server{cfg: cfg, conns: map[*served]bool{}}
	s.tls = trust.ServerConfig(cfg.Source, trust.ServerOptions{Accept: trust.AcceptKnownClients(), ALPN: []string{ALPN},
		Serves: func(name string) bool {
			sni, err := mesh.ParseSNI(name)
			return err == nil && cfg.Serves(sni)
		}})
	return s
}

// Serve accepts on ln until ctx ends, then lets the requests in progress end. It closes ln.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	var conns sync.WaitGroup
	defer conns.Wait()
	conns.Go(func() { s.watchTrust(ctx) })
	handshakes := make(chan struct{}, handshakesMax)
	for {
		c, err := accept(ctx, ln)
		if err != nil {
			return err
		}
		select {
		case handshakes <- struct{}{}:
		case <-ctx.Done():
			c.Close()
			continue
		}
		conns.Go(func() { s.serve(ctx, c, func() { <-handshakes }) })
	}
}

// accept waits out what passes by itself, such as a lack of descriptors; a closed
// listener is the end.
func accept(ctx context.Context, ln net.Listener) (net.Conn, error) {
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		c, err := ln.Accept()
		if err == nil {
			return c, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if errors.Is(err, net.ErrClosed) {
			return nil, err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *Server) serve(ctx context.Context, raw net.Conn, shaken func()) {
	tc := tls.Server(raw, s.tls)
	hctx, stop := context.WithTimeout(ctx, handshakeTimeout)
	err := tc.HandshakeContext(hctx)
	stop()
	shaken()
	if err != nil {
		raw.Close()
		if ctx.Err() == nil {
			s.cfg.Log.Warn("a connection was refused", "remote", raw.RemoteAddr().String(), "reason", string(reasonOf(err)), "error", err)
		}
		return
	}
	state := tc.ConnectionState()
	id, err := trust.PeerIdentity(state)
	sni, err2 := mesh.ParseSNI(state.ServerName)
	if err := errors.Join(err, err2); err != nil {
		raw.Close()
		s.cfg.Log.Error("a verified connection has no identity or name", "error", err)
		return
	}
	v := &served{tc, state}
	s.mu.Lock()
	s.conns[v] = true
	s.mu.Unlock()
	peer := Peer{id, sni}
	err = http2.ServeConn(ctx, tc, http2.Config{ConnectProtocol: true, MaxConcurrentStreams: 1024,
		Panic: func(p any) { s.cfg.Log.Error("a request's handler panicked", "panic", p) }},
		func(ex message.Exchange) { s.cfg.Handle(ex, peer) })
	s.mu.Lock()
	delete(s.conns, v)
	s.mu.Unlock()
	if err != nil {
		s.cfg.Log.Debug("a connection ended", "peer", id.String(), "error", err)
	}
}

// watchTrust judges live connections again whenever trust changes.
func (s *Server) watchTrust(ctx context.Context) {
	_, changed := s.cfg.Source.Watch()
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
		var m trust.Material
		m, changed = s.cfg.Source.Watch()
		if m.Bundles == nil {
			continue
		}
		s.mu.Lock()
		for v := range s.conns {
			if _, err := m.Bundles.VerifyPeer(v.state.PeerCertificates, s.cfg.Now(), trust.AcceptKnownClients()); expelled(err) {
				s.cfg.Log.Warn("a connection is cut: its peer is no longer trusted", "error", err)
				v.conn.NetConn().Close()
			}
		}
		s.mu.Unlock()
	}
}
