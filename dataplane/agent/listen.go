package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/http1"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// front is where the own application's requests come in: the explicit proxy, and one
// listener for each service port that has an address.
type front struct {
	net    netip.Prefix
	proxy  *proxy.Proxy
	http1  *http1.Config
	log    *slog.Logger
	conns  sync.WaitGroup
	ctx    context.Context // of the whole proxy; ends connections
	opened map[netip.AddrPort]*listener
}

// listener serves one port of one service.
type listener struct {
	net.Listener
	service  mesh.ServiceName
	protocol mesh.Protocol
}

// address maps a service's address into the workload's own net.
func (f *front) address(n *ir.Name) (netip.Addr, bool) {
	if !f.net.IsValid() || !n.Address.Is4() {
		return netip.Addr{}, false
	}
	own, theirs := f.net.Addr().As4(), n.Address.As4()
	own[3] = theirs[3]
	return netip.AddrFrom4(own), theirs[3] >= 10
}

// follow opens and closes listeners so that they are those of the names. It is called by
// one goroutine.
func (f *front) follow(names map[mesh.ServiceName]*ir.Name) {
	want := map[netip.AddrPort]*listener{}
	for _, n := range names {
		if addr, ok := f.address(n); ok {
			for _, p := range n.Ports {
				if p.Protocol != mesh.ProtocolUDP {
					want[netip.AddrPortFrom(addr, p.Port)] = &listener{service: n.Service, protocol: p.Protocol}
				}
			}
		}
	}
	for at, l := range f.opened {
		if w := want[at]; w == nil || w.service != l.service || w.protocol != l.protocol {
			l.Close()
			delete(f.opened, at)
		}
	}
	for at, w := range want {
		if f.opened[at] != nil {
			continue
		}
		ln, err := net.Listen("tcp", at.String())
		if err != nil {
			f.log.Error("a service has no address for this workload", "service", w.service.String(), "error", err)
			continue
		}
		w.Listener = ln
		f.opened[at] = w
		f.conns.Go(func() { f.serve(w.Listener, func(c net.Conn) { f.one(c, w, at.Port()) }) })
	}
}

func (f *front) close() {
	for _, l := range f.opened {
		l.Close()
	}
	f.conns.Wait()
}

// serve accepts until the listener closes.
func (f *front) serve(ln net.Listener, one func(net.Conn)) {
	for {
		c, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) || f.ctx.Err() != nil {
			return
		}
		if err != nil {
			f.log.Warn("accept", "address", ln.Addr().String(), "error", err)
			continue
		}
		f.conns.Go(func() { one(c) })
	}
}

func (f *front) one(c net.Conn, l *listener, port uint16) {
	via := proxy.Via{Service: l.service, Port: port}
	if l.protocol.IsHTTP() {
		f.requests(c, via)
		return
	}
	f.bytes(c, via)
}

// requests serves a connection of HTTP/1.1.
func (f *front) requests(c net.Conn, via proxy.Via) {
	sc := http1.NewServerConn(c, f.http1)
	defer sc.Close()
	stop := context.AfterFunc(f.ctx, sc.EndIdle)
	defer stop()
	for {
		ex, err := sc.Next()
		if err != nil {
			var parse *http1.ParseError
			if errors.As(err, &parse) {
				f.log.Info("a request was refused", "reason", string(parse.Reason), "error", parse.Detail)
			}
			return
		}
		f.proxy.Outbound(ex, via)
	}
}

// bytes carries a connection of TCP.
func (f *front) bytes(c net.Conn, via proxy.Via) {
	defer c.Close()
	stop := context.AfterFunc(f.ctx, func() { c.Close() })
	defer stop()
	f.proxy.Outbound(proxy.RawExchange(c, fmt.Sprintf("%s.%s:%d", via.Service.Name, via.Service.Namespace, via.Port)), via)
}

// apps opens streams to the own application.
type apps struct {
	pool  *http1.Pool
	local netip.Addr
}

func (a *apps) dial(ctx context.Context, target string) (net.Conn, error) {
	d := net.Dialer{}
	if a.local.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(a.local, 0))
	}
	return d.DialContext(ctx, "tcp", target)
}

// open opens a stream to an address: over a pooled connection, or as bytes.
func (a *apps) open(ctx context.Context, target netip.AddrPort, connect bool) (message.Stream, error) {
	return a.openHost(ctx, target.String(), connect)
}

func (a *apps) openHost(ctx context.Context, host string, connect bool) (message.Stream, error) {
	if connect {
		c, err := a.dial(ctx, host)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", message.ErrNotExecuted, err)
		}
		return proxy.RawStream(c), nil
	}
	s, _, err := a.pool.Get(ctx, host)
	return s, err
}
