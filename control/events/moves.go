package events

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/control/drain"
	"github.com/isthmus-mesh/isthmus/control/load"
	"github.com/isthmus-mesh/isthmus/core/event"
	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// What of a split is written down, in ten thousandths of all requests since the event before: moves when they add up to moveMin;
// those of an emergency from urgentMin. After an event, other than emergencies that big or of another cause, the next waits for
// again: a way back has steps of 15 % twice a second, and is told in a few.
const (
	moveMin   = 1000
	urgentMin = 200
	again     = 3 * time.Second
	// splitsMax bounds the services that are followed.
	splitsMax = 10_000
)

// spread is what was last written of how one service is spread.
type spread struct {
	shares []mesh.Share
	cause  split.Cause
	at     time.Time
}

func partOf(shares []mesh.Share, n mesh.ClusterName) uint32 {
	for _, s := range shares {
		if s.Cluster == n {
			return s.Parts
		}
	}
	return 0
}

// named are the clusters of two splits, by name.
func named(a, b []mesh.Share) []mesh.ClusterName {
	set := map[mesh.ClusterName]bool{}
	for _, s := range slices.Concat(a, b) {
		set[s.Cluster] = true
	}
	return slices.Sorted(maps.Keys(set))
}

// distance is the most that one cluster's part differs.
func distance(a, b []mesh.Share) (most uint32) {
	for _, n := range named(a, b) {
		x, y := partOf(a, n), partOf(b, n)
		most = max(most, max(x, y)-min(x, y))
	}
	return most
}

// Split takes what a tick of load decided for one service, beats among them: what was held back is written with one of those.
func (r *Recorder) Split(c load.Change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.returns(&c)
	was := r.splits[c.Service]
	e := event.Event{Kind: event.Split, Subject: c.Service.Name + "." + c.Service.Namespace}
	if c.Split == nil {
		if was == nil {
			return
		}
		delete(r.splits, c.Service)
		e.Reason, e.Cause = "split_ended", "nobody here asked for it for a minute, or fewer than two clusters serve it, or its strategy spreads nothing by load"
		e.Effect, e.Clusters = "requests go to the nearest that can serve, as its strategy says", named(was.shares, nil)
		r.write(e)
		return
	}
	if was == nil {
		if len(r.splits) >= splitsMax {
			return
		}
		was = &spread{}
	}
	if !worth(was, &c, r.cfg.Clock.Now()) {
		return
	}
	e.Clusters = named(was.shares, c.Split.Shares)
	e.Reason, e.Cause, e.Because = r.because(was, &c)
	e.Effect = fmt.Sprintf("of requests from %s: %s", r.cfg.Cluster, moved(was.shares, c.Split.Shares))
	if r.write(e) > 0 {
		r.splits[c.Service] = &spread{shares: c.Split.Shares, cause: c.Outcome.Cause, at: r.cfg.Clock.Now()}
	}
}

// worth reports whether it is enough to be written down.
func worth(was *spread, c *load.Change, now time.Time) bool {
	d := distance(was.shares, c.Split.Shares)
	urgent := c.Outcome.Cause == split.CauseLost || c.Outcome.Cause == split.CauseOverload
	switch {
	case was.shares == nil || urgent && d >= moveMin:
		return true
	case urgent && d >= urgentMin && c.Outcome.Cause != was.cause:
		return true
	case d < urgentMin || !urgent && d < moveMin:
		return false
	}
	return now.Sub(was.at) >= again
}

// because says why a split moved. The caller holds mu.
func (r *Recorder) because(was *spread, c *load.Change) (reason, cause string, of uint64) {
	cause = string(c.Outcome.Cause)
	for _, n := range named(was.shares, nil) {
		less := partOf(was.shares, n) > partOf(c.Split.Shares, n)
		if lost, down := r.down[n]; less && down {
			return "cluster_lost", fmt.Sprintf("%s cannot be reached from %s", n, r.cfg.Cluster), lost
		}
		if of, tripped := r.trip(way{c.Service, n}); less && tripped && c.Outcome.Cause == split.CauseLost {
			return "cluster_lost", fmt.Sprintf("most proxies of %s that use %s leave it out: what they sent there was never executed", r.cfg.Cluster, n), of
		}
	}
	for _, n := range named(was.shares, c.Split.Shares) {
		if d := r.drains[string(n)]; d != nil && partOf(was.shares, n) != partOf(c.Split.Shares, n) && d.moving() {
			if d.state.Goal == mesh.GoalDrained {
				return "cluster_drained", fmt.Sprintf("%s is being drained: %s of its part is left", n, percent(d.state.Share)), d.begun
			}
			return "cluster_comes_back", fmt.Sprintf("%s comes back from a drain: it gets %s of its part", n, percent(d.state.Share)), d.begun
		}
	}
	for _, n := range named(was.shares, nil) {
		if c.Outcome.Cause == split.CauseLost && partOf(c.Split.Shares, n) == 0 {
			return "cluster_lost", fmt.Sprintf("%s may not or cannot be used any more", n), 0
		}
	}
	for _, n := range named(nil, c.Split.Shares) {
		if of, returns := r.ways[way{c.Service, n}]; returns && partOf(was.shares, n) != partOf(c.Split.Shares, n) {
			return "cluster_back", fmt.Sprintf("%s is on its way back, step by step", n), of
		}
		if of := r.back[n]; of > 0 && was.shares != nil && partOf(was.shares, n) == 0 {
			return "cluster_back", fmt.Sprintf("%s can be reached from %s again", n, r.cfg.Cluster), of
		}
	}
	if was.shares == nil {
		return "split_begun", "its load is known in more than one cluster, and " + string(split.CauseStart), 0
	}
	switch c.Outcome.Cause {
	case split.CauseLost:
		return "cluster_lost", cause, 0
	case split.CauseOverload:
		return "overload", cause, 0
	case split.CauseGain, split.CauseNoGain: // of small steps the last may have been too small
		return "gain", fmt.Sprintf("as load is measured, requests wait less or cost less so (the best split would still save %.0f%%)", 100*max(0, c.Outcome.Gain)), 0
	}
	return "nobody_serves", cmp.Or(cause, "not said"), 0
}

// moved is a change of a split for people.
func moved(before, after []mesh.Share) string {
	var out []string
	for _, n := range named(before, after) {
		x, y := partOf(before, n), partOf(after, n)
		text := fmt.Sprintf("%s %.1f%%", n, float64(y)*100/mesh.AllParts)
		if before != nil && x != y {
			text = fmt.Sprintf("%s %.1f%% → %.1f%%", n, float64(x)*100/mesh.AllParts, float64(y)*100/mesh.AllParts)
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

func percent(share float64) string { return fmt.Sprintf("%.0f%%", 100*share) }

// drained is a drain as it was last seen.
type drained struct {
	state drain.State
	begun uint64 // the event of its beginning
	steps int    // quarters that were written down
}

// moving reports whether splits follow it now; they do so with a tick or two of delay.
func (d *drained) moving() bool { return d.state.Goal == mesh.GoalDrained || !d.state.Done }

// seeDrains notes what began, went on, turned round or ended. The caller holds mu.
func (r *Recorder) seeDrains(all []drain.State) {
	seen := map[string]bool{}
	for _, s := range all {
		seen[s.Target] = true
		was := r.drains[s.Target]
		d := &drained{state: s}
		r.drains[s.Target] = d
		if was == nil && s.Goal == mesh.GoalServing && s.Done {
			continue // a way back that ended before this process began
		}
		if was == nil || was.state.Goal != s.Goal || !was.state.Since.Equal(s.Since) {
			r.drainBegins(d, was)
			was = &drained{state: drain.State{Done: false}, begun: d.begun, steps: d.steps}
		}
		d.begun, d.steps = was.begun, was.steps
		switch quarter := quarters(s); {
		case s.Done && !was.state.Done:
			r.drainEnds(d)
		case !s.Done && quarter != d.steps:
			d.steps = quarter
			e := about(d)
			e.Reason, e.Cause, e.Because = "drain_goes_on", "time: it changes little by little until "+s.Ends.UTC().Format(time.TimeOnly)+" UTC", d.begun
			e.Effect = s.Target + " gets " + percent(s.Share) + " of its part"
			r.write(e)
		}
	}
	for target, d := range r.drains {
		if !seen[target] {
			delete(r.drains, target)
			if d.state.Goal == mesh.GoalServing && d.state.Done {
				continue
			}
			e := about(d)
			e.Reason, e.Cause, e.Effect, e.Because = "drain_removed", "its Drain object was deleted", target+" gets its whole part at once", d.begun
			r.write(e)
		}
	}
}

// quarters are those of its part that were passed on the way.
func quarters(s drain.State) int {
	if s.Goal == mesh.GoalDrained {
		return int(math.Ceil(4 * s.Share))
	}
	return int(4 * s.Share)
}

// about is an event of a drain.
func about(d *drained) event.Event {
	e := event.Event{Kind: event.Drain, Subject: d.state.Target}
	if t, err := drain.ParseTarget(d.state.Target); err == nil {
		e.Clusters = []mesh.ClusterName{t.Cluster}
	}
	return e
}

// drainBegins notes a drain that is new, or was turned round. The caller holds mu.
func (r *Recorder) drainBegins(d, was *drained) {
	s, e := d.state, about(d)
	e.Cause = "somebody asked for it in " + s.Origin
	if s.Force {
		e.Cause += ", by force: whatever becomes of who takes over"
	}
	if was != nil {
		e.Because = was.begun
	}
	ends := s.Ends.UTC().Format(time.TimeOnly) + " UTC"
	switch {
	case s.Goal == mesh.GoalServing && s.Reason != "":
		e.Reason, e.Cause = "drain_given_up", s.Reason
		e.Effect = fmt.Sprintf("%s gets %s of its part, and all of it by %s", s.Target, percent(s.Share), ends)
	case s.Goal == mesh.GoalServing:
		e.Reason, e.Effect = "undrain_begun", fmt.Sprintf("%s gets %s of its part, and all of it by %s", s.Target, percent(s.Share), ends)
	default:
		e.Reason = "drain_begun"
		e.Effect = fmt.Sprintf("%s gets %s of its part, and nothing from %s on while another can serve", s.Target, percent(s.Share), ends)
	}
	d.begun, d.steps = r.write(e), quarters(s)
}

// drainEnds notes that the goal is reached. The caller holds mu.
func (r *Recorder) drainEnds(d *drained) {
	e := about(d)
	e.Reason, e.Cause, e.Because = "drain_ended", "its time was over", d.begun
	if e.Effect = d.state.Target + " is drained: nothing is sent there while another can serve"; d.state.Goal == mesh.GoalServing {
		e.Reason, e.Effect = "undrain_ended", d.state.Target+" serves its whole part"
	}
	r.write(e)
}
