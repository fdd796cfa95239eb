package agent

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/dns"
	"github.com/isthmus-mesh/isthmus/dataplane/door"
	"github.com/isthmus-mesh/isthmus/dataplane/downstream"
	"github.com/isthmus-mesh/isthmus/dataplane/ingress"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
	"github.com/isthmus-mesh/isthmus/dataplane/regions"
	"github.com/isthmus-mesh/isthmus/dataplane/socket"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// gateways are the Gateways that an ingress gateway was told of, under the store's lock.
type gateways struct {
	offset   uint16
	known    map[string]*ir.Gateway
	services map[mesh.ServiceName]*proxy.Service
	tables   *ingress.Tables
}

func newGateways(offset uint16) *gateways {
	return &gateways{offset: offset, known: map[string]*ir.Gateway{}, tables: ingress.New(nil, 0)}
}

// put takes a Gateway in; one whose routes cannot be understood is refused whole.
func (g *gateways) put(name string, v *ir.Gateway) error {
	if name != v.Namespace+"/"+v.Name {
		return fmt.Errorf("it is of Gateway %s/%s", v.Namespace, v.Name)
	}
	next := maps.Clone(g.known)
	next[name] = v
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
	g.known, g.services, g.tables = known, services, tables
	return nil
}

// Bounds of connections from outside the mesh, in all and from one address, which may be that of a load balancer before us.
const (
	outsideMax     = 16 << 10
	outsideMaxEach = 8 << 10
)

// outside is where requests from outside the mesh come in: one listener for each port of a Gateway.
type outside struct {
	*front
	state func() *proxy.State
	door  door.Door
	http  *downstream.Server
	// opened and failed belong to the goroutine that follows the state.
	opened map[uint16]net.Listener
	failed map[uint16]string
}

// newOutside serves Gateways beside f.
func (a *Agent) newOutside(f *front) *outside {
	o := &outside{front: f, state: a.store.state.Load, opened: map[uint16]net.Listener{}, failed: map[uint16]string{},
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
	want := map[uint16]bool{}
	for _, p := range s.Ingress.Ports() {
		want[p.Number] = true
	}
	for n, ln := range o.opened {
		if !want[n] {
			ln.Close() // what is open on it goes on
			delete(o.opened, n)
		}
	}
	for n := range want {
		if o.opened[n] == nil {
			o.open(n)
		}
	}
}

// open listens on a port. A failure is said once, and tried again at the next change.
func (o *outside) open(port uint16) {
	at := netip.AddrPortFrom(o.cfg.Ingress, port)
	ln, err := o.ports.Listen(o.ctx, socket.ListenConfig(), "tcp", at.String())
	if err != nil {
		if o.failed[port] != err.Error() {
			o.failed[port] = err.Error()
			o.log.Error("a listener of a Gateway cannot be opened", "address", at.String(), "error", err)
		}
		return
	}
	delete(o.failed, port)
	o.opened[port] = ln
	o.conns.Go(func() { o.serve(ln, &o.door, func(c net.Conn) { o.requests(c, port) }) })
}

// requests serves a connection of HTTP from outside. Where each request belongs is looked up when it comes, so that a
// connection follows a change of routes.
func (o *outside) requests(c net.Conn, port uint16) {
	socket.Unhoard(c)
	edge := ingress.Edge{}
	if t, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		edge.Peer = t.AddrPort().Addr().Unmap()
	}
	o.http.Serve(c, func(ex message.Exchange) {
		h := ex.Request()
		place := o.state().Ingress.Find(port, h)
		edge.Complete(h, place.Hops)
		o.proxy.Outbound(ex, proxy.Via{Service: place.Service, Port: port})
	})
}

func (o *outside) close() {
	for _, ln := range o.opened {
		ln.Close()
	}
}

// hosts answers for the hosts of Gateways with the addresses of ingress gateways, the nearest to the client first. A proxy that
// drains sends clients elsewhere while there is somewhere.
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
	addrs := regions.Nearest(clusters, a.cfg.Cluster, a.regions.Table().Of(client), a.life.draining.Load())
	if len(addrs) == 0 {
		return nil, dns.NoAddress
	}
	return addrs, dns.Found
}
