package ca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

// CSRBytesMax bounds a certificate signing request.
const CSRBytesMax = 8 << 10

// Attested is an identity that somebody vouched for. Only an attestor makes one;
// the zero Attested is refused.
type Attested struct {
	Identity mesh.Identity
	// By says on what ground, for the log: "join token 1f…", "certificate".
	By string
	// Replaces is the serial number of the certificate that is renewed, "" for a first one.
	Replaces string
}

// Issued is a certificate.
type Issued struct {
	Chain    [][]byte // DER, leaf first; the root is not in it
	NotAfter time.Time
}

// RefusedError is the answer to a request that must not be granted, as against one
// that could not be.
type RefusedError struct {
	Identity mesh.Identity
	Why      string
	Err      error // the cause, or nil
}

func (e *RefusedError) Error() string {
	s := "sign a certificate"
	if !e.Identity.IsZero() {
		s += " for " + e.Identity.String()
	}
	s += ": refused: " + e.Why
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap is the cause.
func (e *RefusedError) Unwrap() error { return e.Err }

// Attest vouches for the holder of a verified certificate, peer: it may renew it.
// peer comes from the connection that the request came over (trust.PeerIdentity),
// never from the request.
func (ca *CA) Attest(peer mesh.Identity) (Attested, error) {
	if peer.TrustDomain != ca.c.TrustDomain || peer.IsZero() {
		return Attested{}, &RefusedError{peer, fmt.Sprintf("its certificate is not of %s", ca.c.TrustDomain), nil}
	}
	return Attested{Identity: peer, By: "certificate"}, nil
}

// Sign issues a certificate for the key of csrDER (RFC 2986) and the identity of
// who. Whatever else the request asks for, names, extensions, usages, is ignored.
// Errors are *RefusedError, or failures of this host.
func (ca *CA) Sign(csrDER []byte, who Attested) (Issued, error) {
	if err := ca.checkIdentity(who); err != nil {
		return Issued{}, err
	}
	public, err := csrKey(csrDER)
	if err != nil {
		return Issued{}, &RefusedError{who.Identity, "certificate signing request", err}
	}
	issued, _, err := ca.issue(public, who)
	return issued, err
}

// SelfIssue is a certificate for the control plane itself. Its chain holds the
// root, which is what a joining process compares with its token's pin.
func (ca *CA) SelfIssue(key trust.PrivateKey, id mesh.Identity) (*trust.SVID, error) {
	who := Attested{Identity: id, By: "own process"}
	if err := ca.checkIdentity(who); err != nil {
		return nil, err
	}
	public, ok := key.Public().(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("sign a certificate for %s: no key", id)
	}
	issued, by, err := ca.issue(public, who)
	if err != nil {
		return nil, err
	}
	return trust.NewSVID(key, append(issued.Chain, by.cert.Raw))
}

func (ca *CA) checkIdentity(who Attested) error {
	id := who.Identity
	parsed, err := mesh.ParseIdentity(id.String())
	if err != nil || parsed != id || who.By == "" {
		return &RefusedError{id, "not an attested identity", err}
	}
	if id.TrustDomain != ca.c.TrustDomain {
		return &RefusedError{id, fmt.Sprintf("this authority is of %s", ca.c.TrustDomain), nil}
	}
	if ca.c.Admit != nil {
		if err := ca.c.Admit(id); err != nil {
			return &RefusedError{id, "no longer admitted", err}
		}
	}
	return nil
}

// csrKey is the public key of a request whose signature proves possession of it.
func csrKey(der []byte) (*ecdsa.PublicKey, error) {
	if len(der) > CSRBytesMax {
		return nil, fmt.Errorf("%d bytes, want at most %d", len(der), CSRBytesMax)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, err
	}
	public, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() {
		return nil, errors.New("the key is not ECDSA P-256")
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, err
	}
	return public, nil
}

func (ca *CA) issue(public *ecdsa.PublicKey, who Attested) (Issued, root, error) {
	ca.signing.RLock()
	defer ca.signing.RUnlock()
	s := ca.current.Load()
	by := s.roots[s.rotation.Issuer]
	for _, r := range s.roots {
		// A leaf with an authority's key would let its holder pass for the authority.
		if public.Equal(r.cert.PublicKey) {
			return Issued{}, root{}, &RefusedError{who.Identity, "the key is the authority's own", nil}
		}
	}
	if by.key.IsZero() {
		return Issued{}, root{}, fmt.Errorf("sign a certificate for %s: %w: %w", who.Identity, ErrKeyLost, s.lost)
	}
	number, err := serialNumber()
	if err != nil {
		return Issued{}, root{}, err
	}
	now := ca.c.Clock.Now()
	end := now.Add(ca.c.TTL)
	if end.After(by.cert.NotAfter) {
		end = by.cert.NotAfter
	}
	if !now.Before(end) {
		return Issued{}, root{}, fmt.Errorf("sign a certificate for %s: the root of %s expired %s", who.Identity, s.domain, by.cert.NotAfter.UTC().Format(time.RFC3339))
	}
	template := &x509.Certificate{
		SerialNumber:          number,
		NotBefore:             now.Add(-trust.Backdate),
		NotAfter:              end,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true, // cA false
		URIs:                  []*url.URL{identityURL(who.Identity)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by.cert, public, by.key)
	if err != nil {
		return Issued{}, root{}, fmt.Errorf("sign a certificate for %s: %w", who.Identity, err)
	}
	ca.ledger.add(number.Text(16), who.Replaces, s.rotation.Issuer, end, now)
	ca.c.Log.Info("certificate issued", "identity", who.Identity.String(), "by", who.By, "serial", number.Text(16), "notAfter", end)
	return Issued{Chain: [][]byte{der}, NotAfter: end}, by, nil
}

func identityURL(id mesh.Identity) *url.URL {
	return &url.URL{Scheme: "spiffe", Host: string(id.TrustDomain), Path: "/ns/" + id.Namespace + "/sa/" + id.ServiceAccount}
}

func sortRoots(roots [][]byte) { slices.SortFunc(roots, bytes.Compare) }
