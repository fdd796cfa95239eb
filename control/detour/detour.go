// Package detour finds ways to clusters whose own gateways do not answer here: through the gateways of a third, which pass on what
// they cannot read. Its one idea is that a way is not believed but tried: the third cluster's word (its load report) says whom to
// try first, and the destination's own gateway, pinged through it, says whether there is a way.
//
// It moves no request: what it finds is stated as a fact (mesh.Reach), and where requests may pass is the law's (core/compile). It
// judges nobody either: a cluster that is reached so stays unreachable to the verdict. Read Keeper.
package detour

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/core/liveness"
	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
)

const (
	// every is how often ways are looked at where nothing happens.
	every = 250 * time.Millisecond
	// patience is how long a way may take to answer for the first time before the next is tried.
	patience = 2 * time.Second
	// avoidFor is how long a way is left alone that did not answer, or does not any more.
	avoidFor = 10 * time.Second
	// rttUnknown is assumed of a path that its observer has not measured.
	rttUnknown = 300 * time.Millisecond
)

// Prober watches one way (control/probe).
type Prober interface {
	Run(context.Context) error
	Loss() (ratio float64, of int)
}

// Config is what a Keeper works with; all of it but Told is required.
type Config struct {
	Self mesh.ClusterName
	// Clusters are those that are joined, as the own objects describe them; Paths are the direct ways to them.
	Clusters func() map[mesh.ClusterName]mesh.Cluster
	Paths    func() []split.Path
	// Leaves reports whether a cluster is being taken out of use: nothing is passed on by it.
	Leaves func(mesh.ClusterName) bool
	// Probe returns what watches the way to a cluster by another, and tells what is known of it whenever that changes;
	// changed does not wait.
	Probe func(to, by mesh.Cluster, changed func(liveness.State)) Prober
	// State states by whose gateways a cluster is reached, with the round trip; "" is none. It may wait.
	State func(ctx context.Context, to, by mesh.ClusterName, rtt time.Duration)
	// Told takes each beginning and end; it must not wait.
	Told  func(Event)
	Clock clock.Clock
	Log   *slog.Logger
}

// Event is a way that began, or ended.
type Event struct {
	To, By mesh.ClusterName
	Began  bool
	// Home says that it ended because there is a direct way again.
	Home  bool
	Cause string
	RTT   time.Duration
}

// Way is one that is in force.
type Way struct {
	By   mesh.ClusterName
	RTT  time.Duration
	Loss float64
}

// Keeper finds and keeps the ways of one control plane: one to each cluster without a direct one. It is safe for concurrent use;
// Run must be running.
type Keeper struct {
	cfg  Config
	wake chan struct{} // one place
	work sync.WaitGroup

	mu   sync.Mutex
	rows map[mesh.ClusterName]row
	ways map[mesh.ClusterName]*way
	// avoided are ways that did not answer, until when.
	avoided map[pair]time.Time
}

type pair struct{ to, by mesh.ClusterName }

// row is what a cluster says of its own direct paths.
type row struct {
	paths []split.Path
	at    time.Time
}

// way is one that is tried, or in force. Its fields are guarded by Keeper.mu.
type way struct {
	by     mesh.Cluster
	to     mesh.Cluster
	prober Prober
	stop   context.CancelFunc
	since  time.Time
	state  liveness.State
	// rtt is the one told; 0 while the way is not in force.
	rtt time.Duration
}

func (w *way) answers() bool { return w.state.RTT > 0 && !w.state.PathDown }

// New returns a keeper that has heard nothing.
func New(cfg Config) *Keeper {
	return &Keeper{cfg: cfg, wake: make(chan struct{}, 1), rows: map[mesh.ClusterName]row{}, ways: map[mesh.ClusterName]*way{}, avoided: map[pair]time.Time{}}
}

// Heard takes what a cluster says of its paths; it replaces what it said before.
func (k *Keeper) Heard(observer mesh.ClusterName, paths []split.Path) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.rows[observer] = row{paths, k.cfg.Clock.Now()}
}

// Stir makes Run look at once: a path has changed.
func (k *Keeper) Stir() {
	select {
	case k.wake <- struct{}{}:
	default: // it is about to
	}
}

// Way is the one to a cluster that is in force, if any.
func (k *Keeper) Way(to mesh.ClusterName) (Way, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	w := k.ways[to]
	if w == nil || w.rtt == 0 {
		return Way{}, false
	}
	loss, _ := w.prober.Loss()
	return Way{w.by.Name, w.rtt, loss}, true
}

// Over is paths with the ways that are in force where there is no direct one.
func (k *Keeper) Over(paths []split.Path) []split.Path {
	for i := range paths {
		if p := &paths[i]; p.Dead {
			if w, ok := k.Way(p.Cluster); ok {
				p.Via, p.RTT, p.Loss = w.By, w.RTT, w.Loss
			}
		}
	}
	return paths
}

// Run looks after ways until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	defer k.work.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	timer := k.cfg.Clock.NewTimer(every)
	defer timer.Stop()
	for {
		select {
		case <-timer.C():
		case <-k.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
		k.look(ctx)
		timer.Reset(every)
	}
}

// saying is what look found out and says when it holds no lock.
type saying struct {
	to, by mesh.ClusterName
	rtt    time.Duration
	event  *Event
}

// look begins and ends ways.
func (k *Keeper) look(ctx context.Context) {
	paths, clusters := k.cfg.Paths(), k.cfg.Clusters()
	direct := make(map[mesh.ClusterName]split.Path, len(paths))
	for _, p := range paths {
		direct[p.Cluster] = p
	}
	k.mu.Lock()
	var say []saying
	now := k.cfg.Clock.Now()
	for to, w := range k.ways {
		if p, joined := direct[to]; !joined || !p.Dead {
			say = append(say, k.end(to, w, Event{Home: true, Cause: "its own gateways have answered again for long enough"})...)
		}
	}
	for _, p := range paths {
		if p.Dead {
			say = append(say, k.keep(ctx, p.Cluster, direct, clusters, now)...)
		}
	}
	k.forget(direct, now)
	k.mu.Unlock()
	for _, s := range say {
		k.cfg.State(ctx, s.to, s.by, s.rtt)
		if s.event == nil {
			continue
		}
		k.cfg.Log.Warn("the way to a cluster through a third began or ended", "peer", s.event.To, "by", s.event.By, "began", s.event.Began, "because", s.event.Cause)
		if k.cfg.Told != nil {
			k.cfg.Told(*s.event)
		}
	}
}

// forget drops what is of no use any more. The caller holds mu.
func (k *Keeper) forget(direct map[mesh.ClusterName]split.Path, now time.Time) {
	for p, until := range k.avoided {
		if !now.Before(until) {
			delete(k.avoided, p)
		}
	}
	for n := range k.rows {
		if _, joined := direct[n]; !joined {
			delete(k.rows, n)
		}
	}
}

// keep looks after the way to a cluster without a direct one. The caller holds mu.
func (k *Keeper) keep(ctx context.Context, to mesh.ClusterName, direct map[mesh.ClusterName]split.Path, clusters map[mesh.ClusterName]mesh.Cluster, now time.Time) (say []saying) {
	if w := k.ways[to]; w != nil {
		cause, gone := k.over(to, w, direct, clusters, now)
		if !gone {
			return k.hold(to, w)
		}
		k.avoided[pair{to, w.by.Name}] = now.Add(avoidFor)
		say = k.end(to, w, Event{Cause: cause})
	}
	if by, ok := k.nearest(to, direct, clusters, now); ok {
		k.try(ctx, clusters[to], clusters[by], now)
	}
	return say
}

// over says why a way is none any more. The caller holds mu.
func (k *Keeper) over(to mesh.ClusterName, w *way, direct map[mesh.ClusterName]split.Path, clusters map[mesh.ClusterName]mesh.Cluster, now time.Time) (cause string, gone bool) {
	by := w.by.Name
	path, joined := direct[by]
	switch {
	case !joined || !same(clusters[by], w.by) || !same(clusters[to], w.to):
		return fmt.Sprintf("%s, or how it is reached, has changed", by), true
	case path.Dead:
		return fmt.Sprintf("the gateways of %s are not reached either", by), true
	case clusters[by].NoTransit:
		return fmt.Sprintf("the Cluster object of %s wants nothing passed on by it any more", by), true
	case k.cfg.Leaves(by):
		return fmt.Sprintf("%s is being drained", by), true
	case w.state.PathDown:
		return fmt.Sprintf("through %s its gateways do not answer any more", by), true
	case !w.answers() && now.Sub(w.since) >= patience:
		return fmt.Sprintf("through %s its gateways have not answered", by), true
	}
	return "", false
}

// same reports whether two descriptions lead to the same place.
func same(a, b mesh.Cluster) bool {
	return a.TrustDomain == b.TrustDomain && slices.Equal(a.Gateways, b.Gateways)
}

// hold puts a way in force that answers, and tells of its round trip where that is news: noise is none, as with direct paths. The
// caller holds mu.
func (k *Keeper) hold(to mesh.ClusterName, w *way) []saying {
	rtt := max(w.state.RTT.Round(time.Millisecond), time.Millisecond)
	if !w.answers() || w.rtt > 0 && (rtt-w.rtt).Abs() <= w.rtt/4 {
		return nil
	}
	began := w.rtt == 0
	w.rtt = rtt
	s := saying{to: to, by: w.by.Name, rtt: rtt}
	if began {
		s.event = &Event{To: to, By: w.by.Name, Began: true, RTT: rtt, Cause: fmt.Sprintf("its own gateways do not answer here; through those of %s, which says that it reaches them, they do", w.by.Name)}
	}
	return []saying{s}
}

// end gives a way up. Of one that was never in force there is nothing to say. The caller holds mu.
func (k *Keeper) end(to mesh.ClusterName, w *way, e Event) []saying {
	w.stop()
	delete(k.ways, to)
	if w.rtt == 0 {
		return nil
	}
	e.To, e.By, e.RTT = to, w.by.Name, w.rtt
	return []saying{{to: to, event: &e}}
}

// nearest is the cluster by which the way to another is the shortest, of those that say that they reach it and that are reached
// here, both without another's help. The caller holds mu.
func (k *Keeper) nearest(to mesh.ClusterName, direct map[mesh.ClusterName]split.Path, clusters map[mesh.ClusterName]mesh.Cluster, now time.Time) (best mesh.ClusterName, ok bool) {
	if len(clusters[to].Gateways) == 0 {
		return "", false
	}
	least := time.Duration(0)
	for by, r := range k.rows {
		path, joined := direct[by]
		if !joined || by == to || by == k.cfg.Self || path.Dead || now.Before(k.avoided[pair{to, by}]) || len(clusters[by].Gateways) == 0 || clusters[by].NoTransit || now.Sub(r.at) > liveness.RowLasts || k.cfg.Leaves(by) {
			continue
		}
		at := slices.IndexFunc(r.paths, func(p split.Path) bool { return p.Cluster == to })
		if at < 0 || r.paths[at].Dead {
			continue
		}
		rtt := cmp.Or(path.RTT, rttUnknown) + cmp.Or(r.paths[at].RTT, rttUnknown)
		if best == "" || rtt < least || rtt == least && by < best {
			best, least = by, rtt
		}
	}
	return best, best != ""
}

// try begins to probe a way. The caller holds mu.
func (k *Keeper) try(ctx context.Context, to, by mesh.Cluster, now time.Time) {
	ctx, stop := context.WithCancel(ctx)
	w := &way{to: to, by: by, stop: stop, since: now}
	w.prober = k.cfg.Probe(to, by, func(s liveness.State) {
		k.mu.Lock()
		w.state = s
		k.mu.Unlock()
		k.Stir()
	})
	k.ways[to.Name] = w
	k.work.Go(func() {
		if err := w.prober.Run(ctx); err != nil && ctx.Err() == nil {
			k.cfg.Log.Error("probing a way through a third cluster ended", "peer", to.Name, "by", by.Name, "error", err)
		}
	})
}
