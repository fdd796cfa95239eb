// Package verdict keeps what the mesh says of each cluster: it gathers the rows of the matrix, the own one and those that peers
// tell beside their facts, and has core/liveness judge them. Its one idea is that every control plane judges for itself, by
// the same function of what it heard: nobody is elected, and a cluster that is cut off says what it sees and no more.
//
// It moves no request, keeps nothing on disk and sends nothing (package load tells the own row). Read Board.
package verdict

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/core/liveness"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
)

const (
	// every is how often the rows are judged.
	every = 500 * time.Millisecond
	// eventsMax bounds how many changes are remembered.
	eventsMax = 64
)

// Config is what a Board works with; all of it but Told is needed.
type Config struct {
	Self mesh.ClusterName
	// Clusters are those of the mesh, Self among them; Own is what this one sees of the others.
	Clusters func() []mesh.ClusterName
	Own      func() map[mesh.ClusterName]liveness.Sight
	// Told takes each change; it must not wait. nil is nobody.
	Told  func(Event)
	Clock clock.Clock
	Log   *slog.Logger
}

// Of is the verdict of one cluster. Changes counts how often it changed since the process began.
type Of struct {
	Cluster mesh.ClusterName
	liveness.Verdict
	Changes int
}

// Event is a change of a verdict.
type Event struct {
	At       time.Time
	Cluster  mesh.ClusterName
	From, To mesh.Reachability
	// Cause is the evidence, in words.
	Cause string
}

// Board keeps the verdicts of one control plane. It is safe for concurrent use.
type Board struct {
	cfg Config

	mu       sync.Mutex
	rows     map[mesh.ClusterName]liveness.Row
	verdicts map[mesh.ClusterName]*Of
	events   []Event
}

// New returns a board of one who has heard nothing.
func New(cfg Config) *Board {
	return &Board{cfg: cfg, rows: map[mesh.ClusterName]liveness.Row{}, verdicts: map[mesh.ClusterName]*Of{}}
}

// Heard takes a cluster's row, which replaces the one before.
func (b *Board) Heard(observer mesh.ClusterName, sees map[mesh.ClusterName]liveness.Sight) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.hear(observer, sees, b.cfg.Clock.Now())
}

// hear keeps since when what is said again was said. The caller holds mu.
func (b *Board) hear(observer mesh.ClusterName, sees map[mesh.ClusterName]liveness.Sight, now time.Time) {
	before := b.rows[observer].Sees
	after := make(map[mesh.ClusterName]liveness.Sight, len(sees))
	for n, s := range sees {
		s.Since = now
		if had, ok := before[n]; ok && had.Path == s.Path && had.Lease == s.Lease {
			s.Since = had.Since
		}
		after[n] = s
	}
	b.rows[observer] = liveness.Row{Sees: after, Heard: now}
}

// Run judges until ctx ends.
func (b *Board) Run(ctx context.Context) error {
	return clock.Every(ctx, b.cfg.Clock, every, func(ctx context.Context) error {
		for _, e := range b.judge() {
			level := slog.LevelWarn
			if e.To == mesh.Alive {
				level = slog.LevelInfo
			}
			b.cfg.Log.Log(ctx, level, "the verdict of a cluster changed", "peer", e.Cluster, "from", e.From.String(), "to", e.To.String(), "because", e.Cause)
			if b.cfg.Told != nil {
				b.cfg.Told(e)
			}
		}
		return nil
	})
}

// judge takes the own row and judges each cluster.
func (b *Board) judge() (changed []Event) {
	own, clusters := b.cfg.Own(), b.cfg.Clusters() // before mu: they take locks of their own
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.cfg.Clock.Now()
	left := func(n mesh.ClusterName) bool { return !slices.Contains(clusters, n) }
	maps.DeleteFunc(b.rows, func(n mesh.ClusterName, _ liveness.Row) bool { return left(n) })
	maps.DeleteFunc(b.verdicts, func(n mesh.ClusterName, _ *Of) bool { return left(n) })
	b.hear(b.cfg.Self, own, now)
	for _, n := range clusters {
		v := b.verdicts[n]
		if v == nil {
			v = &Of{Cluster: n}
			b.verdicts[n] = v
		}
		before := v.State
		v.Verdict = v.Step(liveness.Judge(b.cfg.Self, n, clusters, b.rows, now), now)
		if v.State != before {
			v.Changes++
			changed = append(changed, Event{now, n, before, v.State, v.Evidence.Cause()})
		}
	}
	b.events = append(b.events, changed...)
	b.events = b.events[max(0, len(b.events)-eventsMax):]
	return changed
}

// Verdicts are those of the clusters of which anything was seen, by name; the own one, which is what others see of
// this cluster, among them.
func (b *Board) Verdicts() []Of {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []Of
	for _, v := range b.verdicts {
		if !v.Since.IsZero() {
			out = append(out, *v)
		}
	}
	slices.SortFunc(out, func(x, y Of) int { return strings.Compare(string(x.Cluster), string(y.Cluster)) })
	return out
}

// Events are the newest changes, the oldest first.
func (b *Board) Events() []Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.events)
}
