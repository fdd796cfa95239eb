package sibling

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/control/store"
)

// A replica that was killed did not take its word back, and nobody writes that it lives: whoever asks it notes whether it answers,
// each replica asks all now and then, and one that has not answered for long is taken out of the store. One that lives all the same, and
// is only not reached from there, sees that and writes itself down again.

const (
	// askEvery is how often all siblings are asked, askMax how long one may take.
	askEvery = 30 * time.Second
	askMax   = time.Second
	// forgetAfter is for how long a replica must have been silent to be taken out, to askedTimes questions at least: a rolling restart
	// and a drill are over by then.
	forgetAfter = 10 * time.Minute
	askedTimes  = 5
)

// silence is since when a replica does not answer, and how often it was asked.
type silence struct {
	since time.Time
	asked int
}

// Answered notes what came of asking a replica: err is why it did not answer.
func (s *Set) Answered(name string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.known[name]; !known || err == nil {
		delete(s.silent, name)
		return
	}
	q := s.silent[name]
	if q.asked++; q.asked == 1 {
		q.since = s.cfg.Clock.Now()
	}
	s.silent[name] = q
}

// Silent is for how long a replica has not answered, 0 for one that did when it was last asked.
func (s *Set) Silent(name string) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if q, ok := s.silent[name]; ok {
		return max(s.cfg.Clock.Now().Sub(q.since), time.Nanosecond)
	}
	return 0
}

// attend asks all siblings, and takes out those that have been silent for long.
func (s *Set) attend(ctx context.Context) {
	var asking sync.WaitGroup
	for _, r := range s.All() {
		if r.Name == s.cfg.Self.Name {
			continue
		}
		asking.Go(func() {
			ctx, stop := context.WithTimeout(ctx, askMax)
			defer stop()
			s.Answered(r.Name, s.cfg.Ask(ctx, r))
		})
	}
	asking.Wait()
	for _, r := range s.longSilent() {
		within, stop := context.WithTimeout(ctx, leaveMax)
		// Only the life that was silent: one that starts at its address now has written another.
		_, err := s.cfg.Store.Delete(within, store.Key{Kind: Kind, Name: r.Name}, store.AtRevision(r.revision))
		stop()
		switch {
		case err == nil:
			s.cfg.Log.Warn("a replica that has not answered for long is no longer listed", "replica", r.Name, "silent", s.Silent(r.Name).Round(time.Second).String())
		case !errors.Is(err, store.ErrNotFound) && ctx.Err() == nil:
			s.cfg.Log.Info("a replica that has not answered for long could not be taken out of the list; trying again", "replica", r.Name, "error", err)
		}
	}
}

// longSilent are the siblings that have been silent for long.
func (s *Set) longSilent() (out []Replica) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Clock.Now()
	for n, q := range s.silent {
		if r, ok := s.known[n]; ok && q.asked >= askedTimes && now.Sub(q.since) >= forgetAfter {
			out = append(out, r)
		}
	}
	return out
}
