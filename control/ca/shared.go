package ca

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

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

// IsAuthority reports whether a stored object is the authority, which replicas reload when another wrote it.
func IsAuthority(k store.Key) bool { return k == authorityKey }

const (
	authorityPurpose = "certificate authority in the store"
	// authorityWait is for how long a first start waits for a store that is away.
	authorityWait = 30 * time.Second
)

// ErrMoved says that another replica was first: who opens the authority again finds what that wrote.
var ErrMoved = errors.New("another replica wrote the authority meanwhile")

// Objects is the store of a cluster, as far as its authority is kept there.
type Objects interface {
	Get(context.Context, store.Key) (store.Object, error)
	Put(context.Context, store.Object, store.Precondition) (int64, error)
}

// SharedConfig is what SharedKeys work with; all fields are required.
type SharedConfig struct {
	Objects Objects
	// Key seals, and is that of all replicas.
	Key trust.SealKey
	// Copy is kept by this replica alone.
	Copy  *SealedKeys
	Clock clock.Clock
	Log   *slog.Logger
}

// SharedKeys is a KeyStore over the store. A CA uses it from one goroutine.
type SharedKeys struct {
	c SharedConfig
	// revision is that of the object as it was read or written, 0 for none; away says that it was not read.
	revision int64
	away     bool
}

// NewSharedKeys returns a KeyStore for one Open.
func NewSharedKeys(c SharedConfig) *SharedKeys { return &SharedKeys{c: c} }

// Load implements KeyStore.
func (k *SharedKeys) Load(ctx context.Context) (trust.Secret, bool, error) {
	copied, lost, fileErr := k.c.Copy.Load(ctx)
	if damaged(fileErr) {
		k.c.Log.Error("the copy of the certificate authority that is kept here is damaged: the store decides", "error", fileErr)
	} else if fileErr != nil && !errors.Is(fileErr, ErrNoState) {
		return trust.Secret{}, false, fileErr
	}
	began := k.c.Clock.Now()
	for {
		o, err := k.c.Objects.Get(ctx, authorityKey)
		switch {
		case err == nil:
			return k.take(ctx, o, copied, fileErr == nil)
		case errors.Is(err, store.ErrNotFound):
			k.revision = 0
			if fileErr != nil { // that there was a copy says that there was an authority
				return trust.Secret{}, false, fileErr
			}
			k.c.Log.Warn("the store has no certificate authority: it gets the copy kept here")
			return copied, lost, k.Save(ctx, copied)
		case errors.Is(err, store.ErrRefused):
			return trust.Secret{}, false, err
		case fileErr == nil:
			k.away = true
			k.c.Log.Warn("the store is away: the certificate authority is the copy kept here", "error", err)
			return copied, lost, nil
		case k.c.Clock.Now().Sub(began) > authorityWait:
			return trust.Secret{}, false, fmt.Errorf("the first start needs the store, which holds the certificate authority: %w", err)
		}
		k.c.Log.Warn("waiting for the store, which holds the certificate authority", "error", err)
		if err := clock.Wait(ctx, k.c.Clock, 200*time.Millisecond); err != nil {
			return trust.Secret{}, false, err
		}
	}
}

// damaged reports whether what is kept is no authority's, as against one that another key sealed.
func damaged(err error) bool {
	var e *trust.SealError
	return errors.As(err, &e) && (e.Fault == trust.SealForeign || e.Fault == trust.SealTruncated || e.Fault == trust.SealCorrupt)
}

// take reads the object, and keeps a copy.
func (k *SharedKeys) take(ctx context.Context, o store.Object, copied trust.Secret, had bool) (trust.Secret, bool, error) {
	k.away, k.revision = false, o.Revision
	sealed, err := trust.Unseal(k.c.Key, authorityPurpose, o.Value)
	if had && damaged(err) {
		k.c.Log.Error("the certificate authority in the store is damaged: it gets the copy kept here", "error", err)
		return copied, false, k.Save(ctx, copied)
	}
	if err != nil {
		return trust.Secret{}, false, fmt.Errorf("the certificate authority in the store: %w: give all replicas of a cluster the same seal key, and each cluster an etcd of its own", err)
	}
	state := trust.NewSecret(sealed.Payload)
	if had && bytes.Equal(copied.Reveal(), sealed.Payload) {
		return state, false, nil
	}
	return state, false, k.c.Copy.Save(ctx, state)
}

// Save implements KeyStore: the store first, for it decides.
func (k *SharedKeys) Save(ctx context.Context, state trust.Secret) error {
	if k.away {
		return errors.New("the store was away when this control plane started, and it decides about the authority: start it again")
	}
	pre := store.MustNotExist()
	if k.revision != 0 {
		pre = store.AtRevision(k.revision)
	}
	value, err := trust.Seal(k.c.Key, authorityPurpose, trust.Sealed{Created: k.c.Clock.Now(), Payload: state.Reveal()})
	if err != nil {
		return err
	}
	revision, err := k.c.Objects.Put(ctx, store.Object{Key: authorityKey, Value: value}, pre)
	if errors.Is(err, store.ErrExists) || errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound) {
		return ErrMoved
	}
	if err != nil {
		return err
	}
	k.revision = revision
	return k.c.Copy.Save(ctx, state)
}
