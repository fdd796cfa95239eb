package ca

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

// TokensMax bounds the unused tokens that a store keeps.
const TokensMax = 10_000

// ErrTooManyTokens refuses a new token.
var ErrTooManyTokens = fmt.Errorf("more than %d join tokens are unused", TokensMax)

// SealedTokens is a TokenStore in a sealed file, for a control plane of one
// process. A restart does not bring a used token back; neither does a damaged
// file, from whose predecessor it might come back: then all tokens are dropped.
type SealedTokens struct {
	file  *trust.SealedFile
	clock clock.Clock

	mu   sync.Mutex
	have map[trust.TokenID]TokenRecord
}

// OpenSealedTokens loads the records at path, sealed with key.
func OpenSealedTokens(path string, key trust.SealKey, c clock.Clock) (*SealedTokens, error) {
	s := &SealedTokens{
		file:  &trust.SealedFile{Path: path, Key: key, Purpose: "join tokens"},
		clock: c, have: map[trust.TokenID]TokenRecord{},
	}
	sealed, err := s.file.Read()
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open join tokens: %w", err)
	}
	if sealed.FellBack != nil {
		return s, s.save(s.have)
	}
	var records []storedToken
	if err := json.Unmarshal(sealed.Payload, &records); err != nil {
		return nil, fmt.Errorf("open join tokens %s: %w", path, err)
	}
	for _, r := range records {
		id, err := mesh.ParseIdentity(r.Identity)
		if err != nil {
			return nil, fmt.Errorf("open join tokens %s: %w", path, err)
		}
		s.have[r.ID] = r.record(id)
	}
	return s, nil
}

type storedToken struct {
	ID       trust.TokenID
	Hash     [32]byte
	Pin      trust.Pin
	Identity string
	Expires  int64     // Unix seconds
	UsedBy   KeyDigest `json:",omitzero"`
	UsedAt   int64     `json:",omitzero"` // Unix seconds
}

func storedOf(r TokenRecord) storedToken {
	s := storedToken{ID: r.ID, Hash: r.Hash, Pin: r.Pin, Identity: r.Identity.String(), Expires: r.Expires.Unix(), UsedBy: r.UsedBy}
	if r.used() {
		s.UsedAt = r.UsedAt.Unix()
	}
	return s
}

func (s storedToken) record(id mesh.Identity) TokenRecord {
	r := TokenRecord{ID: s.ID, Hash: s.Hash, Pin: s.Pin, Identity: id, Expires: time.Unix(s.Expires, 0), UsedBy: s.UsedBy}
	if r.used() {
		r.UsedAt = time.Unix(s.UsedAt, 0)
	}
	return r
}

// room drops from have what is over, and reports whether one more may be unused.
func room(have map[trust.TokenID]TokenRecord, now time.Time) bool {
	unused := 0
	for id, r := range have {
		if r.over(now) {
			delete(have, id)
		} else if !r.used() {
			unused++
		}
	}
	return unused < TokensMax
}

// Create implements TokenStore.
func (s *SealedTokens) Create(_ context.Context, r TokenRecord, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := maps.Clone(s.have)
	if !room(next, now) {
		return ErrTooManyTokens
	}
	next[r.ID] = r
	return s.save(next)
}

// Get implements TokenStore.
func (s *SealedTokens) Get(_ context.Context, id trust.TokenID) (TokenRecord, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.have[id]
	if !ok {
		return TokenRecord{}, ErrNoToken
	}
	return r, nil
}

// Use implements TokenStore.
func (s *SealedTokens) Use(_ context.Context, id trust.TokenID, key KeyDigest, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.have[id]
	if !ok {
		return ErrNoToken
	}
	used, err := r.use(key, now)
	if err != nil || r.used() {
		return err
	}
	next := maps.Clone(s.have)
	next[id] = used
	return s.save(next)
}

// Remove implements TokenStore.
func (s *SealedTokens) Remove(_ context.Context, id trust.TokenID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.have[id]; !ok {
		return ErrNoToken
	}
	next := maps.Clone(s.have)
	delete(next, id)
	return s.save(next)
}

// save keeps next on disk and then in memory.
func (s *SealedTokens) save(next map[trust.TokenID]TokenRecord) error {
	records := make([]storedToken, 0, len(next))
	for _, r := range next {
		records = append(records, storedOf(r))
	}
	payload, err := json.Marshal(records)
	if err != nil {
		return err
	}
	if _, err := s.file.Write(payload, 0, s.clock.Now()); err != nil {
		return fmt.Errorf("keep join tokens: %w", err)
	}
	s.have = next
	return nil
}

// MemoryTokens is a TokenStore that a restart empties: every token it held is then
// unusable, used or not. The zero value is ready.
type MemoryTokens struct {
	mu   sync.Mutex
	have map[trust.TokenID]TokenRecord
}

// Create implements TokenStore.
func (m *MemoryTokens) Create(_ context.Context, r TokenRecord, now time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.have) >= TokensMax && !room(m.have, now) { // fewer hurt nobody: who comes with one that is over is refused
		return ErrTooManyTokens
	}
	if m.have == nil {
		m.have = map[trust.TokenID]TokenRecord{}
	}
	m.have[r.ID] = r
	return nil
}

// Get implements TokenStore.
func (m *MemoryTokens) Get(_ context.Context, id trust.TokenID) (TokenRecord, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.have[id]
	if !ok {
		return TokenRecord{}, ErrNoToken
	}
	return r, nil
}

// Use implements TokenStore.
func (m *MemoryTokens) Use(_ context.Context, id trust.TokenID, key KeyDigest, now time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.have[id]
	if !ok {
		return ErrNoToken
	}
	r, err := r.use(key, now)
	if err == nil {
		m.have[id] = r
	}
	return err
}

// Remove implements TokenStore.
func (m *MemoryTokens) Remove(_ context.Context, id trust.TokenID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.have[id]; !ok {
		return ErrNoToken
	}
	delete(m.have, id)
	return nil
}
