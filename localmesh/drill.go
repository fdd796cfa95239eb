package localmesh

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/isthmus-mesh/isthmus/localmesh/link"
)

// Verbs of drills.
const (
	VerbKill      = "kill"
	VerbPause     = "pause"
	VerbResume    = "resume"
	VerbPartition = "partition"
	VerbHeal      = "heal"
	VerbSlow      = "slow"
)

// DrillOptions are the flags of drills of links, as typed; empty ones are not given.
type DrillOptions struct {
	// Direction is "a-to-b", from the cluster named first, or "b-to-a"; both unless given.
	Direction string `json:"direction,omitempty"`
	Only      string `json:"only,omitempty"`      // "data", "control"; both unless given
	RTT       string `json:"rtt,omitempty"`       // "250ms"
	Jitter    string `json:"jitter,omitempty"`    // "5ms"
	Loss      string `json:"loss,omitempty"`      // "1%"
	Bandwidth string `json:"bandwidth,omitempty"` // "10Mbps"
}

// BadDrillError is a drill that was refused before anything was done.
type BadDrillError struct{ Err error }

func (e *BadDrillError) Error() string { return e.Err.Error() }

// Unwrap is the cause.
func (e *BadDrillError) Unwrap() error { return e.Err }

// Drill does verb to each target. It returns when every signal is delivered and every link
// has changed; the mesh is told nothing. All targets are understood before the first is
// touched: a *BadDrillError changed nothing.
func (m *Mesh) Drill(ctx context.Context, verb string, targets []string, o DrillOptions) error {
	refuse := func(err error) error { return &BadDrillError{fmt.Errorf("drill %s: %w", verb, err)} }
	if len(targets) == 0 {
		return refuse(fmt.Errorf("no target; write one of: %s", strings.Join(m.plan.Targets(), ", ")))
	}
	var found []Target
	var faults []error
	for _, text := range targets {
		t, err := m.plan.Target(text)
		found = append(found, t)
		faults = append(faults, err)
	}
	if err := errors.Join(faults...); err != nil {
		return refuse(err)
	}
	switch verb {
	case VerbKill, VerbPause, VerbResume:
		if o != (DrillOptions{}) {
			return refuse(errors.New("direction, only, rtt, jitter, loss and bandwidth are of links: use partition, heal or slow"))
		}
		for i, t := range found {
			faults[i] = m.drillProcesses(ctx, verb, t)
		}
	case VerbPartition, VerbHeal, VerbSlow:
		change, err := o.change()
		switch {
		case err != nil:
			return refuse(err)
		case verb == VerbSlow && change == (link.Change{}):
			return refuse(errors.New("nothing to change; give --rtt, --jitter, --loss or --bandwidth"))
		case verb == VerbSlow && (o.Direction != "" || o.Only != ""):
			return refuse(errors.New("a link is slow in both directions and for everything; leave out --direction and --only"))
		case verb != VerbSlow && change != (link.Change{}):
			return refuse(errors.New("rtt, jitter, loss and bandwidth are changed by slow"))
		}
		for i, t := range found {
			if len(t.Links) == 0 {
				return refuse(fmt.Errorf("%s is no link; write CLUSTER--CLUSTER, or a CLUSTER for all its links", targets[i]))
			}
		}
		for i, t := range found {
			faults[i] = m.drillLinks(ctx, verb, t, o, change)
		}
	default:
		return refuse(fmt.Errorf("no such drill; write one of: %s", strings.Join([]string{VerbKill, VerbPause, VerbResume, VerbPartition, VerbHeal, VerbSlow}, ", ")))
	}
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("drill %s: %w", verb, err)
	}
	m.log.Info("a drill", "verb", verb, "targets", targets)
	return nil
}

func (m *Mesh) drillProcesses(ctx context.Context, verb string, t Target) error {
	var errs []error
	for _, p := range m.processes {
		for _, name := range t.Processes {
			if p.spec.Name != name {
				continue
			}
			switch verb {
			case VerbKill:
				errs = append(errs, p.kill())
			case VerbPause:
				errs = append(errs, p.pause())
			case VerbResume:
				errs = append(errs, p.resume())
			}
		}
	}
	for _, c := range t.Stores {
		switch s := m.stores[c]; verb {
		case VerbKill:
			// With its control plane dead a store ends and none is started.
			errs = append(errs, s.kill(ctx, len(t.Processes) == 0))
		case VerbPause:
			errs = append(errs, s.signal(syscall.SIGSTOP))
		case VerbResume:
			errs = append(errs, s.resume())
		}
	}
	return errors.Join(errs...)
}

func (m *Mesh) drillLinks(ctx context.Context, verb string, t Target, o DrillOptions, change link.Change) error {
	var errs []error
	for _, tl := range t.Links {
		client, err := link.Dial(ctx, m.plan.linkSocket(tl.Link))
		if err == nil {
			ds := tl.directions(o.Direction)
			var only link.Traffic
			_ = only.UnmarshalText([]byte(o.Only)) // change looked at it
			switch {
			case verb == VerbPartition && o.Only != "":
				err = client.CutOnly(ctx, only, ds...)
			case verb == VerbHeal && o.Only != "":
				err = client.HealOnly(ctx, only, ds...)
			case verb == VerbPartition:
				err = client.Cut(ctx, ds...)
			case verb == VerbSlow:
				err = client.Slow(ctx, change)
			case ds == nil:
				err = client.Restore(ctx) // also from slow
			default:
				err = client.Heal(ctx, ds...)
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("link %s: %w", tl.Link.Name(), err))
		}
	}
	return errors.Join(errs...)
}

// directions are those of the link that are meant from the end that was named first; nil is
// both.
func (t TargetLink) directions(text string) []link.Direction {
	if text == "" {
		return nil
	}
	var d link.Direction // a-to-b
	if text == link.BtoA.String() {
		d = link.BtoA
	}
	if t.From == t.Link.B.Name {
		d = d.Reverse()
	}
	return []link.Direction{d}
}

// change reads the options of drills of links.
func (o DrillOptions) change() (link.Change, error) {
	var faults []error
	if o.Only != "" && o.Only != link.Data.String() && o.Only != link.Control.String() {
		faults = append(faults, fmt.Errorf("only %q: write data, what requests need, or control, what control planes tell each other", o.Only))
	}
	if o.Direction != "" && o.Direction != link.AtoB.String() && o.Direction != link.BtoA.String() {
		faults = append(faults, fmt.Errorf("direction %q: write a-to-b, from the cluster named first, or b-to-a", o.Direction))
	}
	c, err := link.ParseChange(o.RTT, o.Jitter, o.Loss, o.Bandwidth)
	return c, errors.Join(append(faults, err)...)
}

// storeDrill signals a store, which is not the supervisor's child but its control plane's.
// The control plane starts a dead store again; a drill wants it down, so it is killed as
// often as it comes back.
type storeDrill struct {
	pidFile, executable string

	mu      sync.Mutex
	release context.CancelFunc // ends the watch over a killed store; nil without one
	watched chan struct{}      // closed when that has ended
}

// pid is the store's process, or 0. A number that another program got meanwhile is no store.
func (s *storeDrill) pid() int {
	text, err := readSmall(s.pidFile, 64)
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 1 || !runs(pid, s.executable) {
		return 0
	}
	return pid
}

// runs reports whether process pid runs the executable, where the system tells (/proc), and
// whether it exists where not.
func runs(pid int, executable string) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	target, err := os.Stat(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		_, noProc := os.Stat("/proc/self/exe")
		return noProc != nil
	}
	own, err := os.Stat(executable)
	return err == nil && os.SameFile(target, own)
}

func (s *storeDrill) signal(sig syscall.Signal) error {
	pid := s.pid()
	if pid == 0 {
		return fmt.Errorf("send %v to the store of %s: it does not run", sig, s.pidFile)
	}
	return syscall.Kill(pid, sig)
}

// kill ends the store at once, and keeps it down where hold is set.
func (s *storeDrill) kill(ctx context.Context, hold bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if pid := s.pid(); pid != 0 {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("kill the store: %w", err)
		}
	}
	if !hold || s.release != nil {
		return nil
	}
	watch, release := context.WithCancel(context.WithoutCancel(ctx))
	s.release, s.watched = release, make(chan struct{})
	go func() {
		defer close(s.watched)
		for sleep(watch, pollEvery) {
			if pid := s.pid(); pid != 0 {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}()
	return nil
}

// resume lets the store run again.
func (s *storeDrill) resume() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.release != nil {
		s.release()
		<-s.watched
		s.release = nil
	}
	if pid := s.pid(); pid != 0 {
		return syscall.Kill(pid, syscall.SIGCONT)
	}
	return nil
}

// end waits for the end of a store whose control plane has ended, and ends it by force after
// grace, which may take as long again: what a kernel still writes for it holds it up.
func (s *storeDrill) end(ctx context.Context, grace time.Duration) {
	_ = s.resume()
	for range 2 {
		wait, cancel := context.WithTimeout(ctx, grace)
		pid := s.pid()
		for pid != 0 && sleep(wait, pollEvery) {
			pid = s.pid()
		}
		cancel()
		if pid == 0 {
			return
		}
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}
