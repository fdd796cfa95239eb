package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/capture"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
	"github.com/isthmus-mesh/isthmus/dataplane/tunnel"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// passIdle ends a connection that leaves or enters the mesh as it came, and on which nothing has moved
// for so long.
const passIdle = time.Hour

// captured serves a connection to the outbound port that may have been redirected there: to the service
// whose address it was made for, or past the mesh if that is allowed. One that was not redirected is for the
// explicit proxy.
func (a *Agent) captured(c net.Conn) {
	from, at := addrPort(c.RemoteAddr()), addrPort(c.LocalAddr())
	if !at.Addr().IsLoopback() && at.Addr() != from.Addr() {
		// A redirected connection arrives at loopback, one of this host's own from its own address.
		a.turnAway(c, &proxy.Record{}, mesh.ReasonDenied, "the outbound port is for this host only, and "+from.String()+" is not of it")
		return
	}
	to, err := capture.Original(c)
	if errors.Is(err, capture.ErrNoOriginal) {
		a.front.requests(c, proxy.Via{})
		return
	}
	if err != nil {
		a.turnAway(c, &proxy.Record{}, mesh.ReasonOwnFault, err.Error())
		return
	}
	s := a.store.state.Load()
	if !s.Ready {
		a.turnAway(c, &proxy.Record{Port: to.Port()}, mesh.ReasonNotReady, "no complete configuration has arrived yet")
		return
	}
	if service, ok := s.ByAddress[to.Addr()]; ok {
		l := &listener{service: service, protocol: mesh.ProtocolTCP}
		for _, p := range s.Names[service].Ports {
			if p.Port == to.Port() && p.Protocol != mesh.ProtocolUDP {
				l.protocol = p.Protocol
			}
		}
		a.front.one(c, l, to.Port())
		return
	}
	r := proxy.Record{Port: to.Port(), Host: []byte(to.String())}
	if s.Self == nil || !s.Self.OutboundAllowAny {
		a.turnAway(c, &r, mesh.ReasonOutsideMesh, to.String()+" is no address of the mesh, and the mesh lets nothing out")
		return
	}
	a.pass(c, to, &r, func(s *proxy.State) *ended {
		if s.Self == nil || !s.Self.OutboundAllowAny {
			return &ended{mesh.ReasonOutsideMesh, "the mesh lets nothing out any more"}
		}
		return nil
	})
}

// serveCaptured takes connections to the workload that come past the mesh.
func (a *Agent) serveCaptured(ctx context.Context, ln net.Listener) error {
	a.front.serve(ln, &a.front.strangers, a.entered)
	return ctx.Err()
}

// entered serves a connection to the workload that did not come by the inter-proxy port: nobody knows whose it
// is, so that no port of a service takes it. Other ports, such as those of metrics, are not the mesh's.
func (a *Agent) entered(c net.Conn) {
	r := proxy.Record{Inbound: true}
	to, err := capture.Original(c)
	if err != nil {
		a.turnAway(c, &r, mesh.ReasonDenied, "a connection from "+c.RemoteAddr().String()+" to the captured port: "+err.Error())
		return
	}
	r.Port, r.Host = to.Port(), []byte(to.String())
	if to.Port() == a.cfg.Outbound.Port() || to.Port() == a.cfg.Captured.Port() {
		// Passed on, it would be as one of this host's own, with this proxy's identity.
		a.turnAway(c, &r, mesh.ReasonDenied, "port "+strconv.Itoa(int(to.Port()))+" is for this host only, and "+c.RemoteAddr().String()+" is not of it")
		return
	}
	s := a.store.state.Load()
	if !s.Ready {
		a.turnAway(c, &r, mesh.ReasonNotReady, "no complete configuration has arrived yet")
		return
	}
	if service, ok := servesAt(s, to.Port()); ok {
		r.Service = service
		a.turnAway(c, &r, mesh.ReasonDenied, "the caller at "+c.RemoteAddr().String()+" came without mTLS and showed no identity")
		return
	}
	a.pass(c, to, &r, func(s *proxy.State) *ended {
		if service, ok := servesAt(s, to.Port()); ok {
			return &ended{mesh.ReasonDenied, "the port is service " + service.String() + "'s now, and the caller came without mTLS"}
		}
		return nil
	})
}

// servesAt is the service that the workload serves at a port of its own.
func servesAt(s *proxy.State, port uint16) (mesh.ServiceName, bool) {
	if s.Self != nil {
		for _, in := range s.Self.Inbound {
			for _, p := range in.Ports {
				if p.Target.Port() == port {
					return in.Service, true
				}
			}
		}
	}
	return mesh.ServiceName{}, false
}

// ended is why a connection that was passed on may not go on.
type ended struct {
	why    mesh.Reason
	detail string
}

func (e *ended) Error() string { return e.detail }

// passing are the connections that are passed on, and what each is judged by.
type passing struct {
	mu  sync.Mutex
	all map[*tunnel.Pair]func(*proxy.State) *ended
}

// judge cuts those that the state would not let through.
func (p *passing) judge(s *proxy.State) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for pair, by := range p.all {
		if e := by(s); e != nil {
			pair.Cut(e)
		}
	}
}

func (p *passing) add(pair *tunnel.Pair, by func(*proxy.State) *ended) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all == nil {
		p.all = map[*tunnel.Pair]func(*proxy.State) *ended{}
	}
	p.all[pair] = by
}

func (p *passing) remove(pair *tunnel.Pair) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.all, pair)
}

// turnAway resets a connection, which has no other words, and says why in log and metrics.
func (a *Agent) turnAway(c net.Conn, r *proxy.Record, why mesh.Reason, detail string) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = c.Close()
	r.Start, r.Tunnel, r.Protocol, r.Reason, r.Detail = a.clock.Now(), true, mesh.ProtocolTCP, why, detail
	a.seen.done(r)
}

// pass carries a connection on to where it was made for, as it is, for as long as by allows.
func (a *Agent) pass(c net.Conn, to netip.AddrPort, r *proxy.Record, by func(*proxy.State) *ended) {
	defer c.Close()
	r.Start, r.Tunnel, r.Protocol, r.Method = a.clock.Now(), true, mesh.ProtocolTCP, []byte("CONNECT")
	ctx, stop := context.WithTimeout(context.Background(), mesh.DefaultConnectTimeout)
	up, err := a.apps.Dial(ctx, to.String(), mesh.ProtocolTCP)
	stop()
	if err != nil {
		a.turnAway(c, r, mesh.ReasonUnreachable, fmt.Sprintf("connect to %s: %v", to, err))
		return
	}
	defer up.Close()
	pair := tunnel.NewPair(tunnel.End{Conn: c}, tunnel.End{Conn: up}, passIdle)
	cut := context.AfterFunc(a.front.hard, func() { pair.Cut(context.Cause(a.front.hard)) })
	defer cut()
	r.Status = 200
	a.seen.opened(r)
	var there, back atomic.Int64
	a.passing.add(pair, by)
	defer a.passing.remove(pair)
	if e := by(a.store.state.Load()); e != nil { // it has changed since it was let in
		pair.Cut(e)
	}
	err = pair.Run(&there, &back)
	if e, ok := err.(*ended); ok { // in any other way it ended between its two ends
		r.Reason, r.Detail = e.why, e.detail
	}
	r.Duration, r.RequestBytes, r.ResponseBytes = a.clock.Now().Sub(r.Start), there.Load(), back.Load()
	a.seen.done(r)
}

// addrPort is the address of a TCP connection's end, in its own family.
func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}
