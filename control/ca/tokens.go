package ca

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

// TokenLifeMax is the longest life of a join token.
const TokenLifeMax = time.Hour

// TokenAgain is for how long the key that used a token may use it again: an answer can be lost after the token was used,
// and a proxy that was started with one token has no other.
const TokenAgain = 10 * time.Minute

// KeyDigest is SHA-256 of a public key (SubjectPublicKeyInfo, DER).
type KeyDigest [sha256.Size]byte

// TokenRecord is what is kept of a token: nothing in it lets its reader join.
type TokenRecord struct {
	ID       trust.TokenID
	Hash     [sha256.Size]byte // of everything the token binds and its secret
	Pin      trust.Pin
	Identity mesh.Identity
	Expires  time.Time
	// UsedBy is the key that used it, zero for none yet, and UsedAt when.
	UsedBy KeyDigest
	UsedAt time.Time
}

// used reports whether the token is no longer anybody's to use first.
func (r TokenRecord) used() bool { return r.UsedBy != KeyDigest{} }

// over reports whether the token is good for nothing more.
func (r TokenRecord) over(now time.Time) bool {
	return r.Expires.Before(now) || r.used() && !now.Before(r.UsedAt.Add(TokenAgain))
}

// use is r used by key, or ErrNoToken if another key did.
func (r TokenRecord) use(key KeyDigest, now time.Time) (TokenRecord, error) {
	if r.used() && r.UsedBy != key || r.over(now) {
		return r, ErrNoToken
	}
	if !r.used() {
		r.UsedBy, r.UsedAt = key, now
	}
	return r, nil
}

// TokenStore keeps records over restarts of the control plane and shares them among
// its replicas.
type TokenStore interface {
	// Create adds a record, durably when it returns nil. It may drop records that are
	// good for nothing more.
	Create(ctx context.Context, r TokenRecord, now time.Time) error
	// Get returns a record; ErrNoToken if there is none.
	Get(ctx context.Context, id trust.TokenID) (TokenRecord, error)
	// Use notes that key uses the token, durably when it returns nil. Of any number of
	// keys, at any replicas, one is let; it may come again for TokenAgain. The others
	// get ErrNoToken.
	Use(ctx context.Context, id trust.TokenID, key KeyDigest, now time.Time) error
	// Remove takes a record out, durably when it returns nil; ErrNoToken if there is none.
	Remove(ctx context.Context, id trust.TokenID) error
}

// ErrNoToken says that a token was used, dropped, or never made.
var ErrNoToken = errors.New("no such join token: used, expired or never made")

// JoinTokens makes and redeems join tokens. A supervisor that restarts a workload
// gets it a new one by Issue. All methods are safe for concurrent use.
type JoinTokens struct {
	ca    *CA
	store TokenStore
	clock clock.Clock
}

// NewJoinTokens makes tokens for ca.
func NewJoinTokens(ca *CA, store TokenStore) *JoinTokens {
	return &JoinTokens{ca: ca, store: store, clock: ca.c.Clock}
}

// Issue makes a token for id, of the authority's trust domain, that lives for life,
// at most TokenLifeMax.
func (t *JoinTokens) Issue(ctx context.Context, id mesh.Identity, life time.Duration) (trust.Token, error) {
	if life <= 0 || life > TokenLifeMax {
		return trust.Token{}, fmt.Errorf("make a join token for %s: life %s, want more than 0 and at most %s", id, life, TokenLifeMax)
	}
	if err := t.ca.checkIdentity(Attested{Identity: id, By: "join token"}); err != nil {
		return trust.Token{}, fmt.Errorf("make a join token: %w", err)
	}
	now := t.clock.Now()
	token := trust.Token{
		Secret: trust.RandomSecret(trust.TokenSecretBytes), CAPin: t.ca.Pin(), Identity: id,
		Expires: now.Add(life).Truncate(time.Second),
	}
	_, _ = rand.Read(token.ID[:]) // never fails (crypto/rand)
	record := TokenRecord{ID: token.ID, Pin: token.CAPin, Identity: id, Expires: token.Expires}
	record.Hash = record.hash(token.Secret)
	if err := t.store.Create(ctx, record, now); err != nil {
		return trust.Token{}, fmt.Errorf("make a join token for %s: %w", id, err)
	}
	return token, nil
}

// Redeem trades a token for the identity it was made for, for one key: whoever holds it
// may ask again for TokenAgain, since the first answer may have been lost. A wrong secret
// leaves the token as it is: its ID is no secret, and knowing it must not be enough
// to spoil it. Errors that refuse are *RefusedError and all say the same to the
// asker.
func (t *JoinTokens) Redeem(ctx context.Context, id trust.TokenID, secret trust.Secret, key KeyDigest) (Attested, error) {
	record, err := t.store.Get(ctx, id)
	if errors.Is(err, ErrNoToken) {
		return Attested{}, refuseToken(id, ErrNoToken)
	}
	if err != nil {
		return Attested{}, fmt.Errorf("redeem join token %s: %w", id, err)
	}
	// SHA-256 suffices where a password would need a slow hash: the secret is 256 bits
	// of chance.
	want, got := record.Hash, record.hash(secret)
	if subtle.ConstantTimeCompare(want[:], got[:]) != 1 {
		return Attested{}, refuseToken(id, errors.New("wrong secret"))
	}
	if !t.clock.Now().Before(record.Expires) {
		return Attested{}, refuseToken(id, fmt.Errorf("expired %s", record.Expires.UTC().Format(time.RFC3339)))
	}
	if record.Identity.TrustDomain != t.ca.c.TrustDomain {
		return Attested{}, refuseToken(id, fmt.Errorf("made for %s", record.Identity.TrustDomain))
	}
	if !t.ca.hasRoot(record.Pin) {
		return Attested{}, refuseToken(id, errors.New("made for a root that is retired"))
	}
	if err := t.store.Use(ctx, id, key, t.clock.Now()); errors.Is(err, ErrNoToken) {
		return Attested{}, refuseToken(id, ErrNoToken)
	} else if err != nil {
		return Attested{}, fmt.Errorf("redeem join token %s: %w", id, err)
	}
	return Attested{Identity: record.Identity, By: "join token " + id.String()}, nil
}

// Join is the whole of a first contact: Redeem and Sign. The request is examined
// first, so that a malformed one does not use up the token.
func (t *JoinTokens) Join(ctx context.Context, id trust.TokenID, secret trust.Secret, csrDER []byte) (Issued, error) {
	public, err := csrKey(csrDER)
	if err != nil {
		return Issued{}, &RefusedError{Why: "certificate signing request", Err: err}
	}
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return Issued{}, &RefusedError{Why: "certificate signing request", Err: err}
	}
	who, err := t.Redeem(ctx, id, secret, sha256.Sum256(spki))
	if err != nil {
		return Issued{}, err
	}
	return t.ca.Sign(csrDER, who)
}

// Drop takes an unused token back.
func (t *JoinTokens) Drop(ctx context.Context, id trust.TokenID) error {
	if err := t.store.Remove(ctx, id); err != nil {
		return fmt.Errorf("drop join token %s: %w", id, err)
	}
	return nil
}

// hash binds the secret to everything else that the record says, so that a record
// changed in the store is a token nobody holds. Every part has a fixed length or
// comes last.
func (r TokenRecord) hash(secret trust.Secret) [sha256.Size]byte {
	h := sha256.New()
	h.Write([]byte("isthmus join token 1\x00"))
	h.Write(r.ID[:])
	h.Write(r.Pin[:])
	fmt.Fprintf(h, "%020d", r.Expires.Unix())
	s := sha256.Sum256(secret.Reveal())
	h.Write(s[:])
	h.Write([]byte(r.Identity.String()))
	return [sha256.Size]byte(h.Sum(nil))
}

// refuseToken keeps the cause for the log under an answer that tells an asker
// nothing.
func refuseToken(id trust.TokenID, cause error) error {
	return &RefusedError{Why: "join token " + id.String(), Err: cause}
}

func (ca *CA) hasRoot(pin trust.Pin) bool {
	for _, r := range ca.current.Load().roots {
		if trust.PinOf(r.cert) == pin {
			return true
		}
	}
	return false
}
