// Package probe asks endpoints that were taken out whether they are back, so that no request has to
// find out. Its one idea is that what a request would wait for when nobody is there (a connection, a
// handshake, an answer) can be waited for by nobody in particular.
//
// It decides nothing: which endpoint is due, and what an answer means, is core/balance's, and how one is
// asked is the tunnel's. What an application thinks of itself is not asked here (the
// server proxy's health checks do). Read Prober.
package probe

import (
	"context"
	"time"

	"github.com/isthmus-mesh/isthmus/core/balance"
	"github.com/isthmus-mesh/isthmus/internal/clock"
)

// Config is what a Prober works with; all of it is required.
type Config struct {
	// Views calls yield with the views in force, until it returns false; Changed is closed when
	// there are others.
	Views   func(yield func(*balance.View) bool)
	Changed func() <-chan struct{}
	// Ask returns nil if the endpoint of the view answers. It must bound itself in time and end
	// when ctx does.
	Ask   func(ctx context.Context, v *balance.View, e *balance.Endpoint) error
	Clock clock.Clock
	// Chance is a number in [0, 1): proxies that lost an endpoint together do not ask together.
	Chance func() float64
}

const (
	// atOnce is how many probes are under way at most. More that are due wait for their turn.
	atOnce = 8
	// spread is by how much a probe is put off at most.
	spread = 200 * time.Millisecond
)

// Prober makes the probes that are due. Make one with New; Run must be running.
type Prober struct {
	cfg Config
	// wake has a capacity of one: there is something new to look for.
	wake chan struct{}
}

// New returns a prober that asks nobody yet.
func New(cfg Config) *Prober { return &Prober{cfg: cfg, wake: make(chan struct{}, 1)} }

// Wake says that something was taken out (balance.Config.Ejected). It never waits.
func (p *Prober) Wake() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// answer is how a probe ended.
type answer struct {
	endpoint *balance.Endpoint
	err      error
}

// Run probes until ctx ends, and returns when nobody is asked any more. While nothing is out it
// sleeps, and looks only when a configuration changes.
func (p *Prober) Run(ctx context.Context) error {
	asked := map[*balance.Endpoint]bool{}
	answers := make(chan answer) // whoever sends is waited for
	defer func() {
		for range asked {
			<-answers
		}
	}()
	timer := p.cfg.Clock.NewTimer(time.Hour)
	defer timer.Stop()
	var due []*balance.Endpoint
	for {
		changed := p.cfg.Changed()
		now := p.cfg.Clock.Now()
		next := int64(0)
		p.cfg.Views(func(v *balance.View) bool {
			var at int64
			due, at = v.Due(now.UnixNano(), due[:0])
			if at != 0 && (next == 0 || at < next) {
				next = at
			}
			for _, e := range due {
				if len(asked) == atOnce {
					return false // the next answer looks again
				}
				if !asked[e] {
					asked[e] = true
					go func() { answers <- answer{e, p.cfg.Ask(ctx, v, e)} }()
				}
			}
			return true
		})
		clear(due)
		if timer.Stop(); next != 0 {
			timer.Reset(time.Duration(next-now.UnixNano()) + time.Duration(p.cfg.Chance()*float64(spread)))
		}
		select {
		case a := <-answers:
			delete(asked, a.endpoint)
			if ctx.Err() == nil { // else it was broken off, and says nothing
				a.endpoint.Probed(a.err == nil, p.cfg.Clock.Now().UnixNano())
			}
		case <-timer.C():
		case <-p.wake:
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
