package mesh

import (
	"net/netip"
	"slices"
)

// Protocol is what a service port speaks.
type Protocol string

// The protocols of a service port.
const (
	ProtocolHTTP  Protocol = "HTTP"
	ProtocolHTTP2 Protocol = "HTTP2"
	ProtocolGRPC  Protocol = "GRPC"
	ProtocolTCP   Protocol = "TCP"
	ProtocolUDP   Protocol = "UDP"
	// ProtocolAuto is a port of TCP of which nothing was declared: each connection is looked at.
	ProtocolAuto Protocol = "AUTO"
)

// IsHTTP reports whether requests, not connections, are routed.
func (p Protocol) IsHTTP() bool {
	return p == ProtocolHTTP || p == ProtocolHTTP2 || p == ProtocolGRPC
}

// MayBeHTTP reports whether requests may come on such a port.
func (p Protocol) MayBeHTTP() bool { return p.IsHTTP() || p == ProtocolAuto }

// IsHTTP2 reports whether who listens on such a port speaks HTTP/2, without TLS by prior
// knowledge.
func (p Protocol) IsHTTP2() bool { return p == ProtocolHTTP2 || p == ProtocolGRPC }

// Service is a service as one cluster declares it.
type Service struct {
	ServiceName
	Ports []ServicePort
	// Selector picks workloads of the namespace whose labels contain it; empty
	// selects none.
	Selector map[string]string
	// Addresses are the cluster-internal addresses of the service.
	Addresses []netip.Addr
	// Headless services resolve to their endpoints' addresses.
	Headless bool
}

// ServicePort is one port of a service.
type ServicePort struct {
	Name     string
	Port     uint16
	Protocol Protocol
	// TargetPort is the workload's port: a number, or a name in TargetName.
	TargetPort uint16
	TargetName string
}

// ServiceExport makes a service of this cluster known to the mesh
// (multicluster.x-k8s.io, KEP-1645).
type ServiceExport struct {
	ServiceName
	// Consumers limits who may import; empty is everybody.
	Consumers []ClusterName
}

// For reports whether a cluster may import.
func (e *ServiceExport) For(n ClusterName) bool {
	return len(e.Consumers) == 0 || slices.Contains(e.Consumers, n)
}

// Workload is a process with an identity that may serve endpoints.
type Workload struct {
	Namespace, Name string
	Labels          map[string]string
	ServiceAccount  string
	Address         netip.Addr
	// Ports maps names to numbers; a service's TargetName is looked up here.
	Ports map[string]uint16
	Zone  Zone
	// Proxy is the workload's inter-proxy address, port 15008; zero if it has no
	// proxy of its own.
	Proxy netip.AddrPort
	// Lanes is the declared concurrency; 0 is unknown.
	Lanes uint32
	// Weight is relative capacity, 1 unless declared.
	Weight uint32
	// Unready takes the workload out of rotation.
	Unready bool
}

// EndpointSlice is Kubernetes' own list of the endpoints of a service
// (discovery.k8s.io/v1).
type EndpointSlice struct {
	Namespace, Name string
	Service         ServiceName
	Ports           []EndpointPort
	Endpoints       []SliceEndpoint
}

// EndpointPort is a port shared by all endpoints of a slice.
type EndpointPort struct {
	Name string
	Port uint16
}

// SliceEndpoint is one endpoint of an EndpointSlice.
type SliceEndpoint struct {
	Addresses []netip.Addr
	Ready     bool
	Zone      Zone
	// Workload names the workload behind it, empty if unknown.
	Workload string
}

// ServiceAddress says that a cluster gave an address of its own to a service, which it may have itself or
// see in others. One address is one service's; of several that a service has, the one given last counts.
type ServiceAddress struct {
	Service ServiceName
	Address netip.Addr
	// SinceMillis is when it was given, in Unix milliseconds.
	SinceMillis int64
}

// RemoteService is what a cluster tells a peer of a service that it exports: a
// summary. On another network there are slots and no addresses; on a shared
// network there are endpoints and no slots.
type RemoteService struct {
	ServiceName
	Ports []ServicePort
	// Identities are those that may serve it, sorted.
	Identities []Identity
	// Slots is how many places the service has behind the origin's gateways.
	Slots uint32
	// SlotGeneration grows with each change of the owner's SlotTable, and Moved holds
	// the generation at which each slot last changed its endpoint, so that a client
	// replaces only the connections of slots that moved. len(Moved) == Slots.
	SlotGeneration uint64
	Moved          []uint64
	// Lanes is the whole healthy capacity in coarse steps; 0 is unknown.
	Lanes uint32
	// Endpoints are set on a shared network only.
	Endpoints []RemoteEndpoint
	// Draining are the slots whose endpoints are taken out of use, or back into it, by slot.
	Draining []SlotRamps
}

// RemoteEndpoint is an endpoint of a peer on a shared network.
type RemoteEndpoint struct {
	// Tag is opaque and names the endpoint in statistics and ejection.
	Tag   string
	Proxy netip.AddrPort
	Zone  Zone
	Lanes uint32
	// Weight is relative capacity, at least 1.
	Weight uint32
	// Drains is the part of its share that it gets while it is taken out of use, or back into it.
	Drains Ramps
}

// SlotTable is the owner's assignment slot → endpoint for one service: every ready
// endpoint has at least one slot, shares differ by at most one slot, a change moves
// as few as possible, and every gateway of the cluster uses the same table.
type SlotTable struct {
	Service    ServiceName
	Generation uint64
	// Slots[i] is the inter-proxy address behind slot i.
	Slots []netip.AddrPort
	// Moved[i] is the generation at which Slots[i] last changed.
	Moved []uint64
}
