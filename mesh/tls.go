package mesh

// BackendTLSPolicy says that the application behind a service is spoken to by TLS, and who it must prove to be (Gateway
// API BackendTLSPolicy, GEP-1897). In the mesh the server proxy is who speaks to it.
type BackendTLSPolicy struct {
	Namespace, Name string
	// Targets are services; a SectionName is the name of the port that the policy is for.
	Targets []TargetRef
	// Hostname is asked for (RFC 6066 §3 server name), and what the certificate must be for unless there are Names.
	Hostname string
	// Names are what the certificate must be for, one of them at least.
	Names []SubjectName
	// System trusts the authorities that the proxy's host trusts.
	System bool
	// Authorities are objects that hold certificates; empty if System.
	Authorities []ObjectRef
	// Invalid says why the policy cannot be understood: then what it targets is not spoken to.
	Invalid string
}

// SubjectName is a subject alternative name (RFC 5280 §4.2.1.6).
type SubjectName struct {
	Kind  SubjectKind
	Value string
}

// SubjectKind is a kind of name.
type SubjectKind string

// The kinds of names of a certificate.
const (
	SubjectHostname SubjectKind = "Hostname"
	SubjectURI      SubjectKind = "URI"
)

// ObjectRef names an object of the namespace in which it is named.
type ObjectRef struct{ Group, Kind, Name string }

// String is "Kind name".
func (r ObjectRef) String() string { return r.Kind + " " + r.Name }

// ConfigMap is what the mesh reads of a v1 ConfigMap: certificates of authorities.
type ConfigMap struct {
	Namespace, Name string
	// Authorities are the certificates under AuthoritiesKey, in PEM.
	Authorities string
	// Problem says why there are none.
	Problem string
}

// AuthoritiesKey is where a ConfigMap holds certificates of authorities, in PEM (Gateway API, BackendTLSPolicyValidation).
const AuthoritiesKey = "ca.crt"
