package mesh

import (
	"net/netip"
	"time"
)

// Role says whether a cluster has a full control plane.
type Role string

// The roles of a cluster.
const (
	RolePrimary Role = "Primary"
	RoleRemote  Role = "Remote"
)

// Cluster describes one cluster of the mesh as the cluster that states the fact
// knows it: the addresses are those at which the origin of the fact reaches it.
type Cluster struct {
	Name         ClusterName
	Region       Region
	Zones        []Zone
	Network      Network
	Provider     Provider
	Jurisdiction Jurisdiction
	Role         Role
	Primaries    []ClusterName
	TrustDomain  TrustDomain
	// Gateways are the addresses of the cluster's east-west gateways.
	Gateways []netip.AddrPort
	// Ingresses are the addresses of its ingress gateways, as clients outside the mesh reach them.
	Ingresses []netip.Addr
	// ControlPlanes are the addresses of its federation port.
	ControlPlanes []netip.AddrPort
	// RTT is the declared round-trip time from the origin of the fact; 0 is unknown
	// and a measurement replaces it.
	RTT time.Duration
	// EgressPerGiB is the price of a GiB leaving towards this cluster, in US dollars; 0 is the list price, negative is free.
	EgressPerGiB float64
	// NoTransit says that its gateways pass nothing on to other clusters: the own ones refuse, those of others are not asked.
	NoTransit bool
	// Roots are the DER-encoded roots of the cluster's trust domain as they were when it
	// joined; its own bundle replaces them as soon as it is heard.
	Roots [][]byte
	// Accepts lists whose objects this cluster obeys beyond its own.
	Accepts []Accept
}

// Accept lets the objects of an origin loosen what this cluster allows. "*" stands
// for any origin, kind or namespace.
type Accept struct {
	Origin    ClusterName
	Kind      string
	Namespace string
}

// Locality is where an endpoint or a proxy is.
type Locality struct {
	Cluster ClusterName
	Region  Region
	Zone    Zone
}

// Reachability is what this cluster can reach now, from the lease on the control
// stream and the path to the gateways. It acts on this cluster's own traffic at
// once and needs nobody's consent.
type Reachability uint8

// The states of reachability; see core/liveness for the transitions.
const (
	// Alive: lease and path are good.
	Alive Reachability = iota
	// StaleServing: the path is good, the lease is not: keep serving, freeze what
	// was learnt.
	StaleServing
	// Unreachable: the path is not good; the cluster's endpoints weigh 0.
	Unreachable
	// Dead is a verdict of the mesh, never of one cluster alone.
	Dead
)

// String is the word shown to people.
func (r Reachability) String() string {
	return [...]string{"Alive", "StaleServing", "Unreachable", "Dead"}[r]
}

// Usable reports whether requests may be sent there by choice.
func (r Reachability) Usable() bool { return r == Alive || r == StaleServing }
