package mesh

import "time"

// TargetRef is what a policy attaches to (Gateway API policy attachment,
// GEP-713). A Namespace target covers the namespace; a Mesh target everything.
type TargetRef struct {
	Kind            string // "Service", "ServiceImport", "Workload", "Namespace", "Mesh", "HTTPRoute"
	Namespace, Name string
	SectionName     string
}

// Action is what an access policy does with what it matches.
type Action string

// The actions of an access policy. Deny outranks Allow; Audit only records.
const (
	Allow Action = "Allow"
	Deny  Action = "Deny"
	Audit Action = "Audit"
)

// AccessPolicy says who may call what.
type AccessPolicy struct {
	Namespace, Name string
	Targets         []TargetRef
	Action          Action
	Rules           []AccessRule
	// Invalid is set when a part could not be understood: every workload it selects
	// then denies, and says so. A policy never fails open.
	Invalid string
}

// AccessRule matches when one of From matches and one of To matches and When
// holds; an empty list matches everything.
type AccessRule struct {
	From []AccessSource
	To   []AccessOperation
	// When is a CEL expression over the request; empty holds.
	When string
}

// AccessSource matches a caller: all set fields must hold, one value of each list.
// Identities may end in "*".
type AccessSource struct {
	Identities      []string
	Namespaces      []string
	ServiceAccounts []string
	Clusters        []ClusterName
	TrustDomains    []TrustDomain
	Jurisdictions   []Jurisdiction
	// Not inverts the whole source.
	Not bool
}

// AccessOperation matches what is asked for. Paths may end in "*".
type AccessOperation struct {
	Methods []string
	Paths   []string
	Ports   []uint16
}

// ResidencyPolicy names the jurisdictions that a service's traffic may enter. It is
// a hard mask on every choice and outranks every failover.
type ResidencyPolicy struct {
	Namespace, Name string
	Targets         []TargetRef
	// Allowed jurisdictions; empty with Invalid unset allows none.
	Allowed []Jurisdiction
	Invalid string
}

// Strategy is how a service's traffic is spread over clusters.
type Strategy string

// The strategies of a traffic policy.
const (
	StrategyAuto    Strategy = "Auto"
	StrategyNearest Strategy = "Nearest"
	StrategyLocal   Strategy = "Local"
)

// TrafficPolicy bounds what the balancer does by itself. The zero value of a field
// means the default.
type TrafficPolicy struct {
	Namespace, Name string
	Targets         []TargetRef
	Strategy        Strategy
	ConnectTimeout  time.Duration
	RequestTimeout  time.Duration
	TryTimeout      time.Duration
	IdleTimeout     time.Duration
	// Retries is the number of retries; -1 is none.
	Retries int
	// EjectAfter is the count of never-executed failures in a row that ejects an
	// endpoint; 0 is the default of 3.
	EjectAfter int
}

// Defaults of a TrafficPolicy.
const (
	DefaultConnectTimeout = 1 * time.Second
	DefaultRequestTimeout = 15 * time.Second
	DefaultIdleTimeout    = 60 * time.Second
	DefaultRetries        = 2
	DefaultEjectAfter     = 3
	// MaxReplayBody is the largest request body kept for another try, in bytes.
	MaxReplayBody = 64 << 10
)

// Settings are the mesh-wide defaults of the Mesh object.
type Settings struct {
	Domain string
	// OutboundAllowAny lets workloads reach names outside the mesh.
	OutboundAllowAny bool
	// Strict denies what no policy allows, exported or not.
	Strict bool
}
