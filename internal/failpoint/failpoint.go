// Package failpoint names places in product code at which a test may make
// things go wrong: return an error, panic, end the process as kill -9 would,
// wait, or stop until told to go on.
//
// Its one idea: a failpoint is compiled in, not built in. The code that runs
// under test is byte for byte the code that ships, and a point that is off
// costs one atomic load. There is no registry: a component takes a *Set in its
// Config and a nil *Set, which is what ships, is off for ever. Two components
// in one test therefore fail independently, and nothing outlives its test.
//
// A Set is made with the points it knows, and refuses every other name: a test
// that arms a misspelt point fails, instead of passing because nothing
// happened. For the same reason Hits tells how often an armed point was
// reached.
//
// It deliberately does not choose by chance when a point fires: a caller that
// wants chance draws the hit number from its own seeded source and uses
// Action.After.
//
// The first type to read is Set, then Action.
package failpoint

import (
	"context"
	"fmt"
	"os"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A Point is the name of one place in the code: the package, then what is
// about to happen there, as in "store.put.send".
type Point string

// A Set holds which points are armed and with what. The nil *Set knows no
// point, arms none, and is what product code runs with. All methods are safe
// for concurrent use.
type Set struct {
	// armed is the number of armed points; Hit reads it first, so that a Set
	// with nothing armed costs one atomic load.
	armed atomic.Int32

	exit  func(code int)
	sleep func(ctx context.Context, d time.Duration) error

	mu     sync.Mutex
	points map[Point]*state
}

// state is what a Set knows of one point.
type state struct {
	on     bool
	action Action
	hits   int // since the last Enable
}

// New returns a Set that knows the given points, all off. Its delays run on
// the real clock and its exits end the process.
func New(known ...Point) *Set {
	s := &Set{exit: os.Exit, sleep: sleepReal, points: make(map[Point]*state, len(known))}
	for _, p := range known {
		s.points[p] = &state{}
	}
	return s
}

// WithSleep makes delays go through sleep, which waits for d or returns ctx's
// error. It must be called before the Set is handed to anyone.
func (s *Set) WithSleep(sleep func(ctx context.Context, d time.Duration) error) *Set {
	s.sleep = sleep
	return s
}

// WithExit makes ActionExit call exit, which must not return if the caller is
// to believe in the exit. It must be called before the Set is handed to
// anyone.
func (s *Set) WithExit(exit func(code int)) *Set {
	s.exit = exit
	return s
}

// Enable arms p with a, replacing what it was armed with, and counts its hits
// from zero. A point the Set was not made with, and an Action that could do
// nothing, are errors.
func (s *Set) Enable(p Point, a Action) error {
	if err := a.validate(); err != nil {
		return fmt.Errorf("enable failpoint %s: %w", p, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st, ok := s.points[p]
	if !ok {
		return fmt.Errorf("enable failpoint %s: no such point; known: %s", p, s.names())
	}
	if !st.on {
		s.armed.Add(1)
	}
	*st = state{on: true, action: a}
	return nil
}

// Disable turns p off. Callers blocked at it by Block stay blocked until the
// Gate is released: they have already passed the point. Unknown and unarmed
// points are left as they are.
func (s *Set) Disable(p Point) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st, ok := s.points[p]; ok && st.on {
		st.on = false
		s.armed.Add(-1)
	}
}

// Hits returns how often p was reached since it was last armed, whether or not
// its action was due.
func (s *Set) Hits(p Point) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st, ok := s.points[p]; ok {
		return st.hits
	}
	return 0
}

// Hit is what product code calls at point p. It returns nil when p is off, and
// otherwise what p's action says: an error to return as if the operation about
// to happen had failed so. A delay or a block ends early with ctx's error.
func (s *Set) Hit(ctx context.Context, p Point) error {
	if s == nil || s.armed.Load() == 0 {
		return nil
	}
	a, due := s.take(p)
	if !due {
		return nil
	}
	switch a.kind {
	case kindError:
		return a.err
	case kindPanic:
		panic("failpoint " + string(p))
	case kindExit:
		s.exit(a.code)
	case kindDelay:
		return s.sleep(ctx, a.delay)
	case kindBlock:
		return a.gate.pass(ctx)
	}
	return nil
}

// take counts a hit of p and returns the action that is due for it, if any.
func (s *Set) take(p Point) (Action, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, ok := s.points[p]
	if !ok || !st.on {
		return Action{}, false
	}
	st.hits++
	n := st.hits - st.action.skip
	if n <= 0 || (st.action.times > 0 && n > st.action.times) {
		return Action{}, false
	}
	return st.action, true
}

// names lists the known points; s.mu is held.
func (s *Set) names() string {
	names := make([]string, 0, len(s.points))
	for p := range s.points {
		names = append(names, string(p))
	}
	sort.Strings(names)
	return strings.Join(names, ", ")
}

// sleepReal waits for d on the real clock.
func sleepReal(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
