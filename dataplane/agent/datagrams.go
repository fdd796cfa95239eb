package agent

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/datagram"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// datagrams is where the own application's UDP comes in: one socket for each such port of a
// service that has an address. opened and failed belong to the goroutine that follows the names.
type datagrams struct {
	*front
	clock clock.Clock
	// idle is how long nothing passes in a session of a service before it ends.
	idle    func(mesh.ServiceName) time.Duration
	dropped *atomic.Uint64
	opened  map[netip.AddrPort]*datagramPort
	failed  map[netip.AddrPort]string
}

type datagramPort struct {
	io.Closer
	service mesh.ServiceName
}

// newDatagrams serves UDP as f does connections.
func (a *Agent) newDatagrams(f *front) *datagrams {
	return &datagrams{front: f, clock: a.clock, idle: a.datagramIdle, dropped: &a.seen.datagrams,
		opened: map[netip.AddrPort]*datagramPort{}, failed: map[netip.AddrPort]string{}}
}

// datagramIdle is what a policy says, or its default: sessions have no other end.
func (a *Agent) datagramIdle(n mesh.ServiceName) time.Duration {
	if s := a.store.state.Load().Services[n]; s != nil && s.Traffic.IdleTimeout > 0 {
		return s.Traffic.IdleTimeout
	}
	return mesh.DefaultIdleTimeout
}

// follow opens and closes sockets so that they are those of the names, as front.follow does.
func (d *datagrams) follow(s *proxy.State) {
	want := map[netip.AddrPort]mesh.ServiceName{}
	for _, n := range s.Names {
		if addr, ok := d.cfg.addressOf(s, n); ok {
			for _, p := range n.Ports {
				if p.Protocol == mesh.ProtocolUDP {
					want[netip.AddrPortFrom(addr, p.Port)] = n.Service
				}
			}
		}
	}
	for at, p := range d.opened {
		if want[at] != p.service {
			p.Close()
			delete(d.opened, at)
		}
	}
	for at := range d.failed {
		if want[at].IsZero() {
			delete(d.failed, at)
		}
	}
	for at, service := range want {
		if d.opened[at] == nil {
			d.open(at, service)
		}
	}
}

// open takes datagrams for one port of a service until its socket is closed or the proxy drains.
func (d *datagrams) open(at netip.AddrPort, service mesh.ServiceName) {
	via := proxy.Via{Service: service, Port: at.Port(), Datagrams: true}
	c, err := d.sessions(at, datagram.Config{Authority: fmt.Sprintf("%s.%s:%d", service.Name, service.Namespace, at.Port()),
		Open: func(ex message.Exchange) { d.proxy.Outbound(ex, via) }, Idle: func() time.Duration { return d.idle(service) }})
	if err != nil {
		if d.failed[at] != err.Error() {
			d.failed[at] = err.Error()
			d.log.Error("a service has no address for this workload", "service", service.String(), "error", err)
		}
		return
	}
	delete(d.failed, at)
	d.opened[at] = &datagramPort{c, service}
}

// sessions carries those of one socket, which it opens, until that is closed or the proxy drains.
func (d *datagrams) sessions(at netip.AddrPort, cfg datagram.Config) (io.Closer, error) {
	c, err := d.ports.ListenPacket(d.ctx, net.ListenConfig{}, "udp", at.String())
	if err != nil {
		return nil, err
	}
	socket, ok := c.(datagram.Socket)
	if !ok { // ports returns sockets of UDP
		return nil, errors.Join(fmt.Errorf("%s is no socket of UDP", at), c.Close())
	}
	cfg.Socket, cfg.Clock, cfg.Dropped = socket, d.clock, d.dropped
	cfg.Grace = func() time.Duration { return time.Duration(d.grace.Load()) }
	p := datagram.NewPort(cfg)
	d.conns.Go(func() {
		defer c.Close()
		p.Serve(d.ctx, d.hard)
	})
	return c, nil
}
