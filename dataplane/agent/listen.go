package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/door"
	"github.com/isthmus-mesh/isthmus/dataplane/downstream"
	"github.com/isthmus-mesh/isthmus/dataplane/handover"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
	"github.com/isthmus-mesh/isthmus/dataplane/raw"
	"github.com/isthmus-mesh/isthmus/dataplane/sniff"
	"github.com/isthmus-mesh/isthmus/dataplane/socket"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// front is where the own application's requests come in: the explicit proxy, and one
// listener for each service port that has an address.
type front struct {
	cfg   *Config
	proxy *proxy.Proxy
	log   *slog.Logger
	// panicked is told of a fault of ours that a connection met.
	panicked func(value any, stack []byte)
	// ctx ends when the proxy drains, hard when its patience ends.
	ctx, hard context.Context
	// grace is how long an idle connection may still send a request once ctx has ended, in nanoseconds.
	grace atomic.Int64
	ports *handover.Ports
	conns sync.WaitGroup
	// own is where the own application comes in, and strangers who comes past the mesh.
	own, strangers door.Door
	// http serves the connections of HTTP.
	http *downstream.Server
	// opened and failed belong to the goroutine that follows the names.
	opened map[netip.AddrPort]*listener
	failed map[netip.AddrPort]string
}

// listener serves one port of one service.
type listener struct {
	net.Listener
	service  mesh.ServiceName
	protocol mesh.Protocol
}

// follow opens and closes listeners so that they are those of the names. It is called by
// one goroutine.
func (f *front) follow(s *proxy.State) {
	want := map[netip.AddrPort]*listener{}
	for _, n := range s.Names {
		if addr, ok := f.cfg.addressOf(s, n); ok {
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
	for at := range f.failed {
		if want[at] == nil {
			delete(f.failed, at)
		}
	}
	for at, w := range want {
		if f.opened[at] == nil {
			f.open(at, w)
		}
	}
}

// open listens for one service port. A failure is said once, and tried again at the next
// change.
func (f *front) open(at netip.AddrPort, w *listener) {
	ln, err := f.ports.Listen(f.ctx, socket.ListenConfig(), "tcp", at.String())
	if err != nil {
		if f.failed[at] != err.Error() {
			f.failed[at] = err.Error()
			f.log.Error("a service has no address for this workload", "service", w.service.String(), "error", err)
		}
		return
	}
	delete(f.failed, at)
	w.Listener = ln
	f.opened[at] = w
	f.conns.Go(func() { f.serve(ln, &f.own, func(c net.Conn) { f.one(c, w, at.Port()) }) })
}

// close stops listening for services.
func (f *front) close() {
	for _, l := range f.opened {
		l.Close()
	}
}

// acceptPause is how long accepting rests after an error that may pass, such as a lack of
// descriptors.
const acceptPause = 50 * time.Millisecond

// serve accepts until the listener closes or the proxy drains.
func (f *front) serve(ln net.Listener, door *door.Door, one func(net.Conn)) {
	stop := context.AfterFunc(f.ctx, func() { ln.Close() })
	defer stop()
	at, _ := ln.Addr().(*net.TCPAddr)
	wide := at != nil && at.IP.IsUnspecified() // what is captured comes here
	for {
		c, err := ln.Accept()
		switch {
		case err == nil:
			if wide {
				socket.Accepted(c)
			}
			if leave, ok := door.Enter(c); ok {
				f.run(c, leave, func() { one(c) })
			}
		case errors.Is(err, net.ErrClosed), f.ctx.Err() != nil:
			return
		default:
			f.log.Warn("accept", "address", ln.Addr().String(), "error", err)
			select {
			case <-time.After(acceptPause):
			case <-f.ctx.Done():
			}
		}
	}
}

// Bounds of connections: of the own application, of those that come past the mesh, and of the latter from
// one address.
const (
	ownMax       = 16 << 10
	strangersMax = 4 << 10
	strangerMax  = 1 << 10
)

// doors sets the bounds.
func (f *front) doors(now func() time.Time) {
	f.own = door.Door{Most: ownMax, Log: f.log, Now: now}
	f.strangers = door.Door{Most: strangersMax, Each: strangerMax, Log: f.log, Now: now}
}

// patience is how long an idle connection may still send a request once ctx has ended.
func (f *front) patience() time.Duration { return time.Duration(f.grace.Load()) }

// start goes on with a connection of the own application on another goroutine.
func (f *front) start(c net.Conn, fn func()) { f.run(c, f.own.Hold(c), fn) }

// run runs fn for a connection. A panic of ours stays with the connection that met it.
func (f *front) run(c net.Conn, leave, fn func()) {
	f.conns.Go(func() {
		defer leave()
		defer func() {
			if v := recover(); v != nil {
				f.panicked(v, debug.Stack())
				c.Close()
			}
		}()
		fn()
	})
}

// sniffTime is how long a client may be silent before a connection of which nothing was declared is carried as bytes: each
// to a server that speaks first is opened so much later. Clients of HTTP speak at once; one that does not goes on unrouted.
const sniffTime = 200 * time.Millisecond

func (f *front) one(c net.Conn, l *listener, port uint16) {
	via := proxy.Via{Service: l.service, Port: port}
	if l.protocol.IsHTTP() || l.protocol == mesh.ProtocolAuto && sniff.HTTP(c, f.own.Now().Add(sniffTime)) {
		f.requests(c, via)
		return
	}
	f.bytes(c, via)
}

// requests serves a connection of HTTP. What the application speaks matters as little as what its
// port was declared to: the pipeline bridges.
func (f *front) requests(c net.Conn, via proxy.Via) {
	socket.Unhoard(c) // who asks for more than he takes waits for himself
	f.http.Serve(c, func(ex message.Exchange) { f.proxy.Outbound(ex, via) })
}

// bytes carries a connection of TCP; it lives until its ends or the proxy's patience end it.
func (f *front) bytes(c net.Conn, via proxy.Via) { f.carry(c, via, raw.Opening{}) }

// carry is bytes for a connection that was looked into.
func (f *front) carry(c net.Conn, via proxy.Via, o raw.Opening) {
	defer c.Close()
	stop := context.AfterFunc(f.hard, func() { c.Close() })
	defer stop()
	f.proxy.Outbound(raw.After(c, fmt.Sprintf("%s.%s:%d", via.Service.Name, via.Service.Namespace, via.Port), o), via)
}
