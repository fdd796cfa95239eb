package trust

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// Limits of a chain that a peer shows, its leaf included.
const (
	ChainMax      = 4
	ChainBytesMax = 16 << 10
)

// Accept says which verified peers are wanted. The zero Accept wants nobody. It is
// a small value that shares the slices it is made of, so one may be made for each
// connection.
type Accept struct {
	usage   x509.ExtKeyUsage
	known   bool
	domains []mesh.TrustDomain
	ids     []mesh.Identity
}

// AcceptServers is for a client: the peer must be of trust domain td and be one of
// ids, the identities that may serve what is asked for. No ids accept nobody. ids
// is kept, not copied.
func AcceptServers(td mesh.TrustDomain, ids ...mesh.Identity) Accept {
	return Accept{usage: x509.ExtKeyUsageServerAuth, domains: []mesh.TrustDomain{td}, ids: ids}
}

// AcceptClients is for a server: the peer may be anybody of the given trust
// domains; what it may do is decided per request. No domains accept nobody.
func AcceptClients(domains ...mesh.TrustDomain) Accept {
	return Accept{usage: x509.ExtKeyUsageClientAuth, domains: domains}
}

// AcceptKnownClients is for a server: the peer may be anybody of a trust domain
// that has a bundle at the moment of the handshake.
func AcceptKnownClients() Accept {
	return Accept{usage: x509.ExtKeyUsageClientAuth, known: true}
}

func (a Accept) check(id mesh.Identity) *Error {
	if !a.known && !slices.Contains(a.domains, id.TrustDomain) {
		return refuse(FaultDomain, "trust domain %q, want one of %q", id.TrustDomain, a.domains)
	}
	if a.usage == x509.ExtKeyUsageServerAuth && !slices.Contains(a.ids, id) {
		return refuse(FaultIdentity, "not among the %d identities that may serve this", len(a.ids))
	}
	return nil
}

// VerifyConnection verifies the peer of a TLS connection as VerifyPeer does, and
// that the connection is TLS 1.3 and, where alpn lists any, speaks one of them.
// It is called in tls.Config.VerifyConnection and again for a live connection when
// the bundles have changed.
func (s *Bundles) VerifyConnection(state tls.ConnectionState, now time.Time, accept Accept, alpn []string) (mesh.Identity, error) {
	if err := checkTransport(state, alpn); err != nil {
		return mesh.Identity{}, err
	}
	return s.VerifyPeer(state.PeerCertificates, now, accept)
}

// checkTransport checks what the connection is, whoever the peer.
func checkTransport(state tls.ConnectionState, alpn []string) error {
	if state.Version != tls.VersionTLS13 {
		return refuse(FaultVersion, "%s, want TLS 1.3", tls.VersionName(state.Version))
	}
	// A client that offers no protocol at all is let through by crypto/tls, so that
	// the absence must be refused here (RFC 7301 §3.2 leaves it to the server).
	if len(alpn) > 0 && !slices.Contains(alpn, state.NegotiatedProtocol) {
		return refuse(FaultALPN, "protocol %q, want one of %q", state.NegotiatedProtocol, alpn)
	}
	return nil
}

// VerifyPeer returns the identity that chain, leaf first, proves at the time now,
// if accept wants it; otherwise an *Error. That the peer holds the leaf's key is
// the handshake's to prove.
//
// The order is: what is cheap and bounds the rest (count, bytes), what the leaf
// says of itself, then signatures against the roots of the leaf's own domain, then
// accept. Nothing falls back to a common name or a DNS name.
func (s *Bundles) VerifyPeer(chain []*x509.Certificate, now time.Time, accept Accept) (mesh.Identity, error) {
	if err := checkSize(chain); err != nil {
		return mesh.Identity{}, err
	}
	uri, err := leafURI(chain[0])
	if err != nil {
		return mesh.Identity{}, err
	}
	id, fault := s.verify(chain, uri, now, accept)
	if fault != nil {
		fault.Peer = claimed(uri)
		return mesh.Identity{}, fault
	}
	return id, nil
}

func (s *Bundles) verify(chain []*x509.Certificate, uri string, now time.Time, accept Accept) (mesh.Identity, *Error) {
	id, err := identityOf(uri)
	if err != nil {
		return id, err
	}
	if err := checkLeaf(chain[0], now); err != nil {
		return id, err
	}
	authority := s.get(id.TrustDomain)
	if authority == nil {
		return id, refuse(FaultUnknownDomain, "no bundle for %q", id.TrustDomain)
	}
	if err := authority.verifyChain(chain, now, accept.usage); err != nil {
		return id, err
	}
	return id, accept.check(id)
}

// verifyChain checks that chain leads to a root of this domain and that nobody on
// the way speaks for another.
func (a *authority) verifyChain(chain []*x509.Certificate, now time.Time, usage x509.ExtKeyUsage) *Error {
	// now is not zero, which x509 would take for the host's clock: checkLeaf has found
	// it within the leaf's life.
	inter := x509.NewCertPool()
	for _, c := range chain[1:] {
		if err := checkKey(c); err != nil {
			return err
		}
		inter.AddCert(c)
	}
	paths, err := chain[0].Verify(x509.VerifyOptions{
		Roots: a.roots, Intermediates: inter, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage},
	})
	if err != nil {
		return &Error{Fault: FaultChain, Detail: fmt.Sprintf("no path to a root of %q", a.bundle.TrustDomain), Err: err}
	}
	// One lawful path is enough, as x509.Verify means it.
	var foreign *Error
	for _, path := range paths {
		if foreign = a.checkPath(path); foreign == nil {
			return nil
		}
	}
	return foreign
}

func (a *authority) checkPath(path []*x509.Certificate) *Error {
	for _, c := range path[1:] {
		if err := checkAuthorityDomain(c, a.bundle.TrustDomain); err != nil {
			return refuse(FaultForeignCA, "%v", err)
		}
	}
	return nil
}

func checkSize(chain []*x509.Certificate) error {
	if len(chain) == 0 {
		return refuse(FaultNoCertificate, "the peer showed none")
	}
	if len(chain) > ChainMax {
		return refuse(FaultChainTooLong, "%d certificates, want at most %d", len(chain), ChainMax)
	}
	sizeBytes := 0
	for _, c := range chain {
		sizeBytes += len(c.Raw)
	}
	if sizeBytes > ChainBytesMax {
		return refuse(FaultChainTooLarge, "%d bytes, want at most %d", sizeBytes, ChainBytesMax)
	}
	return nil
}

// checkLeaf checks what X509-SVID asks of a leaf (§4.1, §4.3, §4.4) and its time.
func checkLeaf(leaf *x509.Certificate, now time.Time) *Error {
	if err := checkLeafForm(leaf); err != nil {
		return err
	}
	if now.Before(leaf.NotBefore) {
		return refuse(FaultNotYetValid, "valid from %s, in %s", leaf.NotBefore.UTC().Format(time.RFC3339), leaf.NotBefore.Sub(now).Round(time.Second))
	}
	if now.After(leaf.NotAfter) {
		return refuse(FaultExpired, "expired %s, %s ago", leaf.NotAfter.UTC().Format(time.RFC3339), now.Sub(leaf.NotAfter).Round(time.Second))
	}
	return nil
}

// checkLeafForm is the part of checkLeaf that no clock changes.
func checkLeafForm(leaf *x509.Certificate) *Error {
	if leaf.IsCA {
		return refuse(FaultLeafIsCA, "the leaf %q is an authority", leaf.Subject)
	}
	if leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		return refuse(FaultKeyUsage, "key usage %#x, want digitalSignature and neither keyCertSign nor cRLSign", int(leaf.KeyUsage))
	}
	// X509-SVID §4.4 makes the extension optional and both usages mandatory in it. We
	// ask for it: every issuer we know sets it, and "any" is how a certificate meant
	// for mail becomes one for TLS.
	if !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth) || !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth) {
		return refuse(FaultExtKeyUsage, "extended key usage %v, want serverAuth and clientAuth", leaf.ExtKeyUsage)
	}
	return checkKey(leaf)
}

// checkKey admits the algorithms that external issuers use, at sizes that are
// neither weak nor a way to make us spend time.
func checkKey(c *x509.Certificate) *Error {
	switch k := c.PublicKey.(type) {
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() || k.Curve == elliptic.P384() {
			return nil
		}
		return refuse(FaultKey, "ECDSA on %s, want P-256 or P-384", k.Params().Name)
	case ed25519.PublicKey:
		return nil
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < 2048 || bits > 4096 {
			return refuse(FaultKey, "RSA of %d bits, want 2048 to 4096", bits)
		}
		return nil
	}
	return refuse(FaultKey, "%v, want ECDSA, Ed25519 or RSA", c.PublicKeyAlgorithm)
}

// checkAuthorityDomain checks that an authority names no trust domain but td. It
// need not name one (X509-SVID §3.2: it SHOULD).
func checkAuthorityDomain(c *x509.Certificate, td mesh.TrustDomain) error {
	names, err := subjectAltNames(c)
	if err != nil {
		return err
	}
	want := "spiffe://" + string(td)
	for _, n := range names {
		if n.tag == tagURI && n.value != want {
			return fmt.Errorf("authority %q names %s, want %q", c.Subject, claimed(n.value), want)
		}
	}
	return nil
}

// identityOf parses uri and compares the whole of it with the identity's own form,
// so that two spellings are never one identity.
func identityOf(uri string) (mesh.Identity, *Error) {
	id, err := mesh.ParseIdentity(uri)
	if err != nil {
		return mesh.Identity{}, &Error{Fault: FaultSPIFFEID, Detail: "not an identity of the mesh's form", Err: err}
	}
	if id.String() != uri {
		return mesh.Identity{}, refuse(FaultSPIFFEID, "want the spelling %q", id)
	}
	return id, nil
}

// PeerIdentity is the identity of the peer of a connection that was made with a
// configuration of this package: it reads the leaf and verifies nothing.
func PeerIdentity(state tls.ConnectionState) (mesh.Identity, error) {
	if len(state.PeerCertificates) == 0 {
		return mesh.Identity{}, refuse(FaultNoCertificate, "the connection has no peer certificate")
	}
	uri, err := leafURI(state.PeerCertificates[0])
	if err != nil {
		return mesh.Identity{}, err
	}
	id, fault := identityOf(uri)
	if fault != nil {
		return mesh.Identity{}, fault
	}
	return id, nil
}

// leafURI is the one URI SAN of a leaf (X509-SVID §2). Any other name beside it is
// refused as well: nobody here reads it, and somebody elsewhere might.
func leafURI(leaf *x509.Certificate) (string, error) {
	names, err := subjectAltNames(leaf)
	if err != nil {
		return "", &Error{Fault: FaultSAN, Detail: "unreadable", Err: err}
	}
	if len(names) != 1 || names[0].tag != tagURI {
		return "", refuse(FaultSAN, "%d names, want exactly one, a URI", len(names))
	}
	return names[0].value, nil
}

// tagURI is the context tag of uniformResourceIdentifier in GeneralName (RFC 5280
// §4.2.1.6).
const tagURI = 6

type generalName struct {
	tag   int
	value string
}

// subjectAltNames reads the names as they stand in the certificate. It does not
// use the parsed x509.Certificate.URIs: a net/url.URL has lost the case of the
// scheme and an empty fragment, and identities are compared by bytes.
func subjectAltNames(c *x509.Certificate) ([]generalName, error) {
	var names []generalName
	oid := asn1.ObjectIdentifier{2, 5, 29, 17}
	for _, ext := range c.Extensions {
		if !ext.Id.Equal(oid) {
			continue
		}
		var seq asn1.RawValue
		rest, err := asn1.Unmarshal(ext.Value, &seq)
		if err != nil || len(rest) != 0 || !seq.IsCompound || seq.Tag != asn1.TagSequence || seq.Class != asn1.ClassUniversal {
			return nil, fmt.Errorf("subject alternative name: not a sequence of names")
		}
		for rest = seq.Bytes; len(rest) > 0; {
			var n asn1.RawValue
			if rest, err = asn1.Unmarshal(rest, &n); err != nil || n.Class != asn1.ClassContextSpecific {
				return nil, fmt.Errorf("subject alternative name: name %d is malformed", len(names))
			}
			names = append(names, generalName{n.Tag, string(n.Bytes)})
		}
	}
	return names, nil
}
