package ca

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

// kindToken is the stored object of a join token. It holds a hash: who reads the store cannot join by it.
const kindToken = "JoinToken.isthmus.dev"

// tokensSweep is how often a replica that makes tokens removes those that expired unused.
const tokensSweep = time.Minute

// TokenObjects is the store of a cluster, as far as its tokens are kept there.
type TokenObjects interface {
	Objects
	List(context.Context, store.Scope) ([]store.Object, int64, error)
	Delete(context.Context, store.Key, store.Precondition) (int64, error)
}

// SharedTokens is a TokenStore over the store, so that a token made at one replica is good at all of them, once.
// It is safe for concurrent use.
type SharedTokens struct {
	objects TokenObjects

	mu    sync.Mutex
	swept time.Time
	left  int // when it was swept, and since made here
}

// NewSharedTokens keeps tokens in a store.
func NewSharedTokens(o TokenObjects) *SharedTokens { return &SharedTokens{objects: o} }

func tokenKey(id trust.TokenID) store.Key { return store.Key{Kind: kindToken, Name: id.String()} }

// Create implements TokenStore.
func (t *SharedTokens) Create(ctx context.Context, r TokenRecord, now time.Time) error {
	if err := t.sweep(ctx, now); err != nil {
		return err
	}
	value, err := json.Marshal(storedOf(r))
	if err == nil {
		_, err = t.objects.Put(ctx, store.Object{Key: tokenKey(r.ID), Value: value}, store.MustNotExist())
	}
	return err
}

// sweep removes what expired, and counts.
func (t *SharedTokens) sweep(ctx context.Context, now time.Time) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.Sub(t.swept) >= tokensSweep || t.left >= TokensMax {
		all, _, err := t.objects.List(ctx, store.Scope{Kind: kindToken})
		if err != nil {
			return err
		}
		t.left, t.swept = 0, now
		for _, o := range all {
			if r, err := decodeToken(o); err == nil && !r.over(now) {
				if !r.used() {
					t.left++
				}
				continue
			}
			if _, err := t.objects.Delete(ctx, o.Key, store.AtRevision(o.Revision)); err != nil && !gone(err) {
				return err
			}
		}
	}
	if t.left >= TokensMax {
		return ErrTooManyTokens
	}
	t.left++
	return nil
}

// Get implements TokenStore.
func (t *SharedTokens) Get(ctx context.Context, id trust.TokenID) (TokenRecord, error) {
	o, err := t.objects.Get(ctx, tokenKey(id))
	if errors.Is(err, store.ErrNotFound) {
		return TokenRecord{}, ErrNoToken
	}
	if err != nil {
		return TokenRecord{}, err
	}
	return decodeToken(o)
}

// Use implements TokenStore. Of several that write upon one revision the store lets one; who gets no answer may come
// again.
func (t *SharedTokens) Use(ctx context.Context, id trust.TokenID, key KeyDigest, now time.Time) error {
	for {
		o, err := t.objects.Get(ctx, tokenKey(id))
		if errors.Is(err, store.ErrNotFound) {
			return ErrNoToken
		}
		if err != nil {
			return err
		}
		r, err := decodeToken(o)
		if err != nil {
			return err
		}
		next, err := r.use(key, now)
		if err != nil || r.used() {
			return err
		}
		value, err := json.Marshal(storedOf(next))
		if err != nil {
			return err
		}
		_, err = t.objects.Put(ctx, store.Object{Key: o.Key, Value: value}, store.AtRevision(o.Revision))
		if !gone(err) { // another used it, or took it back: the next look tells
			return err
		}
	}
}

// Remove implements TokenStore.
func (t *SharedTokens) Remove(ctx context.Context, id trust.TokenID) error {
	_, err := t.objects.Delete(ctx, tokenKey(id), store.Any())
	if gone(err) {
		return ErrNoToken
	}
	return err
}

// gone reports whether what was to be deleted had been before.
func gone(err error) bool {
	return errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrConflict)
}

func decodeToken(o store.Object) (TokenRecord, error) {
	var s storedToken
	if err := json.Unmarshal(o.Value, &s); err != nil {
		return TokenRecord{}, fmt.Errorf("%s: %w", o.Key, err)
	}
	id, err := mesh.ParseIdentity(s.Identity)
	if err != nil {
		return TokenRecord{}, fmt.Errorf("%s: %w", o.Key, err)
	}
	return s.record(id), nil
}
