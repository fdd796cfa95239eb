package mesh

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

// Settings are the mesh-wide defaults of the Mesh object.
type Settings struct {
	Domain string
	// OutboundAllowAny lets workloads reach names outside the mesh.
	OutboundAllowAny bool
	// Strict denies what no policy allows, exported or not.
	Strict bool
}
