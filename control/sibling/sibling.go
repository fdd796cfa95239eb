// Package sibling knows the other replicas of a control plane, and shares the links to peers out among them.
//
// Each peer is followed by one replica, which tells the others on (peer.Server.Retell). Who that is follows from the names
// alone, so nobody is elected: of the replicas that are known, the one that ranks first for a peer; one that cannot
// have it from there follows the peer itself at once. Two that do are harmless.
//
// A replica is known by an object in the store, which it writes when it starts and takes back when it stops. Nothing
// is written to keep it alive: whether a replica answers is found out by asking it, and one that does not for long is taken out by the others.
package sibling

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"hash/fnv"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/control/peer"
	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Kind is the stored object of a replica.
const Kind = "Replica.isthmus.dev"

const (
	// shareFirst is how long after a link was opened elsewhere than it should be a replica looks whether the right one
	// is to be had; each further look waits twice as long, up to shareEvery.
	shareFirst = time.Second
	// shareEvery is how often a replica looks whether each link is where it should be.
	shareEvery = 30 * time.Second
	// leaveMax bounds the store's part in the end of a control plane.
	leaveMax = time.Second
)

// Replica is one process of a control plane.
type Replica struct {
	Name string `json:"-"`
	// Federation, Control and API are where it is reached.
	Federation netip.AddrPort `json:"federation"`
	Control    netip.AddrPort `json:"control"`
	API        netip.AddrPort `json:"api,omitzero"`
	// Started tells its lives apart, in Unix milliseconds.
	Started int64 `json:"started"`
	// revision is that of the object.
	revision int64
}

// Store is where replicas write that they are there.
type Store interface {
	Put(context.Context, store.Object, store.Precondition) (int64, error)
	Delete(context.Context, store.Key, store.Precondition) (int64, error)
}

// Config is what a replica shares links by. All of it is needed.
type Config struct {
	// Cluster is whose control plane it is, Self this process of it; its name is made from its federation port.
	Cluster mesh.ClusterName
	Self    Replica
	// Shared says that the store may serve several replicas.
	Shared bool
	Store  Store
	// Dial is how a replica is dialled, but for where.
	Dial peer.DialConfig
	// Ask returns nil if a replica answers.
	Ask func(context.Context, Replica) error
	// Links are the followers of the peers whose links are shared out.
	Links func() map[mesh.ClusterName]*peer.Follower
	Clock clock.Clock
	Log   *slog.Logger
}

// Set is the replicas that are known. It is safe for concurrent use.
type Set struct {
	cfg Config
	// wake tells that they changed, misplaced that a link was opened elsewhere than it should be, erased that this one was
	// taken out.
	wake, misplaced, erased chan struct{}

	mu    sync.Mutex
	known map[string]Replica
	// silent are those that do not answer; see Answered.
	silent map[string]silence
	// down are those that did not answer when they were last asked.
	down map[string]bool
	// without are those that answered, and had nothing to tell of a peer.
	without map[ask]bool
	// through is the sibling by which each peer is followed.
	through map[mesh.ClusterName]string
}

// ask is what a sibling is asked for: what it holds of a peer.
type ask struct {
	replica string
	peer    mesh.ClusterName
}

// New knows none yet.
func New(cfg Config) *Set {
	cfg.Self.Name = strings.NewReplacer("[", "", "]", "", ":", "-").Replace(cfg.Self.Federation.String())
	return &Set{cfg: cfg, wake: make(chan struct{}, 1), misplaced: make(chan struct{}, 1), erased: make(chan struct{}, 1), silent: map[string]silence{}, known: map[string]Replica{}, down: map[string]bool{},
		without: map[ask]bool{}, through: map[mesh.ClusterName]string{}}
}

// Self is this replica.
func (s *Set) Self() Replica { return s.cfg.Self }

// Sharing reports whether other replicas can know of this one: it must be reached at an address of its own.
func (s *Set) Sharing() bool {
	return s.cfg.Shared && s.cfg.Self.Federation.IsValid() && !s.cfg.Self.Federation.Addr().IsUnspecified()
}

// Apply takes a step of the store.
func (s *Set) Apply(e store.Events) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := maps.Clone(s.known)
	if e.Resync {
		clear(s.known)
	}
	for _, o := range e.Puts {
		if o.Kind != Kind {
			continue
		}
		r := Replica{Name: o.Name, revision: o.Revision}
		if err := json.Unmarshal(o.Value, &r); err != nil {
			s.cfg.Log.Error("what is stored of a replica cannot be read", "name", o.Name, "error", err)
			continue
		}
		s.known[o.Name] = r
	}
	for _, d := range e.Deletes {
		if d.Key.Kind == Kind {
			delete(s.known, d.Key.Name)
		}
	}
	if maps.Equal(before, s.known) {
		return
	}
	if _, had := before[s.cfg.Self.Name]; had {
		if _, has := s.known[s.cfg.Self.Name]; !has {
			signal(s.erased)
		}
	}
	maps.DeleteFunc(s.silent, func(n string, _ silence) bool { return before[n] != s.known[n] })
	for n, r := range s.known { // one that starts anew is asked anew
		if before[n] != r {
			delete(s.down, n)
			maps.DeleteFunc(s.without, func(a ask, _ bool) bool { return a.replica == n })
		}
	}
	signal(s.wake)
}

// signal says something to who listens, once.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// before are the siblings that rank before this replica for a peer, the first first (rendezvous hashing: a replica that
// comes or goes moves no link but those that it gets or had).
func (s *Set) before(peer mesh.ClusterName) (out []Replica) {
	s.mu.Lock()
	defer s.mu.Unlock()
	own := rank(s.cfg.Self.Name, peer)
	for n, r := range s.known {
		if n != s.cfg.Self.Name && rank(n, peer) > own {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b Replica) int { return cmp.Compare(rank(b.Name, peer), rank(a.Name, peer)) })
	return out
}

func rank(replica string, peer mesh.ClusterName) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(replica + "\x00" + string(peer)))
	// FNV's last octets move the high bits too little for an order (Murmur3's finaliser does).
	x := h.Sum64()
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// lost notes that the sibling by which a peer was followed tells of it no more.
func (s *Set) lost(peer mesh.ClusterName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.through[peer]; n != "" {
		s.without[ask{n, peer}] = true
		delete(s.through, peer)
	}
}

// Through is the sibling by which a peer is followed, "" for none.
func (s *Set) Through(peer mesh.ClusterName) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.through[peer]
}

// Reach opens a session with a sibling that ranks before this replica; otherwise as direct
// does.
func (s *Set) Reach(w mesh.Cluster, direct func(context.Context, uint64) (*peer.Session, error)) func(context.Context, uint64) (*peer.Session, error) {
	return func(ctx context.Context, attempt uint64) (*peer.Session, error) {
		s.lost(w.Name) // a session that was with a sibling has ended
		defer func() {
			if s.isMisplaced(w.Name) {
				signal(s.misplaced)
			}
		}()
		for _, r := range s.before(w.Name) {
			if s.hopeless(r, w.Name) {
				continue
			}
			if l, err := s.Dial(ctx, r, w.Name); err == nil {
				s.mu.Lock()
				s.through[w.Name] = r.Name
				s.mu.Unlock()
				return l, nil
			}
		}
		return direct(ctx, attempt)
	}
}

// isMisplaced reports whether a peer is followed by another than the one that ranks first for it.
func (s *Set) isMisplaced(peer mesh.ClusterName) bool {
	first := s.before(peer)
	return len(first) > 0 && first[0].Name != s.Through(peer)
}

// hopeless reports whether a sibling had nothing to tell of a peer when it was last asked.
func (s *Set) hopeless(r Replica, peer mesh.ClusterName) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.down[r.Name] || s.without[ask{r.Name, peer}]
}

// Dial opens a session with a sibling, of what it holds of owner, and notes what came of it.
func (s *Set) Dial(ctx context.Context, r Replica, owner mesh.ClusterName) (*peer.Session, error) {
	cfg := s.cfg.Dial
	cfg.Address = r.Federation
	l, err := peer.DialHeld(ctx, cfg, owner, s.cfg.Cluster)
	s.mu.Lock()
	defer s.mu.Unlock()
	refused := errors.Is(err, peer.ErrNotHeld)
	s.down[r.Name] = err != nil && !refused
	s.without[ask{r.Name, owner}] = refused
	return l, err
}

// Other is one of the siblings, another one at each even attempt.
func (s *Set) Other(attempt uint64) (Replica, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(s.known)), func(n string) bool { return n == s.cfg.Self.Name })
	if len(names) == 0 {
		return Replica{}, false
	}
	return s.known[names[attempt/2%uint64(len(names))]], true
}

// Run writes down that this replica is there, moves links to those that rank before it, and takes its word back in
// the end.
func (s *Set) Run(ctx context.Context) error {
	if !s.Sharing() {
		<-ctx.Done()
		return ctx.Err()
	}
	value, err := json.Marshal(s.cfg.Self)
	if err != nil {
		return err
	}
	own := store.Object{Key: store.Key{Kind: Kind, Name: s.cfg.Self.Name}, Value: value}
	if err := s.persist(ctx, own); err != nil {
		return err
	}
	defer func() {
		last, stop := context.WithTimeout(context.WithoutCancel(ctx), leaveMax)
		defer stop()
		if _, err := s.cfg.Store.Delete(last, own.Key, store.Any()); err != nil && !errors.Is(err, store.ErrNotFound) {
			s.cfg.Log.Warn("the other replicas could not be told that this one stops; they find out", "error", err)
		}
	}()
	again, due := shareFirst, s.cfg.Clock.Now().Add(shareEvery)
	timer, attend := s.cfg.Clock.NewTimer(shareEvery), s.cfg.Clock.NewTimer(askEvery)
	defer timer.Stop()
	defer attend.Stop()
	look := func(wait time.Duration) {
		wait += rand.N(wait / 4)
		due = s.cfg.Clock.Now().Add(wait)
		timer.Reset(wait)
	}
	for {
		select {
		case <-s.wake:
			again = shareFirst
		case <-s.misplaced:
			if s.cfg.Clock.Now().Add(again).Before(due) {
				look(again)
			}
			continue
		case <-attend.C():
			s.attend(ctx)
			attend.Reset(askEvery + rand.N(askEvery/4))
			continue
		case <-s.erased:
			if err := s.persist(ctx, own); err != nil {
				return err
			}
			continue
		case <-timer.C():
		case <-ctx.Done():
			return ctx.Err()
		}
		if s.share(ctx) {
			again = shareFirst
			look(shareEvery)
		} else {
			again = min(2*again, shareEvery)
			look(again)
		}
	}
}

// persist writes until it is written.
func (s *Set) persist(ctx context.Context, o store.Object) error {
	for {
		_, err := s.cfg.Store.Put(ctx, o, store.Any())
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.cfg.Log.Warn("the other replicas could not be told of this one; trying again", "error", err)
		if err := clock.Wait(ctx, s.cfg.Clock, 200*time.Millisecond); err != nil {
			return err
		}
	}
}

// share moves each link to the replica that should have it. A link that works is given up only for one that was seen to
// work. It reports whether each link was where it should be.
func (s *Set) share(ctx context.Context) (inPlace bool) {
	inPlace = true
	silent := map[string]bool{} // a replica that does not answer is waited for once
	for n, follower := range s.cfg.Links() {
		if !s.isMisplaced(n) {
			continue
		}
		inPlace = false
		for _, r := range s.before(n) {
			if silent[r.Name] {
				continue
			}
			if r.Name == s.Through(n) {
				break
			}
			trial, err := s.Dial(ctx, r, n)
			if err == nil {
				trial.Close()
				follower.Move()
				break
			}
			silent[r.Name] = !errors.Is(err, peer.ErrNotHeld)
		}
	}
	return inPlace
}

// All are the replicas that are known, by name; this one alone where it has a store of its own.
func (s *Set) All() []Replica {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.known) == 0 {
		return []Replica{s.cfg.Self}
	}
	return slices.SortedFunc(maps.Values(s.known), func(a, b Replica) int { return cmp.Compare(a.Name, b.Name) })
}
