package mesh

// GatewayClass is the class of Gateways that the mesh serves at its ingress gateways; those of others are somebody else's.
const GatewayClass = "isthmus"

// TrustedHopsAnnotation on a Gateway says how many proxies stand before it that append to x-forwarded-for: a number from 0,
// which is none.
const TrustedHopsAnnotation = "isthmus.dev/trusted-hops"

// TrustedHopsMax bounds TrustedHopsAnnotation.
const TrustedHopsMax = 16

// Gateway is Gateway API's: where requests enter the mesh from outside it.
type Gateway struct {
	Namespace, Name string
	Class           string
	Listeners       []Listener
	TrustedHops     int
}

// ListenerProtocol is what a listener speaks.
type ListenerProtocol string

// The protocols of listeners (Gateway API ProtocolType).
const (
	ListenerHTTP  ListenerProtocol = "HTTP"
	ListenerHTTPS ListenerProtocol = "HTTPS"
	ListenerTLS   ListenerProtocol = "TLS"
	ListenerTCP   ListenerProtocol = "TCP"
	ListenerUDP   ListenerProtocol = "UDP"
)

// Listener is one door of a Gateway.
type Listener struct {
	Name     string
	Hostname string // in lower case; may begin with "*."; empty is every host
	Port     uint16
	Protocol ListenerProtocol
	// Passthrough leaves TLS to the backend; else it ends here, by Certificates.
	Passthrough  bool
	Certificates []CertificateRef
	// From says which namespaces' routes may attach, by Selector where it is FromSelector.
	From     RoutesFrom
	Selector LabelSelector
	// Kinds of routes that may attach; GROUP/KIND of what is none, and none at all is every kind that fits the protocol.
	Kinds []Kind
}

// CertificateRef names a Secret with a certificate and its key.
type CertificateRef struct {
	Kind            string // "Secret"; GROUP/KIND of what resolves to nothing
	Namespace, Name string
}

// RoutesFrom says from which namespaces routes may attach (Gateway API FromNamespaces).
type RoutesFrom string

// The values of RoutesFrom.
const (
	FromSame     RoutesFrom = "Same"
	FromAll      RoutesFrom = "All"
	FromSelector RoutesFrom = "Selector"
	FromNone     RoutesFrom = "None"
)

// LabelSelector selects objects by their labels: all requirements must hold.
type LabelSelector []LabelRequirement

// LabelRequirement is about one label. Without values it asks for the label's presence; Not inverts it.
type LabelRequirement struct {
	Key    string
	Values []string
	Not    bool
}

// Matches reports whether labels fulfil all requirements. One without values is about presence alone; one with Not and values
// holds for what lacks the label too, as in Kubernetes.
func (s LabelSelector) Matches(labels map[string]string) bool {
	for i := range s {
		r := &s[i]
		v, has := labels[r.Key]
		if len(r.Values) > 0 && has {
			has = false
			for _, want := range r.Values {
				has = has || v == want
			}
		}
		if has == r.Not {
			return false
		}
	}
	return true
}
