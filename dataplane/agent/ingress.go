package agent

import (
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/datagram"
	"github.com/isthmus-mesh/isthmus/dataplane/dns"
	"github.com/isthmus-mesh/isthmus/dataplane/door"
	"github.com/isthmus-mesh/isthmus/dataplane/downstream"
	"github.com/isthmus-mesh/isthmus/dataplane/ingress"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
	"github.com/isthmus-mesh/isthmus/dataplane/raw"
	"github.com/isthmus-mesh/isthmus/dataplane/regions"
	"github.com/isthmus-mesh/isthmus/dataplane/socket"
	"github.com/isthmus-mesh/isthmus/dataplane/tunnel"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// gateways are the Gateways that an ingress gateway was told of, under the store's lock.
type gateways struct {
	offset uint16
	// own are ports of the proxy itself where Gateways are served, and what each is for.
	own      map[ingress.Door]string
	known    map[string]*ir.Gateway
	services map[mesh.ServiceName]*proxy.Service
	tables   *ingress.Tables
	log      *slog.Logger
}

func newGateways(cfg *Config, log *slog.Logger) *gateways {
	return &gateways{offset: cfg.IngressOffset, own: ingress.Own(cfg.Ingress, cfg.Admin, cfg.DNS), known: map[string]*ir.Gateway{}, tables: ingress.New(nil, 0), log: log}
}

// put takes a Gateway in; one whose routes cannot be understood, or whose ports cannot be opened beside others, is refused whole.
func (g *gateways) put(name string, v *ir.Gateway) error {
	if name != v.Namespace+"/"+v.Name {
		return fmt.Errorf("it is of Gateway %s/%s", v.Namespace, v.Name)
	}
	next := maps.Clone(g.known)
	next[name] = v
	if err := ingress.New(slices.Collect(maps.Values(next)), g.offset).Fault(g.own); err != nil {
		return err
	}
	return g.build(next)
}

func (g *gateways) remove(name string) {
	next := maps.Clone(g.known)
	delete(next, name)
	_ = g.build(next) // of those that could be built before
}

func (g *gateways) build(known map[string]*ir.Gateway) error {
	tables, services := ingress.New(slices.Collect(maps.Values(known)), g.offset), map[mesh.ServiceName]*proxy.Service{}
	for _, s := range tables.Services() {
		built, err := proxy.NewService(s, nil, g.services[s.Name])
		if err != nil {
			return err
		}
		services[s.Name] = built
	}
	tables.Terminate(g.tables, g.log)
	g.known, g.services, g.tables = known, services, tables
	return nil
}

// Bounds of connections from outside the mesh, in all and from one address, which may be that of a load balancer before us.
const (
	outsideMax     = 16 << 10
	outsideMaxEach = 8 << 10
)

const (
	// sessionsEach bounds the sessions of UDP of one address at one port.
	sessionsEach = datagram.DefaultSessions / 2
	// ration is what one datagram of a client outside the mesh may ask for, in bytes: as much as the largest answer.
	ration = datagram.MaxSize
)

// outside is where clients outside the mesh come in: one listener for each port of a Gateway.
type outside struct {
	*front
	datagrams *datagrams
	state     func() *proxy.State
	door      door.Door
	http      *downstream.Server
	// opened and failed belong to the goroutine that follows the state.
	opened map[ingress.Door]entrance
	failed map[ingress.Door]string
}

// entrance is an open port, whose listeners speak one protocol.
type entrance struct {
	io.Closer
	protocol mesh.ListenerProtocol
}

// newOutside serves Gateways beside f.
func (a *Agent) newOutside(f *front) *outside {
	o := &outside{front: f, datagrams: a.newDatagrams(f), state: a.store.state.Load, opened: map[ingress.Door]entrance{}, failed: map[ingress.Door]string{},
		door: door.Door{Most: outsideMax, Each: outsideMaxEach, Log: a.log, Now: a.clock.Now}}
	o.http = &downstream.Server{HTTP1: a.frontHTTP1(), HTTP2: a.frontHTTP2(), Refused: a.seen.refused, Log: a.log,
		Go: func(c net.Conn, fn func()) { f.run(c, o.door.Hold(c), fn) }}
	return o
}

// follow opens and closes listeners so that they are those of the Gateways in force. It is called by one goroutine.
func (o *outside) follow(s *proxy.State) {
	if s.Ingress == nil {
		return
	}
	want := s.Ingress.Doors()
	for d, e := range o.opened {
		if want[d] != e.protocol {
			e.Close() // connections that are open on it go on; sessions of UDP end
			delete(o.opened, d)
		}
	}
	for d := range o.failed {
		if want[d] == "" {
			delete(o.failed, d)
		}
	}
	for d, p := range want {
		if _, ok := o.opened[d]; ok {
			continue
		}
		c, err := o.open(d, p)
		switch {
		case err == nil:
			delete(o.failed, d)
			o.opened[d] = entrance{c, p}
		case o.failed[d] != err.Error(): // said once, and tried again at the next change
			o.failed[d] = err.Error()
			o.log.Error("a listener of a Gateway cannot be opened", "address", netip.AddrPortFrom(o.cfg.Ingress, d.Number).String(), "protocol", string(p), "error", err)
		}
	}
}

// open listens on a port.
func (o *outside) open(d ingress.Door, protocol mesh.ListenerProtocol) (io.Closer, error) {
	at := netip.AddrPortFrom(o.cfg.Ingress, d.Number)
	if d.Datagrams {
		return o.datagrams.sessions(at, datagram.Config{Authority: fmt.Sprintf("gateway:%d", d.Number), Each: sessionsEach, Ration: ration,
			Idle: func() time.Duration { return mesh.DefaultIdleTimeout },
			Open: func(ex message.Exchange) { o.proxy.Outbound(ex, o.via(d, "")) }})
	}
	ln, err := o.ports.Listen(o.ctx, socket.ListenConfig(), "tcp", at.String())
	if err != nil {
		return nil, err
	}
	one := func(c net.Conn) { o.requests(c, d.Number, "") }
	switch protocol {
	case mesh.ListenerTCP:
		one = func(c net.Conn) { o.front.carry(c, o.via(d, ""), raw.Opening{}) }
	case mesh.ListenerTLS:
		one = func(c net.Conn) { o.secure(c, d) }
	}
	o.conns.Go(func() { o.serve(ln, &o.door, one) })
	return ln, nil
}

// via is where bytes belong that come at a door. It is looked up when they begin to come, and holds to their end.
func (o *outside) via(d ingress.Door, serverName string) proxy.Via {
	return proxy.Via{Service: o.state().Ingress.Carried(d, serverName), Port: d.Number, Datagrams: d.Datagrams}
}

// secure serves a connection of TLS by the server name that it asks for: requests where TLS ends here, bytes where it ends at the
// backend.
func (o *outside) secure(c net.Conn, d ingress.Door) {
	tables := o.state().Ingress
	first, name, err := tunnel.AwaitHello(o.hard, c, tables.Ends(d, "") != nil)
	end, by := tables.Secure(d, name)
	if err == nil && end == nil {
		o.front.carry(c, o.via(d, name), raw.Opening{Ahead: first, Refusal: tunnel.Alert})
		return
	}
	s := c
	if err == nil {
		s, err = end.Shake(o.hard, c, first)
	}
	if err != nil {
		c.Close()
		o.log.Debug("a connection was refused", "remote", c.RemoteAddr().String(), "address", c.LocalAddr().String(), "error", err)
		return
	}
	if by == "" { // bytes come out
		o.front.carry(s, o.via(d, name), raw.Opening{})
		return
	}
	o.requests(s, d.Number, by)
}

// requests serves a connection of HTTP from outside, whose TLS the listener by ended, if one did. Where each request belongs is looked up when it comes, so that a
// connection follows a change of routes.
func (o *outside) requests(c net.Conn, port uint16, by string) {
	socket.Unhoard(c)
	edge := ingress.Edge{Secure: by != ""}
	if t, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		edge.Peer = t.AddrPort().Addr().Unmap()
	}
	o.http.Serve(c, func(ex message.Exchange) {
		h := ex.Request()
		place := o.state().Ingress.Take(port, by, h)
		edge.Complete(h, place.Hops)
		o.proxy.Outbound(ex, proxy.Via{Service: place.Service, Port: port})
	})
}

func (o *outside) close() {
	for _, e := range o.opened {
		e.Close()
	}
}

// hosts answers for the hosts of Gateways with the addresses of ingress gateways, the nearest to the client first. A proxy that
// drains, or lacks a listener's certificate, sends clients elsewhere while there is somewhere.
func (a *Agent) hosts(host string, client netip.Addr) ([]netip.Addr, dns.Answer) {
	s := a.store.state.Load()
	if !s.Ready {
		return nil, dns.Unknown
	}
	home, known := s.Ingress.Named(host)
	clusters := s.Clusters
	switch {
	case !known:
		return nil, dns.Foreign
	case home:
		clusters = map[mesh.ClusterName]*ir.Cluster{a.cfg.Cluster: clusters[a.cfg.Cluster]}
	}
	listeners, able := s.Ingress.Takers(host)
	addrs := regions.Nearest(regions.Serving(clusters, listeners), a.cfg.Cluster, a.regions.Table().Of(client), !able || a.life.draining.Load())
	if len(addrs) == 0 {
		return nil, dns.NoAddress
	}
	return addrs, dns.Found
}
