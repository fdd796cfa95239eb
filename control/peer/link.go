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
	"github.com/isthmus-mesh/isthmus/trust"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
)

// ALPN of the federation port.
const federationALPN = "h2"

// link is an open stream to a peer.
type link struct {
	conn  *grpc.ClientConn
	downs <-chan received[replica.Down]
	send  func(context.Context, *wirepb.Up) error
	heard *heard
	sends sync.WaitGroup
}

// close ends the stream and returns when its goroutines have ended.
func (l *link) close(stop context.CancelCauseFunc) {
	stop(nil)
	_ = l.conn.Close() // says only that it was closed before
	for range l.downs {
	}
	l.sends.Wait()
}

// errDial says that a peer accepted a connection and no stream within dialTimeout.
var errDial = fmt.Errorf("no stream within %v", dialTimeout)

// open dials and starts the stream within dialTimeout; a stream that is open lives as long
// as ctx, which stop ends.
func (f *Follower) open(ctx context.Context, stop context.CancelCauseFunc, addr netip.AddrPort) (*link, error) {
	l := &link{heard: newHeard(f.cfg.Clock)}
	var refused atomic.Pointer[error]
	var err error
	if l.conn, err = f.dial(addr, l.heard, &refused); err != nil {
		return nil, err
	}
	var watching sync.WaitGroup
	opened := make(chan struct{})
	watching.Go(func() {
		t := f.cfg.Clock.NewTimer(2 * dialTimeout)
		defer t.Stop()
		select {
		case <-t.C():
			stop(errDial)
		case <-opened:
		}
	})
	// Not WaitForReady: it would hide why a connection failed behind a deadline.
	stream, err := wirepb.NewFederationClient(l.conn).Follow(metadata.AppendToOutgoingContext(ctx, ownerKey, string(f.cfg.Peer.Name)))
	close(opened)
	watching.Wait()
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = l.conn.Close() // says only that it was closed before
		return nil, f.cause(ctx, &refused, err)
	}
	l.heard.note()
	l.downs = receive(ctx, stream.Recv, wire.DecodeDown)
	l.send = sender[*wirepb.Up]{stream.Send, f.cfg.Clock, &l.sends}.Send
	return l, nil
}

// cause finds the error that gRPC reports as text: who fails to prove that it is the
// peer raises an alarm.
func (f *Follower) cause(ctx context.Context, refused *atomic.Pointer[error], err error) error {
	if e := refused.Load(); e != nil {
		var fault *trust.Error
		if errors.As(*e, &fault) && !passing(fault.Fault) {
			a := replica.Alarm{Kind: replica.AlarmImpostor, Subject: string(f.cfg.Peer.Name), Detail: fault.Error()}
			f.say.warn(f.cfg.Clock.Now(), "a peer's facts raised an alarm", "alarm", a.String())
			return &refusedError{fault}
		}
		if errors.Is(*e, context.DeadlineExceeded) {
			return errDial
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

func (f *Follower) dial(addr netip.AddrPort, h *heard, refused *atomic.Pointer[error]) (*grpc.ClientConn, error) {
	td := f.cfg.Peer.TrustDomain
	tlsConfig := trust.ClientConfig(f.cfg.Source, trust.AcceptServers(td, IdentityOf(td)), ControlPlane+"."+string(td), federationALPN)
	dialer := &net.Dialer{Timeout: dialTimeout}
	if f.cfg.Local.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(f.cfg.Local, 0))
	}
	return grpc.NewClient("passthrough:///"+addr.String(), grpc.WithTransportCredentials(handshake{credentials.NewTLS(tlsConfig), refused}),
		grpc.WithContextDialer(func(ctx context.Context, target string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, "tcp", target)
			if err != nil {
				return nil, err
			}
			h.note()
			return listener{c, h}, nil
		}),
		grpc.WithDisableServiceConfig(),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: pingMax}),
		// MinConnectTimeout bounds the attempt, handshakes included: of one who accepts and
		// never answers.
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: dialTimeout, Backoff: backoff.Config{BaseDelay: redialMin, Multiplier: 2, MaxDelay: redialMax}}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MessageMax)))
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
