package ca

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/isthmus-mesh/isthmus/trust"
)

// An authority without the key of the root that issues goes on being believed: its bundle is public, and is known from
// the Record. Certificates that it signed are good to their end. What signs again is the key from a backup (Restore), or a
// new root, which is introduced, and switched to, as in any rotation.

// ErrKeyLost says that the root that issues has no key here.
var ErrKeyLost = errors.New("the key of the root is lost")

// ErrUndoes refuses a backup that would bring an earlier root back in the place of a newer one.
var ErrUndoes = errors.New("the backup would undo a newer root")

// ErrNothingLost refuses a backup where nothing is lost.
var ErrNothingLost = errors.New("the authority has its keys")

// keysGone reports whether an error of KeyStore says that the keys are not there, or not readable, as against a store that is away, a disk that
// fails, and what another key sealed.
func keysGone(err error) bool {
	var content *contentError
	return errors.Is(err, ErrNoState) || damaged(err) || errors.As(err, &content)
}

// contentError says that what is kept is no state.
type contentError struct{ err error }

func (e *contentError) Error() string { return e.err.Error() }
func (e *contentError) Unwrap() error { return e.err }

// load reads what is kept.
func (ca *CA) load(ctx context.Context) (*state, bool, error) {
	secret, lost, err := ca.c.Keys.Load(ctx)
	if err != nil {
		return nil, false, err
	}
	s, err := decodeState(secret)
	if err != nil {
		return nil, false, &contentError{err}
	}
	if s.domain != ca.c.TrustDomain {
		return nil, false, fmt.Errorf("the keys kept are those of %s", s.domain)
	}
	return s, lost, nil
}

// recorded is the newest state without keys; nil is not known.
func (ca *CA) recorded() *state {
	if len(ca.c.Record) == 0 {
		return nil
	}
	s, err := decodeState(trust.NewSecret(ca.c.Record))
	if err != nil || s.domain != ca.c.TrustDomain {
		return nil
	}
	return s
}

// openWithoutKeys goes on from the record.
func (ca *CA) openWithoutKeys(why error) error {
	s := ca.recorded()
	if s == nil {
		return fmt.Errorf("open the certificate authority of %s: %w", ca.c.TrustDomain, why)
	}
	s.lost = why
	s.longUntil, s.ttl = s.lastEnd(ca.c.Clock.Now()), ca.c.TTL
	ca.current.Store(s) // and not written: what is damaged may still be of use to somebody
	ca.c.Log.Error("the key of the certificate authority is lost: nothing is signed, what was signed goes on to its end; restore it from a backup or roll out a new root",
		"trustDomain", string(s.domain), "error", why)
	return nil
}

// withKeysOf is s with the keys of the same roots in o. If the issuer's is not among them, the result lacks it.
func (s *state) withKeysOf(o *state) *state {
	next := *s
	next.roots = maps.Clone(s.roots)
	for number, r := range next.roots {
		if from, ok := o.roots[number]; ok && r.key.IsZero() && bytes.Equal(from.cert.Raw, r.cert.Raw) {
			next.roots[number] = from
		}
	}
	if !next.roots[s.rotation.Issuer].key.IsZero() {
		next.lost = nil
	} else if next.lost == nil {
		next.lost = errors.New("what is kept is of an earlier root")
	}
	return &next
}

// Signs is nil if certificates can be signed, or why not.
func (ca *CA) Signs() error {
	s := ca.current.Load()
	if s.lost != nil {
		return fmt.Errorf("%w: %w", ErrKeyLost, s.lost)
	}
	if r := s.roots[s.rotation.Issuer]; !ca.c.Clock.Now().Before(r.cert.NotAfter) {
		return fmt.Errorf("the root expired %s", r.cert.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

// Record is the public half of the state, for Config.Record.
func (ca *CA) Record() ([]byte, error) {
	s, err := ca.current.Load().encode(true)
	return s.Reveal(), err
}

// Backup is the whole state, keys included: whoever holds it is this authority. It is refused where the issuer's key is lost.
func (ca *CA) Backup() (trust.Secret, error) {
	s := ca.current.Load()
	if s.lost != nil {
		return trust.Secret{}, fmt.Errorf("back up the certificate authority of %s: %w: %w", s.domain, ErrKeyLost, s.lost)
	}
	return s.encode(false)
}

// Restore brings lost keys back from what Backup returned. The roots and the phase stay as they are in force; a backup that lacks
// the key of the root that issues now is refused (ErrUndoes), and so is any while nothing is lost (ErrNothingLost).
func (ca *CA) Restore(ctx context.Context, backup trust.Secret) error {
	from, err := decodeState(backup)
	if err != nil {
		return fmt.Errorf("restore the certificate authority of %s: %w", ca.c.TrustDomain, err)
	}
	if from.domain != ca.c.TrustDomain {
		return fmt.Errorf("restore the certificate authority of %s: the backup is of %s", ca.c.TrustDomain, from.domain)
	}
	ca.mu.Lock()
	defer ca.mu.Unlock()
	s := ca.current.Load()
	if s.lost == nil {
		return fmt.Errorf("restore the certificate authority of %s: %w", s.domain, ErrNothingLost)
	}
	next := s.withKeysOf(from)
	if next.lost != nil {
		return fmt.Errorf("restore the certificate authority of %s: root %d issues here since bundle generation %d, the backup is of generation %d without its key: %w",
			s.domain, s.rotation.Issuer, s.rotation.Generation, from.rotation.Generation, ErrUndoes)
	}
	if err := ca.put(ctx, next); err != nil {
		return err
	}
	ca.c.Log.Warn("the key of the certificate authority was restored from a backup", "trustDomain", string(s.domain), "generation", next.rotation.Generation)
	return nil
}

// Reload takes what another replica wrote. It reports whether that was news.
func (ca *CA) Reload(ctx context.Context) (bool, error) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	s, _, err := ca.load(ctx)
	if err != nil {
		return false, fmt.Errorf("read the certificate authority of %s again: %w", ca.c.TrustDomain, err)
	}
	now := ca.current.Load()
	if s.rotation == now.rotation && (s.lost == nil) == (now.lost == nil) || s.rotation.Generation < now.rotation.Generation {
		return false, nil
	}
	ca.current.Store(s)
	ca.c.Log.Info("another replica changed the certificate authority", "trustDomain", string(s.domain), "phase", string(s.rotation.Phase), "generation", s.rotation.Generation)
	return true, nil
}

// Root is one of the roots in force, for people.
type Root struct {
	Number uint64
	Pin    trust.Pin
	// Ends is when it does.
	Ends time.Time
	// Issues says that it signs, Key that its key is here.
	Issues, Key bool
	// Live are the certificates of it that this process signed and that have neither ended nor been renewed.
	Live int
}

// Roots are those in force, the issuer first.
func (ca *CA) Roots() (out []Root) {
	s := ca.current.Load()
	live := ca.ledger.count(ca.c.Clock.Now())
	for _, number := range s.rotation.Roots() {
		r := s.roots[number]
		out = append(out, Root{Number: number, Pin: trust.PinOf(r.cert), Ends: r.cert.NotAfter, Issues: number == s.rotation.Issuer, Key: !r.key.IsZero(), Live: live[number]})
	}
	return out
}
