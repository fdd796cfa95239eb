package drain

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/codec/manifest"
	"github.com/isthmus-mesh/isthmus/control/load"
	"github.com/isthmus-mesh/isthmus/control/object"
	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/core/compile"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Objects is where drains are written; *store.Store is one.
type Objects interface {
	Get(ctx context.Context, key store.Key) (store.Object, error)
	Put(ctx context.Context, o store.Object, pre store.Precondition) (int64, error)
}

// Config is what a Keeper works with. All fields are required.
type Config struct {
	Cluster mesh.ClusterName
	World   func() *world.World
	Objects Objects
	// Forecast is load.Driver's.
	Forecast func(load.Loss) []load.Forecast
	// Unheard are clusters that would be sent requests and whose control planes are not heard now, so that what is drained
	// there is not known; nil is none.
	Unheard func() []mesh.ClusterName
	Stamp   func() mesh.Stamp
	Clock   clock.Clock
	Random  io.Reader // of UIDs
	Log     *slog.Logger
}

// Keeper begins drains and looks after those that were written in its cluster. It is safe for concurrent use.
type Keeper struct {
	cfg Config
	mu  sync.Mutex
	// watched are the drains under way, by target.
	watched map[mesh.DrainTarget]*watched
}

// watched is what is seen of a drain under way.
type watched struct {
	digest [16]byte
	// busy are those that had too much before it began, whom it does not make busier.
	busy map[string]bool
	// strikes are how often in a row somebody who takes over had too much.
	strikes int
}

// New returns a keeper; nothing runs before Run.
func New(cfg Config) *Keeper { return &Keeper{cfg: cfg, watched: map[mesh.DrainTarget]*watched{}} }

// The clocks of a keeper.
const (
	// DefaultOver is how long a drain takes.
	DefaultOver = 30 * time.Second
	// OverMax bounds it.
	OverMax = 24 * time.Hour
	// every is how often drains are looked after.
	every = 500 * time.Millisecond
	// settles is how long after its end a drain is still turned round: measurements come late.
	settles = 5 * time.Second
	// strikesMax ticks in a row with too much turn a drain round: one may be chance.
	strikesMax = 3
	// backOver is how long the way back takes then. What was given up was used until now, and is warm.
	backOver = 5 * time.Second
	// writeTries is how often a write is tried when somebody else writes the same object.
	writeTries = 4
)

// State is a drain as it stands.
type State struct {
	Name   string         `json:"name"`
	Target string         `json:"target"`
	Goal   mesh.DrainGoal `json:"goal"`
	// Share is the part of its requests that it gets, from 0 to 1.
	Share float64   `json:"share"`
	Since time.Time `json:"since,omitzero"`
	Ends  time.Time `json:"ends,omitzero"`
	// Done says that the goal is reached.
	Done   bool   `json:"done"`
	Force  bool   `json:"force,omitempty"`
	Reason string `json:"reason,omitempty"`
	// Origin is the cluster in which it was written.
	Origin string `json:"origin"`
}

// intent is a Drain in force.
type intent struct {
	fact  *mesh.Fact
	value *mesh.Drain
}

// all are the drains in force, by target.
func (k *Keeper) all() (out []intent) {
	for _, f := range compile.Drains(k.cfg.World()) {
		out = append(out, intent{f, f.Value.(*mesh.Drain)})
	}
	return out
}

func (k *Keeper) inForce(t mesh.DrainTarget) *intent {
	for _, d := range k.all() {
		if d.value.Target == t && d.fact.Name == NameOf(t) {
			return &d
		}
	}
	return nil
}

// List is every drain in force.
func (k *Keeper) List() []State {
	out := []State{}
	for _, d := range k.all() {
		out = append(out, k.state(d.fact.Name, d.fact.Origin, d.value))
	}
	return out
}

func (k *Keeper) state(name string, origin mesh.ClusterName, d *mesh.Drain) State {
	now, r := k.cfg.Clock.Now(), d.Ramp()
	s := State{Name: name, Target: d.Target.String(), Goal: d.Goal, Share: r.At(now.UnixNano()), Force: d.Force, Reason: d.Reason, Origin: string(origin)}
	if d.SinceMillis > 0 {
		s.Since = time.UnixMilli(d.SinceMillis).UTC()
		s.Ends = s.Since.Add(d.Over)
	}
	s.Done = !now.Before(s.Ends)
	if d.Target.Gateway > 0 { // there is no part of a gateway
		if s.Share = 1; d.Goal == mesh.GoalDrained {
			s.Share = 0
		}
	}
	return s
}

// Request is what somebody asks for.
type Request struct {
	Target mesh.DrainTarget
	Goal   mesh.DrainGoal
	// Over is how long it takes; 0 is DefaultOver.
	Over time.Duration
	// Force begins and goes on whatever becomes of who takes over; DryRun changes nothing, and refuses nothing.
	Force, DryRun bool
}

// Answer is what came of it.
type Answer struct {
	// Plan is nil of what is taken back into use.
	Plan  *Plan `json:"plan,omitempty"`
	State State `json:"state"`
	// Attached says that it was under way, or done, already.
	Attached bool `json:"attached,omitempty"`
}

// Begin begins a drain, or the way back, or finds the one that is under way. The error is a *RefusedError where others
// would get too much.
func (k *Keeper) Begin(ctx context.Context, q Request) (*Answer, error) {
	if q.Over == 0 {
		q.Over = DefaultOver
	}
	if q.Over < 0 || q.Over > OverMax {
		return nil, fmt.Errorf("over %v: want a time up to %v", q.Over, OverMax)
	}
	if err := k.known(q.Target); err != nil {
		return nil, err
	}
	now := k.cfg.Clock.Now()
	was, share := k.inForce(q.Target), 1.0
	if was != nil {
		s := k.state(was.fact.Name, was.fact.Origin, was.value)
		if share = s.Share; was.value.Goal == q.Goal && (q.Goal == mesh.GoalDrained || share < 1) {
			return &Answer{State: s, Attached: true}, nil
		}
	}
	out := &Answer{}
	d := &mesh.Drain{Target: q.Target, Goal: q.Goal, SinceMillis: now.UnixMilli(), Over: q.Over, From: percent(share), Force: q.Force}
	if q.Goal == mesh.GoalServing && share >= 1 {
		return &Answer{State: k.state(NameOf(q.Target), k.cfg.Cluster, d), Attached: true}, nil // it serves
	}
	if q.Goal == mesh.GoalDrained {
		var err error
		if out.Plan, err = k.Plan(q.Target); err != nil {
			return nil, err
		}
		if len(out.Plan.Problems) > 0 && !q.Force && !q.DryRun {
			return nil, &RefusedError{out.Plan}
		}
	}
	out.State = k.state(NameOf(q.Target), k.cfg.Cluster, d)
	if q.DryRun {
		return out, nil
	}
	if err := k.write(ctx, d, nil); err != nil {
		return nil, err
	}
	k.cfg.Log.Info("a drain begins", "target", q.Target.String(), "goal", string(q.Goal), "over", q.Over.String(), "share", share, "force", q.Force)
	return out, nil
}

// percent rounds a part to whole percents, in ten thousandths, as objects say it.
func percent(share float64) uint32 { return uint32(math.Round(share*100)) * (mesh.AllParts / 100) }

// errOvertaken says that somebody wrote another intent meanwhile.
var errOvertaken = errors.New("somebody has written another drain meanwhile")

// write writes the object of a drain. Where upon is not nil, only upon that one.
func (k *Keeper) write(ctx context.Context, d *mesh.Drain, upon *mesh.Fact) error {
	o, err := objectOf(d)
	if err != nil {
		return err
	}
	key := object.Key(o)
	for try := 1; ; try++ {
		meta, pre := object.Meta{Generation: 1, Created: k.cfg.Clock.Now().UTC()}, store.MustNotExist()
		old, err := k.cfg.Objects.Get(ctx, key)
		switch {
		case errors.Is(err, store.ErrNotFound):
			if meta.UID, err = k.uid(); err != nil {
				return err
			}
		case err != nil:
			return fmt.Errorf("write down the drain of %s: %w", d.Target, err)
		default:
			f, _, had, err := object.Decode(old, k.cfg.Cluster, mesh.Epoch{})
			if err != nil {
				return fmt.Errorf("write down the drain of %s: %w", d.Target, err)
			}
			if upon != nil && f.Digest != upon.Digest {
				return errOvertaken
			}
			meta, pre = had, store.AtRevision(old.Revision)
			meta.Generation++
		}
		meta.Stamp = k.cfg.Stamp()
		value, err := object.Encode(o, meta)
		if err != nil {
			return err
		}
		_, err = k.cfg.Objects.Put(ctx, store.Object{Key: key, Value: value}, pre)
		contended := errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrExists) || errors.Is(err, store.ErrNotFound)
		if contended && try < writeTries {
			continue
		}
		if err != nil {
			return fmt.Errorf("write down the drain of %s: %w", d.Target, err)
		}
		return nil
	}
}

// uid is a random UUID (RFC 9562 §5.4).
func (k *Keeper) uid() (string, error) {
	var b [16]byte
	if _, err := io.ReadFull(k.cfg.Random, b[:]); err != nil {
		return "", fmt.Errorf("draw a UID: %w", err)
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]), nil
}

// objectOf is a drain as an object that a person could have written.
func objectOf(d *mesh.Drain) (manifest.Object, error) {
	target := map[string]any{"cluster": d.Target.Cluster}
	switch {
	case d.Target.Zone != "":
		target["zone"] = d.Target.Zone
	case d.Target.Workload != "":
		target["workload"], target["namespace"] = d.Target.Workload, d.Target.Namespace
	case d.Target.Gateway > 0:
		target["gateway"] = d.Target.Gateway - 1
	}
	spec := map[string]any{"target": target, "goal": d.Goal, "since": time.UnixMilli(d.SinceMillis).UTC().Format("2006-01-02T15:04:05.000Z07:00"),
		"over": fmt.Sprintf("%dms", max(d.Over.Milliseconds(), 0)), "from": d.From / (mesh.AllParts / 100)}
	if secs := d.Over.Milliseconds(); secs > 99_999 { // GEP-2257: five digits
		spec["over"] = fmt.Sprintf("%ds", secs/1000)
	}
	if d.Force {
		spec["force"] = true
	}
	if d.Reason != "" {
		spec["reason"] = d.Reason
	}
	text, err := json.Marshal(map[string]any{"apiVersion": "isthmus.dev/v1alpha1", "kind": mesh.KindDrain,
		"metadata": map[string]any{"name": NameOf(d.Target)}, "spec": spec})
	if err != nil {
		return manifest.Object{}, fmt.Errorf("write down the drain of %s: %w", d.Target, err)
	}
	r := manifest.Parse("drain", bytes.TrimSpace(text), manifest.Options{})
	if len(r.Faults) > 0 || len(r.Objects) != 1 {
		var faults []string
		for _, f := range r.Faults {
			faults = append(faults, f.String())
		}
		return manifest.Object{}, fmt.Errorf("write down the drain of %s: %s", d.Target, strings.Join(faults, "; "))
	}
	return r.Objects[0], nil
}

// Run looks after drains until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	return clock.Every(ctx, k.cfg.Clock, every, func(ctx context.Context) error {
		k.look(ctx)
		return nil
	})
}

// look turns round what went too far.
func (k *Keeper) look(ctx context.Context) {
	now := k.cfg.Clock.Now()
	k.forget()
	for _, d := range k.all() {
		ends := time.UnixMilli(d.value.SinceMillis).Add(d.value.Over)
		if d.fact.Origin != k.cfg.Cluster || d.value.Goal != mesh.GoalDrained || d.value.Force || d.value.Target.Gateway > 0 || now.After(ends.Add(settles)) {
			continue
		}
		why := k.tooMuch(d)
		if why == "" {
			continue
		}
		r := d.value.Ramp()
		back := &mesh.Drain{Target: d.value.Target, Goal: mesh.GoalServing, SinceMillis: now.UnixMilli(), Over: backOver, From: percent(r.At(now.UnixNano())),
			Reason: "the drain was given up: " + why}
		wait, stop := context.WithTimeout(ctx, every)
		err := k.write(wait, back, d.fact)
		stop()
		switch {
		case errors.Is(err, errOvertaken): // a person was faster
		case err != nil:
			k.cfg.Log.Error("a drain should be given up, and that could not be written down; trying again", "target", d.value.Target.String(), "because", why, "error", err)
		default:
			k.cfg.Log.Warn("a drain is given up", "target", d.value.Target.String(), "because", why, "share", r.At(now.UnixNano()))
		}
	}
}

// forget drops what was seen of drains that are no longer there.
func (k *Keeper) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for t := range k.watched {
		if d := k.inForce(t); d == nil || d.value.Goal != mesh.GoalDrained {
			delete(k.watched, t)
		}
	}
}

// tooMuch says who that takes over has more than Full, measured or to be expected, for some time now; "" is nobody.
func (k *Keeper) tooMuch(d intent) string {
	t := d.value.Target
	forecasts := k.cfg.Forecast(k.loss(t))
	k.mu.Lock()
	defer k.mu.Unlock()
	w := k.watched[t]
	if w == nil || w.digest != d.fact.Digest {
		w = &watched{digest: d.fact.Digest, busy: busy(forecasts)}
		k.watched[t] = w
	}
	why := ""
	for _, f := range forecasts {
		for _, c := range f.Clusters {
			gone := c.Cluster == t.Cluster && t == mesh.DrainTarget{Cluster: t.Cluster}
			if gone || why != "" || c.Source == mesh.CapacityAssumed || w.busy[f.Service.String()+"@"+string(c.Cluster)] {
				continue
			}
			switch {
			case c.RhoNow > Full:
				why = fmt.Sprintf("%s in %s is at %.0f%% of what it can serve", f.Service, c.Cluster, 100*c.RhoNow)
			case c.RhoThen > Full && f.Left:
				why = fmt.Sprintf("%s in %s would be at %.0f%% of what it can serve", f.Service, c.Cluster, 100*c.RhoThen)
			}
		}
	}
	if w.strikes++; why == "" {
		w.strikes = 0
	}
	if w.strikes < strikesMax {
		return ""
	}
	return why
}

// busy are those that have too much already, and would not get more.
func busy(forecasts []load.Forecast) map[string]bool {
	out := map[string]bool{}
	for _, f := range forecasts {
		for _, c := range f.Clusters {
			if c.RhoNow > Full && c.Then <= c.Now*1.01 {
				out[f.Service.String()+"@"+string(c.Cluster)] = true
			}
		}
	}
	return out
}
