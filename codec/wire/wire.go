// Package wire is the tongue of our own streams: ir and mesh values ↔ protobuf. Its
// one law is decode(encode(x)) = x; what it cannot decode it refuses whole.
//
// It knows no stream, no version of a resource (that is the digest of the ir value)
// and no Envoy type. Read Encode first.
package wire

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"github.com/isthmus-mesh/isthmus/codec/wire/wirepb"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/mesh"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Encode returns the type and the bytes of a resource: an *ir.Name, *ir.Service,
// *ir.Endpoints, *ir.Cluster, *ir.Proxy, *ir.Access, *ir.Slots, *ir.Gateway, *mesh.Split or *mesh.Bundle. Any other value is a broken
// invariant of the caller and panics.
func Encode(v any) (ir.Type, []byte) {
	t, m := message(v)
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic("wire: encode " + string(t) + ": " + err.Error()) // strings are valid UTF-8 by parsing
	}
	return t, b
}

func message(v any) (ir.Type, proto.Message) {
	switch v := v.(type) {
	case *ir.Name:
		return ir.TypeName, &wirepb.Name{Service: fromService(v.Service), Address: v.Address.AsSlice(), Ports: each(v.Ports, fromPort)}
	case *ir.Service:
		return ir.TypeService, &wirepb.Service{Name: fromService(v.Name), Ports: each(v.Ports, fromPort), Routed: v.Routed,
			Routes: each(v.Routes, fromRoute), Traffic: fromTraffic(v.Traffic)}
	case *ir.Endpoints:
		return ir.TypeEndpoints, &wirepb.Endpoints{Service: fromService(v.Service), Groups: each(v.Groups, fromGroup), Transit: texts(v.Transit)}
	case *ir.Proxy:
		return ir.TypeProxy, &wirepb.Proxy{Id: v.ID, Identity: v.Identity.String(), Cluster: string(v.Locality.Cluster),
			Region: string(v.Locality.Region), Zone: string(v.Locality.Zone), Inbound: each(v.Inbound, fromInbound),
			OutboundAllowAny: v.OutboundAllowAny, Domain: v.Domain, Telemetry: fromTelemetry(v.Telemetry), Lanes: v.Lanes}
	case *ir.Access:
		return ir.TypeAccess, &wirepb.Access{Service: fromService(v.Service), Exported: v.Exported, Consumers: texts(v.Consumers),
			Strict: v.Strict, Policies: each(v.Policies, fromAccessEntry), Clusters: each(v.Clusters, fromCaller)}
	case *ir.Slots:
		return ir.TypeSlots, &wirepb.Slots{Service: fromService(v.Table.Service), Generation: v.Table.Generation,
			Slots: each(v.Table.Slots, fromAddrPort), Moved: v.Table.Moved, TrustDomain: string(v.TrustDomain)}
	case *ir.Cluster:
		return ir.TypeCluster, fromCluster(v)
	case *ir.Gateway:
		return ir.TypeGateway, fromGateway(v)
	case *mesh.Split:
		return ir.TypeSplit, fromSplit(v)
	case *mesh.Bundle:
		return ir.TypeBundle, FromBundle(v)
	}
	panic(fmt.Sprintf("wire: %T is no resource", v))
}

// Decode reads the bytes of a resource of a type into the value that Encode takes. The
// error names the type and the field; nothing half-decoded is returned. An Access
// with a field that this version does not know decodes to one that denies.
func Decode(t ir.Type, b []byte) (any, error) {
	d := &decoder{}
	v, err := d.decode(t, b)
	if err == nil {
		err = d.err
	}
	if err != nil {
		return nil, fmt.Errorf("decode %s: %w", t, err)
	}
	return v, nil
}

func (d *decoder) decode(t ir.Type, b []byte) (any, error) {
	switch t {
	case ir.TypeName:
		m := &wirepb.Name{}
		if err := proto.Unmarshal(b, m); err != nil {
			return nil, err
		}
		return &ir.Name{Service: d.service(m.Service), Address: d.addr(m.Address), Ports: each(m.Ports, d.port)}, nil
	case ir.TypeService:
		m := &wirepb.Service{}
		if err := proto.Unmarshal(b, m); err != nil {
			return nil, err
		}
		return &ir.Service{Name: d.service(m.Name), Ports: each(m.Ports, d.port), Routed: m.Routed,
			Routes: each(m.Routes, d.route), Traffic: d.traffic(m.Traffic)}, nil
	case ir.TypeEndpoints:
		m := &wirepb.Endpoints{}
		if err := proto.Unmarshal(b, m); err != nil {
			return nil, err
		}
		return &ir.Endpoints{Service: d.service(m.Service), Groups: each(m.Groups, d.group),
			Transit: each(m.Transit, func(j string) mesh.Jurisdiction { return mesh.Jurisdiction(j) })}, nil
	case ir.TypeProxy:
		m := &wirepb.Proxy{}
		if err := proto.Unmarshal(b, m); err != nil {
			return nil, err
		}
		return &ir.Proxy{ID: m.Id, Identity: d.identity(m.Identity),
			Locality: mesh.Locality{Cluster: mesh.ClusterName(m.Cluster), Region: mesh.Region(m.Region), Zone: mesh.Zone(m.Zone)},
			Inbound:  each(m.Inbound, d.inbound), OutboundAllowAny: m.OutboundAllowAny, Domain: m.Domain,
			Telemetry: toTelemetry(m.Telemetry), Lanes: m.Lanes}, nil
	case ir.TypeAccess:
		m := &wirepb.Access{}
		if err := proto.Unmarshal(b, m); err != nil {
			return nil, err
		}
		return d.access(m), nil
	case ir.TypeSlots:
		m := &wirepb.Slots{}
		if err := proto.Unmarshal(b, m); err != nil {
			return nil, err
		}
		if len(m.Slots) != len(m.Moved) {
			return nil, fmt.Errorf("%d slots with %d generations", len(m.Slots), len(m.Moved))
		}
		return &ir.Slots{TrustDomain: mesh.TrustDomain(m.TrustDomain), Table: mesh.SlotTable{Service: d.service(m.Service),
			Generation: m.Generation, Slots: each(m.Slots, d.addrPort), Moved: m.Moved}}, nil
	case ir.TypeCluster:
		m := &wirepb.Cluster{}
		if err := proto.Unmarshal(b, m); err != nil {
			return nil, err
		}
		return d.cluster(m), nil
	case ir.TypeGateway:
		return d.gateway(b)
	case ir.TypeSplit:
		m := &wirepb.Split{}
		if err := proto.Unmarshal(b, m); err != nil {
			return nil, err
		}
		return d.split(m), nil
	case ir.TypeBundle:
		m := &wirepb.Bundle{}
		if err := proto.Unmarshal(b, m); err != nil {
			return nil, err
		}
		return ToBundle(m), nil
	}
	return nil, fmt.Errorf("the type is not known to this version")
}

// FromBundle and ToBundle translate bundles, which also travel in certificate
// responses.
func FromBundle(b *mesh.Bundle) *wirepb.Bundle {
	return &wirepb.Bundle{TrustDomain: string(b.TrustDomain), Roots: b.Roots, Generation: b.Generation}
}

// ToBundle is the inverse of FromBundle.
func ToBundle(m *wirepb.Bundle) *mesh.Bundle {
	return &mesh.Bundle{TrustDomain: mesh.TrustDomain(m.TrustDomain), Roots: m.Roots, Generation: m.Generation}
}

// each maps a slice; an empty one is nil, as protobuf has it.
func each[A, B any](in []A, f func(A) B) []B {
	if len(in) == 0 {
		return nil
	}
	out := make([]B, len(in))
	for i := range in {
		out[i] = f(in[i])
	}
	return out
}

func texts[S ~string](in []S) []string { return each(in, func(s S) string { return string(s) }) }

func typed[S ~string](in []string) []S { return each(in, func(s string) S { return S(s) }) }

// decoder keeps the first fault, so that conversions read as plain assignments.
type decoder struct{ err error }

func (d *decoder) fault(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf(format, args...)
	}
}

func (d *decoder) service(m *wirepb.ServiceName) mesh.ServiceName {
	n := mesh.ServiceName{Namespace: m.GetNamespace(), Name: m.GetName()}
	if !mesh.IsLabel(n.Namespace) || !mesh.IsLabel(n.Name) {
		d.fault("service name %q is not two DNS labels", n)
	}
	return n
}

func fromService(n mesh.ServiceName) *wirepb.ServiceName {
	return &wirepb.ServiceName{Namespace: n.Namespace, Name: n.Name}
}

func (d *decoder) portNumber(n uint32) uint16 {
	if n > 65535 {
		d.fault("port %d is above 65535", n)
	}
	return uint16(n)
}

func fromPort(p ir.Port) *wirepb.Port {
	return &wirepb.Port{Name: p.Name, Port: uint32(p.Port), Protocol: string(p.Protocol)}
}

func (d *decoder) port(m *wirepb.Port) ir.Port {
	return ir.Port{Name: m.Name, Port: d.portNumber(m.Port), Protocol: mesh.Protocol(m.Protocol)}
}

func (d *decoder) addr(b []byte) netip.Addr {
	if len(b) == 0 {
		return netip.Addr{}
	}
	a, ok := netip.AddrFromSlice(b)
	if !ok {
		d.fault("address of %d octets", len(b))
	}
	return a
}

func fromAddrPort(a netip.AddrPort) []byte {
	if !a.IsValid() {
		return []byte{}
	}
	return binary.BigEndian.AppendUint16(a.Addr().AsSlice(), a.Port())
}

func (d *decoder) addrPort(b []byte) netip.AddrPort {
	if len(b) == 0 {
		return netip.AddrPort{}
	}
	if len(b) < 2 {
		d.fault("address and port of %d octets", len(b))
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(d.addr(b[:len(b)-2]), binary.BigEndian.Uint16(b[len(b)-2:]))
}

func (d *decoder) identity(s string) mesh.Identity {
	if s == "" {
		return mesh.Identity{}
	}
	id, err := mesh.ParseIdentity(s)
	if err != nil {
		d.fault("%w", err)
	}
	return id
}

func fromInbound(in ir.Inbound) *wirepb.Inbound {
	return &wirepb.Inbound{Service: fromService(in.Service), Ports: each(in.Ports, func(p ir.InboundPort) *wirepb.InboundPort {
		return &wirepb.InboundPort{Port: uint32(p.Port), Protocol: string(p.Protocol), Target: fromAddrPort(p.Target), Tls: fromBackendTLS(p.TLS)}
	})}
}

func (d *decoder) inbound(m *wirepb.Inbound) ir.Inbound {
	return ir.Inbound{Service: d.service(m.Service), Ports: each(m.Ports, func(p *wirepb.InboundPort) ir.InboundPort {
		return ir.InboundPort{Port: d.portNumber(p.Port), Protocol: mesh.Protocol(p.Protocol), Target: d.addrPort(p.Target), TLS: backendTLS(p.Tls)}
	})}
}

func fromBackendTLS(t *ir.BackendTLS) *wirepb.BackendTLS {
	if t == nil {
		return nil
	}
	return &wirepb.BackendTLS{Object: t.Object, Hostname: t.Hostname, Roots: t.Roots, System: t.System, Invalid: t.Invalid,
		Names: each(t.Names, func(n mesh.SubjectName) *wirepb.SubjectName {
			return &wirepb.SubjectName{Kind: string(n.Kind), Value: n.Value}
		})}
}

// backendTLS never fails open: what it does not understand is not spoken to.
func backendTLS(m *wirepb.BackendTLS) *ir.BackendTLS {
	if m == nil {
		return nil
	}
	t := &ir.BackendTLS{Object: m.Object, Hostname: m.Hostname, Roots: m.Roots, System: m.System, Invalid: m.Invalid,
		Names: each(m.Names, func(n *wirepb.SubjectName) mesh.SubjectName {
			return mesh.SubjectName{Kind: mesh.SubjectKind(n.Kind), Value: n.Value}
		})}
	if t.Invalid == "" && unknownFields(m.ProtoReflect()) {
		t.Invalid = "it has fields that this proxy does not know"
	}
	return t
}

func fromCluster(c *ir.Cluster) *wirepb.Cluster {
	return &wirepb.Cluster{Name: string(c.Name), Region: string(c.Region), Jurisdiction: string(c.Jurisdiction), Network: string(c.Network),
		TrustDomain: string(c.TrustDomain), Rtt: int64(c.RTT), Reach: uint32(c.Reach), Gateways: each(c.Gateways, fromAddrPort),
		Ingresses: each(c.Ingresses, netip.Addr.AsSlice), Drains: fromRamps(c.Drains), StaleSinceMillis: c.StaleSinceMillis, Unserved: c.Unserved, Via: fromVia(c.Via), NoTransit: c.NoTransit}
}

func (d *decoder) cluster(m *wirepb.Cluster) *ir.Cluster {
	if m.Reach > uint32(mesh.Dead) {
		d.fault("reachability %d is not known to this version", m.Reach)
	}
	return &ir.Cluster{Name: mesh.ClusterName(m.Name), Region: mesh.Region(m.Region), Jurisdiction: mesh.Jurisdiction(m.Jurisdiction),
		Network: mesh.Network(m.Network), TrustDomain: mesh.TrustDomain(m.TrustDomain), RTT: time.Duration(m.Rtt),
		Reach: mesh.Reachability(m.Reach), Gateways: each(m.Gateways, d.addrPort), Ingresses: each(m.Ingresses, d.addr), Drains: toRamps(m.Drains),
		StaleSinceMillis: m.StaleSinceMillis, Unserved: m.Unserved, Via: d.via(m.Via), NoTransit: m.NoTransit}
}

func fromVia(v *ir.Via) *wirepb.Via {
	if v == nil {
		return nil
	}
	return &wirepb.Via{Cluster: string(v.Cluster), Jurisdiction: string(v.Jurisdiction), TrustDomain: string(v.TrustDomain), Gateways: each(v.Gateways, fromAddrPort), Rtt: int64(v.RTT)}
}

func (d *decoder) via(m *wirepb.Via) *ir.Via {
	if m == nil {
		return nil
	}
	return &ir.Via{Cluster: mesh.ClusterName(m.Cluster), Jurisdiction: mesh.Jurisdiction(m.Jurisdiction), TrustDomain: mesh.TrustDomain(m.TrustDomain),
		Gateways: each(m.Gateways, d.addrPort), RTT: time.Duration(m.Rtt)}
}

func fromGroup(g ir.Group) *wirepb.Group {
	return &wirepb.Group{Cluster: string(g.Cluster), Forbidden: g.Forbidden, Exported: g.Exported,
		Identities: each(g.Identities, mesh.Identity.String), Endpoints: each(g.Endpoints, fromEndpoint), Slots: g.Slots, Lanes: g.Lanes, Draining: fromSlotRamps(g.Draining)}
}

func (d *decoder) group(m *wirepb.Group) ir.Group {
	return ir.Group{Cluster: mesh.ClusterName(m.Cluster), Forbidden: m.Forbidden, Exported: m.Exported,
		Identities: each(m.Identities, d.identity), Endpoints: each(m.Endpoints, d.endpoint), Slots: m.Slots, Lanes: m.Lanes, Draining: toSlotRamps(m.Draining)}
}

func fromEndpoint(e ir.Endpoint) *wirepb.Endpoint {
	return &wirepb.Endpoint{Tag: e.Tag, Proxy: fromAddrPort(e.Proxy), Zone: string(e.Zone), Weight: e.Weight, Lanes: e.Lanes, Drains: fromRamps(e.Drains)}
}

func (d *decoder) endpoint(m *wirepb.Endpoint) ir.Endpoint {
	return ir.Endpoint{Tag: m.Tag, Proxy: d.addrPort(m.Proxy), Zone: mesh.Zone(m.Zone), Weight: m.Weight, Lanes: m.Lanes, Drains: toRamps(m.Drains)}
}

// unknownFields reports whether m or a message inside it has fields that this
// version does not know.
func unknownFields(m protoreflect.Message) bool {
	if len(m.GetUnknown()) > 0 {
		return true
	}
	found := false
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Message() == nil:
		case f.IsList():
			for i := range v.List().Len() {
				found = found || unknownFields(v.List().Get(i).Message())
			}
		default:
			found = unknownFields(v.Message())
		}
		return !found
	})
	return found
}
