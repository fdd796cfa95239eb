package agent

import (
	"fmt"
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
	net.PacketConn
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
	c, err := d.ports.ListenPacket(d.ctx, net.ListenConfig{}, "udp", at.String())
	if err != nil {
		if d.failed[at] != err.Error() {
			d.failed[at] = err.Error()
			d.log.Error("a service has no address for this workload", "service", service.String(), "error", err)
		}
		return
	}
	socket, ok := c.(datagram.Socket)
	if !ok { // ports returns sockets of UDP
		c.Close()
		return
	}
	delete(d.failed, at)
	d.opened[at] = &datagramPort{c, service}
	via := proxy.Via{Service: service, Port: at.Port(), Datagrams: true}
	p := datagram.NewPort(datagram.Config{Socket: socket, Authority: fmt.Sprintf("%s.%s:%d", service.Name, service.Namespace, at.Port()),
		Open: func(ex message.Exchange) { d.proxy.Outbound(ex, via) }, Idle: func() time.Duration { return d.idle(service) },
		Grace: func() time.Duration { return time.Duration(d.grace.Load()) }, Clock: d.clock, Dropped: d.dropped})
	d.conns.Go(func() {
		defer c.Close()
		p.Serve(d.ctx, d.hard)
	})
}
