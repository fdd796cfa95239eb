package trust

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// SVID is a process's own identity document (X509-SVID): chain and key. It is
// immutable.
type SVID struct {
	Identity mesh.Identity
	// Chain is DER, leaf first.
	Chain [][]byte
	// Leaf is Chain[0], parsed.
	Leaf *x509.Certificate
	Key  PrivateKey

	tls *tls.Certificate
}

// NewSVID checks that chain is what a peer would accept, time and roots aside, and
// belongs to key.
func NewSVID(key PrivateKey, chain [][]byte) (*SVID, error) {
	certs := make([]*x509.Certificate, 0, len(chain))
	for i, der := range chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("own certificate %d: %w", i, err)
		}
		certs = append(certs, c)
	}
	if err := checkSize(certs); err != nil {
		return nil, fmt.Errorf("own certificate: %w", err)
	}
	uri, err := leafURI(certs[0])
	if err != nil {
		return nil, fmt.Errorf("own certificate: %w", err)
	}
	id, fault := identityOf(uri)
	if fault == nil {
		fault = checkLeafForm(certs[0])
	}
	if fault != nil {
		return nil, fmt.Errorf("own certificate: %w", fault)
	}
	if !key.Matches(certs[0].PublicKey) {
		return nil, fmt.Errorf("own certificate of %s: made for another key", id)
	}
	return &SVID{
		Identity: id, Chain: chain, Leaf: certs[0], Key: key,
		tls: &tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: certs[0]},
	}, nil
}

// Material is what a process knows at one moment. Either part may be nil.
type Material struct {
	SVID    *SVID
	Bundles *Bundles
	// Generation counts the updates of the Source: it differs whenever anything does.
	Generation uint64
}

// Source holds the current Material of one identity. TLS configurations read it at
// each handshake, so an update takes effect on the next one and touches no
// connection that lives. All methods are safe for concurrent use; a handshake reads
// one pointer.
type Source struct {
	clock   clock.Clock
	current atomic.Pointer[held]

	// Bound once, so that a client configuration costs one closure.
	getClient func(*tls.CertificateRequestInfo) (*tls.Certificate, error)
	now       func() time.Time

	mu sync.Mutex // serialises Update
}

type held struct {
	Material
	changed chan struct{} // closed when this is no longer the current one
}

// NewSource returns an empty Source: until the first Update its handshakes fail
// with mesh.ReasonOwnFault.
func NewSource(c clock.Clock) *Source {
	s := &Source{clock: c, now: c.Now}
	s.getClient = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return s.certificate() }
	s.current.Store(&held{changed: make(chan struct{})})
	return s
}

// ErrIdentityChanged refuses an Update that would make the process somebody else.
var ErrIdentityChanged = errors.New("a source keeps its identity")

// Update puts new parts in force together; nil keeps the part there is.
func (s *Source) Update(svid *SVID, bundles *Bundles) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.current.Load()
	next := &held{Material: old.Material, changed: make(chan struct{})}
	if svid != nil {
		if old.SVID != nil && old.SVID.Identity != svid.Identity {
			return fmt.Errorf("replace certificate of %s by one of %s: %w", old.SVID.Identity, svid.Identity, ErrIdentityChanged)
		}
		next.SVID = svid
	}
	if bundles != nil {
		next.Bundles = bundles
	}
	next.Generation++
	s.current.Store(next)
	close(old.changed)
	return nil
}

// Current is the Material in force.
func (s *Source) Current() Material { return s.current.Load().Material }

// Watch is the Material in force and a channel that is closed when it no longer
// is.
func (s *Source) Watch() (Material, <-chan struct{}) {
	h := s.current.Load()
	return h.Material, h.changed
}

// certificate is the one to present. An expired one is withheld: every peer would
// refuse it, and the reason is ours to state. One that starts in the future is
// presented: then it is our clock that is wrong, and the peer's that counts.
func (s *Source) certificate() (*tls.Certificate, error) {
	svid := s.Current().SVID
	if svid == nil {
		return nil, refuse(FaultOwnCertificate, "none yet")
	}
	if now := s.now(); now.After(svid.Leaf.NotAfter) {
		return nil, refuse(FaultOwnCertificate, "expired %s, %s ago", svid.Leaf.NotAfter.UTC().Format(time.RFC3339), now.Sub(svid.Leaf.NotAfter).Round(time.Second))
	}
	return svid.tls, nil
}
