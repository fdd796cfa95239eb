package wire

import (
	"github.com/isthmus-mesh/isthmus/codec/wire/wirepb"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/mesh"
	"google.golang.org/protobuf/proto"
)

func fromGateway(g *ir.Gateway) *wirepb.Gateway {
	return &wirepb.Gateway{Namespace: g.Namespace, Name: g.Name, Object: g.Object, TrustedHops: uint32(g.TrustedHops), Home: g.Home,
		Listeners: each(g.Listeners, func(l ir.Listener) *wirepb.Listener {
			return &wirepb.Listener{Name: l.Name, Hostname: l.Hostname, Port: uint32(l.Port), Protocol: string(l.Protocol),
				Hosts: each(l.Hosts, func(h ir.VirtualHost) *wirepb.VirtualHost {
					return &wirepb.VirtualHost{Hostname: h.Hostname, Routes: each(h.Routes, fromRoute)}
				})}
		})}
}

func (d *decoder) gateway(b []byte) (any, error) {
	m := &wirepb.Gateway{}
	if err := proto.Unmarshal(b, m); err != nil {
		return nil, err
	}
	return &ir.Gateway{Namespace: m.Namespace, Name: m.Name, Object: m.Object, TrustedHops: int(m.TrustedHops), Home: m.Home,
		Listeners: each(m.Listeners, func(l *wirepb.Listener) ir.Listener {
			return ir.Listener{Name: l.Name, Hostname: l.Hostname, Port: d.portNumber(l.Port), Protocol: mesh.ListenerProtocol(l.Protocol),
				Hosts: each(l.Hosts, func(h *wirepb.VirtualHost) ir.VirtualHost {
					return ir.VirtualHost{Hostname: h.Hostname, Routes: each(h.Routes, d.route)}
				})}
		})}, nil
}
