package localmesh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// State is what a process does.
type State string

// The states of a process.
const (
	StateWaiting State = "waiting" // for its turn, or for the end of a back-off
	StateRunning State = "running"
	StatePaused  State = "paused" // by a drill
	StateKilled  State = "killed" // by a drill, until it is resumed
	StateEnded   State = "ended"  // with the mesh
)

// ProcessStatus is a process as people see it.
type ProcessStatus struct {
	Name     string    `json:"name"`
	Role     Role      `json:"role"`
	Cluster  string    `json:"cluster,omitempty"`
	State    State     `json:"state"`
	PID      int       `json:"pid,omitempty"`
	Started  time.Time `json:"started,omitzero"`
	Restarts int       `json:"restarts"`
	// Last says why it ended the last time, "" if it never did.
	Last string `json:"last,omitempty"`
}

// Back-off of restarts: 100 ms, doubled each time up to 5 s; as at first after a run of 30 s.
const (
	backoffMin   = 100 * time.Millisecond
	backoffMax   = 5 * time.Second
	backoffReset = 30 * time.Second
)

// backoff is the wait before a restart. The zero value has seen no failure.
type backoff struct{ last time.Duration }

// next is the wait after a process that lived for ran.
func (b *backoff) next(ran time.Duration) time.Duration {
	if b.last == 0 || ran >= backoffReset {
		b.last = backoffMin
	} else {
		b.last = min(2*b.last, backoffMax)
	}
	return b.last
}

// stopGrace is how long a process may take to end after SIGTERM; waitGrace how long its
// output is waited for after its end, which a child of its own may hold open.
const (
	stopGrace = 3 * time.Second
	waitGrace = 200 * time.Millisecond
)

// process keeps one process of the mesh running. Its owner calls run once; everything else
// is safe for concurrent use.
type process struct {
	spec Spec
	// prepare makes the command of one run; ended is called when that run is over.
	prepare func() (cmd *exec.Cmd, ended func(), err error)
	// slots bounds how many processes start at once.
	slots chan struct{}
	log   *slog.Logger

	mu       sync.Mutex
	cmd      *exec.Cmd // nil between runs
	started  time.Time
	restarts int
	runs     int
	last     error
	held     bool // by a kill drill
	paused   bool
	over     bool
	changed  chan struct{} // holds one value when held was lifted
}

func newProcess(s Spec, slots chan struct{}, log *slog.Logger, prepare func() (*exec.Cmd, func(), error)) *process {
	return &process{spec: s, prepare: prepare, slots: slots, log: log.With("process", s.Name), changed: make(chan struct{}, 1)}
}

func (p *process) status() ProcessStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := ProcessStatus{Name: p.spec.Name, Role: p.spec.Role, State: StateWaiting, Restarts: p.restarts}
	if p.spec.Cluster != nil {
		s.Cluster = string(p.spec.Cluster.Name)
	}
	switch {
	case p.over:
		s.State = StateEnded
	case p.held:
		s.State = StateKilled
	case p.cmd != nil && p.paused:
		s.State = StatePaused
	case p.cmd != nil:
		s.State = StateRunning
	}
	if p.cmd != nil {
		s.PID, s.Started = p.cmd.Process.Pid, p.started
	}
	if p.last != nil {
		s.Last = p.last.Error()
	}
	return s
}

// run starts the process, and again whenever it ends, until ctx ends; then it ends the
// process and returns.
func (p *process) run(ctx context.Context) {
	var b backoff
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.over = true
	}()
	for ctx.Err() == nil {
		began := time.Now()
		err := p.once(ctx)
		if ctx.Err() != nil {
			return
		}
		wait := time.Duration(0)
		p.mu.Lock()
		p.last, p.paused = err, false
		held := p.held
		p.mu.Unlock()
		if !held {
			wait = b.next(time.Since(began))
			p.log.Warn("a process ended; it is started again", "error", err, "wait", wait)
		} else if !p.awaitResume(ctx) {
			return
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

// awaitResume waits until the process may run; false when ctx ended first.
func (p *process) awaitResume(ctx context.Context) bool {
	for {
		p.mu.Lock()
		held := p.held
		p.mu.Unlock()
		if !held {
			return true
		}
		select {
		case <-p.changed:
		case <-ctx.Done():
			return false
		}
	}
}

// once runs the process once and returns why it ended.
func (p *process) once(ctx context.Context) error {
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	cmd, ended, err := p.launch()
	<-p.slots
	if err != nil || cmd == nil {
		return err
	}
	defer ended()
	exit := make(chan error, 1)
	go func() { exit <- cmd.Wait() }()
	select {
	case err = <-exit:
	case <-ctx.Done():
		err = p.stop(exit)
	}
	p.mu.Lock()
	p.cmd = nil
	p.mu.Unlock()
	if p.spec.Group {
		endGroup(cmd.Process.Pid)
	}
	if err == nil {
		return errors.New("it ended by itself")
	}
	return err
}

// endGroup ends what a command has left behind in its group and waits for that, a moment at most: who is dead and not
// waited for by whoever inherited it counts as well.
func endGroup(id int) {
	ctx, cancel := context.WithTimeout(context.Background(), waitGrace)
	defer cancel()
	for syscall.Kill(-id, syscall.SIGKILL) == nil && sleep(ctx, pollEvery) {
	}
}

// launch starts the process, unless a drill holds it.
func (p *process) launch() (*exec.Cmd, func(), error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held {
		return nil, nil, nil
	}
	cmd, ended, err := p.prepare()
	if err != nil {
		return nil, nil, fmt.Errorf("start %s: %w", p.spec.Name, err)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the supervisor alone
	cmd.WaitDelay = waitGrace
	if err := cmd.Start(); err != nil {
		ended()
		return nil, nil, fmt.Errorf("start %s: %w", p.spec.Name, err)
	}
	if p.runs++; p.runs > 1 {
		p.restarts++
	}
	p.cmd, p.started = cmd, time.Now()
	return cmd, ended, nil
}

// stop ends the running process: politely, and after stopGrace by force.
func (p *process) stop(exit <-chan error) error {
	_ = p.signal(syscall.SIGTERM)
	_ = p.signal(syscall.SIGCONT) // a paused one hears nothing else
	grace := time.NewTimer(stopGrace)
	defer grace.Stop()
	select {
	case err := <-exit:
		return err
	case <-grace.C:
		p.log.Warn("a process does not end; it is killed")
		_ = p.signal(syscall.SIGKILL)
		return <-exit
	}
}

// signal sends to the process, or to its group; nothing where it does not run.
func (p *process) signal(s syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.signalLocked(s)
}

func (p *process) signalLocked(s syscall.Signal) error {
	if p.cmd == nil {
		return nil
	}
	var err error
	if p.spec.Group {
		err = syscall.Kill(-p.cmd.Process.Pid, s)
	} else {
		err = p.cmd.Process.Signal(s)
	}
	if err != nil {
		return fmt.Errorf("send %v to %s: %w", s, p.spec.Name, err)
	}
	return nil
}

// kill ends the process at once and keeps it down.
func (p *process) kill() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held, p.paused = true, false
	return ignoreEnded(p.signalLocked(syscall.SIGKILL))
}

// pause stops the process where it stands.
func (p *process) pause() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return fmt.Errorf("pause %s: it does not run", p.spec.Name)
	}
	p.paused = true
	return p.signalLocked(syscall.SIGSTOP)
}

// resume undoes kill and pause.
func (p *process) resume() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held {
		p.held = false
		select {
		case p.changed <- struct{}{}:
		default:
		}
		return nil
	}
	p.paused = false
	return ignoreEnded(p.signalLocked(syscall.SIGCONT))
}

// ignoreEnded drops the error of a signal to what has just ended by itself.
func ignoreEnded(err error) error {
	if errors.Is(err, syscall.ESRCH) || errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}
