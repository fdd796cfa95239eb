package tunnel

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/door"
	"github.com/isthmus-mesh/isthmus/dataplane/http2"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/socket"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

// Peer is who opened a connection, as the handshake proved, and the name it asked for.
type Peer struct {
	Identity mesh.Identity
	SNI      mesh.SNI
	// HBONE says that it is no proxy of ours, and is to be believed nothing but its identity. It may have asked
	// for no name: then SNI is zero.
	HBONE bool
}

// ServerConfig is what a Server works with; all fields but MaxConns and Budget are
// required.
type ServerConfig struct {
	Source *trust.Source
	// Serves tells, before a certificate is shown, whether a name is served here. It
	// must not block.
	Serves func(mesh.SNI) bool
	// Handle answers one request; it is called on a goroutine of its own.
	Handle func(message.Exchange, Peer)
	// MaxConns bounds the connections; 0 is 16,384.
	MaxConns int
	// Budget is where windows grow from; nil is one of the server's own.
	Budget http2.Budget
	// DrainTime is how long requests may take to end once Serve's context has; 0 is 30 s.
	DrainTime time.Duration
	Now       func() time.Time
	Log       *slog.Logger
}

const (
	serverConnsMax   = 16 << 10
	handshakeTimeout = 5 * time.Second
	// handshakesMax bounds connections whose peer has not proved who it is, and
	// handshakesEach those of one address: a gateway is one address for many clients.
	handshakesMax, handshakesEach = 2048, 1024
	// serverIdle is longer than what dialers wait before they leave by themselves.
	serverIdle = 2 * time.Minute
	// goneAfter is the silence after which the client of open streams is given up. A Dialer asks
	// every quietMax at the latest.
	goneAfter = 10 * time.Second
	goneLook  = 2 * time.Second
	// askAfter is the silence after which a client of HBONE is asked, which need not ask by itself.
	askAfter = 4 * time.Second
)

// Server is the server side of inter-proxy connections.
type Server struct {
	cfg   ServerConfig
	tls   *tls.Config
	epoch time.Time

	mute    bool // tests: says nothing of what has come, as older servers do
	patient bool // tests: gives up no silent client

	// all counts the connections, strangers those whose peer has not proved who it is. What peers did is remembered over
	// connections: see ADR 27. offences and allowance are nil in control runs of tests.
	all, strangers *door.Door
	offences       *door.Offences
	allowance      *door.Allowance

	complaints complaints

	mu    sync.Mutex
	conns map[*served]bool
}

// served is one connection.
type served struct {
	*tls.Conn
	records *batch
	socket  *progress
	chain   []*x509.Certificate
	drain   context.CancelFunc
	streams atomic.Int64
	// ask, if set, has the client answer: it speaks HBONE.
	ask atomic.Pointer[func(uint64)]
}

// Write is called by the connection's flusher only, one at a time.
func (v *served) Write(p []byte) (int, error) { return batched(v.records, v.Conn, p) }

// NewServer returns a server without connections.
func NewServer(cfg ServerConfig) *Server {
	if cfg.MaxConns == 0 {
		cfg.MaxConns = serverConnsMax
	}
	if cfg.Budget == nil {
		cfg.Budget = NewBudget(budgetDefault)
	}
	s := &Server{cfg: cfg, conns: map[*served]bool{}, epoch: cfg.Now(), offences: &door.Offences{Now: cfg.Now}, allowance: &door.Allowance{}}
	s.all = &door.Door{Most: cfg.MaxConns, Allowance: s.allowance, Log: cfg.Log, Now: cfg.Now}
	s.strangers = &door.Door{Most: handshakesMax, Each: handshakesEach, Log: cfg.Log, Now: cfg.Now}
	s.tls = trust.ServerConfig(cfg.Source, trust.ServerOptions{Accept: trust.AcceptKnownClients(), ALPN: []string{ALPN, HBONE},
		Serves: func(name, protocol string) bool {
			if name == "" && protocol == HBONE {
				return true
			}
			sni, err := mesh.ParseSNI(name)
			return err == nil && cfg.Serves(sni)
		}})
	return s
}

func (s *Server) nanos() int64 { return int64(s.cfg.Now().Sub(s.epoch)) }

// Serve accepts on ln until ctx ends, then lets the requests in progress end. It closes ln.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	var conns, watching sync.WaitGroup
	defer watching.Wait()
	// While connections drain they are judged as before.
	ended, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	watching.Go(func() { s.watch(ended) })
	defer conns.Wait()
	for {
		c, err := accept(ctx, ln)
		if err != nil {
			return err
		}
		leave, ok := s.all.Enter(c)
		if !ok {
			continue
		}
		shaken, ok := s.strangers.Enter(c)
		if !ok {
			leave()
			continue
		}
		conns.Go(func() {
			defer leave()
			s.serve(ctx, c, shaken)
		})
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
		again := time.NewTimer(wait)
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return nil, ctx.Err()
		}
	}
}

func (s *Server) serve(ctx context.Context, raw net.Conn, shaken func()) {
	material := s.cfg.Source.Current()
	socket.Unhoard(raw)
	records := newBatch(raw)
	below := newProgress(records, s.nanos)
	defer below.end()
	tc := tls.Server(below, s.tls)
	// Who was accepted is served, also when ctx ends meanwhile: he is then told in order, by GOAWAY.
	hctx, stop := context.WithTimeout(context.WithoutCancel(ctx), handshakeTimeout)
	err := tc.HandshakeContext(hctx)
	stop()
	shaken()
	if err != nil {
		s.allowance.Waste(raw, s.cfg.Now())
		raw.Close()
		s.cfg.Log.Warn("a connection was refused", "remote", raw.RemoteAddr().String(), "reason", string(reasonOf(err)), "error", err)
		return
	}
	peer, err := peerOf(tc.ConnectionState())
	if err != nil {
		raw.Close()
		s.cfg.Log.Error("a verified connection has no identity or name", "error", err)
		return
	}
	who := door.PeerOf(raw, peer.Identity)
	if left := s.offences.Left(who); left > 0 {
		s.turnAway(raw, tc, peer.Identity, left)
		return
	}
	s.allowance.Earn(raw, s.cfg.Now())
	ctx, drain := context.WithCancel(ctx)
	defer drain()
	v := &served{Conn: tc, records: records, socket: below, chain: tc.ConnectionState().PeerCertificates, drain: drain}
	s.add(v, material)
	defer s.remove(v)
	err = http2.ServeConn(ctx, v, s.engine(v, peer), func(ex message.Exchange) {
		v.streams.Add(1)
		defer v.streams.Add(-1)
		s.cfg.Handle(ex, peer)
	})
	s.ended(raw, who, peer, err)
}

// peerOf reads who is at the other end of a connection that was verified.
func peerOf(state tls.ConnectionState) (Peer, error) {
	p := Peer{HBONE: state.NegotiatedProtocol == HBONE}
	var err, noName error
	p.Identity, err = trust.PeerIdentity(state)
	if state.ServerName != "" || !p.HBONE {
		p.SNI, noName = mesh.ParseSNI(state.ServerName)
	}
	return p, errors.Join(err, noName)
}

// engine bounds a connection's HTTP/2. A client of HBONE may ask for no extended CONNECT, and is told nothing of what has
// come: it would not know what that is.
func (s *Server) engine(v *served, peer Peer) http2.Config {
	return http2.Config{ConnectProtocol: !peer.HBONE, Budget: s.cfg.Budget, IdleTimeout: serverIdle, DrainTimeout: s.cfg.DrainTime, Now: s.nanos,
		Report: func(send func(uint64)) {
			switch {
			case peer.HBONE:
				v.ask.Store(&send)
			case !s.mute:
				v.socket.report.Store(&send)
			}
		},
		Stuck: func() {
			if omitted, ok := s.complaints.room(s.cfg.Now()); ok {
				s.cfg.Log.Warn("requests of a connection wait: its peer takes no answers", "peer", peer.Identity.String(), "remote", v.RemoteAddr().String(),
					"reason", string(mesh.ReasonOverloaded), "omitted", omitted)
			}
		},
		Panic: func(p any) { s.cfg.Log.Error("a request's handler panicked", "panic", p) }}
}

// ended says why a connection ended, and remembers who floods.
func (s *Server) ended(raw net.Conn, who door.Peer, peer Peer, err error) {
	var fault *http2.ConnError
	switch {
	case errors.As(err, &fault) && fault.Code == http2.EnhanceYourCalm && !fault.Remote:
		var away time.Duration
		if fault.Abuse {
			away = s.offences.Note(who)
		}
		s.cfg.Log.Warn("a connection was ended: its peer floods it", "peer", peer.Identity.String(), "remote", raw.RemoteAddr().String(),
			"reason", string(mesh.ReasonProtocol), "error", err, "turned_away_for", away.String())
	case err != nil:
		s.cfg.Log.Debug("a connection ended", "peer", peer.Identity.String(), "error", err)
	}
}

// turnAway ends a connection whose peer has lately been thrown out, before anything is read of it.
func (s *Server) turnAway(raw net.Conn, c net.Conn, id mesh.Identity, left time.Duration) {
	s.allowance.Waste(raw, s.cfg.Now())
	http2.TurnAway(c, "floods are not forgotten at once: come again in "+left.Round(time.Millisecond).String())
	if omitted, ok := s.complaints.room(s.cfg.Now()); ok {
		s.cfg.Log.Warn("a connection was turned away: its peer has lately flooded others", "peer", id.String(), "remote", raw.RemoteAddr().String(),
			"reason", string(mesh.ReasonRateLimited), "left", left.String(), "omitted", omitted)
	}
}

// ServerStats counts since the start: connections that were refused when they came, and those whose peer
// was turned away because it had lately flooded others.
type ServerStats struct{ Refused, TurnedAway int64 }

// Stats is what a server has kept out.
func (s *Server) Stats() ServerStats {
	return ServerStats{s.all.Refused() + s.strangers.Refused(), s.offences.Turned()}
}

func (s *Server) add(v *served, before trust.Material) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[v] = true
	// Trust may have changed between the handshake and now, when nobody could see v.
	if m := s.cfg.Source.Current(); m.Generation != before.Generation {
		s.rejudge(v, m)
	}
}

func (s *Server) remove(v *served) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, v)
}

// watch judges live connections again whenever trust changes, and gives up clients that
// are gone.
func (s *Server) watch(ctx context.Context) {
	_, changed := s.cfg.Source.Watch()
	look := time.NewTicker(goneLook)
	defer look.Stop()
	last := s.nanos()
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
			var m trust.Material
			m, changed = s.cfg.Source.Watch()
			s.each(func(v *served) { s.rejudge(v, m) })
		case <-look.C:
			now := s.nanos()
			// After a stop of our own what clients have sent lies unread.
			if time.Duration(now-last) < 2*goneLook {
				s.each(func(v *served) { s.look(v, now) })
			}
			last = now
		}
	}
}

func (s *Server) each(f func(*served)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for v := range s.conns {
		f(v)
	}
}

// look gives up a client that has gone, and lets a connection end whose certificate has: the
// client makes a new one with the certificate it has by then.
func (s *Server) look(v *served, now int64) {
	if silent := time.Duration(now - v.socket.at.Load()); !s.patient && v.streams.Load() > 0 {
		switch ask := v.ask.Load(); {
		case silent > goneAfter:
			s.cfg.Log.Warn("a connection is closed: its peer has been silent", "remote", v.RemoteAddr().String())
			v.NetConn().Close()
		case silent > askAfter && ask != nil:
			(*ask)(0) // a PING, which every peer answers (RFC 9113 §6.7)
		}
	}
	if s.cfg.Now().After(v.chain[0].NotAfter) {
		v.drain()
	}
}

func (s *Server) rejudge(v *served, m trust.Material) {
	if err := expelled(m.Bundles, v.chain, s.cfg.Now(), trust.AcceptKnownClients()); err != nil {
		s.cfg.Log.Warn("a connection is cut: its peer is no longer trusted", "remote", v.RemoteAddr().String(), "error", err)
		v.NetConn().Close()
	}
}

// expelled returns an error if a peer that was let in has lost its root or its domain. A
// certificate that has ended since is another matter: its chain is judged by its last moment.
func expelled(b *trust.Bundles, chain []*x509.Certificate, now time.Time, a trust.Accept) error {
	if b == nil {
		return nil
	}
	if end := chain[0].NotAfter; now.After(end) {
		now = end
	}
	_, err := b.VerifyPeer(chain, now, a)
	switch trust.FaultOf(err) {
	case trust.FaultChain, trust.FaultUnknownDomain, trust.FaultDomain, trust.FaultForeignCA:
		return err
	}
	return nil
}
