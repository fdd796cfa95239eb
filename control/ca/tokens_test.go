package ca_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-mesh/isthmus/control/ca"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

func issue(t testing.TB, tokens *ca.JoinTokens) trust.Token {
	t.Helper()
	token, err := tokens.Issue(context.Background(), shop, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// ours and theirs are keys that use tokens.
var ours, theirs = ca.KeyDigest{1}, ca.KeyDigest{2}

func wantRefused(t testing.TB, what string, err error) {
	t.Helper()
	var refused *ca.RefusedError
	if !errors.As(err, &refused) {
		t.Errorf("%s: %v, want a refusal", what, err)
	}
}

func TestATokenIsGoodOnce(t *testing.T) {
	tokens := ca.NewJoinTokens(newPlace(t).open(t), &ca.MemoryTokens{})
	token := issue(t, tokens)
	if token.Identity != shop || len(token.Secret.Reveal()) < 16 {
		t.Errorf("token of %v with %d bytes of secret", token.Identity, len(token.Secret.Reveal()))
	}
	// Guesses do not spoil it, and neither does a malformed request.
	_, err := tokens.Redeem(t.Context(), token.ID, trust.RandomSecret(trust.TokenSecretBytes), ours)
	wantRefused(t, "a wrong secret", err)
	_, err = tokens.Redeem(t.Context(), token.ID, trust.Secret{}, ours)
	wantRefused(t, "no secret", err)
	_, err = tokens.Redeem(t.Context(), trust.TokenID{}, token.Secret, ours)
	wantRefused(t, "another ID", err)
	_, err = tokens.Join(t.Context(), token.ID, token.Secret, []byte("rubbish"))
	wantRefused(t, "a malformed request", err)
	other := issue(t, tokens)
	_, err = tokens.Redeem(t.Context(), other.ID, token.Secret, ours)
	wantRefused(t, "another token's secret", err)

	who, err := tokens.Redeem(t.Context(), token.ID, token.Secret, ours)
	if err != nil || who.Identity != shop || who.By != "join token "+token.ID.String() {
		t.Errorf("redeemed %v, %v", who, err)
	}
	_, err = tokens.Redeem(t.Context(), token.ID, token.Secret, theirs)
	wantRefused(t, "a second key", err)
	if again, err := tokens.Redeem(t.Context(), token.ID, token.Secret, ours); err != nil || again != who {
		t.Errorf("the same key, whose answer may have been lost: %v, %v", again, err)
	}

	if err := tokens.Drop(t.Context(), other.ID); err != nil {
		t.Error(err)
	}
	_, err = tokens.Redeem(t.Context(), other.ID, other.Secret, ours)
	wantRefused(t, "after it was dropped", err)
}

func TestATokenIsMadeForTheHourAndTheDomain(t *testing.T) {
	tokens := ca.NewJoinTokens(newPlace(t).open(t), &ca.MemoryTokens{})
	for _, life := range []time.Duration{0, -time.Second, time.Hour + 1} {
		if _, err := tokens.Issue(t.Context(), shop, life); err == nil {
			t.Errorf("life %v: accepted", life)
		}
	}
	foreign := shop
	foreign.TrustDomain = "us-east.isthmus.local"
	for _, id := range []mesh.Identity{foreign, {}} {
		if _, err := tokens.Issue(t.Context(), id, time.Minute); err == nil {
			t.Errorf("for %v: accepted", id)
		}
	}
}

func TestATokenExpires(t *testing.T) {
	dir, key := newPlace(t), trust.NewSealKey()
	synctest.Test(t, func(t *testing.T) {
		store, err := ca.OpenSealedTokens(filepath.Join(t.TempDir(), "tokens"), key, clock.Real{})
		if err != nil {
			t.Fatal(err)
		}
		tokens := ca.NewJoinTokens(dir.open(t), store)
		early, late := issue(t, tokens), issue(t, tokens)
		time.Sleep(time.Hour - time.Second)
		again := issue(t, tokens)
		for range 2 {
			if _, err := tokens.Redeem(t.Context(), early.ID, early.Secret, ours); err != nil {
				t.Errorf("a second before its end: %v", err)
			}
			if _, err := tokens.Redeem(t.Context(), again.ID, again.Secret, ours); err != nil {
				t.Errorf("a new one: %v", err)
			}
		}
		time.Sleep(time.Second)
		_, err = tokens.Redeem(t.Context(), late.ID, late.Secret, ours)
		wantRefused(t, "at its end", err)
		time.Sleep(ca.TokenAgain - time.Second)
		_, err = tokens.Redeem(t.Context(), again.ID, again.Secret, ours)
		wantRefused(t, "long after it was used, by the same key", err)
	})
}

// TestOneOfAThousandWins races for one token, at a store in memory and at one on
// disk.
func TestOneOfAThousandWins(t *testing.T) {
	sealed, err := ca.OpenSealedTokens(filepath.Join(t.TempDir(), "tokens"), trust.NewSealKey(), clock.Real{})
	if err != nil {
		t.Fatal(err)
	}
	authority := newPlace(t).open(t)
	for name, store := range map[string]ca.TokenStore{"memory": &ca.MemoryTokens{}, "sealed": sealed} {
		tokens := ca.NewJoinTokens(authority, store)
		token := issue(t, tokens)
		var won atomic.Int32
		var start, done sync.WaitGroup
		start.Add(1)
		for i := range 1000 {
			done.Go(func() {
				start.Wait()
				if _, err := tokens.Redeem(context.Background(), token.ID, token.Secret, ca.KeyDigest{byte(i), byte(i >> 8), 1}); err == nil {
					won.Add(1)
				}
			})
		}
		start.Done()
		done.Wait()
		if won.Load() != 1 {
			t.Errorf("%s: %d of 1000 won, want 1", name, won.Load())
		}
	}
}

func TestARestartRevivesNoToken(t *testing.T) {
	path, key := filepath.Join(t.TempDir(), "tokens"), trust.NewSealKey()
	authority := newPlace(t).open(t)
	restart := func() *ca.JoinTokens {
		t.Helper()
		store, err := ca.OpenSealedTokens(path, key, clock.Real{})
		if err != nil {
			t.Fatal(err)
		}
		return ca.NewJoinTokens(authority, store)
	}
	tokens := restart()
	used, kept := issue(t, tokens), issue(t, tokens)
	if _, err := tokens.Redeem(t.Context(), used.ID, used.Secret, ours); err != nil {
		t.Fatal(err)
	}
	tokens = restart()
	_, err := tokens.Redeem(t.Context(), used.ID, used.Secret, theirs)
	wantRefused(t, "used before the restart", err)
	if _, err := tokens.Redeem(t.Context(), used.ID, used.Secret, ours); err != nil {
		t.Errorf("used before the restart, by the same key: %v", err)
	}
	if _, err := tokens.Redeem(t.Context(), kept.ID, kept.Secret, ours); err != nil {
		t.Errorf("unused before the restart: %v", err)
	}

	// The file before the damaged one still has the token that was used last.
	used = issue(t, tokens)
	if _, err := tokens.Redeem(t.Context(), used.ID, used.Secret, ours); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 100); err != nil {
		t.Fatal(err)
	}
	tokens = restart()
	_, err = tokens.Redeem(t.Context(), used.ID, used.Secret, ours)
	wantRefused(t, "used before the file was damaged", err)
	if err := os.Truncate(path, 10); err != nil {
		t.Fatal(err)
	}
	tokens = restart()
	_, err = tokens.Redeem(t.Context(), used.ID, used.Secret, ours)
	wantRefused(t, "and after another damage", err)
}

// tampering changes what the store says of a token.
type tampering struct {
	ca.TokenStore
	change func(*ca.TokenRecord)
}

func (s tampering) Get(ctx context.Context, id trust.TokenID) (ca.TokenRecord, error) {
	r, err := s.TokenStore.Get(ctx, id)
	s.change(&r)
	return r, err
}

func TestARecordChangedInTheStoreIsNobodysToken(t *testing.T) {
	authority := newPlace(t).open(t)
	for name, change := range map[string]func(*ca.TokenRecord){
		"control: unchanged": func(*ca.TokenRecord) {},
		"identity":           func(r *ca.TokenRecord) { r.Identity = control },
		"end":                func(r *ca.TokenRecord) { r.Expires = r.Expires.Add(time.Hour) },
		"pin":                func(r *ca.TokenRecord) { r.Pin[0] ^= 1 },
		"ID":                 func(r *ca.TokenRecord) { r.ID[0] ^= 1 },
		"hash":               func(r *ca.TokenRecord) { r.Hash[0] ^= 1 },
	} {
		tokens := ca.NewJoinTokens(authority, tampering{&ca.MemoryTokens{}, change})
		token := issue(t, tokens)
		_, err := tokens.Redeem(t.Context(), token.ID, token.Secret, ours)
		if (err == nil) != (name == "control: unchanged") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestATokenOfARetiredRootIsRefused(t *testing.T) {
	store := &ca.MemoryTokens{}
	token := issue(t, ca.NewJoinTokens(newPlace(t).open(t), store))
	other := ca.NewJoinTokens(newPlace(t).open(t), store) // the same domain, another root
	_, err := other.Redeem(t.Context(), token.ID, token.Secret, ours)
	wantRefused(t, "another authority of the same domain", err)
}

func TestUnusedTokensAreBounded(t *testing.T) {
	store := &ca.MemoryTokens{}
	now := time.Unix(1_800_000_000, 0)
	for i := range ca.TokensMax {
		id := trust.TokenID{byte(i), byte(i >> 8)}
		if err := store.Create(t.Context(), ca.TokenRecord{ID: id, Expires: now.Add(time.Minute)}, now); err != nil {
			t.Fatal(err)
		}
	}
	one := ca.TokenRecord{ID: trust.TokenID{0xff, 0xff, 1}, Expires: now.Add(time.Hour)}
	if err := store.Create(t.Context(), one, now); !errors.Is(err, ca.ErrTooManyTokens) {
		t.Errorf("one more: %v", err)
	}
	if err := store.Use(t.Context(), trust.TokenID{}, ours, now); err != nil {
		t.Fatal(err)
	}
	if err := store.Create(t.Context(), one, now); err != nil {
		t.Errorf("after one was used: %v", err)
	}
	one.ID[3] = 1
	if err := store.Create(t.Context(), one, now); !errors.Is(err, ca.ErrTooManyTokens) {
		t.Errorf("and one more: %v", err)
	}
	if err := store.Create(t.Context(), one, now.Add(2*time.Minute)); err != nil {
		t.Errorf("after the others expired: %v", err)
	}
}

func TestNoStoreShowsASecret(t *testing.T) {
	store := &ca.MemoryTokens{}
	token := issue(t, ca.NewJoinTokens(newPlace(t).open(t), store))
	r, err := store.Get(t.Context(), token.ID)
	if err != nil {
		t.Fatal(err)
	}
	secret := token.Secret.Reveal()
	for form, text := range map[string]string{"record": fmt.Sprintf("%v %x %s", r, r.Hash, r.Hash), "token": fmt.Sprintf("%v %+v %#v %s", token, token, token, token.ID)} {
		for _, s := range []string{string(secret), fmt.Sprintf("%x", secret), fmt.Sprint(secret)} {
			if len(s) > 0 && strings.Contains(text, s) {
				t.Errorf("%s shows the secret", form)
			}
		}
	}
}
