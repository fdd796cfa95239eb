package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/codec/wire"
	"github.com/isthmus-mesh/isthmus/codec/wire/wirepb"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/internal/direct"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
)

// ALPN of the federation port.
const federationALPN = "h2"

// Stream is a stream of facts as the one who is told sees it.
type Stream interface {
	Send(*wirepb.Up) error
	Recv() (*wirepb.Down, error)
}

// Session is an open stream of facts, from whoever tells them.
type Session struct {
	downs   <-chan received[replica.Down]
	send    func(context.Context, *wirepb.Up) error
	silence func() time.Duration
	end     func()
	sends   sync.WaitGroup
	// holder is the cluster at the other end, where that is not the owner.
	holder mesh.ClusterName
}

// SessionConfig is what a Session is made of.
type SessionConfig struct {
	Stream Stream
	Clock  clock.Clock
	// Silence is for how long the connection gave no sign of life; nil is never.
	Silence func() time.Duration
	// End ends the stream, and thereby calls of it that wait.
	End func()
}

// NewSession starts to receive from a stream, until Close. The end of ctx must end the stream too.
func NewSession(ctx context.Context, cfg SessionConfig) *Session {
	s := &Session{silence: cfg.Silence, end: cfg.End}
	if s.silence == nil {
		s.silence = func() time.Duration { return 0 }
	}
	s.downs = receive(ctx, cfg.Stream.Recv, wire.DecodeDown)
	s.send = sender[*wirepb.Up]{cfg.Stream.Send, cfg.Clock, &s.sends}.Send
	return s
}

// Close ends the stream and returns when its goroutines have ended.
func (s *Session) Close() {
	s.end()
	for range s.downs {
	}
	s.sends.Wait()
}

// OnClose has f called when the session is closed. To be called before it is used.
func (s *Session) OnClose(f func()) {
	end := s.end
	s.end = func() { end(); f() }
}

// Conn is a connection to the federation port of a control plane. Its methods are safe for concurrent use.
type Conn struct {
	conn    *grpc.ClientConn
	clock   clock.Clock
	heard   *heard
	refused atomic.Pointer[error]
	// address is dialled, in the time of patience; made says that the time it took was noted.
	address  netip.AddrPort
	seen     *Patience
	patience time.Duration
	made     atomic.Bool
}

// DialConfig says whom to dial, and as whom.
type DialConfig struct {
	Source *trust.Source
	// TrustDomain is the one whose control plane must answer.
	TrustDomain mesh.TrustDomain
	Address     netip.AddrPort
	// Local binds the connection; invalid is any.
	Local netip.Addr
	Clock clock.Clock
	// Patience and Traffic may be nil.
	Patience *Patience
	Traffic  *Traffic
}

// NewConn returns a connection that is made when it is first used.
func NewConn(cfg DialConfig) (*Conn, error) {
	c := &Conn{clock: cfg.Clock, heard: newHeard(cfg.Clock), address: cfg.Address, seen: cfg.Patience, patience: cfg.Patience.at(cfg.Address)}
	td := cfg.TrustDomain
	tlsConfig := trust.ClientConfig(cfg.Source, trust.AcceptServers(td, IdentityOf(td)), ControlPlane+"."+string(td), federationALPN)
	dialer := dialer(cfg.Local)
	var err error
	c.conn, err = grpc.NewClient("passthrough:///"+cfg.Address.String(), grpc.WithTransportCredentials(handshake{credentials.NewTLS(tlsConfig), &c.refused}),
		grpc.WithContextDialer(func(ctx context.Context, target string) (net.Conn, error) {
			conn, err := dialAgain(ctx, dialer, target, c.patience)
			if err != nil {
				c.refused.Store(&err)
				return nil, err
			}
			c.heard.note()
			return listener{direct.New(conn), c.heard, cfg.Traffic}, nil
		}),
		grpc.WithDisableServiceConfig(),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: pingMax}),
		// MinConnectTimeout bounds the attempt, handshakes included: of one who accepts and
		// never answers.
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: c.patience, Backoff: backoff.Config{BaseDelay: redialMin, Multiplier: 2, MaxDelay: redialMax}}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MessageMax)))
	return c, err
}

// dialer makes the sockets of connections, bound to an address if that is valid.
func dialer(local netip.Addr) *net.Dialer {
	d := &net.Dialer{Control: giveUp(silentMax)}
	if local.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(local, 0))
	}
	return d
}

// Client calls other services of the federation port.
func (c *Conn) Client() grpc.ClientConnInterface { return c.conn }

// Close ends the connection and all streams over it.
func (c *Conn) Close() { _ = c.conn.Close() } // says only that it was closed before

// Await returns nil once the other side has proven who it is, and otherwise why it has not, within its patience.
func (c *Conn) Await(ctx context.Context) error {
	began := c.clock.Now()
	ctx, stop := c.within(ctx)
	defer stop(nil)
	for s := c.conn.GetState(); s != connectivity.Ready; s = c.conn.GetState() {
		if s == connectivity.TransientFailure || s == connectivity.Shutdown {
			return c.note(began, c.cause(ctx, &lateError{c.patience}))
		}
		c.conn.Connect()
		if !c.conn.WaitForStateChange(ctx, s) {
			return c.note(began, c.cause(ctx, &lateError{c.patience}))
		}
	}
	c.heard.note()
	return c.note(began, nil)
}

// note tells how an attempt went that began so, and returns its error.
func (c *Conn) note(began time.Time, err error) error {
	took := c.clock.Now().Sub(began)
	switch {
	case err == nil && !c.made.Swap(true): // later streams find the connection
		c.seen.made(c.address, took)
	case err != nil && took >= c.patience && c.heard.spoken.Load(): // whatever gRPC calls it
		c.seen.late(c.address, c.patience)
	}
	return err
}

// Lost returns why a connection that was awaited is of no more use.
func (c *Conn) Lost(ctx context.Context) error {
	for {
		look, stop := context.WithTimeout(ctx, tick)
		s := c.conn.GetState()
		if s == connectivity.Ready {
			c.conn.WaitForStateChange(look, s)
		}
		stop()
		switch silence := c.heard.silence(); {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case s != connectivity.Ready:
			return errors.New("the connection ended")
		case silence >= silentMax:
			return fmt.Errorf("nothing heard for %v", silence.Round(100*time.Millisecond))
		}
	}
}

// lateError says that a peer accepted no connection, or no stream over it, in the time it had.
type lateError struct{ within time.Duration }

func (e *lateError) Error() string { return fmt.Sprintf("no stream within %v", e.within) }

// within is ctx until stop, or until opening took too long.
func (c *Conn) within(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	ctx, stop := context.WithCancelCause(ctx)
	t := c.clock.NewTimer(2 * c.patience)
	go func() {
		defer t.Stop()
		select {
		case <-t.C():
			stop(&lateError{c.patience})
		case <-ctx.Done():
		}
	}()
	return ctx, stop
}

// opening runs open, which opens what end ends, within the time that an opening has. Too late is an error too.
func (c *Conn) opening(ctx context.Context, end context.CancelCauseFunc, open func() error) error {
	within, opened := c.within(ctx)
	late := context.AfterFunc(within, func() { end(context.Cause(within)) })
	err := open()
	inTime := late()
	opened(nil)
	if err == nil && !inTime {
		err = context.Cause(ctx)
	}
	return err
}

// Follow opens a session of owner's facts, for the cluster consumer if that is not "", within its patience. It lives as
// long as ctx, and until its Close.
func (c *Conn) Follow(ctx context.Context, owner, consumer mesh.ClusterName) (*Session, error) {
	ctx, end := context.WithCancelCause(ctx)
	stream, err := c.open(ctx, end, owner, consumer)
	if err != nil {
		return nil, err
	}
	return c.session(ctx, stream, end), nil
}

func (c *Conn) session(ctx context.Context, stream Stream, end context.CancelCauseFunc) *Session {
	return NewSession(ctx, SessionConfig{Stream: stream, Clock: c.clock, Silence: c.heard.silence, End: func() { end(nil) }})
}

// open opens a stream that end ends; where it fails it has.
func (c *Conn) open(ctx context.Context, end context.CancelCauseFunc, owner, consumer mesh.ClusterName) (grpc.BidiStreamingClient[wirepb.Up, wirepb.Down], error) {
	began := c.clock.Now()
	var stream grpc.BidiStreamingClient[wirepb.Up, wirepb.Down]
	err := c.opening(ctx, end, func() (err error) {
		// Not WaitForReady: it would hide why a connection failed behind a deadline.
		stream, err = wirepb.NewFederationClient(c.conn).Follow(outgoing(ctx, owner, consumer))
		return err
	})
	if err != nil {
		err = c.cause(ctx, err)
	}
	if err = c.note(began, err); err != nil {
		end(nil)
		return nil, err
	}
	return stream, nil // which proves nothing of the other side: it has not spoken on it yet
}

// Dial is Follow over a connection of its own.
func Dial(ctx context.Context, cfg DialConfig, owner, consumer mesh.ClusterName) (*Session, error) {
	c, err := NewConn(cfg)
	if err != nil {
		return nil, fmt.Errorf("at %s: %w", cfg.Address, err)
	}
	s, err := c.Follow(ctx, owner, consumer)
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("at %s: %w", cfg.Address, err)
	}
	s.OnClose(c.Close)
	return s, nil
}

// Raw is a stream of facts over a connection of its own, for who passes it on.
type Raw struct {
	Stream
	end func()
}

// Close ends it; it may be called again.
func (r *Raw) Close() { r.end() }

// DialRaw opens one.
func DialRaw(ctx context.Context, cfg DialConfig, owner, consumer mesh.ClusterName) (*Raw, error) {
	c, err := NewConn(cfg)
	if err != nil {
		return nil, fmt.Errorf("at %s: %w", cfg.Address, err)
	}
	ctx, end := context.WithCancelCause(ctx)
	stream, err := c.open(ctx, end, owner, consumer)
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("at %s: %w", cfg.Address, err)
	}
	return &Raw{stream, func() { end(nil); c.Close() }}, nil
}

// Offer opens a stream over which the own facts are told to consumer, once that wants them. It lives as long as ctx.
func (c *Conn) Offer(ctx context.Context, consumer mesh.ClusterName) (OfferStream, error) {
	return wirepb.NewFederationClient(c.conn).Offer(outgoing(ctx, "", consumer))
}

// OfferStream is the remote cluster's end of an offer.
type OfferStream = grpc.BidiStreamingClient[wirepb.Down, wirepb.Up]

func outgoing(ctx context.Context, owner, consumer mesh.ClusterName) context.Context {
	if owner != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, ownerKey, string(owner))
	}
	if consumer != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, forKey, string(consumer))
	}
	return ctx
}

// cause finds the error that gRPC reports as text. Who fails to prove that it is the peer is refused.
func (c *Conn) cause(ctx context.Context, err error) error {
	if e := c.refused.Load(); e != nil {
		var fault *trust.Error
		if errors.As(*e, &fault) && !passing(fault.Fault) {
			return &refusedError{fault}
		}
		if errors.Is(*e, context.DeadlineExceeded) {
			return &lateError{c.patience}
		}
		return *e
	}
	if c := context.Cause(ctx); c != nil {
		return c
	}
	return err
}

// passing reports whether a fault says more of what we do not know yet than of the peer: at a
// join its roots arrive by another way than its address.
func passing(t trust.Fault) bool {
	return t == trust.FaultUnknownDomain || t == trust.FaultOwnCertificate || t == trust.FaultExpired || t == trust.FaultNotYetValid
}

// handshake keeps the error of a TLS handshake, of which gRPC reports the text only.
type handshake struct {
	credentials.TransportCredentials
	refused *atomic.Pointer[error]
}

func (h handshake) ClientHandshake(ctx context.Context, authority string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := h.TransportCredentials.ClientHandshake(ctx, authority, c)
	if err != nil {
		h.refused.Store(&err)
	}
	return conn, info, err
}

func (h handshake) Clone() credentials.TransportCredentials {
	return handshake{h.TransportCredentials.Clone(), h.refused}
}
