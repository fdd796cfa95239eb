package ca

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

// KeyStore keeps the authority's state, which holds its private keys: an
// implementation encrypts it. One CA uses a KeyStore at a time.
type KeyStore interface {
	// Load returns what Save kept. ErrNoState means that nothing was ever kept; no other
	// error may mean it, for a CA that finds nothing makes a new root. lost reports that
	// the state is an earlier one than the last that Save was given.
	Load(ctx context.Context) (state trust.Secret, lost bool, err error)
	// Save replaces the state, durably when it returns nil.
	Save(ctx context.Context, state trust.Secret) error
}

// ErrNoState is Load's answer before the first Save.
var ErrNoState = errors.New("no authority is kept here")

// SealedKeys is a KeyStore in a sealed file.
type SealedKeys struct {
	file  *trust.SealedFile
	clock clock.Clock
}

// NewSealedKeys keeps the state at path, mode 0600, sealed with key.
func NewSealedKeys(path string, key trust.SealKey, c clock.Clock) *SealedKeys {
	return &SealedKeys{&trust.SealedFile{Path: path, Key: key, Purpose: "certificate authority"}, c}
}

// Load implements KeyStore.
func (k *SealedKeys) Load(context.Context) (trust.Secret, bool, error) {
	s, err := k.file.Read()
	if errors.Is(err, fs.ErrNotExist) {
		return trust.Secret{}, false, ErrNoState
	}
	if err != nil {
		return trust.Secret{}, false, err
	}
	return trust.NewSecret(s.Payload), s.FellBack != nil, nil
}

// Save implements KeyStore.
func (k *SealedKeys) Save(_ context.Context, state trust.Secret) error {
	_, err := k.file.Write(state.Reveal(), 0, k.clock.Now())
	return err
}

// stored is the state as it is kept.
type stored struct {
	Version     int
	TrustDomain mesh.TrustDomain
	Phase       Phase
	Generation  uint64
	Issuer      uint64
	Other       uint64 `json:",omitempty"`
	Older       uint64 `json:",omitempty"`
	OldUntil    int64  `json:",omitempty"` // Unix milliseconds; 0 is none
	TTL         time.Duration
	LongUntil   int64 `json:",omitempty"` // Unix milliseconds; 0 is none
	Roots       []storedRoot
}

type storedRoot struct {
	Number uint64
	Cert   []byte // DER
	Key    []byte `json:",omitempty"` // PKCS #8; a key that was lost is none
}

const storedVersion = 1

// encode is the state as it is kept, without keys if it is public.
func (s *state) encode(public bool) (trust.Secret, error) {
	r := s.rotation
	out := stored{Version: storedVersion, TrustDomain: s.domain, Phase: r.Phase, Generation: r.Generation, Issuer: r.Issuer, Other: r.Other, Older: r.Older}
	out.TTL, out.OldUntil, out.LongUntil = s.ttl, millis(r.OldUntil), millis(s.longUntil)
	for _, number := range r.Roots() {
		root := s.roots[number]
		var key []byte
		if !public && !root.key.IsZero() {
			var err error
			if key, err = root.key.Reveal(); err != nil {
				return trust.Secret{}, fmt.Errorf("root %d: %w", number, err)
			}
		}
		out.Roots = append(out.Roots, storedRoot{number, root.cert.Raw, key})
	}
	b, err := json.Marshal(out)
	return trust.NewSecret(b), err
}

func decodeState(secret trust.Secret) (*state, error) {
	var in stored
	if err := json.Unmarshal(secret.Reveal(), &in); err != nil {
		return nil, errors.New("not the state of an authority")
	}
	if in.Version != storedVersion {
		return nil, fmt.Errorf("state of version %d, want %d", in.Version, storedVersion)
	}
	s := &state{
		domain:   in.TrustDomain,
		rotation: Rotation{Phase: in.Phase, Generation: in.Generation, Issuer: in.Issuer, Other: in.Other, Older: in.Older},
		roots:    map[uint64]root{},
	}
	s.rotation.OldUntil, s.longUntil, s.ttl = fromMillis(in.OldUntil), fromMillis(in.LongUntil), in.TTL
	for _, r := range in.Roots {
		parsed, err := parseRoot(r)
		if err != nil {
			return nil, fmt.Errorf("root %d: %w", r.Number, err)
		}
		s.roots[r.Number] = parsed
	}
	for _, number := range s.rotation.Roots() {
		if _, ok := s.roots[number]; !ok {
			return nil, fmt.Errorf("root %d is missing", number)
		}
	}
	if s.roots[s.rotation.Issuer].key.IsZero() {
		s.lost = errors.New("it was lost before this start")
	}
	return s, nil
}

func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}
