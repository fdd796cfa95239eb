package wire

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/isthmus-mesh/isthmus/codec/wire/wirepb"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/mesh"
	"google.golang.org/protobuf/proto"
)

// EncodeUp translates a message from importer to exporter.
func EncodeUp(m replica.Up) *wirepb.Up {
	switch m := m.(type) {
	case *replica.Subscribe:
		digests := make([]byte, 0, len(m.Digests)*16)
		for _, d := range m.Digests {
			digests = append(digests, d[:]...)
		}
		return &wirepb.Up{Message: &wirepb.Up_Subscribe{Subscribe: &wirepb.Subscribe{Protocol: int32(m.Protocol), Sync: m.Sync,
			Known: fromPosition(m.Known), Root: m.Root[:], Digests: digests, Capabilities: m.Capabilities, Version: m.Version}}}
	case *replica.Versions:
		return &wirepb.Up{Message: &wirepb.Up_Versions{Versions: &wirepb.Versions{Sync: m.Sync, Buckets: m.Buckets,
			Held: each(m.Held, func(h replica.Held) *wirepb.Held {
				return &wirepb.Held{Name: fromFactName(h.Name), Version: h.Version[:]}
			})}}}
	case *replica.Ack:
		return &wirepb.Up{Message: &wirepb.Up_Ack{Ack: &wirepb.Ack{Sync: m.Sync, Nonce: m.Nonce, Error: m.Error,
			Refused: each(m.Refused, func(r replica.Refusal) *wirepb.Refusal {
				return &wirepb.Refusal{Name: fromFactName(r.Name), Reason: text(r.Reason)}
			})}}}
	case *replica.Witness:
		return &wirepb.Up{Message: &wirepb.Up_Witness{Witness: &wirepb.Witness{Id: m.ID, Part: int32(m.Part), Parts: int32(m.Parts),
			Crossed: fromLineage(m.Crossed), Orphans: each(m.Orphans, FromResource)}}}
	}
	panic(fmt.Sprintf("wire: %T is no message to an exporter", m))
}

// text makes a message valid for protobuf: it may quote what a peer sent, and a Send that
// fails over that would end the stream for good.
func text(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// Bounds of what is translated at all: a message of nothing but empty elements grows a
// hundredfold in memory. replica has its own, narrower ones.
const (
	elementsMax = 2 * replica.MaxNames
	heldMax     = replica.MaxResponse / 32 * 2
)

func (d *decoder) bound(what string, n, most int) {
	if n > most {
		d.fault("%d %s in a message: at most %d", n, what, most)
	}
}

// DecodeUp is the inverse of EncodeUp.
func DecodeUp(u *wirepb.Up) (replica.Up, error) {
	d := &decoder{}
	var out replica.Up
	switch {
	case u.GetSubscribe() != nil:
		m := u.GetSubscribe()
		s := &replica.Subscribe{Protocol: int(m.Protocol), Sync: m.Sync, Known: toPosition(m.Known), Root: d.digest(m.Root),
			Capabilities: m.Capabilities, Version: m.Version}
		if len(m.Digests) != len(s.Digests)*16 {
			return nil, fmt.Errorf("decode Subscribe: %d octets of digests, want %d", len(m.Digests), len(s.Digests)*16)
		}
		for i := range s.Digests {
			s.Digests[i] = d.digest(m.Digests[i*16 : i*16+16])
		}
		out = s
	case u.GetVersions() != nil:
		m := u.GetVersions()
		if d.bound("versions", len(m.Held), heldMax); d.err != nil {
			return nil, d.err
		}
		out = &replica.Versions{Sync: m.Sync, Buckets: m.Buckets, Held: each(m.Held, func(h *wirepb.Held) replica.Held {
			return replica.Held{Name: toFactName(h.Name), Version: d.digest(h.Version)}
		})}
	case u.GetAck() != nil:
		m := u.GetAck()
		if d.bound("refusals", len(m.Refused), elementsMax); d.err != nil {
			return nil, d.err
		}
		out = &replica.Ack{Sync: m.Sync, Nonce: m.Nonce, Error: m.Error, Refused: each(m.Refused, func(r *wirepb.Refusal) replica.Refusal {
			return replica.Refusal{Name: toFactName(r.Name), Reason: r.Reason}
		})}
	case u.GetWitness() != nil:
		m := u.GetWitness()
		if d.bound("orphans", len(m.Orphans), elementsMax); d.err != nil {
			return nil, d.err
		}
		out = &replica.Witness{ID: m.Id, Part: int(m.Part), Parts: int(m.Parts), Crossed: toLineage(m.Crossed), Orphans: each(m.Orphans, d.resource)}
	default:
		return nil, errors.New("decode a message from an importer: its kind is not known to this version")
	}
	if d.err != nil {
		return nil, fmt.Errorf("decode a message from an importer: %w", d.err)
	}
	return out, nil
}

// EncodeDown translates a message from exporter to importer.
func EncodeDown(m replica.Down) *wirepb.Down {
	switch m := m.(type) {
	case *replica.Hello:
		return &wirepb.Down{Seq: m.Seq, Message: &wirepb.Down_Hello{Hello: &wirepb.Hello{Protocol: int32(m.Protocol), NewestProtocol: int32(m.Newest), Capabilities: m.Capabilities, Version: m.Version,
			Server: string(m.Server), Owner: string(m.Owner), TrustDomain: string(m.TrustDomain), Position: fromPosition(m.Position)}}}
	case *replica.Response:
		return &wirepb.Down{Seq: m.Seq, Message: &wirepb.Down_Response{Response: &wirepb.Response{Nonce: m.Nonce, Sync: m.Sync,
			Position: fromPosition(m.Position), Set: each(m.Set, FromResource), Removed: each(m.Removed, fromFactName), Last: m.Last,
			Lineage: fromLineage(m.Lineage), Root: m.Root[:]}}}
	case *replica.Enumerate:
		return &wirepb.Down{Seq: m.Seq, Message: &wirepb.Down_Enumerate{Enumerate: &wirepb.Enumerate{Sync: m.Sync, Buckets: m.Buckets}}}
	case *replica.Heartbeat:
		return &wirepb.Down{Seq: m.Seq, Message: &wirepb.Down_Heartbeat{Heartbeat: &wirepb.Heartbeat{Beat: m.Beat, Position: fromPosition(m.Position),
			Settled: m.Settled, Root: m.Root[:], Awaiting: m.Awaiting, Report: m.Report}}}
	}
	panic(fmt.Sprintf("wire: %T is no message to an importer", m))
}

// DecodeDown is the inverse of EncodeDown.
func DecodeDown(p *wirepb.Down) (replica.Down, error) {
	d := &decoder{}
	var out replica.Down
	switch {
	case p.GetHello() != nil:
		m := p.GetHello()
		out = &replica.Hello{Seq: p.Seq, Protocol: int(m.Protocol), Newest: int(m.NewestProtocol), Capabilities: m.Capabilities, Version: m.Version, Server: mesh.ClusterName(m.Server),
			Owner: mesh.ClusterName(m.Owner), TrustDomain: mesh.TrustDomain(m.TrustDomain), Position: toPosition(m.Position)}
	case p.GetResponse() != nil:
		m := p.GetResponse()
		d.bound("facts", len(m.Set), elementsMax)
		if d.bound("removals", len(m.Removed), elementsMax); d.err != nil {
			return nil, d.err
		}
		out = &replica.Response{Seq: p.Seq, Nonce: m.Nonce, Sync: m.Sync, Position: toPosition(m.Position), Set: each(m.Set, d.resource),
			Removed: each(m.Removed, toFactName), Last: m.Last, Lineage: toLineage(m.Lineage), Root: d.digest(m.Root)}
	case p.GetEnumerate() != nil:
		out = &replica.Enumerate{Seq: p.Seq, Sync: p.GetEnumerate().Sync, Buckets: p.GetEnumerate().Buckets}
	case p.GetHeartbeat() != nil:
		m := p.GetHeartbeat()
		out = &replica.Heartbeat{Seq: p.Seq, Beat: m.Beat, Position: toPosition(m.Position), Settled: m.Settled, Root: d.digest(m.Root),
			Awaiting: m.Awaiting, Report: m.Report}
	default:
		return nil, errors.New("decode a message from an exporter: its kind is not known to this version")
	}
	if d.err != nil {
		return nil, fmt.Errorf("decode a message from an exporter: %w", d.err)
	}
	return out, nil
}

// FromResource and ToResource translate a fact as it travels and as it is kept on
// disk.
func FromResource(r *replica.Resource) *wirepb.Fact {
	return &wirepb.Fact{Name: fromFactName(r.Name), Version: r.Version[:], Position: fromPosition(r.Position),
		Stamp:  &wirepb.Stamp{WallMillis: r.Stamp.WallMillis, Counter: r.Stamp.Counter, Origin: string(r.Stamp.Origin)},
		Digest: r.Digest[:], Body: r.Body, Gone: r.Gone}
}

// ToResource is the inverse of FromResource. The version is taken as stated; replica checks it.
func ToResource(m *wirepb.Fact) (*replica.Resource, error) {
	d := &decoder{}
	r := d.resource(m)
	return r, d.err
}

func (d *decoder) resource(m *wirepb.Fact) *replica.Resource {
	return &replica.Resource{Name: toFactName(m.GetName()), Version: d.digest(m.GetVersion()), Position: toPosition(m.GetPosition()),
		Stamp: mesh.Stamp{WallMillis: m.GetStamp().GetWallMillis(), Counter: m.GetStamp().GetCounter(),
			Origin: mesh.ClusterName(m.GetStamp().GetOrigin())},
		Digest: d.digest(m.GetDigest()), Body: m.GetBody(), Gone: m.GetGone()}
}

func (d *decoder) digest(b []byte) (out replica.Digest) {
	if len(b) != len(out) {
		d.fault("digest of %d octets, want %d", len(b), len(out))
		return out
	}
	return replica.Digest(b)
}

func fromFactName(n replica.Name) *wirepb.FactName {
	return &wirepb.FactName{Kind: string(n.Kind), Namespace: n.Namespace, Name: n.Name}
}

func toFactName(m *wirepb.FactName) replica.Name {
	return replica.Name{Kind: mesh.Kind(m.GetKind()), Namespace: m.GetNamespace(), Name: m.GetName()}
}

func fromEpoch(e mesh.Epoch) *wirepb.Epoch {
	return &wirepb.Epoch{StartMillis: e.StartMillis, Id: e.ID}
}

func toEpoch(m *wirepb.Epoch) mesh.Epoch {
	return mesh.Epoch{StartMillis: m.GetStartMillis(), ID: m.GetId()}
}

func fromPosition(p mesh.Position) *wirepb.Position {
	return &wirepb.Position{Epoch: fromEpoch(p.Epoch), Revision: p.Revision}
}

func toPosition(m *wirepb.Position) mesh.Position {
	return mesh.Position{Epoch: toEpoch(m.GetEpoch()), Revision: m.GetRevision()}
}

func fromLineage(l replica.Lineage) []*wirepb.Lineage {
	epochs := slices.SortedFunc(maps.Keys(l), func(a, b mesh.Epoch) int {
		return mesh.Position{Epoch: a}.Compare(mesh.Position{Epoch: b})
	})
	return each(epochs, func(e mesh.Epoch) *wirepb.Lineage { return &wirepb.Lineage{Epoch: fromEpoch(e), Revision: l[e]} })
}

func toLineage(in []*wirepb.Lineage) replica.Lineage {
	if len(in) == 0 {
		return nil
	}
	l := make(replica.Lineage, len(in))
	for _, m := range in {
		l[toEpoch(m.GetEpoch())] = m.GetRevision()
	}
	return l
}

// EncodeRemoteService is the body of a RemoteService fact.
func EncodeRemoteService(r *mesh.RemoteService) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(&wirepb.RemoteService{Service: fromService(r.ServiceName),
		Ports: each(r.Ports, func(p mesh.ServicePort) *wirepb.ServicePort {
			return &wirepb.ServicePort{Name: p.Name, Port: uint32(p.Port), Protocol: string(p.Protocol), TargetPort: uint32(p.TargetPort), TargetName: p.TargetName}
		}),
		Identities: each(r.Identities, mesh.Identity.String), Slots: r.Slots, SlotGeneration: r.SlotGeneration, Moved: r.Moved, Lanes: r.Lanes, Draining: fromSlotRamps(r.Draining),
		Endpoints: each(r.Endpoints, func(e mesh.RemoteEndpoint) *wirepb.Endpoint {
			return fromEndpoint(ir.Endpoint{Tag: e.Tag, Proxy: e.Proxy, Zone: e.Zone, Weight: e.Weight, Lanes: e.Lanes, Drains: e.Drains})
		})})
	if err != nil {
		panic("wire: encode RemoteService: " + err.Error())
	}
	return b
}

// DecodeRemoteService is the inverse of EncodeRemoteService; it refuses a summary whose
// parts disagree.
func DecodeRemoteService(b []byte) (*mesh.RemoteService, error) {
	m := &wirepb.RemoteService{}
	if err := proto.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("decode RemoteService: %w", err)
	}
	d := &decoder{}
	r := &mesh.RemoteService{ServiceName: d.service(m.Service), Identities: each(m.Identities, d.identity), Slots: m.Slots,
		SlotGeneration: m.SlotGeneration, Moved: m.Moved, Lanes: m.Lanes, Draining: toSlotRamps(m.Draining),
		Ports: each(m.Ports, func(p *wirepb.ServicePort) mesh.ServicePort {
			return mesh.ServicePort{Name: p.Name, Port: d.portNumber(p.Port), Protocol: mesh.Protocol(p.Protocol), TargetPort: d.portNumber(p.TargetPort), TargetName: p.TargetName}
		}),
		Endpoints: each(m.Endpoints, func(e *wirepb.Endpoint) mesh.RemoteEndpoint {
			v := d.endpoint(e)
			return mesh.RemoteEndpoint{Tag: v.Tag, Proxy: v.Proxy, Zone: v.Zone, Weight: v.Weight, Lanes: v.Lanes, Drains: v.Drains}
		})}
	if int(r.Slots) != len(r.Moved) {
		d.fault("%d slots with %d generations", r.Slots, len(r.Moved))
	}
	if d.err != nil {
		return nil, fmt.Errorf("decode RemoteService: %w", d.err)
	}
	return r, nil
}

// EncodeSaved is what an importer keeps on disk.
func EncodeSaved(s *replica.Saved) *wirepb.CachedPeer {
	set, removed := replica.Diff(s.Stated, s.InForce)
	return &wirepb.CachedPeer{Stated: fromPartition(s.Stated), Crossed: fromLineage(s.Crossed),
		InForce: each(set, FromResource), NotInForce: each(removed, fromFactName)}
}

// DecodeSaved is the inverse of EncodeSaved, for a partition of owner.
func DecodeSaved(owner mesh.ClusterName, m *wirepb.CachedPeer) (*replica.Saved, error) {
	d := &decoder{}
	s := &replica.Saved{Stated: d.partition(owner, m.Stated), Crossed: toLineage(m.Crossed)}
	s.InForce = s.Stated.With(each(m.InForce, d.resource), each(m.NotInForce, toFactName))
	if d.err != nil {
		return nil, fmt.Errorf("decode CachedPeer: %w", d.err)
	}
	return s, nil
}

func fromPartition(p *replica.Partition) *wirepb.Partition {
	m := &wirepb.Partition{Position: fromPosition(p.Position), Lineage: fromLineage(p.Lineage)}
	for r := range p.All() {
		m.Facts = append(m.Facts, FromResource(r))
	}
	return m
}

func (d *decoder) partition(owner mesh.ClusterName, m *wirepb.Partition) *replica.Partition {
	return replica.NewPartition(owner).With(each(m.GetFacts(), d.resource), nil).At(toPosition(m.GetPosition()), toLineage(m.GetLineage()))
}
