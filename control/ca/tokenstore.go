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

// TokensMax bounds the unused tokens that a SealedTokens keeps.
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
		s.have[r.ID] = TokenRecord{r.ID, r.Hash, r.Pin, id, time.Unix(r.Expires, 0)}
	}
	return s, nil
}

type storedToken struct {
	ID       trust.TokenID
	Hash     [32]byte
	Pin      trust.Pin
	Identity string
	Expires  int64 // Unix seconds
}

// Create implements TokenStore.
func (s *SealedTokens) Create(_ context.Context, r TokenRecord, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := maps.Clone(s.have)
	maps.DeleteFunc(next, func(_ trust.TokenID, r TokenRecord) bool { return r.Expires.Before(now) })
	if len(next) >= TokensMax {
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
		records = append(records, storedToken{r.ID, r.Hash, r.Pin, r.Identity.String(), r.Expires.Unix()})
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
	maps.DeleteFunc(m.have, func(_ trust.TokenID, r TokenRecord) bool { return r.Expires.Before(now) })
	if len(m.have) >= TokensMax {
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
