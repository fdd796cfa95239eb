package authority

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/control/ca"
	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/xds"
)

const (
	// every is how often the next step is looked at.
	every = 500 * time.Millisecond
	// young is for how long after a start proxies that were here may not have come back yet.
	young = 10 * time.Second
	// metMax bounds the proxies that are remembered.
	metMax = 1 << 16
)

// Run takes a replacement of the root on, step by step, until ctx ends.
func (a *Authority) Run(ctx context.Context) error {
	again := a.cfg.Clock.NewTimer(clock.Next(a.cfg.Clock, every))
	defer again.Stop()
	for {
		select {
		case <-again.C():
		case <-a.wake:
			if err := a.reload(ctx); err != nil {
				a.cfg.Log.Warn("what another replica wrote of the certificate authority is not known yet", "error", err)
			}
		case <-ctx.Done():
			return ctx.Err()
		}
		a.look(ctx)
		again.Reset(clock.Next(a.cfg.Clock, every))
	}
}

// Heard takes a step of the store: another replica may have changed the authority. Of nobody it is nothing.
func (a *Authority) Heard(e store.Events) {
	if a == nil || a.cfg.Objects == nil || !slices.ContainsFunc(e.Puts, func(o store.Object) bool { return ca.IsAuthority(o.Key) }) {
		return
	}
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

func (a *Authority) reload(ctx context.Context) error {
	a.acting.Lock()
	defer a.acting.Unlock()
	changed, err := a.CA.Reload(ctx)
	if err != nil || !changed {
		return err
	}
	return a.spread(ctx)
}

// spread puts the bundle in force here, keeps it, and states it.
func (a *Authority) spread(ctx context.Context) error {
	now, err := a.Source.Current().Bundles.With(a.CA.Bundle())
	if err == nil {
		err = a.Source.Update(nil, now)
	}
	if err != nil {
		a.cfg.Log.Error("the own bundle could not be put in force here", "error", err)
	}
	a.keep()
	return a.mesh.Changed(ctx)
}

// look sees how far everybody is, and takes the next step if it may be.
func (a *Authority) look(ctx context.Context) {
	a.alarm()
	a.believe()
	seen := a.seen()
	a.acting.Lock()
	defer a.acting.Unlock()
	before := a.CA.Rotation()
	var err error
	switch before.Phase {
	case ca.PhaseIntroduced:
		err = a.CA.Switch(ctx, seen)
	case ca.PhaseIssuing:
		err = a.CA.Retire(ctx, seen)
	default:
		a.wait("")
		return
	}
	var gate *ca.GateError
	switch {
	case errors.As(err, &gate):
		a.wait(gate.Wait)
	case errors.Is(err, ca.ErrMoved):
		_, err = a.CA.Reload(ctx)
		fallthrough
	case err == nil:
		a.wait("")
		a.tell(before)
		err = errors.Join(err, a.spread(ctx))
		fallthrough
	default:
		if err != nil && ctx.Err() == nil {
			a.wait(err.Error())
			a.cfg.Log.Error("the replacement of the root could not go on; it is tried again", "error", err)
		}
	}
}

func (a *Authority) wait(on string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.waits = on
}

// tell writes down the step from a phase to the one in force.
func (a *Authority) tell(before ca.Rotation) {
	now := a.CA.Rotation()
	switch {
	case before.Phase == ca.PhaseIntroduced && now.Phase == ca.PhaseIssuing:
		a.mesh.Wrote(Act{"root_signs", "all who verify were seen to believe root " + fmt.Sprint(now.Issuer),
			"it signs from now on; certificates of the one before are good to their end, at the latest " + now.OldUntil.UTC().Format(time.RFC3339)})
	case before.Phase == ca.PhaseIssuing && now.Phase == ca.PhaseStable:
		a.mesh.Wrote(Act{"root_withdrawn", "no certificate of root " + fmt.Sprint(before.Other) + " is left", "root " + fmt.Sprint(now.Issuer) + " alone is believed"})
	}
}

// alarm tells when the authority can no longer sign, and when it can again.
func (a *Authority) alarm() {
	now := a.CA.Signs()
	a.mu.Lock()
	before := a.signs
	a.signs = now
	a.mu.Unlock()
	switch {
	case now != nil && before == nil:
		a.mesh.Wrote(Act{"authority_cannot_sign", "the certificate authority cannot sign: " + now.Error(),
			"certificates in use are good to their end, and none is renewed; restore the key (isthmus trust restore) or roll out a new root (isthmus trust rotate)"})
	case now == nil && before != nil:
		a.mesh.Wrote(Act{"authority_signs", "the certificate authority has a key again", "certificates are renewed when they are due"})
	}
}

// believe works out what this cluster believes of the trust domains whose root is being replaced.
func (a *Authority) believe() {
	a.mu.Lock()
	// Before the proxies are looked at: who has taken all by then has taken these.
	generations := map[mesh.TrustDomain]uint64{}
	for td := range a.several {
		generations[td] = a.published[td]
	}
	a.mu.Unlock()
	if len(generations) == 0 {
		a.beliefs.Store(nil)
		return
	}
	missing := a.missing()
	bundles := a.Source.Current().Bundles
	var out []split.Belief
	for td, generation := range generations {
		b := split.Belief{TrustDomain: td, Generation: generation, Missing: missing}
		if own, _ := bundles.Generation(td); own < generation {
			b.Missing = "the control plane of " + string(a.cfg.Cluster)
		}
		if b.Missing != "" {
			b.Generation = 0
		}
		out = append(out, b)
	}
	slices.SortFunc(out, func(x, y split.Belief) int {
		if x.TrustDomain < y.TrustDomain {
			return -1
		}
		return 1
	})
	a.beliefs.Store(&out)
}

// missing names one who verifies and is not known to believe all that is published, "" for nobody.
func (a *Authority) missing() string {
	now := a.cfg.Clock.Now()
	if now.Sub(a.began) < young {
		return fmt.Sprintf("the control plane of %s was started less than %s ago, and proxies may not have come back to it", a.cfg.Cluster, young)
	}
	want := a.mesh.Believed()
	connected := map[string]bool{}
	late := ""
	for _, p := range a.mesh.Proxies() {
		connected[p.Node.ID] = true
		if !slices.ContainsFunc(p.Types, func(t xds.TypeStatus) bool {
			return t.Type == string(ir.TypeBundle) && t.Wildcard && t.AckedDigest == want && len(t.Refused) == 0
		}) {
			late = fmt.Sprintf("proxy %s@%s has not acknowledged the roots", p.Node.ID, a.cfg.Cluster)
		}
	}
	if away := a.away(connected, now); away != "" {
		return fmt.Sprintf("proxy %s@%s is not connected: it starts again, its workload is deleted, or its certificate ends", away, a.cfg.Cluster)
	}
	return late
}

// away names a proxy that is not connected and may hold a certificate that is good: one that was seen, or should be there. One
// that has not been for as long as a certificate lives can be left out, for without one it verifies nobody.
func (a *Authority) away(connected map[string]bool, now time.Time) string {
	ttl := a.ttl()
	a.mu.Lock()
	defer a.mu.Unlock()
	for id := range connected {
		if _, ok := a.met[id]; ok || len(a.met) < metMax {
			a.met[id] = now
		}
	}
	for _, id := range a.mesh.Workloads() {
		if _, ok := a.met[id]; !ok && len(a.met) < metMax {
			a.met[id] = a.began
		}
	}
	out := ""
	for id, last := range a.met {
		if now.Sub(last) > ttl {
			if !connected[id] && now.Sub(last) > 2*ttl {
				delete(a.met, id)
			}
			continue
		}
		if !connected[id] && (out == "" || id < out) {
			out = id
		}
	}
	return out
}

func (a *Authority) ttl() time.Duration {
	if a.cfg.TTL == 0 {
		return ca.TTLDefault
	}
	return a.cfg.TTL
}

// Beliefs is what other clusters are told.
func (a *Authority) Beliefs() []split.Belief {
	if b := a.beliefs.Load(); b != nil {
		return *b
	}
	return nil
}

// Believes takes what another cluster believes.
func (a *Authority) Believes(of mesh.ClusterName, all []split.Belief) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, b := range all {
		if b.TrustDomain == a.cfg.TrustDomain {
			a.heard[of] = b
			return
		}
	}
	delete(a.heard, of)
}

// seen is what is known of everybody who verifies this cluster's certificates.
func (a *Authority) seen() ca.Seen {
	want := a.CA.Rotation().Generation
	seen := ca.Seen{Complete: true, Generation: want}
	lacks := func(missing string, generation uint64) {
		seen.Generation = min(seen.Generation, generation)
		if seen.Complete {
			seen.Complete, seen.Missing = false, missing
		}
	}
	own := slices.IndexFunc(a.Beliefs(), func(b split.Belief) bool { return b.TrustDomain == a.cfg.TrustDomain })
	if own < 0 {
		lacks("proxies of "+string(a.cfg.Cluster)+" are being sent the roots", 0)
	} else if b := a.Beliefs()[own]; b.Missing != "" {
		lacks(b.Missing, b.Generation)
	} else {
		seen.Generation = min(seen.Generation, b.Generation)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, n := range a.mesh.Clusters() {
		b, ok := a.heard[n]
		switch {
		case !ok:
			lacks(fmt.Sprintf("cluster %s has not said what its proxies believe", n), 0)
		case b.Missing != "":
			lacks(b.Missing, b.Generation)
		default:
			seen.Generation = min(seen.Generation, b.Generation)
		}
	}
	return seen
}

// Begin introduces a new root, which signs when everybody believes it.
func (a *Authority) Begin(ctx context.Context) error {
	return a.act(ctx, func() (Act, error) {
		lost := a.CA.Signs()
		if err := a.CA.Introduce(ctx); err != nil {
			return Act{}, err
		}
		cause := "a person began to replace the root"
		if lost != nil {
			cause += ", whose key is lost"
		}
		return Act{"root_introduced", cause, fmt.Sprintf("root %d is sent to all who verify, and signs when they believe it", a.CA.Rotation().Other)}, nil
	})
}

// Abandon takes the introduced root back.
func (a *Authority) Abandon(ctx context.Context) error {
	return a.act(ctx, func() (Act, error) {
		root := a.CA.Rotation().Other
		return Act{"root_abandoned", "a person gave the replacement of the root up", fmt.Sprintf("root %d signed nothing, and is believed no more", root)}, a.CA.Abandon(ctx)
	})
}

// Force takes the next step without waiting for anybody. Who is not ready fails.
func (a *Authority) Force(ctx context.Context) error {
	return a.act(ctx, func() (Act, error) {
		anyway := ca.Seen{Anyway: true}
		waits := a.Waits()
		r := a.CA.Rotation()
		step := Act{Cause: "a person did not let it wait for: " + waits}
		if r.Phase == ca.PhaseIssuing {
			step.Reason, step.Effect = "root_withdrawn", fmt.Sprintf("root %d is believed no more; whoever holds a certificate of it is refused", r.Other)
			return step, a.CA.Retire(ctx, anyway)
		}
		step.Reason, step.Effect = "root_signs", fmt.Sprintf("root %d signs from now on; whoever does not believe it refuses what it signs", r.Other)
		return step, a.CA.Switch(ctx, anyway)
	})
}

// act does one thing, tells of it and spreads what came of it.
func (a *Authority) act(ctx context.Context, do func() (Act, error)) error {
	a.acting.Lock()
	defer a.acting.Unlock()
	done, err := do()
	if errors.Is(err, ca.ErrMoved) {
		if _, again := a.CA.Reload(ctx); again != nil {
			return errors.Join(err, again)
		}
		done, err = do()
	}
	if err != nil {
		return err
	}
	a.mesh.Wrote(done)
	return a.spread(ctx)
}

// Waits is what the next step of a replacement waits for, "" for nothing.
func (a *Authority) Waits() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.waits
}
