// Package application opens streams to the proxy's own application, and to what else is reached past the mesh: over
// pooled connections of HTTP, as bytes, as sessions of UDP, by TLS where a policy says so. Its one idea is that how an
// application is spoken to is part of the name that its connections are pooled under (ir.InboundPort.Place): when a policy
// or an authority changes, that is another place, and no connection made before is used for it.
//
// It routes nothing and decides nothing about requests. Read Streams first.
package application

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/datagram"
	"github.com/isthmus-mesh/isthmus/dataplane/http1"
	"github.com/isthmus-mesh/isthmus/dataplane/http2"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/raw"
	"github.com/isthmus-mesh/isthmus/dataplane/socket"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Config says how connections are made.
type Config struct {
	// Local binds them; invalid is any address.
	Local netip.Addr
	// Guard is asked about each before it connects; nil allows all.
	Guard socket.Control
	// Dropped counts datagrams that the system did not take.
	Dropped *atomic.Uint64
	// Now tells by what time certificates are judged; time.Now if nil.
	Now func() time.Time
}

// Streams opens streams. It may be used by any number of goroutines.
type Streams struct {
	cfg    Config
	pool   *http1.Pool
	http2  *http2.Pool
	places atomic.Pointer[places]

	draining context.Context // ends sessions of UDP: nothing else would
	drain    context.CancelFunc
}

// New returns streams without connections.
func New(cfg Config) *Streams {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Dropped == nil {
		cfg.Dropped = new(atomic.Uint64)
	}
	s := &Streams{cfg: cfg}
	s.places.Store(&places{})
	s.draining, s.drain = context.WithCancel(context.Background())
	s.pool = http1.NewPool(http1.PoolConfig{Conn: &http1.Config{}, DialTimeout: mesh.DefaultConnectTimeout,
		Dial: func(ctx context.Context, place string) (net.Conn, error) {
			return s.Dial(ctx, place, mesh.ProtocolHTTP)
		}})
	s.http2 = http2.NewPool(http2.PoolConfig{DialTimeout: mesh.DefaultConnectTimeout,
		Dial: func(ctx context.Context, place string) (net.Conn, error) {
			return s.Dial(ctx, place, mesh.ProtocolHTTP2)
		}})
	return s
}

// Open opens a stream to a place, or to an "address:port": over a pooled connection, or as bytes. Errors wrap
// message.ErrNotExecuted.
func (s *Streams) Open(place string, p mesh.Protocol) (message.Stream, error) {
	switch { // the pools bound their dials
	case p == mesh.ProtocolUDP:
		return s.datagrams(place)
	case p.IsHTTP2():
		return s.http2.Get(context.Background(), place)
	case p.IsHTTP():
		st, _, err := s.pool.Get(context.Background(), place)
		return st, err
	}
	ctx, stop := context.WithTimeout(context.Background(), mesh.DefaultConnectTimeout)
	defer stop()
	c, err := s.Dial(ctx, place, mesh.ProtocolTCP)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", message.ErrNotExecuted, err)
	}
	return raw.Stream(c), nil
}

// Dial makes a connection on which p will be spoken. By TLS, the application has proved who it is, and has agreed to the
// version of HTTP if that is HTTP/2, when Dial returns.
func (s *Streams) Dial(ctx context.Context, place string, p mesh.Protocol) (net.Conn, error) {
	t := s.places.Load().find(place)
	if t == nil {
		return socket.Dial(ctx, s.cfg.Guard, s.cfg.Local, place)
	}
	return t.dial(ctx, s, p)
}

// Learn takes the ports that are served from now on. Whoever found out a place before may still dial it until the next
// Learn.
func (s *Streams) Learn(served []ir.Inbound) {
	s.places.Store(s.places.Load().next(served, s.cfg.Now))
}

// Run closes connections that lie unused, until ctx ends.
func (s *Streams) Run(ctx context.Context) error {
	second := make(chan error, 1)
	go func() { second <- s.http2.Run(ctx) }()
	return errors.Join(s.pool.Run(ctx), <-second)
}

// Drain ends sessions of UDP.
func (s *Streams) Drain() { s.drain() }

// Close closes the connections, those in use when their streams have ended or ctx has.
func (s *Streams) Close(ctx context.Context) error {
	return errors.Join(s.pool.Close(ctx), s.http2.Close(ctx))
}

// datagrams opens a session to a port of UDP.
func (s *Streams) datagrams(target string) (message.Stream, error) {
	ctx, stop := context.WithTimeout(context.Background(), mesh.DefaultConnectTimeout)
	defer stop()
	d := net.Dialer{Control: s.cfg.Guard}
	if s.cfg.Local.IsValid() {
		d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(s.cfg.Local, 0))
	}
	c, err := d.DialContext(ctx, "udp", target)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", message.ErrNotExecuted, err)
	}
	u, ok := c.(*net.UDPConn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("%w: %s: not a socket of UDP", message.ErrNotExecuted, target)
	}
	st, err := datagram.Stream(u, s.draining, s.cfg.Dropped)
	if err != nil {
		u.Close()
		return nil, fmt.Errorf("%w: %w", message.ErrNotExecuted, err)
	}
	return st, nil
}
