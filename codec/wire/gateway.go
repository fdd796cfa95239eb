package wire

import (
	"github.com/isthmus-mesh/isthmus/codec/wire/wirepb"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/mesh"
	"google.golang.org/protobuf/proto"
)

func fromGateway(g *ir.Gateway) *wirepb.Gateway {
	return &wirepb.Gateway{Namespace: g.Namespace, Name: g.Name, Object: g.Object, TrustedHops: uint32(g.TrustedHops), Home: g.Home,
		Listeners: each(g.Listeners, fromListener), Terminations: each(g.Terminations, func(t ir.Termination) *wirepb.Termination {
			return &wirepb.Termination{Listener: fromListener(t.Listener), Invalid: t.Invalid, Certificates: each(t.Certificates, func(c ir.Certificate) *wirepb.Certificate {
				return &wirepb.Certificate{Object: c.Object, Chain: c.Chain, Key: c.Key.Reveal()}
			})}
		})}
}

func fromListener(l ir.Listener) *wirepb.Listener {
	return &wirepb.Listener{Name: l.Name, Hostname: l.Hostname, Port: uint32(l.Port), Protocol: string(l.Protocol),
		Hosts: each(l.Hosts, func(h ir.VirtualHost) *wirepb.VirtualHost {
			return &wirepb.VirtualHost{Hostname: h.Hostname, Routes: each(h.Routes, fromRoute)}
		})}
}

func (d *decoder) gateway(b []byte) (any, error) {
	m := &wirepb.Gateway{}
	if err := proto.Unmarshal(b, m); err != nil {
		return nil, err
	}
	return &ir.Gateway{Namespace: m.Namespace, Name: m.Name, Object: m.Object, TrustedHops: int(m.TrustedHops), Home: m.Home,
		Listeners: each(m.Listeners, d.listener), Terminations: each(m.Terminations, func(t *wirepb.Termination) ir.Termination {
			return ir.Termination{Listener: d.listener(t.Listener), Invalid: t.Invalid, Certificates: each(t.Certificates, func(c *wirepb.Certificate) ir.Certificate {
				return ir.Certificate{Object: c.Object, Chain: c.Chain, Key: mesh.Hide(c.Key)}
			})}
		})}, nil
}

func (d *decoder) listener(l *wirepb.Listener) ir.Listener {
	return ir.Listener{Name: l.GetName(), Hostname: l.GetHostname(), Port: d.portNumber(l.GetPort()), Protocol: mesh.ListenerProtocol(l.GetProtocol()),
		Hosts: each(l.GetHosts(), func(h *wirepb.VirtualHost) ir.VirtualHost {
			return ir.VirtualHost{Hostname: h.Hostname, Routes: each(h.Routes, d.route)}
		})}
}
