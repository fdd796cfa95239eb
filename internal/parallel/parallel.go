// Package parallel lets a process run on as many threads as its load asks for. Its one idea:
// a Go program that has more processors (GOMAXPROCS) than work wakes threads that find
// nothing and sleep again, for every request; a proxy that needs half a core pays a fifth to a third
// of it for that. So it begins with one, and takes another when those that it has are busy and work
// waits for them.
//
// It knows nothing of requests, and pins nothing to cores. Read Follow first, then governor.
package parallel

import (
	"context"
	"runtime"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/clock"
)

const (
	// look is how often a process that does something is looked at, lookIdle one that does not: it
	// bounds for how long a burst that comes out of quiet has too few threads.
	look, lookIdle = 50 * time.Millisecond, 200 * time.Millisecond
	// idle is how much of a core is nothing.
	idle = 0.05
	// high is how busy the threads are, each, when there is to be one more. The rest is room for
	// the bursts within a look.
	high = 0.75
	// late is what a quarter of all that can run may wait for a busy thread before there is one more: a request that
	// takes tens of microseconds of a thread is then behind dozens of others.
	late = time.Millisecond
	// low is how busy all but one would be, each, when one is given up: far enough below high that the
	// answer to either does not ask for the other.
	low = 0.5
	// calm is how long that must hold.
	calm = time.Second
)

// Config is what Follow works with. All fields are required.
type Config struct {
	Clock clock.Clock
	// Used is the CPU time of the process so far; not ok where the system does not tell.
	Used func() (_ time.Duration, ok bool)
	// Waited is what a quarter of the waits for a thread exceeded since the last call.
	Waited func() time.Duration
	// Set says how many threads may run at once.
	Set func(n int)
	// Max is the most that it will say.
	Max int
}

// Process is this process. Max is what it was started with: the cores that it may use, or the
// environment's GOMAXPROCS.
func Process() Config {
	return Config{Clock: clock.Real{}, Used: used, Waited: newWaits().upper, Set: func(n int) { runtime.GOMAXPROCS(n) }, Max: runtime.GOMAXPROCS(0)}
}

// During follows the load of this process while run runs, and returns its error.
func During(ctx context.Context, run func(context.Context) error) error {
	follow, stop := context.WithCancel(ctx)
	var beside sync.WaitGroup
	beside.Go(func() { _ = Follow(follow, Process()) }) // it ends by stop alone
	defer beside.Wait()
	defer stop()
	return run(ctx)
}

// Follow sets the number of threads by the load until ctx ends, whose error it returns; then it
// is Max again.
func Follow(ctx context.Context, cfg Config) error {
	before, ok := cfg.Used()
	if !ok || cfg.Max < 2 {
		<-ctx.Done()
		return ctx.Err()
	}
	g := governor{most: cfg.Max, threads: 1}
	cfg.Set(1)
	defer cfg.Set(cfg.Max)
	at, wait := cfg.Clock.Now(), look
	for {
		if err := clock.Wait(ctx, cfg.Clock, wait); err != nil {
			return err
		}
		now := cfg.Clock.Now()
		used, ok := cfg.Used()
		if !ok {
			return context.Cause(ctx)
		}
		cores := float64(used-before) / float64(max(now.Sub(at), 1))
		if n := g.next(cores, cfg.Waited(), now.Sub(at)); n != 0 {
			cfg.Set(n)
		}
		if wait = look; cores < idle {
			wait = lookIdle
		}
		before, at = used, now
	}
}

// governor decides how many threads there are to be.
type governor struct {
	most, threads int
	quiet         time.Duration // for which one less would have done
}

// next takes how many cores were in use for a while and for how long work waited for a thread, and
// returns how many threads there are to be from now on, 0 if as many as before. It adds as many as are
// missing at once and gives up one at a time.
func (g *governor) next(cores float64, waited, last time.Duration) int {
	was := g.threads
	switch {
	case cores > high*float64(g.threads) && waited > late:
		g.threads = min(g.most, max(g.threads+1, int(cores/high)+1))
		g.quiet = 0
	case g.threads > 1 && cores < low*float64(g.threads-1):
		if g.quiet += last; g.quiet >= calm {
			g.threads--
			g.quiet = 0
		}
	default:
		g.quiet = 0
	}
	if g.threads == was {
		return 0
	}
	return g.threads
}
