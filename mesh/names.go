package mesh

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
)

// Distinct kinds of names are distinct types, so that a region is never passed
// for a zone.
type (
	// ClusterName names a cluster, unique in the mesh: a DNS label (RFC 1123).
	ClusterName string
	// Region is a provider's region, such as "eu-west-1".
	Region string
	// Zone is a failure domain inside a region.
	Zone string
	// Network is a flat reach of addresses: endpoints of one network reach each
	// other without a gateway.
	Network string
	// Jurisdiction is the body of law a cluster stands under, such as "EU".
	Jurisdiction string
	// Provider is who runs the machines, such as "aws": it sets the price of egress.
	Provider string
)

// ServiceName is the name of a service in the whole mesh. The same name in two
// clusters is the same service once both export it.
type ServiceName struct {
	Namespace, Name string
}

// String is "namespace/name", the form used in resource names.
func (n ServiceName) String() string { return n.Namespace + "/" + n.Name }

// IsZero reports whether n names nothing.
func (n ServiceName) IsZero() bool { return n == ServiceName{} }

// Compare orders by namespace, then name.
func (n ServiceName) Compare(o ServiceName) int {
	return cmp.Or(cmp.Compare(n.Namespace, o.Namespace), cmp.Compare(n.Name, o.Name))
}

// ParseServiceName reads the form of String.
func ParseServiceName(s string) (ServiceName, error) {
	ns, name, ok := strings.Cut(s, "/")
	n := ServiceName{ns, name}
	if !ok || !IsLabel(ns) || !IsLabel(name) {
		return ServiceName{}, fmt.Errorf("service name %q: want namespace/name, both DNS labels", s)
	}
	return n, nil
}

// DNS suffixes under which a service is known (docs/guides/local-mesh.md; KEP-1645 for the
// clusterset domain).
const (
	ClustersetDomain = "svc.clusterset.local"
	ClusterDomain    = "svc.cluster.local"
)

// Scope says which endpoints a host name stands for.
type Scope uint8

// The scopes of a host name.
const (
	// ScopeClusterset is every exporting cluster.
	ScopeClusterset Scope = iota
	// ScopeCluster is the caller's own cluster only.
	ScopeCluster
)

// ErrNotMeshHost is returned by ParseHost for a name outside the mesh.
var ErrNotMeshHost = errors.New("not a name of the mesh")

// ParseHost resolves a host name as a workload in namespace home means it:
// SVC, SVC.NS, SVC.NS.svc, SVC.NS.svc.cluster.local and
// SVC.NS.svc.clusterset.local; case does not matter (RFC 4343), one trailing dot is
// allowed. It tells the form only, never whether such a service exists. Short forms have
// the scope of the clusterset, so that a call survives its cluster.
func ParseHost(host, home string) (ServiceName, Scope, error) {
	h := strings.TrimSuffix(host, ".")
	if hasUpper(h) {
		h = strings.ToLower(h)
	}
	scope := ScopeClusterset
	qualified := false
	if rest, ok := strings.CutSuffix(h, "."+ClustersetDomain); ok {
		h, qualified = rest, true
	} else if rest, ok := strings.CutSuffix(h, "."+ClusterDomain); ok {
		h, scope, qualified = rest, ScopeCluster, true
	} else if rest, ok := strings.CutSuffix(h, ".svc"); ok {
		h, scope, qualified = rest, ScopeCluster, true
	}
	name, ns, dotted := strings.Cut(h, ".")
	if !dotted {
		if qualified || home == "" {
			return ServiceName{}, 0, ErrNotMeshHost
		}
		ns = home
	}
	if !IsLabel(name) || !IsLabel(ns) {
		return ServiceName{}, 0, ErrNotMeshHost
	}
	return ServiceName{Namespace: ns, Name: name}, scope, nil
}

func hasUpper(s string) bool {
	for i := range len(s) {
		if 'A' <= s[i] && s[i] <= 'Z' {
			return true
		}
	}
	return false
}

// IsLabel reports whether s is a lower-case DNS label (RFC 1123 §2.1): 1 to 63 of
// a-z, 0-9 and '-', neither first nor last a '-'.
func IsLabel(s string) bool {
	if len(s) == 0 || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-') {
			return false
		}
	}
	return true
}

// IsSubdomain reports whether s is a lower-case DNS subdomain: labels joined by
// dots, at most 253 octets (RFC 1123 §2.1).
func IsSubdomain(s string) bool {
	if len(s) == 0 || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if !IsLabel(label) {
			return false
		}
	}
	return true
}
