// Package clock is the time as an input: what product code asks instead of
// calling time.Now and time.NewTimer, so that a component can be run under
// another clock without another kernel.
//
// Its one idea: a Clock is handed down in a Config, never looked up. There is no
// fake here: tests run Real inside testing/synctest, whose bubble makes hours
// pass in microseconds, and Shifted for a host whose clock is wrong.
//
// It deliberately does not convert, schedule or cache; and pure packages take
// time.Time values instead of a Clock.
//
// The first type to read is Clock.
package clock

import (
	"context"
	"time"
)

// A Clock tells the time and makes timers. Implementations are safe for
// concurrent use.
type Clock interface {
	// Now is the wall clock's reading; readings of one Clock also carry a monotonic
	// reading, as time.Now's do.
	Now() time.Time
	// NewTimer returns a timer that fires once after d; d ≤ 0 fires at once.
	NewTimer(d time.Duration) Timer
}

// A Timer is one waiting: time.Timer behind an interface. After Stop or Reset no
// stale value is received from C (the semantics of Go 1.23).
type Timer interface {
	C() <-chan time.Time
	Stop() bool
	Reset(d time.Duration) bool
}

// Real is the host's clock, or the bubble's inside testing/synctest.
type Real struct{}

// Now is time.Now.
func (Real) Now() time.Time { return time.Now() }

// NewTimer is time.NewTimer.
func (Real) NewTimer(d time.Duration) Timer { return realTimer{time.NewTimer(d)} }

type realTimer struct{ *time.Timer }

func (t realTimer) C() <-chan time.Time { return t.Timer.C }

// InStep is Real for the parts of one process that look around every so often (Every): those with the same period do it at the same instants,
// and a process that is idle otherwise is woken once for all of them. Each process has instants of its own.
type InStep struct {
	Real
	began time.Time
}

// NewInStep returns a clock whose instants are counted from now.
func NewInStep() InStep { return InStep{began: time.Now()} }

// Next is how long it is until something is done again that is done each d: d, and less by a clock that is InStep.
func Next(c Clock, d time.Duration) time.Duration {
	if s, ok := c.(InStep); ok {
		return d - s.Now().Sub(s.began)%d
	}
	return d
}

// Shifted reads By later than Clock (earlier if negative) and waits as it does: a
// host whose clock was set wrong.
type Shifted struct {
	Clock
	By time.Duration
}

// Now is Clock's reading moved by By.
func (s Shifted) Now() time.Time { return s.Clock.Now().Add(s.By) }

// Wait returns nil after d, or ctx's error if it ends first.
func Wait(ctx context.Context, c Clock, d time.Duration) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	t := c.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Every calls do each d, the first time after one d, until ctx ends or do fails, and returns why. What do takes is part of d. By a clock
// that is InStep the first d is shorter.
func Every(ctx context.Context, c Clock, d time.Duration, do func(context.Context) error) error {
	t := c.NewTimer(Next(c, d))
	defer t.Stop()
	for {
		select {
		case <-t.C():
		case <-ctx.Done():
			return ctx.Err()
		}
		t.Reset(Next(c, d))
		if err := do(ctx); err != nil {
			return err
		}
	}
}
