package trust

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"maps"
	"slices"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// Limits of what is believed, so that a hostile bundle costs little.
const (
	RootsMax     = 16       // roots in one bundle
	RootBytesMax = 16 << 10 // one root's DER
)

// Bundles is a set of verifiers, one for each trust domain. It is immutable and
// safe for concurrent use; the nil *Bundles knows no domain and refuses everybody.
type Bundles struct {
	of map[mesh.TrustDomain]*authority
}

// authority verifies the identities of one trust domain, and of no other.
type authority struct {
	bundle mesh.Bundle
	roots  *x509.CertPool
}

// NewBundles makes a set of the given bundles. Two bundles of one domain, a bundle
// without roots, and a root that is no authority or names another domain are
// errors. A caller that gathers bundles from several owners uses With for each, so
// that one owner's rubbish does not cost the others their trust.
func NewBundles(bundles ...mesh.Bundle) (*Bundles, error) {
	set := &Bundles{of: make(map[mesh.TrustDomain]*authority, len(bundles))}
	for _, b := range bundles {
		if _, ok := set.of[b.TrustDomain]; ok {
			return nil, fmt.Errorf("bundle of %q: given twice", b.TrustDomain)
		}
		a, err := newAuthority(b)
		if err != nil {
			return nil, err
		}
		set.of[b.TrustDomain] = a
	}
	return set, nil
}

// RollbackError refuses a bundle because a later one of its domain, or another
// one of the same generation, is already believed.
type RollbackError struct {
	TrustDomain   mesh.TrustDomain
	Have, Offered uint64 // generations
}

func (e *RollbackError) Error() string {
	if e.Have == e.Offered {
		return fmt.Sprintf("bundle of %q: generation %d is already known with other roots", e.TrustDomain, e.Have)
	}
	return fmt.Sprintf("bundle of %q: generation %d is behind the known %d", e.TrustDomain, e.Offered, e.Have)
}

// With returns the set with b in place of its domain's bundle. A generation below
// the known one, or the known one with other roots, is a *RollbackError: a peer
// that replays an old bundle must not bring a retired root back to life. An equal
// bundle returns the set itself.
func (s *Bundles) With(b mesh.Bundle) (*Bundles, error) {
	if have := s.get(b.TrustDomain); have != nil {
		h := have.bundle
		same := slices.EqualFunc(h.Roots, sortedRoots(b.Roots), bytes.Equal)
		if b.Generation < h.Generation || b.Generation == h.Generation && !same {
			return nil, &RollbackError{b.TrustDomain, h.Generation, b.Generation}
		}
		if b.Generation == h.Generation {
			return s, nil
		}
	}
	a, err := newAuthority(b)
	if err != nil {
		return nil, err
	}
	next := &Bundles{of: map[mesh.TrustDomain]*authority{}}
	if s != nil && s.of != nil {
		next.of = maps.Clone(s.of)
	}
	next.of[b.TrustDomain] = a
	return next, nil
}

// Without returns the set that no longer believes td: its cluster was expelled.
func (s *Bundles) Without(td mesh.TrustDomain) *Bundles {
	if s.get(td) == nil {
		return s
	}
	next := &Bundles{of: maps.Clone(s.of)}
	delete(next.of, td)
	return next
}

// All returns the bundles in the order of their domains.
func (s *Bundles) All() []mesh.Bundle {
	if s == nil {
		return nil
	}
	out := make([]mesh.Bundle, 0, len(s.of))
	for _, td := range slices.Sorted(maps.Keys(s.of)) {
		out = append(out, s.of[td].bundle)
	}
	return out
}

// Generation is that of td's bundle; ok is false if there is none.
func (s *Bundles) Generation(td mesh.TrustDomain) (generation uint64, ok bool) {
	if a := s.get(td); a != nil {
		return a.bundle.Generation, true
	}
	return 0, false
}

func (s *Bundles) get(td mesh.TrustDomain) *authority {
	if s == nil {
		return nil
	}
	return s.of[td]
}

func newAuthority(b mesh.Bundle) (*authority, error) {
	if !mesh.IsSubdomain(string(b.TrustDomain)) {
		return nil, fmt.Errorf("bundle of %q: not a trust domain", b.TrustDomain)
	}
	if len(b.Roots) == 0 || len(b.Roots) > RootsMax {
		return nil, fmt.Errorf("bundle of %q: %d roots, want 1 to %d", b.TrustDomain, len(b.Roots), RootsMax)
	}
	a := &authority{bundle: b, roots: x509.NewCertPool()}
	a.bundle.Roots = sortedRoots(b.Roots)
	for i, der := range a.bundle.Roots {
		root, err := parseRoot(der, b.TrustDomain)
		if err != nil {
			return nil, fmt.Errorf("bundle of %q: root %d: %w", b.TrustDomain, i, err)
		}
		a.roots.AddCert(root)
	}
	return a, nil
}

// parseRoot reads a root and checks that it may vouch for td. Its validity is left
// to each verification: a root that starts tomorrow may be published today.
func parseRoot(der []byte, td mesh.TrustDomain) (*x509.Certificate, error) {
	if len(der) > RootBytesMax {
		return nil, fmt.Errorf("%d bytes, want at most %d", len(der), RootBytesMax)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	// RFC 5280 §4.2.1.9: without cA asserted the key must not verify certificates. A
	// leaf among the roots would make its holder trusted for ever, as x509.Verify
	// accepts a certificate that is itself a root.
	if !root.BasicConstraintsValid || !root.IsCA || root.KeyUsage&x509.KeyUsageCertSign == 0 {
		return nil, fmt.Errorf("%q is not a certificate authority", root.Subject)
	}
	if fault := checkKey(root); fault != nil {
		return nil, fault
	}
	return root, checkAuthorityDomain(root, td)
}

func sortedRoots(roots [][]byte) [][]byte {
	s := slices.Clone(roots)
	slices.SortFunc(s, bytes.Compare)
	return s
}
