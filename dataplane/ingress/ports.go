package ingress

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Door is a port that is opened. One of UDP and one of TCP may have the same number.
type Door struct {
	Number    uint16
	Datagrams bool
}

func (d Door) String() string {
	if d.Datagrams {
		return fmt.Sprintf("port %d of UDP", d.Number)
	}
	return fmt.Sprintf("port %d", d.Number)
}

// Port is where the listeners of one door are served.
type Port struct {
	Door
	// Protocol is that of all its listeners; that of some where TLS ends at others of them.
	Protocol mesh.ListenerProtocol
	// stated is the port that its listeners name, and first who named it.
	stated    uint16
	first     string
	listeners patterns[*listener]
	nowhere   mesh.ServiceName
}

// privileged are ports below it, which a process without privilege cannot open.
const privileged = 1024

// port finds or makes the port of a listener; nil if another has what it would open.
func (t *Tables) port(g *ir.Gateway, l *ir.Listener, offset uint16) *Port {
	d := Door{l.Port, l.Protocol == mesh.ListenerUDP}
	if d.Number < privileged {
		d.Number += offset
	}
	name := "listener " + l.Name + " of Gateway " + g.Namespace + "/" + g.Name
	p := t.ports[d]
	switch {
	case p == nil:
		p = &Port{Door: d, Protocol: l.Protocol, stated: l.Port, first: name, nowhere: t.service(g.Namespace, "gateway::"+fmt.Sprint(d.Number), d, l.Protocol, nil)}
		t.ports[d] = p
	case p.stated != l.Port: // those that share a port were told apart before they came here
		t.faults = append(t.faults, fmt.Errorf("%s: %s is where port %d of %s is opened, since ports below %d are opened %d higher: give one of them another port",
			name, d, p.stated, p.first, privileged, offset))
		return nil
	case l.Protocol == mesh.ListenerTLS: // beside listeners of HTTPS
		p.Protocol = l.Protocol
	}
	return p
}

// Opened is the protocol by which what comes is taken: at a port of TLS the server name tells whether TLS ends here.
func (p *Port) Opened() mesh.ListenerProtocol {
	if p.Protocol == mesh.ListenerHTTPS {
		return mesh.ListenerTLS
	}
	return p.Protocol
}

// Doors are the ports with what they are opened for.
func (t *Tables) Doors() map[Door]mesh.ListenerProtocol {
	out := make(map[Door]mesh.ListenerProtocol, len(t.ports))
	for d, p := range t.ports {
		out[d] = p.Opened()
	}
	return out
}

// Own are the ports of an ingress gateway itself where Gateways are served, and what each is for.
func Own(at netip.Addr, admin, dns netip.AddrPort) map[Door]string {
	own := map[Door]string{}
	for what, p := range map[string]netip.AddrPort{"its admin port": admin, "DNS": dns} {
		if p.IsValid() && (p.Addr() == at || p.Addr().IsUnspecified() || at.IsUnspecified()) {
			own[Door{Number: p.Port()}] = what
		}
	}
	if own[Door{Number: dns.Port()}] == "DNS" {
		own[Door{Number: dns.Port(), Datagrams: true}] = "DNS"
	}
	return own
}

// Ports are the ports to open, in order.
func (t *Tables) Ports() []*Port {
	out := make([]*Port, 0, len(t.ports))
	for _, p := range t.ports {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b *Port) int {
		return cmp.Or(cmp.Compare(a.Number, b.Number), cmp.Compare(b2i(a.Datagrams), b2i(b.Datagrams)))
	})
	return out
}

// Fault says which listeners cannot be served here although they could be told apart, and what to do about it; nil if all can.
// own are ports of the proxy itself at the address where Gateways are served, with what each is.
func (t *Tables) Fault(own map[Door]string) error {
	faults := t.faults
	for _, p := range t.Ports() {
		if what := own[p.Door]; what != "" {
			faults = append(faults[:len(faults):len(faults)], fmt.Errorf("%s: %s is the ingress gateway's own, for %s: give the listener another", p.first, p.Door, what))
		}
	}
	return errors.Join(faults...)
}

// Carried says which service a connection or session of bytes belongs to that comes at a door; there always is one. name is the
// server name that a connection of TLS asks for, and empty elsewhere.
func (t *Tables) Carried(d Door, name string) mesh.ServiceName {
	p := t.ports[d]
	if p == nil {
		return gone
	}
	var room [maxHost]byte
	host := plain(room[:0], []byte(name))
	l, ok := p.listeners.find(host)
	if !ok {
		return p.nowhere
	}
	if s, ok := l.hosts.find(host); ok {
		return s
	}
	return l.nowhere
}

// spoken is what a listener's protocol is to the pipeline.
func spoken(p mesh.ListenerProtocol) mesh.Protocol {
	switch p {
	case mesh.ListenerUDP:
		return mesh.ProtocolUDP
	case mesh.ListenerTCP, mesh.ListenerTLS:
		return mesh.ProtocolTCP
	}
	return mesh.ProtocolAuto
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
