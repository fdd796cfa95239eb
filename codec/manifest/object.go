package manifest

import (
	"crypto/sha256"
	"fmt"
	"log/slog"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// Object is one object of an input that has no faults. It is immutable.
type Object struct {
	APIVersion  string // as written
	Kind        string
	Namespace   string // "" for kinds of the whole mesh
	Name        string
	Labels      map[string]string
	Annotations map[string]string
	// JSON is the whole object as its author wrote it, canonical: keys sorted, no space,
	// the namespace filled in, without status and without what servers set.
	JSON []byte
	// SpecDigest is equal for objects that say the same: a hash of JSON under the
	// preferred apiVersion.
	SpecDigest [16]byte
	// Value is the mesh value of the kind, as listed in mesh.Kind; *Secret for secrets;
	// *LocalMesh for mesh.yaml, *Simulation for a scenario; nil for kinds nothing acts on yet.
	Value any
	File  string
	Line  int
}

// String is "Kind namespace/name". Objects print as their name wherever they are
// formatted, because JSON may hold a secret.
func (o Object) String() string {
	return mesh.Key{Kind: mesh.Kind(o.Kind), Namespace: o.Namespace, Name: o.Name}.String()
}

// GoString keeps %#v from printing a secret.
func (o Object) GoString() string { return "manifest.Object(" + o.String() + ")" }

// LogValue is String.
func (o Object) LogValue() slog.Value { return slog.StringValue(o.String()) }

// Fact is the fact that origin states with the object; false for kinds that are no
// facts of the mesh (Secrets but those of certificates, LocalMesh, Simulation, and kinds nothing acts on yet). The caller
// sets Position and Stamp.
func (o Object) Fact(origin mesh.ClusterName) (mesh.Fact, bool) {
	switch o.Value.(type) { // a Secret that is no certificate is none either
	case nil, *LocalMesh, *Simulation:
		return mesh.Fact{}, false
	}
	value := o.Value
	if s, ok := value.(*Secret); ok {
		if s.certificate == nil {
			return mesh.Fact{}, false
		}
		value = s.certificate
	}
	return mesh.Fact{
		Key:    mesh.Key{Kind: mesh.Kind(o.Kind), Origin: origin, Namespace: o.Namespace, Name: o.Name},
		Value:  value,
		Digest: o.SpecDigest,
		Home:   o.Labels[mesh.ScopeLabel] == mesh.ScopeHome,
	}, true
}

// Secret is a v1 Secret. Its content cannot be printed by accident: it shows as its
// name in every format.
type Secret struct {
	Namespace, Name, Type string
	data                  map[string][]byte
	// certificate is what one of type kubernetes.io/tls is.
	certificate *mesh.Certificate
}

// Reveal returns the bytes under key; the caller must not change them.
func (s *Secret) Reveal(key string) ([]byte, bool) {
	b, ok := s.data[key]
	return b, ok
}

// Format shows the name, whatever the verb.
func (s Secret) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "Secret %s/%s (content hidden)", s.Namespace, s.Name)
}

// MarshalText shows the name, also to encoding/json.
func (s Secret) MarshalText() ([]byte, error) { return []byte(fmt.Sprint(s)), nil }

// LogValue shows the name.
func (s Secret) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(s)) }

// lastApplied is kubectl's copy of the manifest inside the object.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// canonical is the object without status and without what servers set, its namespace
// filled in.
func canonical(root *value, namespace string) *value {
	root = root.without("status")
	m := root.get("metadata")
	if m == nil || m.kind != kindObject {
		if namespace == "" {
			return root
		}
		m = &value{kind: kindObject}
	}
	m = m.without("uid", "resourceVersion", "managedFields", "creationTimestamp", "generation", "selfLink",
		"deletionTimestamp", "deletionGracePeriodSeconds")
	if a := m.get("annotations"); a.get(lastApplied) != nil {
		if a = a.without(lastApplied); len(a.fields) == 0 {
			m = m.without("annotations")
		} else {
			m = m.withValue("annotations", a)
		}
	}
	if namespace == "" {
		m = m.without("namespace")
	} else {
		m = m.with("namespace", namespace)
	}
	return root.withValue("metadata", m)
}

// digest hashes a canonical object under the preferred apiVersion.
func digest(root *value, apiVersion string) [16]byte {
	sum := sha256.Sum256(root.with("apiVersion", apiVersion).appendJSON(nil))
	return [16]byte(sum[:16])
}
