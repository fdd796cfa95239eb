package plane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/control/ca"
	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

// kindToken is the stored object of an unused join token. It holds a hash: who reads the store cannot join by it.
const kindToken = "JoinToken.isthmus.dev"

// tokensSweep is how often a replica that makes tokens removes those that expired unused.
const tokensSweep = time.Minute

// sharedTokens is a ca.TokenStore over the store, so that a token made at one replica is good at all of them, once.
// It is safe for concurrent use.
type sharedTokens struct {
	plane *Plane

	mu    sync.Mutex
	swept time.Time
	left  int // when it was swept, and since made here
}

type storedToken struct {
	Hash     [32]byte
	Pin      trust.Pin
	Identity string
	Expires  int64 // Unix seconds
}

func tokenKey(id trust.TokenID) store.Key { return store.Key{Kind: kindToken, Name: id.String()} }

// Create implements ca.TokenStore.
func (t *sharedTokens) Create(ctx context.Context, r ca.TokenRecord, now time.Time) error {
	if err := t.sweep(ctx, now); err != nil {
		return err
	}
	value, err := json.Marshal(storedToken{r.Hash, r.Pin, r.Identity.String(), r.Expires.Unix()})
	if err == nil {
		_, err = t.plane.store.Put(ctx, store.Object{Key: tokenKey(r.ID), Value: value}, store.MustNotExist())
	}
	return err
}

// sweep removes what expired, and counts.
func (t *sharedTokens) sweep(ctx context.Context, now time.Time) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.Sub(t.swept) >= tokensSweep || t.left >= ca.TokensMax {
		all, _, err := t.plane.store.List(ctx, store.Scope{Kind: kindToken})
		if err != nil {
			return err
		}
		t.left, t.swept = 0, now
		for _, o := range all {
			if r, err := decodeToken(o); err == nil && !r.Expires.Before(now) {
				t.left++
				continue
			}
			if _, err := t.plane.store.Delete(ctx, o.Key, store.AtRevision(o.Revision)); err != nil && !gone(err) {
				return err
			}
		}
	}
	if t.left >= ca.TokensMax {
		return ca.ErrTooManyTokens
	}
	t.left++
	return nil
}

// Get implements ca.TokenStore.
func (t *sharedTokens) Get(ctx context.Context, id trust.TokenID) (ca.TokenRecord, error) {
	o, err := t.plane.store.Get(ctx, tokenKey(id))
	if errors.Is(err, store.ErrNotFound) {
		return ca.TokenRecord{}, ca.ErrNoToken
	}
	if err != nil {
		return ca.TokenRecord{}, err
	}
	r, err := decodeToken(o)
	r.ID = id
	return r, err
}

// Remove implements ca.TokenStore. Of several that delete one object the store answers one only with success; who gets
// no answer has not redeemed it, although it may be gone.
func (t *sharedTokens) Remove(ctx context.Context, id trust.TokenID) error {
	_, err := t.plane.store.Delete(ctx, tokenKey(id), store.Any())
	if gone(err) {
		return ca.ErrNoToken
	}
	return err
}

// gone reports whether what was to be deleted had been before.
func gone(err error) bool {
	return errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrConflict)
}

func decodeToken(o store.Object) (ca.TokenRecord, error) {
	var s storedToken
	if err := json.Unmarshal(o.Value, &s); err != nil {
		return ca.TokenRecord{}, fmt.Errorf("%s: %w", o.Key, err)
	}
	id, err := mesh.ParseIdentity(s.Identity)
	if err != nil {
		return ca.TokenRecord{}, fmt.Errorf("%s: %w", o.Key, err)
	}
	return ca.TokenRecord{Hash: s.Hash, Pin: s.Pin, Identity: id, Expires: time.Unix(s.Expires, 0)}, nil
}
