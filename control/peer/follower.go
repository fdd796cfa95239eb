package peer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/codec/wire"
	"github.com/isthmus-mesh/isthmus/codec/wire/wirepb"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/core/skew"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/internal/failpoint"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

// FollowerConfig is what a Follower works with; all fields but Local, Reach, Known and Observe are required.
type FollowerConfig struct {
	Self   mesh.ClusterName
	Peer   mesh.Cluster
	Source *trust.Source
	// Local binds outgoing connections; invalid is any.
	Local netip.Addr
	// Reach opens a session with who tells the peer's facts, where that is not the peer itself at one of its
	// addresses. Attempts count from 1.
	Reach func(ctx context.Context, attempt uint64) (*Session, error)
	// Cache is the file that keeps what was learnt over a restart. It has one writer.
	Cache string
	// Edit applies edits of the peer's partition to the world and returns when they are
	// in it.
	Edit func(context.Context, []world.Edit, mesh.Vector) error
	// Known lists what the world holds of the peer's statements: a follower may succeed another in
	// one process, and its cache may be older than the world.
	Known func(mesh.ClusterName) []mesh.Key
	// Observe is shown the stamps that came into force, so that ours follow them.
	Observe func(mesh.Stamp)
	// Changed is told the state of the link, from one goroutine; it must not block.
	Changed func(mesh.ClusterName, replica.Status)
	// Reported is given the peer's load reports, likewise; nil drops them.
	Reported func(mesh.ClusterName, []byte)
	Clock    clock.Clock
	Log      *slog.Logger
	// Patience is what was seen of the peer's addresses; it may be nil.
	Patience *Patience
	// Failpoints may be nil, and is in production.
	Failpoints *failpoint.Set
	// Build is what this process is built as.
	Build skew.Build
}

// Bounds of redialling. The link to a peer is wanted back within two seconds of its
// healing, however long the cut: so one attempt is short, the wait stays short, and it is drawn at
// random. Three round trips fit into an attempt up to 600 ms each.
const (
	redialMin   = 100 * time.Millisecond
	redialMax   = 500 * time.Millisecond
	dialTimeout = 2 * time.Second
	// refusedWait follows an alarm: what was refused now will be refused in half a second.
	refusedWait = 5 * time.Second
	// steady is how long a session must have lasted for the waits to begin anew.
	steady = 5 * time.Second
)

// Follower keeps one peer's partition of the world: from its cache at start, then
// from the peer itself, for as long as it runs.
type Follower struct {
	cfg   FollowerConfig
	im    *replica.Importer
	saver *saver
	say   *quiet
	// checked are facts that Check has read and apply will want.
	checked map[*replica.Resource]*mesh.Fact
	// behind says that the world lacks something of what is in force, swept that it has nothing beyond it.
	behind, swept bool

	applied atomic.Int64
	traffic Traffic
	// move ends a session, passes are witnesses of siblings.
	move   chan struct{}
	passes chan *replica.Witness
	// direct says that the session is with the owner, synced that it has brought all there was.
	direct, synced bool
	// report is the newest load report of the peer.
	report []byte
	// began is when Run did, kept when the peer was last heard as the cache says, touched when that was last written.
	began, kept, touched time.Time

	mu     sync.Mutex
	status replica.Status
	err    error
	// staleSince is what StaleSince returns.
	staleSince time.Time
	// holds is what siblings are told; holdsChanged is closed when it changes.
	holds        held
	holdsChanged chan struct{}
}

// NewFollower returns a follower that knows what its cache holds. A damaged cache costs a
// transfer, nothing else.
func NewFollower(cfg FollowerConfig) *Follower {
	log := cfg.Log.With("peer", cfg.Peer.Name)
	saved, err := readCache(cfg.Cache, cfg.Peer.Name)
	if err != nil {
		log.Warn("the cache of a peer's facts cannot be used; all will be fetched again", "error", err)
	}
	kept := lastHeard(cfg.Cache)
	f := &Follower{cfg: cfg, say: newQuiet(log), saver: newSaver(cfg, kept, log), kept: kept, checked: map[*replica.Resource]*mesh.Fact{},
		move: make(chan struct{}, 1), passes: make(chan *replica.Witness, passMax), holdsChanged: make(chan struct{})}
	f.im = replica.NewImporter(replica.ImporterConfig{Owner: cfg.Peer.Name, TrustDomain: cfg.Peer.TrustDomain,
		Holders: []mesh.ClusterName{cfg.Self}, Check: f.check, Build: cfg.Build}, saved)
	f.status = f.im.Status()
	f.holds = held{stated: f.im.Stated(), inForce: f.im.InForce(), refused: f.im.Refusals()}
	return f
}

// Status is what is known of the link. It is safe for concurrent use.
func (f *Follower) Status() replica.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status
}

// StaleSince is when the peer was last heard, while it is not: zero while it is, and where nothing of it was ever known.
// Of a peer that was not heard since the start it is what the cache says, once it has had the time of a lease to be. It is
// safe for concurrent use.
func (f *Follower) StaleSince() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.staleSince
}

// staleAt is StaleSince by a state of the link.
func (f *Follower) staleAt(s replica.Status, now time.Time) time.Time {
	switch {
	case !s.Stale:
		return time.Time{}
	case s.LastFresh.IsZero() && now.Sub(f.began) < replica.StaleAfter:
		return time.Time{} // everybody is starting
	case s.LastFresh.IsZero():
		return f.kept
	}
	return s.LastFresh
}

// Applied counts the facts that were put into the world or taken out of it since the start; what is only confirmed
// does not count. It is safe for concurrent use.
func (f *Follower) Applied() int64 { return f.applied.Load() }

// Octets are those received and sent over the connections that were made to the peer itself. It is safe for concurrent use.
func (f *Follower) Octets() (received, sent int64) { return f.traffic.Octets() }

// Err is why there is no session, nil while there is one or none was tried. It is safe for
// concurrent use.
func (f *Follower) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// Run follows the peer until ctx ends, and returns its error.
func (f *Follower) Run(ctx context.Context) error {
	var saving sync.WaitGroup
	defer saving.Wait()
	f.behind = true // a new follower has put nothing there
	f.began = f.cfg.Clock.Now()
	if err := f.between(ctx, replica.Ready{}); err != nil {
		return err
	}
	saving.Go(func() { f.saver.run(ctx) })
	wait := redialMin
	for session := uint64(1); ; session++ {
		began := f.cfg.Clock.Now()
		err := f.follow(ctx, session)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		now := f.cfg.Clock.Now()
		f.direct = false
		f.note(err)
		if !errors.Is(err, errMoved) {
			f.say.warn(now, "no link to a peer", "error", err.Error())
		}
		if err := f.between(ctx, f.im.Disconnect(now, session)); err != nil {
			return err
		}
		if now.Sub(began) > steady || errors.Is(err, errMoved) {
			wait = redialMin
		}
		next := wait/2 + rand.N(wait/2+1)
		var refused *refusedError
		if errors.As(err, &refused) {
			next = refusedWait
		}
		if err := f.idle(ctx, next); err != nil {
			return err
		}
		wait = min(2*wait, redialMax)
	}
}

// refusedError ends a session with somebody who is not to be believed.
type refusedError struct{ err error }

func (e *refusedError) Error() string { return e.err.Error() }
func (e *refusedError) Unwrap() error { return e.err }

// idle waits between sessions; the state machine goes on being shown the time.
func (f *Follower) idle(ctx context.Context, d time.Duration) error {
	for ; d > 0; d -= tick {
		if err := clock.Wait(ctx, f.cfg.Clock, min(d, tick)); err != nil {
			return err
		}
		if err := f.between(ctx, f.im.Tick(f.cfg.Clock.Now())); err != nil {
			return err
		}
	}
	return nil
}

// between acts while there is no session; only the end of ctx ends it.
func (f *Follower) between(ctx context.Context, r replica.Ready) error {
	err := f.act(ctx, r, nil)
	if err != nil && ctx.Err() == nil {
		f.say.warn(f.cfg.Clock.Now(), "what a peer stated is not in force yet", "error", err.Error())
		return nil
	}
	return err
}

// follow is one session.
func (f *Follower) follow(ctx context.Context, session uint64) error {
	reach := f.cfg.Reach
	if reach == nil {
		reach = f.dial
	}
	l, err := reach(ctx, session)
	if err == nil {
		err = f.session(ctx, session, l)
		l.Close()
	}
	var fault *trust.Error
	if errors.As(err, &fault) && !passing(fault.Fault) {
		a := replica.Alarm{Kind: replica.AlarmImpostor, Subject: string(f.cfg.Peer.Name), Detail: fault.Error()}
		f.say.warn(f.cfg.Clock.Now(), "a peer's facts raised an alarm", "alarm", a.String())
	}
	return fmt.Errorf("follow cluster %s: %w", f.cfg.Peer.Name, err)
}

// dial opens a session with the peer itself.
func (f *Follower) dial(ctx context.Context, attempt uint64) (*Session, error) {
	addrs := f.cfg.Peer.ControlPlanes
	if len(addrs) == 0 {
		return nil, errors.New("it has no address")
	}
	return Dial(ctx, DialConfig{Source: f.cfg.Source, TrustDomain: f.cfg.Peer.TrustDomain, Address: addrs[attempt%uint64(len(addrs))], Local: f.cfg.Local,
		Clock: f.cfg.Clock, Patience: f.cfg.Patience, Traffic: &f.traffic}, f.cfg.Peer.Name, "")
}

// errMoved ends a session in favour of one with somebody else.
var errMoved = errors.New("moved")

func (f *Follower) session(ctx context.Context, session uint64, l *Session) error {
	select {
	case <-f.move: // it was said of the one before
	default:
	}
	f.direct = l.holder == ""
	ready := f.im.Connect(f.cfg.Clock.Now(), session, cmp.Or(l.holder, f.cfg.Peer.Name))
	f.note(nil)
	timer := f.cfg.Clock.NewTimer(tick)
	defer timer.Stop()
	for {
		if err := f.act(ctx, ready, l.send); err != nil {
			return err
		}
		select {
		case m, ok := <-l.downs:
			if !ok {
				return errors.New("the peer ended the stream")
			}
			if m.err != nil {
				return m.err
			}
			ready = f.im.Step(f.cfg.Clock.Now(), session, m.value)
		case <-timer.C():
			timer.Reset(tick)
			if s := l.silence(); s >= silentMax {
				return fmt.Errorf("nothing heard for %v", s.Round(100*time.Millisecond))
			}
			ready = f.im.Tick(f.cfg.Clock.Now())
		case w := <-f.passes:
			f.im.Pass(w)
			ready = replica.Ready{}
		case <-f.move:
			return errMoved
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// note publishes why there is no session, or that there is one.
func (f *Follower) note(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

// transient are the reasons to redial for which nobody is to blame.
func transient(r replica.Redial) bool {
	return r == "silent" || r == "stale-holder" || r == replica.Redial(replica.AlarmBehind)
}

// act carries out what the state machine wants: apply first, acknowledge after.
func (f *Follower) act(ctx context.Context, r replica.Ready, send func(context.Context, *wirepb.Up) error) error {
	defer clear(f.checked)
	if err := f.bring(ctx, r.Edit); err != nil {
		return err
	}
	for _, a := range r.Alarms {
		f.say.warn(f.cfg.Clock.Now(), "a peer's facts raised an alarm", "alarm", a.String())
	}
	if r.Save != nil {
		f.saver.save(r.Save, r.Edit)
	}
	if len(r.Report) > 0 {
		f.report = r.Report
		if f.cfg.Reported != nil {
			f.cfg.Reported(f.cfg.Peer.Name, r.Report)
		}
	}
	s := f.im.Status()
	since := f.staleAt(s, f.cfg.Clock.Now())
	f.mu.Lock()
	aged := !since.Equal(f.staleSince)
	f.status, f.staleSince = s, since
	f.mu.Unlock()
	if s.LastFresh.Sub(f.touched) >= touchEvery {
		f.touched = s.LastFresh
		f.saver.touch(s.LastFresh)
	}
	f.hold()
	if r.StatusChanged || aged {
		f.cfg.Changed(f.cfg.Peer.Name, s)
	}
	for _, m := range r.Send {
		if send == nil { // between sessions there is nobody to tell
			break
		}
		if err := f.cfg.Failpoints.Hit(ctx, PointAnswer); err != nil {
			return err
		}
		if err := send(ctx, wire.EncodeUp(m)); err != nil {
			return err
		}
	}
	if r.Redial == "" {
		return nil
	}
	err := errors.New("left: " + string(r.Redial))
	if transient(r.Redial) {
		return err
	}
	return &refusedError{err}
}

// bring makes the world what is in force. The state machine has gone on already when an edit fails, and
// will not state it again: so the next one states all.
func (f *Follower) bring(ctx context.Context, e *replica.Edit) error {
	if f.behind {
		e = f.whole()
	}
	if e != nil {
		f.behind = true
		if err := f.apply(ctx, e); err != nil {
			f.swept = false
			return err
		}
		f.behind = false
	}
	return f.sweep(ctx)
}

// whole is the edit that states all that is in force.
func (f *Follower) whole() *replica.Edit {
	e := &replica.Edit{Owner: f.cfg.Peer.Name, InForce: f.im.InForce()}
	for r := range e.InForce.All() {
		e.Set = append(e.Set, r)
	}
	return e
}

// sweep removes from the world what a predecessor put there and the owner does not state. Only the
// owner's word does that: until it has been heard, a cache that is old or damaged proves nothing.
func (f *Follower) sweep(ctx context.Context) error {
	if f.swept || f.cfg.Known == nil || !f.im.Status().InSync {
		return nil
	}
	e := &replica.Edit{Owner: f.cfg.Peer.Name, InForce: f.im.InForce()}
	for _, k := range f.cfg.Known(f.cfg.Peer.Name) {
		if n := replica.NameOf(k); e.InForce.Get(n) == nil {
			e.Removed = append(e.Removed, n)
		}
	}
	if len(e.Removed) > 0 {
		if err := f.apply(ctx, e); err != nil {
			return err
		}
	}
	f.swept = true
	return nil
}

// check judges a resource by reading it.
func (f *Follower) check(r *replica.Resource) error {
	fact, err := Fact(f.cfg.Peer.Name, f.cfg.Peer.TrustDomain, r)
	if err != nil {
		return errors.New(clip(err.Error()))
	}
	f.checked[r] = fact
	return nil
}

func (f *Follower) apply(ctx context.Context, e *replica.Edit) error {
	edits := make([]world.Edit, 0, len(e.Set)+len(e.Removed))
	for _, r := range e.Set {
		fact, err := f.checked[r], error(nil)
		if fact == nil { // from the cache, or last good
			fact, err = Fact(f.cfg.Peer.Name, f.cfg.Peer.TrustDomain, r)
		}
		if err != nil { // an earlier version of this program accepted it
			f.say.warn(f.cfg.Clock.Now(), "a fact that was accepted cannot be read", "object", r.Name.String()+": "+err.Error())
			continue
		}
		if f.cfg.Observe != nil && fact.Stamp != (mesh.Stamp{}) {
			f.cfg.Observe(fact.Stamp)
		}
		edits = append(edits, world.Put(fact))
	}
	for _, n := range e.Removed {
		edits = append(edits, world.Remove(n.Key(f.cfg.Peer.Name)))
	}
	v := mesh.Vector{}
	if p := e.InForce.Position; p != (mesh.Position{}) {
		v[f.cfg.Peer.Name] = p
	}
	if err := f.cfg.Failpoints.Hit(ctx, PointApply); err != nil {
		return err
	}
	if err := f.cfg.Edit(ctx, edits, v); err != nil {
		return err
	}
	f.applied.Add(int64(len(edits)))
	return f.cfg.Failpoints.Hit(ctx, PointApplied)
}
