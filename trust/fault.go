package trust

import (
	"errors"
	"fmt"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// Fault says which rule a certificate or a connection broke: a closed list for
// logs and counters.
type Fault string

// The faults.
const (
	FaultNoCertificate  Fault = "no_certificate"       // the peer showed none
	FaultChainTooLong   Fault = "chain_too_long"       // more than ChainMax certificates
	FaultChainTooLarge  Fault = "chain_too_large"      // more than ChainBytesMax
	FaultSAN            Fault = "subject_alt_name"     // not exactly one URI and nothing else
	FaultSPIFFEID       Fault = "spiffe_id"            // the URI is not a SPIFFE ID of the mesh's form
	FaultLeafIsCA       Fault = "leaf_is_ca"           // an authority is nobody's identity
	FaultKeyUsage       Fault = "key_usage"            // may not sign a handshake, or may sign certificates
	FaultExtKeyUsage    Fault = "extended_key_usage"   // not both a server's and a client's
	FaultKey            Fault = "public_key"           // an algorithm or size outside the list
	FaultExpired        Fault = "expired"              // the leaf's
	FaultNotYetValid    Fault = "not_yet_valid"        // the leaf's
	FaultUnknownDomain  Fault = "unknown_trust_domain" // no bundle for it
	FaultChain          Fault = "untrusted_chain"      // does not lead to a root of its own domain
	FaultForeignCA      Fault = "foreign_authority"    // an authority in the chain names another domain
	FaultDomain         Fault = "domain_not_accepted"  // verified, but of another domain than wanted
	FaultIdentity       Fault = "identity_not_accepted"
	FaultVersion        Fault = "tls_version"
	FaultALPN           Fault = "alpn"
	FaultPin            Fault = "authority_pin"   // first contact: the pinned authority is not in the chain
	FaultOwnCertificate Fault = "own_certificate" // this process has none, or an expired one
)

// Error is a refusal: which rule, of whom, and the detail for the log. Handshakes
// on configurations of this package return it unwrapped on the side that refuses.
type Error struct {
	Fault Fault
	// Peer is the identity that the peer claimed, quoted and cut; empty if it
	// claimed none that can be read. It is not verified.
	Peer string
	// Detail says what was seen and what was wanted.
	Detail string
	// Err is the cause, or nil.
	Err error
}

func (e *Error) Error() string {
	s := "verify peer"
	if e.Fault == FaultOwnCertificate {
		s = "present own certificate"
	}
	if e.Peer != "" {
		s += " " + e.Peer
	}
	s += ": " + string(e.Fault) + ": " + e.Detail
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap is the cause.
func (e *Error) Unwrap() error { return e.Err }

// Reason is what requests fail with because of e.
func (e *Error) Reason() mesh.Reason {
	if e.Fault == FaultOwnCertificate {
		return mesh.ReasonOwnFault
	}
	return mesh.ReasonTLS
}

// FaultOf is the Fault in err's chain, or "" if there is none: a failure of the
// network, of the other side's verification, or of the TLS library's.
func FaultOf(err error) Fault {
	var e *Error
	if errors.As(err, &e) {
		return e.Fault
	}
	return ""
}

// refuse makes an Error without a peer; verify adds it.
func refuse(f Fault, format string, args ...any) *Error {
	return &Error{Fault: f, Detail: fmt.Sprintf(format, args...)}
}

// claimed is s as it may stand in a log: quoted, since a peer chose it, and short.
func claimed(s string) string {
	const shown = 200
	if len(s) > shown {
		return fmt.Sprintf("%q…", s[:shown])
	}
	return fmt.Sprintf("%q", s)
}
