package mesh

import (
	"cmp"
	"fmt"
	"strings"
)

// TrustDomain is a SPIFFE trust domain: one a cluster, "<cluster>.<mesh domain>".
type TrustDomain string

// DefaultDomain is the mesh domain unless the Mesh object sets another.
const DefaultDomain = "isthmus.local"

// TrustDomainOf is the trust domain of a cluster in a mesh domain.
func TrustDomainOf(c ClusterName, domain string) TrustDomain {
	return TrustDomain(string(c) + "." + domain)
}

// Identity is the SPIFFE identity of a workload. Identities are compared whole,
// all three parts; the zero Identity is nobody and never authenticates.
type Identity struct {
	TrustDomain    TrustDomain
	Namespace      string
	ServiceAccount string
}

// String is the SPIFFE ID (SPIFFE-ID §2): spiffe://<trust domain>/ns/<namespace>/sa/<service account>.
// Nobody prints as the empty string.
func (i Identity) String() string {
	if i.IsZero() {
		return ""
	}
	return "spiffe://" + string(i.TrustDomain) + "/ns/" + i.Namespace + "/sa/" + i.ServiceAccount
}

// IsZero reports whether i is nobody.
func (i Identity) IsZero() bool { return i == Identity{} }

// Compare orders by trust domain, namespace and service account.
func (i Identity) Compare(o Identity) int {
	return cmp.Or(cmp.Compare(i.TrustDomain, o.TrustDomain), cmp.Compare(i.Namespace, o.Namespace),
		cmp.Compare(i.ServiceAccount, o.ServiceAccount))
}

// Cluster is the cluster that the trust domain belongs to: its first label.
func (t TrustDomain) Cluster() ClusterName {
	c, _, _ := strings.Cut(string(t), ".")
	return ClusterName(c)
}

// ParseIdentity reads a SPIFFE ID of the mesh's form. It is strict: no port, no
// user, no query, no fragment, no percent-encoding, no dot segments, no upper case
// in the trust domain (SPIFFE-ID §2.1, §2.2); exactly /ns/X/sa/Y with Kubernetes
// names in both places.
func ParseIdentity(s string) (Identity, error) {
	rest, ok := strings.CutPrefix(s, "spiffe://")
	if !ok || len(s) > 2048 { // SPIFFE-ID §2.3: at most 2048 bytes
		return Identity{}, fmt.Errorf("SPIFFE ID %q: want spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT", s)
	}
	parts := strings.Split(rest, "/")
	if len(parts) != 5 || parts[1] != "ns" || parts[3] != "sa" ||
		!IsSubdomain(parts[0]) || !IsLabel(parts[2]) || !IsSubdomain(parts[4]) {
		return Identity{}, fmt.Errorf("SPIFFE ID %q: want spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT", s)
	}
	return Identity{TrustDomain: TrustDomain(parts[0]), Namespace: parts[2], ServiceAccount: parts[4]}, nil
}

// Bundle is what verifies the identities of one trust domain, and of no other: a
// stolen authority can impersonate nobody elsewhere.
type Bundle struct {
	TrustDomain TrustDomain
	// Roots are DER-encoded CA certificates, sorted by bytes.
	Roots [][]byte
	// Generation grows with each change of Roots by their owner.
	Generation uint64
}

// SNI is the server name by which a client asks a gateway for one slot of a
// service of a cluster: <slot>.<service>.<namespace>.<cluster>.<mesh domain>.
// A gateway routes by it without holding a key; a server checks it against what
// it serves.
type SNI struct {
	Slot        uint32
	Service     ServiceName
	TrustDomain TrustDomain
}

// String is the server name on the wire.
func (s SNI) String() string {
	return fmt.Sprintf("%d.%s.%s.%s", s.Slot, s.Service.Name, s.Service.Namespace, s.TrustDomain)
}

// ParseSNI reads a server name of the form of String.
func ParseSNI(name string) (SNI, error) {
	parts := strings.SplitN(name, ".", 4)
	if len(parts) != 4 || len(name) > 253 {
		return SNI{}, fmt.Errorf("server name %q: want SLOT.SERVICE.NAMESPACE.TRUST-DOMAIN", name)
	}
	slot, ok := parseSlot(parts[0])
	if !ok || !IsLabel(parts[1]) || !IsLabel(parts[2]) || !IsSubdomain(parts[3]) {
		return SNI{}, fmt.Errorf("server name %q: want SLOT.SERVICE.NAMESPACE.TRUST-DOMAIN", name)
	}
	return SNI{Slot: slot, Service: ServiceName{Namespace: parts[2], Name: parts[1]}, TrustDomain: TrustDomain(parts[3])}, nil
}

// parseSlot reads a decimal number without leading zeros, so that each slot has
// one name only.
func parseSlot(s string) (uint32, bool) {
	if len(s) == 0 || len(s) > 6 || (len(s) > 1 && s[0] == '0') {
		return 0, false
	}
	var n uint32
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = n*10 + uint32(s[i]-'0')
	}
	return n, true
}
