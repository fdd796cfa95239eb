package ca

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

// Defaults and bounds of lives.
const (
	TTLDefault = 24 * time.Hour
	TTLMin     = time.Second // for tests and drills
	TTLMax     = 7 * 24 * time.Hour
	RootLife   = 10 * 365 * 24 * time.Hour
)

// Config configures a CA. Keys, Clock and Log are required.
type Config struct {
	TrustDomain mesh.TrustDomain
	// TTL is the life of a certificate from its issue; 0 is TTLDefault.
	TTL   time.Duration
	Keys  KeyStore
	Clock clock.Clock
	Log   *slog.Logger
	// Record is the public half of the newest state, kept apart from Keys (CA.Record). With it an authority whose keys are
	// lost, or cannot be read, opens without them, and one whose keys are of an earlier state goes on from the newest. Without
	// it such a store is an error. Nil is none.
	Record []byte
	// Admit, if not nil, is asked before each signature whether the identity may still
	// have a certificate; its error is the refusal. It is called concurrently.
	Admit func(mesh.Identity) error
}

// Validate reports all faults.
func (c Config) Validate() error {
	var errs []error
	if !mesh.IsSubdomain(string(c.TrustDomain)) {
		errs = append(errs, fmt.Errorf("certificate authority: trust domain %q is not a DNS name in lower case", c.TrustDomain))
	}
	if c.TTL != 0 && (c.TTL < TTLMin || c.TTL > TTLMax) {
		errs = append(errs, fmt.Errorf("certificate authority: TTL %s, want %s to %s", c.TTL, TTLMin, TTLMax))
	}
	if c.Keys == nil || c.Clock == nil || c.Log == nil {
		errs = append(errs, errors.New("certificate authority: Keys, Clock and Log are required"))
	}
	return errors.Join(errs...)
}

// CA is the authority of one trust domain. All methods are safe for concurrent use.
type CA struct {
	c       Config
	current atomic.Pointer[state]

	// mu serialises changes of the root, each saved before it takes effect.
	mu sync.Mutex
	// signing is held for reading from the choice of the issuer to its signature, in
	// parallel, and for writing by Switch, which must know when the old root has signed
	// its last.
	signing sync.RWMutex
	ledger  ledger
}

// state is immutable.
type state struct {
	domain   mesh.TrustDomain
	rotation Rotation
	roots    map[uint64]root // by number
	// ttl is the life of what is issued under this state, and longUntil when the last
	// certificate ends that was issued with a longer one: a restart may change TTL.
	ttl       time.Duration
	longUntil time.Time
	// lost is why the issuer has no key, nil while it has one.
	lost error
}

// root is a root; one whose key is lost has none, and verifies what it has signed.
type root struct {
	cert *x509.Certificate
	key  trust.PrivateKey
}

// Open loads the authority that c.Keys keeps, or makes and saves a new one if, and
// only if, there has never been one: a damaged store is an error, since a new root
// would make strangers of all who hold certificates.
func Open(ctx context.Context, c Config) (*CA, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.TTL == 0 {
		c.TTL = TTLDefault
	}
	ca := &CA{c: c}
	s, lost, err := ca.load(ctx)
	switch {
	case err != nil && len(c.Record) > 0 && keysGone(err):
		return ca, ca.openWithoutKeys(err)
	case errors.Is(err, ErrNoState):
		return ca, ca.create(ctx)
	case err != nil:
		return nil, fmt.Errorf("open the certificate authority of %s: %w", c.TrustDomain, err)
	}
	if newest := ca.recorded(); newest != nil && newest.rotation.Generation > s.rotation.Generation {
		c.Log.Error("the keys kept are of an earlier state of the certificate authority", "trustDomain", string(s.domain),
			"generation", s.rotation.Generation, "newest", newest.rotation.Generation)
		return ca, ca.goOn(ctx, newest.withKeysOf(s))
	}
	if !lost && s.ttl == c.TTL || s.lost != nil {
		ca.current.Store(s)
		return ca, nil
	}
	if s.ttl != c.TTL {
		s.longUntil, s.ttl = s.lastEnd(c.Clock.Now()), c.TTL
	}
	if lost {
		ca.recover(s)
	}
	return ca, ca.put(ctx, s)
}

// goOn takes a state that is not the one kept. One that cannot sign is not written over what is kept.
func (ca *CA) goOn(ctx context.Context, s *state) error {
	s.longUntil, s.ttl = s.lastEnd(ca.c.Clock.Now()), ca.c.TTL
	if s.lost != nil {
		ca.current.Store(s)
		return nil
	}
	return ca.put(ctx, s)
}

// lastEnd is when the last certificate ends that was issued until now.
func (s *state) lastEnd(now time.Time) time.Time {
	if end := now.Add(s.ttl); end.After(s.longUntil) {
		return end
	}
	return s.longUntil
}

func (ca *CA) create(ctx context.Context) error {
	r := NewRotation()
	first, err := newRoot(ca.c.TrustDomain, r.Issuer, ca.c.Clock.Now())
	if err != nil {
		return err
	}
	s := &state{domain: ca.c.TrustDomain, rotation: r, roots: map[uint64]root{r.Issuer: first}, ttl: ca.c.TTL}
	if err := ca.put(ctx, s); err != nil {
		return err
	}
	ca.c.Log.Info("certificate authority created", "trustDomain", string(s.domain), "root", trust.PinOf(first.cert).String())
	return nil
}

// recover goes on from a state that is one step behind. Each step keeps the roots
// that the step before it needs, so the roots serve; but others have seen a later
// generation of the bundle, and would refuse ours without a jump past it.
func (ca *CA) recover(s *state) {
	s.rotation.Generation += 2
	ca.c.Log.Error("certificate authority fell back to its previous state", "trustDomain", string(s.domain),
		"phase", string(s.rotation.Phase), "generation", s.rotation.Generation)
}

// put saves s and then puts it in force.
func (ca *CA) put(ctx context.Context, s *state) error {
	secret, err := s.encode(false)
	if err == nil {
		err = ca.c.Keys.Save(ctx, secret)
	}
	if err != nil {
		return fmt.Errorf("keep the certificate authority of %s: %w", s.domain, err)
	}
	ca.current.Store(s)
	return nil
}

// TrustDomain is the authority's.
func (ca *CA) TrustDomain() mesh.TrustDomain { return ca.c.TrustDomain }

// Bundle is what verifies this authority's certificates.
func (ca *CA) Bundle() mesh.Bundle {
	s := ca.current.Load()
	b := mesh.Bundle{TrustDomain: s.domain, Generation: s.rotation.Generation}
	for _, number := range s.rotation.Roots() {
		b.Roots = append(b.Roots, s.roots[number].cert.Raw)
	}
	sortRoots(b.Roots)
	return b
}

// Pin is the pin of the root that issues: what tokens carry.
func (ca *CA) Pin() trust.Pin {
	s := ca.current.Load()
	return trust.PinOf(s.roots[s.rotation.Issuer].cert)
}

// Rotation is the state of the root's replacement.
func (ca *CA) Rotation() Rotation { return ca.current.Load().rotation }

// Introduce makes a new root and publishes it beside the old one; where the issuer's key is lost also beside those that a
// replacement in progress needs.
func (ca *CA) Introduce(ctx context.Context) error {
	return ca.step(ctx, func(s *state) (*state, error) {
		introduce := s.rotation.Introduce
		otherLost := s.rotation.Phase == PhaseIntroduced && s.roots[s.rotation.Other].key.IsZero()
		if s.lost != nil || otherLost {
			introduce = func() (Rotation, error) { return s.rotation.replace(otherLost) }
		}
		next, err := introduce()
		if err != nil {
			return nil, err
		}
		added, err := newRoot(s.domain, next.Other, ca.c.Clock.Now())
		if err != nil {
			return nil, err
		}
		with := *s
		with.rotation, with.roots = next, map[uint64]root{next.Other: added}
		for _, number := range next.Roots() {
			if number != next.Other {
				with.roots[number] = s.roots[number]
			}
		}
		return &with, nil
	})
}

// Abandon takes the introduced root back.
func (ca *CA) Abandon(ctx context.Context) error {
	return ca.step(ctx, func(s *state) (*state, error) {
		if s.lost != nil {
			return nil, fmt.Errorf("abandon the introduced root: nothing else can sign: %w", ErrKeyLost)
		}
		next, err := s.rotation.Abandon()
		return s.with(next), err
	})
}

// Switch lets the new root issue, if Rotation.Switch's gate is open.
// Signing waits meanwhile, saving included, so that nothing from the old root ends
// later than what is written down.
func (ca *CA) Switch(ctx context.Context, seen Seen) error {
	ca.signing.Lock()
	defer ca.signing.Unlock()
	return ca.step(ctx, func(s *state) (*state, error) {
		if s.rotation.Phase == PhaseIntroduced && s.roots[s.rotation.Other].key.IsZero() {
			return nil, &GateError{s.rotation.Phase, "the key of the introduced root is lost: begin with another one"}
		}
		next, err := s.rotation.Switch(seen, s.lastEnd(ca.c.Clock.Now()))
		return s.with(next), err
	})
}

// Retire drops the old root, if Rotation.Retire's gate is open.
func (ca *CA) Retire(ctx context.Context, seen Seen) error {
	return ca.step(ctx, func(s *state) (*state, error) {
		next, err := s.rotation.Retire(seen, ca.c.Clock.Now(), slowest(s.ttl))
		return s.with(next), err
	})
}

// slowest is how far a clock may be behind that is nobody's alarm. Of lives of minutes, which are for drills, it is a quarter, but
// longer than connections may go on whose certificates have ended (30 s): a root that goes cuts those that are left.
func slowest(ttl time.Duration) time.Duration { return min(5*time.Minute, max(ttl/4, 45*time.Second)) }

func (ca *CA) step(ctx context.Context, f func(*state) (*state, error)) error {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	next, err := f(ca.current.Load())
	if err != nil {
		return fmt.Errorf("%s: %w", ca.c.TrustDomain, err)
	}
	if err := ca.put(ctx, next); err != nil {
		return err
	}
	r := next.rotation
	ca.c.Log.Info("root rotation advanced", "trustDomain", string(next.domain), "phase", string(r.Phase), "generation", r.Generation)
	return nil
}

// with is s after r, without the roots that r does not name.
func (s *state) with(r Rotation) *state {
	next := *s
	next.rotation, next.roots = r, map[uint64]root{}
	for _, number := range r.Roots() {
		next.roots[number] = s.roots[number]
	}
	if !next.roots[r.Issuer].key.IsZero() {
		next.lost = nil
	}
	return &next
}

// newRoot makes a self-signed root (RFC 5280 §3.2) that may sign leaves only, and
// leaves of its own trust domain only, in the eyes of verifiers who know no more of
// the mesh than X.509.
func newRoot(td mesh.TrustDomain, number uint64, now time.Time) (root, error) {
	key, err := trust.NewPrivateKey()
	if err != nil {
		return root{}, err
	}
	serial, err := serialNumber()
	if err != nil {
		return root{}, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{Organization: []string{"Isthmus"}, CommonName: fmt.Sprintf("%s root %d", td, number)},
		NotBefore:    now.Add(-trust.Backdate),
		NotAfter:     now.Add(RootLife),
		// RFC 5280 §4.2.1.9: pathLenConstraint 0, no authority below this one. §4.2.1.10:
		// a constraint without a leading dot is this very host.
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
		KeyUsage:            x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		PermittedURIDomains: []string{string(td)}, PermittedDNSDomainsCritical: true,
		URIs: []*url.URL{{Scheme: "spiffe", Host: string(td)}}, // X509-SVID §3.2
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return root{}, fmt.Errorf("make root %d of %s: %w", number, td, err)
	}
	cert, err := x509.ParseCertificate(der)
	return root{cert, key}, err
}

func parseRoot(r storedRoot) (root, error) {
	cert, err := x509.ParseCertificate(r.Cert)
	if err != nil {
		return root{}, err
	}
	if len(r.Key) == 0 { // it was lost
		return root{cert: cert}, nil
	}
	key, err := trust.ParsePrivateKey(r.Key)
	if err != nil {
		return root{}, err
	}
	if !key.Matches(cert.PublicKey) {
		return root{}, errors.New("certificate and key do not belong together")
	}
	return root{cert, key}, nil
}

// serialNumber is 128 random bits, positive (RFC 5280 §4.1.2.2 allows 20 octets).
func serialNumber() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 128))
	if err != nil {
		return nil, fmt.Errorf("draw a serial number: %w", err)
	}
	if n.Sign() == 0 {
		n.SetInt64(1)
	}
	return n, nil
}
