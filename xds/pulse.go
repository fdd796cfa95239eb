package xds

import (
	"context"
	"time"
)

// pulse gives clients that expect it a sign of life when they were told nothing else for a while, until ctx ends. All that are due
// are written to in one pass, by this goroutine and without waiting (wake): to a thousand quiet clients it is most of what an idle server
// does.
func (s *Server) pulse(ctx context.Context) {
	timer := time.NewTimer(beatAfter)
	defer timer.Stop()
	var due []*stream
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		var wait time.Duration
		due, wait = s.quiet(due[:0])
		for _, st := range due {
			st.wake(true)
		}
		clear(due)
		timer.Reset(wait)
	}
}

// quiet appends the streams to which a sign of life is due, as which it counts from now, and returns how long it is until it is to be
// called again.
func (s *Server) quiet(due []*stream) ([]*stream, time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Now()
	next := time.Duration(beatAfter)
	for st := range s.streams {
		if st.types == 0 {
			continue
		}
		if wait := beatAfter - now.Sub(st.told); wait > 0 {
			next = min(next, wait)
			continue
		}
		st.told = now
		select {
		case st.beat <- struct{}{}:
			due = append(due, st)
		default: // the last was not sent yet
		}
	}
	return due, max(next, beatLook)
}
