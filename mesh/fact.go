package mesh

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Kind names a kind of fact. Kinds of configured objects bear the Kubernetes kind.
type Kind string

// The kinds of facts, with the Go type of the fact's Value.
const (
	KindCluster         Kind = "Cluster"         // *Cluster
	KindNamespace       Kind = "Namespace"       // *NamespaceObject
	KindServiceAccount  Kind = "ServiceAccount"  // *ServiceAccount
	KindService         Kind = "Service"         // *Service
	KindServiceExport   Kind = "ServiceExport"   // *ServiceExport
	KindServiceImport   Kind = "ServiceImport"   // *ServiceImport
	KindWorkload        Kind = "Workload"        // *Workload
	KindEndpointSlice   Kind = "EndpointSlice"   // *EndpointSlice
	KindHTTPRoute       Kind = "HTTPRoute"       // *Route
	KindGRPCRoute       Kind = "GRPCRoute"       // *Route
	KindTCPRoute        Kind = "TCPRoute"        // *Route
	KindTLSRoute        Kind = "TLSRoute"        // *Route
	KindUDPRoute        Kind = "UDPRoute"        // *Route
	KindReferenceGrant  Kind = "ReferenceGrant"  // *ReferenceGrant
	KindGateway         Kind = "Gateway"         // *Gateway
	KindAccessPolicy    Kind = "AccessPolicy"    // *AccessPolicy
	KindResidencyPolicy Kind = "ResidencyPolicy" // *ResidencyPolicy
	KindTrafficPolicy   Kind = "TrafficPolicy"   // *TrafficPolicy
	KindFaultPolicy     Kind = "FaultPolicy"     // *FaultPolicy
	KindTelemetryPolicy Kind = "TelemetryPolicy" // *TelemetryPolicy
	KindMesh            Kind = "Mesh"            // *Settings
	KindDrain           Kind = "Drain"           // *Drain
	// *BackendTLSPolicy and *ConfigMap, of this cluster's own applications.
	KindBackendTLSPolicy Kind = "BackendTLSPolicy"
	KindConfigMap        Kind = "ConfigMap"
	KindSecret           Kind = "Secret" // *Certificate, of this cluster's own ingress gateways; Secrets of other types are no facts

	// Observed or computed by a cluster, never written by people.
	KindBundle        Kind = "Bundle"        // *Bundle; the name is the trust domain
	KindRemoteService Kind = "RemoteService" // *RemoteService; the origin is the exporter
	KindSlotTable     Kind = "SlotTable"     // *SlotTable; stored, so that replicas and restarts agree
	// *ServiceAddress; the name is the address; stored, so that replicas and restarts agree.
	KindServiceAddress Kind = "ServiceAddress"
	KindReach          Kind = "Reach"    // *Reach; the name is the cluster observed
	KindSplit          Kind = "Split"    // *Split; computed from load reports, kept nowhere
	KindIngress        Kind = "Ingress"  // *Ingress; what a peer says in its load reports, kept nowhere; the name is the peer
	KindDelivery       Kind = "Delivery" // *Delivery; only status functions may read it
)

// Replicated reports whether configured objects of the kind are mesh-wide: they go
// to every cluster unless labelled to stay home.
func (k Kind) Replicated() bool {
	switch k {
	case KindHTTPRoute, KindGRPCRoute, KindTCPRoute, KindTLSRoute, KindUDPRoute, KindReferenceGrant, KindGateway,
		KindAccessPolicy, KindResidencyPolicy, KindTrafficPolicy, KindFaultPolicy, KindTelemetryPolicy, KindDrain:
		return true
	}
	return false
}

// ScopeLabel on a mesh-wide object, with the value ScopeHome, keeps it in its
// cluster.
const (
	ScopeLabel = "isthmus.dev/scope"
	ScopeHome  = "cluster"
)

// Key identifies a fact: one origin's statement about one object.
type Key struct {
	Kind            Kind
	Origin          ClusterName
	Namespace, Name string
}

// Compare orders by kind, namespace, name, then origin.
func (k Key) Compare(o Key) int {
	return cmp.Or(cmp.Compare(k.Kind, o.Kind), cmp.Compare(k.Namespace, o.Namespace),
		cmp.Compare(k.Name, o.Name), cmp.Compare(k.Origin, o.Origin))
}

// String is "Kind namespace/name@origin"; the namespace is left out where there is
// none.
func (k Key) String() string {
	var b strings.Builder
	b.WriteString(string(k.Kind))
	b.WriteByte(' ')
	if k.Namespace != "" {
		b.WriteString(k.Namespace)
		b.WriteByte('/')
	}
	b.WriteString(k.Name)
	if k.Origin != "" {
		b.WriteByte('@')
		b.WriteString(string(k.Origin))
	}
	return b.String()
}

// Fact is one statement of one origin. Facts are immutable: a change is a new Fact.
type Fact struct {
	Key
	// Value is a pointer to the type listed beside the kind.
	Value any
	// Position orders the facts of one origin.
	Position Position
	// Stamp orders unequal objects of several origins with one name.
	Stamp Stamp
	// Digest is a hash over the configured content, equal for equal specs whatever the
	// origin, revision or stamp. For observed facts it covers Value.
	Digest [16]byte
	// Home keeps a mesh-wide object in its cluster.
	Home bool
	// Raw is the canonical form of a configured object, for people and for peers: JSON as
	// its author wrote it, in one order. Nil for observed facts.
	Raw []byte
}

// NamespaceObject is a namespace that exists.
type NamespaceObject struct {
	Name   string
	Labels map[string]string
}

// ServiceAccount is an account that exists.
type ServiceAccount struct{ Namespace, Name string }

// ServiceImport is an explicit import (KEP-1645); the mesh imports every exported
// service without one.
type ServiceImport struct {
	ServiceName
	// Address is the one that the service is to have in this cluster while only other clusters
	// have it (spec.ips); invalid is any.
	Address netip.Addr
	// TakesAddress says that it is to have Address even if that was another's or is held back; see
	// TakeAddressAnnotation.
	TakesAddress bool
}

// TakeAddressAnnotation on a Service or ServiceImport, with the value "true", lets it have the address that it
// states even if the address was given to another service or is held back, but for that of an own
// Service. Whoever writes it has made sure that no proxy or application knows the address as the other's.
const TakeAddressAnnotation = "isthmus.dev/take-address"

// TakesAddress reports whether annotations say so.
func TakesAddress(annotations map[string]string) bool {
	return annotations[TakeAddressAnnotation] == "true"
}

// Reach is the local reachability of a cluster.
type Reach struct {
	Cluster ClusterName
	State   Reachability
	// RTT to its gateways in coarse steps; 0 until measured.
	RTT time.Duration
	// Leaving are those of its gateways that said they will stop.
	Leaving []netip.AddrPort
	// Via is the cluster whose gateways pass on what goes there while it is Unreachable, and ViaRTT the round trip of
	// that way, in coarse steps; "" is none.
	Via    ClusterName
	ViaRTT time.Duration
	// StaleSinceMillis is when its control plane was last heard, in Unix milliseconds, while it is not heard any
	// more; 0 while it is, and of one that never was.
	StaleSinceMillis int64
}

// Ingress is what a cluster says of its ingress gateways.
type Ingress struct {
	Cluster ClusterName
	// Unserved are the listeners of Gateways that it knows of and does not serve, as ListenerName has them, sorted.
	Unserved []string
}

// ListenerName names a listener of a Gateway in the mesh.
func ListenerName(namespace, gateway, listener string) string {
	return namespace + "/" + gateway + "/" + listener
}

// Split is how the callers in a cluster are to spread their requests to a service over clusters. The law, what is
// alive and what overflows are judged at each request all the same.
type Split struct {
	Service ServiceName
	Shares  []Share // by name of cluster
	// Beat grows while the split is looked after, also where it stays the same: who hears nothing new for long
	// knows that nobody is.
	Beat uint64
	// Spend is what crossing costs all callers of the service, as it was when the split was last told, in US dollars an hour.
	Spend float64
	// Returning are clusters that were lost and get a part of what they would, by name.
	Returning []Return
	// Capacities are what the clusters are thought to bear, as it was when the split was last told, by name.
	Capacities []Capacity
}

// Return is a cluster's way back (core/failback), as it was when the split was last told.
type Return struct {
	Cluster ClusterName
	// Parts of its requests that it is let have, in ten thousandths.
	Parts uint32
	// Ended and Failed are how many requests of this step did.
	Ended, Failed uint64
	// SinceMillis is when this step began, in Unix milliseconds, and Hold how long it takes at least.
	SinceMillis int64
	Hold        time.Duration
}

// Share is the part of requests that goes to a cluster, in ten thousandths.
type Share struct {
	Cluster ClusterName
	Parts   uint32
}

// AllParts is the sum of the parts of a Split.
const AllParts = 10_000

// Delivery is what proxies said of a resource: how many hold it, how many refused
// it and why. It may influence status and nothing else.
type Delivery struct {
	Resource string
	Acked    int
	Nacked   int
	Message  string
}

// Epoch names an incarnation of a cluster's history: it changes when the history
// restarts (a lost or restored store), so that revisions of two histories are never
// compared. Start is when the incarnation was made, for people and for ordering a restored old
// disk below the history that replaced it.
type Epoch struct {
	StartMillis int64 // Unix time
	ID          string
}

// Newer reports whether e is a later incarnation than o.
func (e Epoch) Newer(o Epoch) bool {
	return cmp.Or(cmp.Compare(e.StartMillis, o.StartMillis), cmp.Compare(e.ID, o.ID)) > 0
}

// String is "MILLIS.ID".
func (e Epoch) String() string { return strconv.FormatInt(e.StartMillis, 10) + "." + e.ID }

// ParseEpoch reads the form of String.
func ParseEpoch(s string) (Epoch, error) {
	ms, id, ok := strings.Cut(s, ".")
	n, err := strconv.ParseInt(ms, 10, 64)
	if !ok || err != nil || !IsLabel(id) {
		return Epoch{}, fmt.Errorf("epoch %q: want MILLIS.ID", s)
	}
	return Epoch{n, id}, nil
}

// Position is a point in one cluster's history: (epoch, store revision).
type Position struct {
	Epoch    Epoch
	Revision int64
}

// Compare orders positions of one origin: by epoch, then revision.
func (p Position) Compare(o Position) int {
	if p.Epoch != o.Epoch {
		if p.Epoch.Newer(o.Epoch) {
			return 1
		}
		return -1
	}
	return cmp.Compare(p.Revision, o.Revision)
}

// Vector says how much a state knows: the position reached in each cluster's
// history.
type Vector map[ClusterName]Position

// Covers reports whether v knows at least as much as o of every cluster in o.
func (v Vector) Covers(o Vector) bool {
	for c, p := range o {
		q, ok := v[c]
		if !ok || q.Compare(p) < 0 {
			return false
		}
	}
	return true
}

// Clone returns a copy that shares nothing.
func (v Vector) Clone() Vector { return maps.Clone(v) }

// Merge raises each entry of v to at least that of o.
func (v Vector) Merge(o Vector) {
	for c, p := range o {
		if q, ok := v[c]; !ok || q.Compare(p) < 0 {
			v[c] = p
		}
	}
}

// String is a stable one-line form: "ap-south=1764000000000.k3f9:9 eu-west=…:17", the
// epoch as start in Unix milliseconds and ID, then the revision.
func (v Vector) String() string {
	var b strings.Builder
	for i, c := range slices.Sorted(maps.Keys(v)) {
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%s=%s:%d", c, v[c].Epoch, v[c].Revision)
	}
	return b.String()
}

// ParseVector reads the form of String; the empty string is the empty vector.
func ParseVector(s string) (Vector, error) {
	v := Vector{}
	for part := range strings.FieldsSeq(s) {
		c, rest, ok1 := strings.Cut(part, "=")
		epoch, rev, ok2 := strings.Cut(rest, ":")
		e, err := ParseEpoch(epoch)
		n, err2 := strconv.ParseInt(rev, 10, 64)
		if !ok1 || !ok2 || err != nil || err2 != nil || !IsLabel(c) {
			return nil, fmt.Errorf("revision vector: entry %q: want CLUSTER=MILLIS.ID:REVISION", part)
		}
		v[ClusterName(c)] = Position{e, n}
	}
	return v, nil
}

// Stamp is a hybrid logical clock reading (Kulkarni et al., 2014): wall time in
// milliseconds, a counter for events in the same millisecond, and the origin as the
// last tie-breaker, so that every cluster picks the same winner.
type Stamp struct {
	WallMillis int64
	Counter    uint32
	Origin     ClusterName
}

// Compare orders stamps totally.
func (s Stamp) Compare(o Stamp) int {
	return cmp.Or(cmp.Compare(s.WallMillis, o.WallMillis), cmp.Compare(s.Counter, o.Counter), cmp.Compare(s.Origin, o.Origin))
}

// MaxStampAhead is how far a stamp may run ahead of the receiver's clock; beyond,
// it is refused with an alarm.
const MaxStampAhead = 5 * time.Minute
