// Package ir is what one proxy must do, in our own words: the results of compiling a
// world. Its one idea is that a resource is computed once for each (name, view) and
// shared by all proxies of that view; only Proxy is a proxy's own.
//
// It holds values and their digest, nothing else: no encoding for the wire
// (codec/wire), no selection of endpoints (core/balance), no decision on access
// (core/policy). Values are immutable once made. Read Endpoints first.
package ir

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// Type names a type of resource in discovery streams.
type Type string

// The types of resources and how they are named and subscribed.
const (
	// TypeName: "namespace/name", every service a proxy may call; wildcard.
	TypeName Type = "type.isthmus.dev/v1/Name"
	// TypeService: "namespace/name", on first use.
	TypeService Type = "type.isthmus.dev/v1/Service"
	// TypeEndpoints: "namespace/name", on first use.
	TypeEndpoints Type = "type.isthmus.dev/v1/Endpoints"
	// TypeProxy: the proxy's own ID.
	TypeProxy Type = "type.isthmus.dev/v1/Proxy"
	// TypeAccess: "namespace/name", for the services a proxy serves.
	TypeAccess Type = "type.isthmus.dev/v1/Access"
	// TypeCluster: the name of a cluster; wildcard.
	TypeCluster Type = "type.isthmus.dev/v1/Cluster"
	// TypeBundle: a trust domain; wildcard.
	TypeBundle Type = "type.isthmus.dev/v1/Bundle"
	// TypeSplit: "namespace/name", for services that are called.
	TypeSplit Type = "type.isthmus.dev/v1/Split"
	// TypeSlots: "namespace/name", gateways only; wildcard.
	TypeSlots Type = "type.isthmus.dev/v1/Slots"
	// TypeGateway: "namespace/name" of a Gateway, ingress gateways only; wildcard.
	TypeGateway Type = "type.isthmus.dev/v1/Gateway"
)

// Order lists the types so that each stands before those that refer to it: additions are sent in this order.
func Order() []Type {
	return []Type{TypeBundle, TypeCluster, TypeEndpoints, TypeService, TypeAccess, TypeSlots, TypeName, TypeProxy, TypeSplit, TypeGateway}
}

// View is what matters for the content of a shared resource. Proxies of one view get
// the same bytes.
type View struct {
	Cluster mesh.ClusterName
	Network mesh.Network
}

// Name is what every proxy knows of a service before it uses it: enough to resolve
// its name and to listen for it.
type Name struct {
	Service mesh.ServiceName
	// Address is the service's address in the view's cluster; invalid if none.
	Address netip.Addr
	Ports   []Port
}

// Port is a port of a service as callers see it.
type Port struct {
	Name     string
	Port     uint16
	Protocol mesh.Protocol
}

// Service is how requests to a service are routed.
type Service struct {
	Name  mesh.ServiceName
	Ports []Port
	// Routed says that routes are attached. For a caller and a port that any of Routes is for, a
	// request that none of them matches is refused with no_route; elsewhere the service is its own
	// only backend. A consumer's routes replace the producer's.
	Routed bool
	// Routes in order of precedence (Gateway API HTTPRouteRule, GRPCRouteRule): the first match
	// wins. Each port has routes of one kind.
	Routes  []Route
	Traffic Traffic
}

// Route is one match of one rule of a route object.
type Route struct {
	// Consumer limits the route to callers of a namespace (a consumer route of GAMMA,
	// GEP-1294); empty is every caller.
	Consumer string
	// Object and Rule name where it comes from: "HTTPRoute shop/split@eu-west", rule index.
	Object string
	Rule   int
	Port   uint16 // 0 is every port
	// Datagrams says that it is for ports of UDP, which may bear the number of one that is not.
	Datagrams bool
	Match     mesh.RouteMatch
	// Filters are applied before the backend's own.
	Filters []mesh.RouteFilter
	// Backends with their weights; none at all, or a sum of 0, answers 500 (Gateway API).
	Backends                   []Backend
	RequestTimeout, TryTimeout time.Duration // 0 unset, negative none
	Retry                      *mesh.RouteRetry
	// Affinity takes the place of the traffic policy's; nil leaves it.
	Affinity *mesh.Affinity
}

// Backend is one choice of a route.
type Backend struct {
	Service mesh.ServiceName
	Port    uint16
	Weight  uint32
	Filters []mesh.RouteFilter
	// Missing says why the backend cannot be used; its share of requests answers 500.
	Missing string
}

// Traffic is the effective TrafficPolicy, defaults filled in.
type Traffic struct {
	Strategy       mesh.Strategy
	Distribution   mesh.Distribution
	Staleness      mesh.Staleness
	ConnectTimeout time.Duration // 0: Cluster.ConnectTimeout
	RequestTimeout time.Duration // 0 none
	TryTimeout     time.Duration // 0: derived from what was measured
	IdleTimeout    time.Duration
	Balancing      mesh.Balancing
	Affinity       *mesh.Affinity
	Retry          mesh.RetryPolicy
	Outlier        mesh.Outlier
	Health         *mesh.HealthCheck
	Limits         mesh.Limits
	RateLimits     []mesh.RateLimit
	Admission      mesh.Admission // zero: everything is let in
	// Criticality is that of requests that say none; "" leaves them as they are.
	Criticality mesh.Criticality
	// Fallback is nil where nothing answers in the service's place.
	Fallback *Fallback
	// Faults in order of the objects that state them, all of which apply.
	Faults []Fault
	// Policies name the objects that shaped it.
	Policies []string
}

// Fault is a fault and the object that states it.
type Fault struct {
	Object string // "FaultPolicy shop/slow@eu-west"
	Fault  mesh.Fault
}

// Fallback is what answers in the place of a service that cannot, and the policy that states it.
type Fallback struct {
	Object   string // "TrafficPolicy shop/catalog@eu-west"
	Fallback mesh.Fallback
	// Missing says why the other service cannot be asked; empty where it can.
	Missing string
}

// Kind is mesh.Fallback.Kind, and "" of nil.
func (f *Fallback) Kind() string {
	if f == nil {
		return ""
	}
	return f.Fallback.Kind()
}

// Refers lists the services beside itself that requests for s may be sent to: as backends, as copies, or in its place.
func (s *Service) Refers() []mesh.ServiceName {
	var out []mesh.ServiceName
	copies := func(filters []mesh.RouteFilter) {
		for i := range filters {
			if f := &filters[i]; f.Kind == mesh.FilterMirror && f.Backend != nil {
				out = append(out, f.Backend.Service)
			}
		}
	}
	for _, r := range s.Routes {
		copies(r.Filters)
		for _, b := range r.Backends {
			copies(b.Filters)
			if b.Missing == "" && b.Service != s.Name {
				out = append(out, b.Service)
			}
		}
	}
	if f := s.Traffic.Fallback; f != nil && f.Fallback.Service != nil && f.Missing == "" {
		out = append(out, f.Fallback.Service.Service)
	}
	slices.SortFunc(out, mesh.ServiceName.Compare)
	return slices.Compact(out)
}

// Cluster is what proxies of a view know of a cluster whatever the service: one small
// resource, so that a change of reachability is one message and not one a service.
type Cluster struct {
	Name         mesh.ClusterName
	Region       mesh.Region
	Jurisdiction mesh.Jurisdiction
	Network      mesh.Network
	TrustDomain  mesh.TrustDomain
	// RTT from the view's cluster, measured or declared, in coarse steps; 0 is the view's
	// own cluster, or unknown.
	RTT   time.Duration
	Reach mesh.Reachability
	// Gateways are the way in from another network, Ingresses that from outside the mesh.
	Gateways  []netip.AddrPort
	Ingresses []netip.Addr
	// Unserved are the listeners of Gateways that its ingress gateways do not serve, as mesh.ListenerName has them, sorted.
	Unserved []string
	// Drains is the part of its share that it gets while it is taken out of use, or back into it.
	Drains mesh.Ramps
	// StaleSinceMillis is mesh.Reach.StaleSinceMillis.
	StaleSinceMillis int64
	// NoTransit says that its gateways pass nothing on to other clusters.
	NoTransit bool
	// Via is the way there while Reach says that there is no direct one; nil is none. It serves a service where For says so.
	Via *Via
}

// A connection takes three round trips: TCP's (RFC 9293 §3.5), that of TLS 1.3 (RFC 8446 §2) and the PING that proves that
// the server has let us in. Its certificates are some kilobytes, which a link of 64 kbit/s carries in another second.
const (
	connectRoundTrips = 6
	// connectMax is the patience of who is connected to.
	connectMax = 5 * time.Second
)

// ConnectTimeout is how long the making of a connection to the cluster may take: what a policy says, and where that is 0
// the default, or as long as its round trips need on a long path, for each of its gateways.
func (c *Cluster) ConnectTimeout(policy time.Duration) time.Duration {
	if policy != 0 {
		return policy
	}
	if c == nil { // unknown, as that of an endpoint that has just left
		return mesh.DefaultConnectTimeout
	}
	trips := connectRoundTrips * time.Duration(max(1, len(c.Gateways)))
	return max(mesh.DefaultConnectTimeout, min(trips*c.RTT, connectMax))
}

// Endpoints is where a service can be reached from a view.
type Endpoints struct {
	Service mesh.ServiceName
	// Groups, one a cluster, by name of cluster.
	Groups []Group
	// Transit are the jurisdictions through which requests may be passed on (Cluster.Via): Anywhere where no law binds the
	// service. None is nowhere, or not said.
	Transit []mesh.Jurisdiction
}

// Group is one cluster's part of a service.
type Group struct {
	Cluster mesh.ClusterName
	// Forbidden names the residency policy that keeps requests of this view out of the
	// cluster: a hard mask that no failover lifts. Empty is lawful.
	Forbidden string
	// Exported says that the group belongs to the clusterset service; a group that is
	// not serves callers of its own cluster only.
	Exported bool
	// Identities may serve; a server that shows another is refused.
	Identities []mesh.Identity
	// Endpoints are reached directly: same cluster or shared network.
	Endpoints []Endpoint
	// Slots are places behind the cluster's gateways: Slots[i] is the generation at which
	// slot i last moved.
	Slots []uint64
	// Lanes is the group's whole concurrency; 0 unknown.
	Lanes uint32
	// Draining are the slots whose endpoints are taken out of use, or back into it, by slot.
	Draining []mesh.SlotRamps
}

// Endpoint is one server proxy.
type Endpoint struct {
	// Tag is opaque and unique within the service: statistics and ejection go by it.
	Tag    string
	Proxy  netip.AddrPort
	Zone   mesh.Zone
	Weight uint32
	Lanes  uint32
	// Drains is the part of its share that it gets while it is taken out of use, or back into it.
	Drains mesh.Ramps
}

// EndpointTag names the endpoint that a workload is, without saying what or where: the control
// plane tells clients by it whom they call, and a server proxy says by it who answered.
func EndpointTag(cluster mesh.ClusterName, namespace, workload string, proxy netip.AddrPort) string {
	sum := sha256.Sum256([]byte(string(cluster) + "\x00" + namespace + "\x00" + workload + "\x00" + proxy.String()))
	return hex.EncodeToString(sum[:6])
}

// Proxy is what is one proxy's own.
type Proxy struct {
	ID       string
	Identity mesh.Identity
	Locality mesh.Locality
	Inbound  []Inbound
	// Lanes is how many requests the workload serves at once, as declared; 0 unknown.
	Lanes uint32
	// Outbound lets the workload reach names outside the mesh.
	OutboundAllowAny bool
	// Domain is the mesh domain.
	Domain    string
	Telemetry mesh.Telemetry
}

// Inbound is a service that the proxy's workload serves.
type Inbound struct {
	Service mesh.ServiceName
	Ports   []InboundPort
}

// InboundPort maps a service port to the application's.
type InboundPort struct {
	Port     uint16
	Protocol mesh.Protocol
	Target   netip.AddrPort
	// TLS is how the application is spoken to; nil is in the clear.
	TLS *BackendTLS
}

// Place names where the application listens and how it is spoken to: what connections are pooled under. Ports of one place
// share them. It is empty where the target is.
func (p InboundPort) Place() string {
	switch {
	case !p.Target.IsValid():
		return ""
	case p.TLS == nil:
		return p.Target.String()
	}
	return p.Target.String() + " by TLS " + DigestOf(p.TLS).String()
}

// Spoken is the protocol in which the application is spoken to: a connection is bytes; a request goes in the version of HTTP
// that the port is declared to speak, and in HTTP/1.1 where it is declared to speak none. UDP is itself.
func (p InboundPort) Spoken(bytes bool) mesh.Protocol {
	switch {
	case p.Protocol == mesh.ProtocolUDP:
		return mesh.ProtocolUDP
	case bytes:
		return mesh.ProtocolTCP
	case !p.Protocol.IsHTTP():
		return mesh.ProtocolHTTP
	}
	return p.Protocol
}

// BackendTLS is a BackendTLSPolicy in force on a port, its authorities found.
type BackendTLS struct {
	Object   string // "BackendTLSPolicy shop/catalog@eu-west"
	Hostname string
	Names    []mesh.SubjectName
	// Roots are certificates of authorities in PEM; System those of the proxy's host beside them.
	Roots  string
	System bool
	// Invalid says why the application cannot be verified: then it is not spoken to at all.
	Invalid string
}

// Access is what decides who may call a service in the view's cluster; see
// core/policy.
type Access struct {
	Service mesh.ServiceName
	// Exported to Consumers, or to every cluster when that is empty.
	Exported  bool
	Consumers []mesh.ClusterName
	// Strict denies what no policy allows.
	Strict bool
	// Policies that select the service, its namespace or the mesh, in order of name.
	Policies []AccessEntry
	// Clusters resolves a caller's trust domain to the cluster and its law.
	Clusters []Caller
}

// AccessEntry is a policy and the object it comes from.
type AccessEntry struct {
	Object string // "AccessPolicy shop/allow-frontend@eu-west"
	Policy mesh.AccessPolicy
}

// Caller is what is known of a trust domain.
type Caller struct {
	TrustDomain  mesh.TrustDomain
	Cluster      mesh.ClusterName
	Jurisdiction mesh.Jurisdiction
}

// Slots is a gateway's routing table for one service.
type Slots struct {
	Table       mesh.SlotTable
	TrustDomain mesh.TrustDomain
}
