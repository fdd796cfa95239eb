// Package loop is the control plane's one writer: sources → world → compile → sinks.
// Its one idea is that a single goroutine takes everything that queued up meanwhile, makes
// the next world, settles what depends on it and hands the differences out; batching is
// what arrived while it worked, and there is no debounce timer.
//
// It reads no source and writes to no sink itself: sources call Edit, sinks are
// functions it was given, which must not block. Read Loop.Run first.
package loop

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/core/compile"
	"github.com/isthmus-mesh/isthmus/core/derive"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/internal/failpoint"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/xds"
)

// Config is what a loop works with.
type Config struct {
	Self    mesh.ClusterName
	Network mesh.Network
	// Workers evaluate in parallel; 0 is 2.
	Workers int
	// Slice bounds how long edits wait for a running evaluation; 0 is 3 ms.
	Slice time.Duration
	Now   func() time.Time
	Log   *slog.Logger

	// Publish takes changed resources, with how much the state they come from knows.
	Publish func(mesh.Vector, []xds.Update)
	// Export takes what a peer is to be told of a service.
	Export func(Export)
	// Failpoints may be nil, and is in production.
	Failpoints *failpoint.Set
	// SaveSlots takes a new slot table, which comes back as a fact once it is stored.
	SaveSlots func(mesh.SlotTable)
	// Need, unless nil, takes what a service wants of the cluster's addresses, nil for nothing any more.
	Need func(mesh.ServiceName, *compile.Need)
}

// Points of this package at which a test may make things go wrong; an error ends the loop.
const (
	// PointCommit is before queued edits become the next world, PointPublish when all that follows from them is
	// computed and nobody has been told.
	PointCommit  failpoint.Point = "loop.commit"
	PointPublish failpoint.Point = "loop.publish"
)

// Failpoints lists the points of this package, for failpoint.New.
func Failpoints() []failpoint.Point { return []failpoint.Point{PointCommit, PointPublish} }

// Export is a change of what one peer is told of this cluster's services.
type Export struct {
	Peer    mesh.ClusterName
	Service mesh.ServiceName
	// Value is nil when the peer is no longer told of the service.
	Value *mesh.RemoteService
}

// maxQueue bounds the queue of edits, in calls of Edit. A source that finds it full
// waits.
const maxQueue = 1024

// Loop is the single writer. Its exported methods are safe for concurrent use.
type Loop struct {
	cfg   Config
	edits chan edit
	world atomic.Pointer[world.World]

	mu     sync.Mutex
	vector mesh.Vector
	calls  []func() // of Watch and Unwatch, at most two for each distinct name
	called chan struct{}

	// Owned by Run's goroutine.
	engine *derive.Engine
	watch  watches
	told   exports
	needs  needs
	after  []func() // of edits that are committed, until what follows from them was handed out
}

// edit is one call of Edit.
type edit struct {
	edits  []world.Edit
	vector mesh.Vector
	done   chan<- struct{}
	after  func() // nil is nothing
}

// New returns a loop over an empty world. Nothing runs before Run.
func New(cfg Config) *Loop {
	if cfg.Workers == 0 {
		cfg.Workers = 2
	}
	if cfg.Slice == 0 {
		cfg.Slice = 3 * time.Millisecond
	}
	w := world.New(cfg.Self)
	l := &Loop{cfg: cfg, edits: make(chan edit, maxQueue), called: make(chan struct{}, 1), vector: mesh.Vector{}, engine: derive.New(w)}
	l.watch = watches{loop: l, byName: map[watched]bool{}, member: map[watched]bool{}, whole: map[ir.Type]string{}, roots: map[derive.Ref]watched{}}
	l.told = exports{loop: l, watched: map[compile.Export]bool{}, ready: map[mesh.ServiceName]bool{}, tables: map[mesh.ServiceName]mesh.SlotTable{}}
	l.needs = needs{loop: l, watched: map[mesh.ServiceName]bool{}}
	l.world.Store(w)
	return l
}

// World is the newest world; it may be ahead of what was published by the work in
// progress.
func (l *Loop) World() *world.World { return l.world.Load() }

// Vector is how much the newest world knows.
func (l *Loop) Vector() mesh.Vector {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.vector.Clone()
}

// View is the view of this cluster's own proxies.
func (l *Loop) View() ir.View { return ir.View{Cluster: l.cfg.Self, Network: l.cfg.Network} }

// Edit queues a change of the world; all of it becomes visible in one revision. v
// raises what the world knows. Edit waits while the queue is full; the error is that of ctx.
func (l *Loop) Edit(ctx context.Context, edits []world.Edit, v mesh.Vector) error {
	return l.enqueue(ctx, edit{edits: edits, vector: v})
}

// EditAndWait is Edit that returns once World shows the change.
func (l *Loop) EditAndWait(ctx context.Context, edits []world.Edit, v mesh.Vector) error {
	return l.EditAndTell(ctx, edits, v, nil)
}

// EditAndTell is EditAndWait, and has after called when all that follows from the change was computed and handed out. The loop's
// goroutine calls it, which must not block; it is not called if the loop ends before.
func (l *Loop) EditAndTell(ctx context.Context, edits []world.Edit, v mesh.Vector, after func()) error {
	done := make(chan struct{})
	if err := l.enqueue(ctx, edit{edits, v, done, after}); err != nil {
		return err
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *Loop) enqueue(ctx context.Context, e edit) error {
	select {
	case l.edits <- e:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// call runs f on the loop's goroutine, soon, and never waits.
func (l *Loop) call(f func()) {
	l.mu.Lock()
	l.calls = append(l.calls, f)
	l.mu.Unlock()
	select {
	case l.called <- struct{}{}:
	default:
	}
}

// Run is the loop. It returns the error of ctx when that ends; what is queued then is
// dropped.
func (l *Loop) Run(ctx context.Context) error {
	settled := true
	for ctx.Err() == nil {
		if settled {
			select {
			case e := <-l.edits:
				if err := l.commit(ctx, e); err != nil {
					return err
				}
			case <-l.called:
			case <-ctx.Done():
				return ctx.Err()
			}
		} else if len(l.edits) > 0 {
			if err := l.commit(ctx, <-l.edits); err != nil {
				return err
			}
		}
		l.runCalls()
		var err error
		if settled, err = l.settle(ctx); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// commit makes one revision of the first edit and all that queued up meanwhile.
func (l *Loop) commit(ctx context.Context, first edit) error {
	if err := l.cfg.Failpoints.Hit(ctx, PointCommit); err != nil {
		return err
	}
	batch := []edit{first}
	for range len(l.edits) {
		batch = append(batch, <-l.edits)
	}
	var edits []world.Edit
	for _, e := range batch {
		edits = append(edits, e.edits...)
	}
	next, changed := l.World().Edit(edits)
	l.engine.Commit(next, changed...)
	l.world.Store(next)
	l.mu.Lock()
	for _, e := range batch {
		l.vector.Merge(e.vector)
	}
	l.mu.Unlock()
	for _, e := range edits {
		l.watch.noticed(e.Key)
		l.told.noticed(e.Key)
		l.needs.noticed(e.Key)
	}
	for _, e := range batch {
		if e.after != nil {
			l.after = append(l.after, e.after)
		}
		if e.done != nil {
			close(e.done)
		}
	}
	return nil
}

func (l *Loop) runCalls() {
	l.mu.Lock()
	calls := l.calls
	l.calls = nil
	l.mu.Unlock()
	for _, f := range calls {
		f()
	}
}

// settle evaluates until done, or for a slice when edits wait, and hands the
// differences out when done.
func (l *Loop) settle(ctx context.Context) (done bool, err error) {
	end := l.cfg.Now().Add(l.cfg.Slice)
	result, done := l.engine.Slice(l.cfg.Workers, func() bool { return len(l.edits) > 0 && !l.cfg.Now().Before(end) })
	if !done {
		return false, nil
	}
	if len(result.Changed) > 0 {
		if err := l.cfg.Failpoints.Hit(ctx, PointPublish); err != nil {
			return false, err
		}
	}
	for _, f := range result.Failed {
		l.cfg.Log.Error("a derived value has no answer in this revision", "root", f.Root.String(), "error", f.Err)
	}
	updates := l.watch.settled(result.Changed)
	if len(updates) > 0 || len(result.Changed) > 0 {
		l.cfg.Publish(l.Vector(), updates)
	}
	l.told.settled(result.Changed)
	l.needs.settled(result.Changed)
	for _, f := range l.after {
		f()
	}
	clear(l.after)
	l.after = l.after[:0]
	return true, nil
}
