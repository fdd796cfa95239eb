package plane

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/isthmus-mesh/isthmus/control/ca"
	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/trust"
)

// The replicas of a control plane are one authority: over an external store its state is an object there, sealed by
// the key that all replicas inherit, so that who reads the store learns nothing. Each keeps a copy beside its
// caches, from which it starts while the store is away, and by which a store that was wiped gets it back: a new
// root would make strangers of all who hold certificates.

// kindAuthority is the stored object of the authority.
const kindAuthority = "Authority.isthmus.dev"

var authorityKey = store.Key{Kind: kindAuthority, Name: "own"}

const (
	authorityPurpose = "certificate authority in the store"
	// authorityWait is for how long a first start waits for a store that is away.
	authorityWait = 30 * time.Second
	// authorityTries bounds how often replicas that start at once read again what another was first to write.
	authorityTries = 5
)

// errAuthorityMoved says that another replica was first.
var errAuthorityMoved = errors.New("another replica wrote the authority meanwhile")

// sharedKeys is a ca.KeyStore over the store. A CA uses it from one goroutine.
type sharedKeys struct {
	plane *Plane
	file  *ca.SealedKeys
	// revision is that of the object as it was read or written, 0 for none; away says that it was not read.
	revision int64
	away     bool
}

// Load implements ca.KeyStore.
func (k *sharedKeys) Load(ctx context.Context) (trust.Secret, bool, error) {
	p := k.plane
	copied, lost, fileErr := k.file.Load(ctx)
	if fileErr != nil && !errors.Is(fileErr, ca.ErrNoState) {
		return trust.Secret{}, false, fileErr
	}
	began := p.clock.Now()
	for {
		o, err := p.store.Get(ctx, authorityKey)
		switch {
		case err == nil:
			return k.take(ctx, o, copied, fileErr == nil)
		case errors.Is(err, store.ErrNotFound):
			k.revision = 0
			if fileErr != nil {
				return trust.Secret{}, false, ca.ErrNoState
			}
			p.log.Warn("the store has no certificate authority: it gets the copy kept here")
			return copied, lost, k.Save(ctx, copied)
		case errors.Is(err, store.ErrRefused):
			return trust.Secret{}, false, err
		case fileErr == nil:
			k.away = true
			p.log.Warn("the store is away: the certificate authority is the copy kept here", "error", err)
			return copied, lost, nil
		case p.clock.Now().Sub(began) > authorityWait:
			return trust.Secret{}, false, fmt.Errorf("the first start needs the store, which holds the certificate authority: %w", err)
		}
		p.log.Warn("waiting for the store, which holds the certificate authority", "error", err)
		if err := clock.Wait(ctx, p.clock, 200*time.Millisecond); err != nil {
			return trust.Secret{}, false, err
		}
	}
}

// take reads the object, and keeps a copy.
func (k *sharedKeys) take(ctx context.Context, o store.Object, copied trust.Secret, had bool) (trust.Secret, bool, error) {
	sealed, err := trust.Unseal(k.plane.sealKey, authorityPurpose, o.Value)
	if err != nil {
		return trust.Secret{}, false, fmt.Errorf("the certificate authority in the store: %w: give all replicas of a cluster the same seal key, and each cluster an etcd of its own", err)
	}
	k.revision = o.Revision
	state := trust.NewSecret(sealed.Payload)
	if had && bytes.Equal(copied.Reveal(), sealed.Payload) {
		return state, false, nil
	}
	return state, false, k.file.Save(ctx, state)
}

// Save implements ca.KeyStore: the store first, for it decides.
func (k *sharedKeys) Save(ctx context.Context, state trust.Secret) error {
	if k.away {
		return errors.New("the store was away when this control plane started, and it decides about the authority: start it again")
	}
	pre := store.MustNotExist()
	if k.revision != 0 {
		pre = store.AtRevision(k.revision)
	}
	value, err := trust.Seal(k.plane.sealKey, authorityPurpose, trust.Sealed{Created: k.plane.clock.Now(), Payload: state.Reveal()})
	if err != nil {
		return err
	}
	revision, err := k.plane.store.Put(ctx, store.Object{Key: authorityKey, Value: value}, pre)
	if errors.Is(err, store.ErrExists) || errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound) {
		return errAuthorityMoved
	}
	if err != nil {
		return err
	}
	k.revision = revision
	return k.file.Save(ctx, state)
}

// openCA opens the authority where it is kept.
func (p *Plane) openCA(ctx context.Context) (err error) {
	file := ca.NewSealedKeys(p.cfg.path("authority.sealed"), p.sealKey, p.clock)
	c := ca.Config{TrustDomain: p.cfg.TrustDomain(), TTL: p.cfg.CertificateTTL, Clock: p.clock, Log: p.log, Keys: file}
	if !p.cfg.shared() {
		if p.ca, err = ca.Open(ctx, c); err != nil {
			return err
		}
		// Tokens live in memory: a restart spoils those not used, and who needs one asks again.
		p.tokens = ca.NewJoinTokens(p.ca, &ca.MemoryTokens{})
		return nil
	}
	for range authorityTries {
		c.Keys = &sharedKeys{plane: p, file: file}
		if p.ca, err = ca.Open(ctx, c); !errors.Is(err, errAuthorityMoved) {
			break
		}
	}
	if err != nil {
		return err
	}
	p.tokens = ca.NewJoinTokens(p.ca, &sharedTokens{plane: p})
	return nil
}
