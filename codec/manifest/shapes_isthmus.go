//house:exempt a table: the fields of our kinds

package manifest

// The shapes of isthmus.dev/v1alpha1.

type meshObject struct {
	header `json:",inline"`
	Spec   struct {
		Domain   string `json:"domain" is:"subdomain"`
		Outbound string `json:"outbound" is:"enum=AllowAny|MeshOnly"`
		Strict   bool   `json:"strict"`
	} `json:"spec"`
	Status anything `json:"status"`
}

type cluster struct {
	header `json:",inline"`
	Spec   struct {
		Region        string   `json:"region" is:"len=1..63"`
		Zones         []string `json:"zones" is:"len=1..63 unique=."`
		Network       string   `json:"network" is:"len=1..63"`
		Provider      string   `json:"provider" is:"len=1..63"`
		Jurisdiction  string   `json:"jurisdiction" is:"len=1..63"`
		Role          string   `json:"role" is:"enum=Primary|Remote"`
		Primaries     []string `json:"primaries" is:"label unique=."`
		TrustDomain   string   `json:"trustDomain" is:"subdomain"`
		Gateways      []string `json:"gateways" is:"addrport unique=."`
		Ingresses     []string `json:"ingresses" is:"ip unique=."`
		ControlPlanes []string `json:"controlPlanes" is:"addrport unique=."`
		RTT           string   `json:"rtt" is:"duration"`
		EgressPerGiB  *decimal `json:"egressPricePerGiB"`            // in US dollars; 0 is free
		Transit       string   `json:"transit" is:"enum=Allow|Deny"` // whether its gateways pass on to other clusters; Allow
		// TrustBundle is PEM: the roots of the cluster's trust domain, for first contact.
		TrustBundle string   `json:"trustBundle"`
		Accepts     []accept `json:"accepts"`
	} `json:"spec"`
	Status anything `json:"status"`
}

type accept struct {
	Origin    string `json:"origin" is:"required len=1..63"`
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
}

type workload struct {
	header `json:",inline"`
	Spec   struct {
		Address        string         `json:"address" is:"required ip"`
		Ports          []workloadPort `json:"ports" is:"unique=name"`
		ServiceAccount string         `json:"serviceAccount" is:"subdomain"`
		Locality       struct {
			Zone string `json:"zone" is:"len=1..63"`
		} `json:"locality"`
		Proxy    string `json:"proxy" is:"addrport"`
		Capacity struct {
			Lanes  uint32  `json:"lanes" is:"0..1000000"`
			Weight *uint32 `json:"weight" is:"0..1000000"`
		} `json:"capacity"`
		Unready bool `json:"unready"`
	} `json:"spec" is:"required"`
	Status anything `json:"status"`
}

type workloadPort struct {
	Name string `json:"name" is:"required portname"`
	Port int32  `json:"port" is:"required 1..65535"`
}

// targetRef is Gateway API's policy target (GEP-713).
type targetRef struct {
	// "" for Service and Namespace, multicluster.x-k8s.io for ServiceImport, isthmus.dev for Mesh. Default: that of the kind.
	Group *string `json:"group" is:"group"`
	// Service, ServiceImport, Namespace or Mesh.
	Kind string `json:"kind" is:"required"`
	// Of a Service or ServiceImport. A Namespace is the policy's own.
	Name string `json:"name"`
	// No other than the policy's. Default: the policy's.
	Namespace string `json:"namespace" is:"label"`
	// Accepted, and nothing acts on it yet.
	SectionName string `json:"sectionName" is:"subdomain"`
}

type accessPolicy struct {
	header `json:",inline"`
	Spec   struct {
		TargetRefs []targetRef  `json:"targetRefs" is:"required items=1..16"`
		Action     string       `json:"action" is:"enum=Allow|Deny|Audit"`
		Rules      []accessRule `json:"rules" is:"items=0..256"`
	} `json:"spec" is:"required"`
	Status anything `json:"status"`
}

type accessRule struct {
	From []accessSource    `json:"from" is:"items=0..256"`
	To   []accessOperation `json:"to" is:"items=0..256"`
	When string            `json:"when" is:"len=1..4096"`
}

// accessSource takes a caller that fits one value of each list that is not empty.
type accessSource struct {
	// SPIFFE IDs; a * at the end stands for any rest.
	Identities []string `json:"identities" is:"len=1..2048"`
	// Namespaces of callers.
	Namespaces []string `json:"namespaces" is:"label"`
	// Service accounts of callers, by name, in any namespace.
	ServiceAccounts []string `json:"serviceAccounts" is:"len=1..317"`
	// Clusters of callers.
	Clusters []string `json:"clusters" is:"label"`
	// Trust domains of callers.
	TrustDomains []string `json:"trustDomains" is:"subdomain"`
	// Jurisdictions of callers' clusters.
	Jurisdictions []string `json:"jurisdictions" is:"len=1..63"`
	// Takes everybody else instead. Default: false.
	Not bool `json:"not"`
}

type accessOperation struct {
	Methods []string `json:"methods" is:"headername"`
	Paths   []string `json:"paths" is:"len=1..1024"`
	Ports   []uint16 `json:"ports" is:"1..65535"`
}

type residencyPolicy struct {
	header `json:",inline"`
	Spec   struct {
		TargetRefs    []targetRef `json:"targetRefs" is:"required items=1..16"`
		Jurisdictions []string    `json:"jurisdictions" is:"required len=1..63 unique=."`
	} `json:"spec" is:"required"`
	Status anything `json:"status"`
}

// drain is what isthmus drain and undrain write.
type drain struct {
	header `json:",inline"`
	Spec   struct {
		Target drainTarget `json:"target" is:"required"`
		// Drained or Serving. Default: Drained.
		Goal string `json:"goal" is:"enum=Drained|Serving"`
		// When it began. Default: long ago, so that the goal is reached.
		Since string `json:"since" is:"time"`
		// Default: 30s.
		Over string `json:"over" is:"duration"`
		// The part that it had, in percent. Default: 100, of Serving 0.
		From   *uint32 `json:"from" is:"0..100"`
		Force  bool    `json:"force"`
		Reason string  `json:"reason" is:"len=0..1024"`
	} `json:"spec" is:"required"`
	Status anything `json:"status"`
}

type drainTarget struct {
	Cluster string `json:"cluster" is:"required label"`
	// At most one of these; none is the whole cluster.
	Zone      string `json:"zone" is:"len=1..63"`
	Workload  string `json:"workload" is:"subdomain"`
	Namespace string `json:"namespace" is:"label"`
	// An east-west gateway by its place in the Cluster's list, from 0.
	Gateway *uint32 `json:"gateway" is:"0..255"`
}

// rollout is kept whole.
type rollout struct {
	header `json:",inline"`
	Spec   struct{ openFields } `json:"spec" is:"required"`
	Status anything             `json:"status"`
}
