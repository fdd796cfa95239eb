package failpoint

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
)

// An Action is what happens at an armed point. Make one with Error, Panic,
// Exit, Delay or Block; the zero Action is refused by Enable.
type Action struct {
	kind  kind
	err   error
	code  int
	delay time.Duration
	gate  *Gate

	skip  int // hits to let pass first
	times int // hits to act on after those; 0 is all
}

type kind int

const (
	kindNone kind = iota
	kindError
	kindPanic
	kindExit
	kindDelay
	kindBlock
)

// ExitKilled is the status a shell reports for a process that died of SIGKILL
// (128 + 9), which an exit without any clean-up imitates.
const ExitKilled = 137

// Error makes Hit return err.
func Error(err error) Action { return Action{kind: kindError, err: err} }

// Panic makes Hit panic with the point's name.
func Panic() Action { return Action{kind: kindPanic} }

// Exit makes Hit end the process with the given status, running no deferred
// call and flushing nothing: what kill -9 at this very place would leave.
func Exit(code int) Action { return Action{kind: kindExit, code: code} }

// Delay makes Hit wait for d on the Set's clock, or until its context ends.
func Delay(d time.Duration) Action { return Action{kind: kindDelay, delay: d} }

// Block makes Hit wait until g is released, or until its context ends.
func Block(g *Gate) Action { return Action{kind: kindBlock, gate: g} }

// After returns a that lets the first n hits pass.
func (a Action) After(n int) Action {
	a.skip = n
	return a
}

// Times returns a that acts n times and then lets every hit pass; 0 is
// without end.
func (a Action) Times(n int) Action {
	a.times = n
	return a
}

// validate says why a would do nothing.
func (a Action) validate() error {
	switch {
	case a.kind == kindNone:
		return errors.New("the zero Action does nothing")
	case a.kind == kindError && a.err == nil:
		return errors.New("an error action needs an error")
	case a.kind == kindDelay && a.delay <= 0:
		return fmt.Errorf("delay %v is not positive", a.delay)
	case a.kind == kindBlock && a.gate == nil:
		return errors.New("a block action needs a gate")
	case a.skip < 0 || a.times < 0:
		return fmt.Errorf("after %d, times %d: must not be negative", a.skip, a.times)
	}
	return nil
}

// A Gate holds callers at a point until it is released. Make one with NewGate.
type Gate struct {
	reached, released         chan struct{}
	reachedOnce, releasedOnce sync.Once
}

// NewGate returns a closed gate.
func NewGate() *Gate {
	return &Gate{reached: make(chan struct{}), released: make(chan struct{})}
}

// Reached is closed when the first caller stands at the gate.
func (g *Gate) Reached() <-chan struct{} { return g.reached }

// Release lets all callers pass, those there and those to come. It may be
// called more than once.
func (g *Gate) Release() { g.releasedOnce.Do(func() { close(g.released) }) }

func (g *Gate) pass(ctx context.Context) error {
	g.reachedOnce.Do(func() { close(g.reached) })
	select {
	case <-g.released:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// EnableSpec arms the points of spec, which is how a test arms points in a
// child process: "point=action" separated by ";", where action is
// "error:TEXT", "panic", "exit", "exit:CODE" or "delay:DURATION", followed by
// "@N" to let the first N hits pass and "xN" to act N times, in this order:
// "store.put.send=error:disk on fire@3x2". All faults of spec are reported
// together, and then nothing is armed.
func (s *Set) EnableSpec(spec string) error {
	type armed struct {
		point  Point
		action Action
	}
	var all []armed
	var faults []error
	for field := range strings.SplitSeq(spec, ";") {
		field = strings.TrimSpace(field)
		if field == "" {
			continue
		}
		name, text, ok := strings.Cut(field, "=")
		if !ok {
			faults = append(faults, fmt.Errorf("failpoint %q: want point=action", field))
			continue
		}
		a, err := parseAction(text)
		if err != nil {
			faults = append(faults, fmt.Errorf("failpoint %s: %w", name, err))
			continue
		}
		if !s.knows(Point(name)) {
			faults = append(faults, fmt.Errorf("failpoint %s: no such point", name))
			continue
		}
		all = append(all, armed{Point(name), a})
	}
	if err := errors.Join(faults...); err != nil {
		return err
	}
	for _, a := range all {
		if err := s.Enable(a.point, a.action); err != nil {
			return err
		}
	}
	return nil
}

func (s *Set) knows(p Point) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.points[p]
	return ok
}

// parseAction reads one action of EnableSpec's language.
func parseAction(text string) (Action, error) {
	text, times, err := cutCount(text, "x")
	if err != nil {
		return Action{}, err
	}
	text, skip, err := cutCount(text, "@")
	if err != nil {
		return Action{}, err
	}
	word, arg, hasArg := strings.Cut(text, ":")
	var a Action
	switch word {
	case "error":
		if arg == "" {
			return Action{}, errors.New("error needs a text, as in error:disk full")
		}
		a = Error(errors.New(arg))
	case "panic":
		a = Panic()
	case "exit":
		code := ExitKilled
		if hasArg {
			if code, err = strconv.Atoi(arg); err != nil {
				return Action{}, fmt.Errorf("exit status %q: %w", arg, err)
			}
		}
		a = Exit(code)
	case "delay":
		d, err := time.ParseDuration(arg)
		if err != nil {
			return Action{}, err
		}
		a = Delay(d)
	default:
		return Action{}, fmt.Errorf("unknown action %q; want error, panic, exit or delay", word)
	}
	a = a.After(skip).Times(times)
	return a, a.validate()
}

// cutCount cuts a trailing mark and number off text. Text whose last mark is
// not followed by digits alone has none: an error's text may hold marks.
func cutCount(text, mark string) (rest string, n int, err error) {
	i := strings.LastIndex(text, mark)
	if i < 0 || i == len(text)-1 || strings.Trim(text[i+1:], "0123456789") != "" {
		return text, 0, nil
	}
	n, err = strconv.Atoi(text[i+1:])
	if err != nil {
		return "", 0, fmt.Errorf("count %q: %w", text[i:], err)
	}
	return text[:i], n, nil
}
