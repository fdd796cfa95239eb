// Package ingress is what is particular to requests that come from outside the mesh: which listener and host of which Gateway
// takes one, and what of its head is believed. Its one idea is that a host of a listener is a service like any other to the
// pipeline, one that has routes and no endpoint, so that every stage holds for what enters as it does for what is inside.
//
// It listens for nothing (dataplane/agent does), decides on no attachment (core/attach did) and forwards nothing. Read Tables
// first, then Edge.
package ingress

import (
	"bytes"
	"cmp"
	"slices"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/termination"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Tables are the listeners of all Gateways, by port. They are immutable.
type Tables struct {
	ports    map[Door]*Port
	services []*ir.Service
	faults   []error
	// names are the hosts that have routes; true of those that no other cluster serves.
	names patterns[bool]
	// secure are the listeners at which TLS ends, and ends what does it.
	secure []*listener
	ends   map[string]*termination.Server
}

type listener struct {
	// name is "namespace/gateway/listener". ends is nil where TLS does not end, and server nil until Terminate.
	name    string
	ends    *ir.Termination
	server  *termination.Server
	hosts   patterns[mesh.ServiceName]
	nowhere mesh.ServiceName
	hops    int
}

// Place is where a request belongs.
type Place struct {
	// Service is the one by which the pipeline knows the host; there always is one: where no route can take the request it has
	// none that does.
	Service mesh.ServiceName
	// Hops is how many proxies stand before the Gateway.
	Hops int
}

// gone is the service of what comes by a port that no listener has any more: there is none of that name. None at all would be
// the explicit proxy's, which takes a client's word for where it wants to go.
var gone = mesh.ServiceName{Namespace: "isthmus-system", Name: "gateway:gone"}

// Misdirected is the service of what is asked for on a connection that another listener took: the pipeline answers 421 to it.
var Misdirected = mesh.ServiceName{Namespace: "isthmus-system", Name: "gateway:misdirected"}

// New makes tables. Ports below 1024 are opened so much higher as offset says.
func New(gateways []*ir.Gateway, offset uint16) *Tables {
	sorted := slices.Clone(gateways)
	slices.SortFunc(sorted, func(a, b *ir.Gateway) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	t := &Tables{ports: map[Door]*Port{}}
	for _, g := range sorted {
		for i := range g.Listeners {
			t.add(g, &g.Listeners[i], nil, offset)
		}
		for i := range g.Terminations {
			t.add(g, &g.Terminations[i].Listener, &g.Terminations[i], offset)
		}
	}
	return t
}

func (t *Tables) add(g *ir.Gateway, l *ir.Listener, ends *ir.Termination, offset uint16) {
	p := t.port(g, l, offset)
	if p == nil {
		return
	}
	name := "gateway:" + g.Name + ":" + l.Name
	in := &listener{name: mesh.ListenerName(g.Namespace, g.Name, l.Name), ends: ends, hops: g.TrustedHops, nowhere: t.service(g.Namespace, name, p.Door, l.Protocol, nil)}
	for i := range l.Hosts {
		h := &l.Hosts[i]
		in.hosts.set(h.Hostname, t.service(g.Namespace, name+":"+h.Hostname, p.Door, l.Protocol, h.Routes))
		if elsewhere, known := t.names.find([]byte(h.Hostname)); h.Hostname != "" && (!known || elsewhere) {
			t.names.set(h.Hostname, g.Home)
		}
	}
	p.listeners.set(l.Hostname, in)
	if ends != nil {
		t.secure = append(t.secure, in)
	}
}

// service adds one whose name no Service can have. Without routes it has one that takes nothing, so that it is refused as no
// route and not as no endpoint.
func (t *Tables) service(namespace, name string, d Door, protocol mesh.ListenerProtocol, routes []ir.Route) mesh.ServiceName {
	n := mesh.ServiceName{Namespace: namespace, Name: name}
	if len(routes) == 0 {
		const noPath = "-" // every path in normal form begins with a slash
		routes = []ir.Route{{Object: "Gateway " + namespace + "/" + name, Datagrams: d.Datagrams, Match: mesh.RouteMatch{PathType: mesh.PathExact, Path: noPath}}}
	}
	t.services = append(t.services, &ir.Service{Name: n, Ports: []ir.Port{{Port: d.Number, Protocol: spoken(protocol)}}, Routed: true, Routes: routes})
	return n
}

// Named reports whether a listener has routes for a host of a name, and whether only this cluster's has. Routes for every host
// name none.
func (t *Tables) Named(host string) (home, known bool) {
	if t == nil {
		return false, false
	}
	var room [maxHost]byte
	return t.names.find(plain(room[:0], []byte(host)))
}

// Takers are the listeners that have routes for a host by a name, as Named knows it, in the words of mesh.ListenerName and no order; able says
// that none of them lacks the certificate that it would show.
func (t *Tables) Takers(host string) (listeners []string, able bool) {
	able = true
	if t == nil {
		return nil, able
	}
	var room [maxHost]byte
	h := plain(room[:0], []byte(host))
	for _, p := range t.ports {
		l, ok := p.listeners.find(h)
		if !ok {
			continue
		}
		if _, ok := l.hosts.named(h); ok {
			listeners = append(listeners, l.name)
			able = able && (l.ends == nil || l.ends.Invalid == "" && (l.server == nil || l.server.Problem() == ""))
		}
	}
	return listeners, able
}

// Services are what the hosts are to the pipeline.
func (t *Tables) Services() []*ir.Service { return t.services }

// Find says where a request on a port belongs. The most specific listener decides, and then the most specific of its hosts: a
// listener is no refuge for what another does not route (Gateway API, listener isolation). A tunnel belongs nowhere: the mesh
// is entered by its routes.
func (t *Tables) Find(port uint16, h *message.Head) Place {
	place, _ := t.find(port, h)
	return place
}

// Take is Find for a connection whose TLS the listener by ended, as Secure named it; "" is one in the clear. A host of another listener
// is not asked for there, whatever a certificate covers: what that listener asks of who comes was not asked (RFC 9110 §15.5.20,
// GEP-3567).
func (t *Tables) Take(port uint16, by string, h *message.Head) Place {
	place, l := t.find(port, h)
	if by != "" && l != nil && l.name != by {
		place.Service = Misdirected
	}
	return place
}

// find also returns the listener, if one takes the host.
func (t *Tables) find(port uint16, h *message.Head) (Place, *listener) {
	p := t.ports[Door{Number: port}]
	if p == nil {
		return Place{Service: gone}, nil // its listener went while the connection was open
	}
	var room [maxHost]byte
	host := plain(room[:0], h.Authority)
	l, ok := p.listeners.find(host)
	if !ok {
		return Place{Service: p.nowhere}, nil
	}
	out := Place{Service: l.nowhere, Hops: l.hops}
	if s, ok := l.hosts.find(host); ok && (!h.IsConnect() || len(h.Upgrade) > 0) {
		out.Service = s
	}
	return out, l
}

// maxHost bounds a host that is looked up; a longer one is found nowhere but where every host is (RFC 1035 §2.3.4).
const maxHost = 255

// plain appends the host of an authority in lower case, without its port and a final dot.
func plain(dst, authority []byte) []byte {
	host := authority
	if i := bytes.LastIndexByte(host, ':'); i >= 0 && bytes.IndexByte(host[i:], ']') < 0 {
		host = host[:i]
	}
	host = bytes.TrimSuffix(host, []byte("."))
	if len(host) > maxHost {
		return dst
	}
	for _, c := range host {
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		dst = append(dst, c)
	}
	return dst
}

// patterns find the most specific pattern that covers a host.
type patterns[T any] struct {
	exact, wild map[string]T // wild without its asterisk
	any         T
	hasAny      bool
}

func (p *patterns[T]) set(pattern string, v T) {
	switch {
	case pattern == "":
		p.any, p.hasAny = v, true
	case pattern[0] == '*':
		if p.wild == nil {
			p.wild = map[string]T{}
		}
		p.wild[pattern[1:]] = v
	default:
		if p.exact == nil {
			p.exact = map[string]T{}
		}
		p.exact[pattern] = v
	}
}

func (p *patterns[T]) find(host []byte) (T, bool) {
	if v, ok := p.named(host); ok {
		return v, true
	}
	return p.any, p.hasAny
}

// named is find among patterns that name something.
func (p *patterns[T]) named(host []byte) (none T, ok bool) {
	if v, ok := p.exact[string(host)]; ok {
		return v, true
	}
	for i := 1; len(p.wild) > 0 && i < len(host); i++ { // the longest first; an asterisk is at least one character
		if host[i] == '.' {
			if v, ok := p.wild[string(host[i:])]; ok {
				return v, true
			}
		}
	}
	return none, false
}
