package traffic

import (
	"testing"
	"time"
)

// sickReturn is a region that is as first says for 15 s and then fails every request at once, while it says that it serves.
func sickReturn(t *testing.T, policy string, first state) *Measured {
	return returns(t, policy, first, fails)
}

// returns is a region that is as first says for 15 s, and then as next does; of which it noticed nothing if that is rejects.
func returns(t *testing.T, policy string, first, next state) *Measured {
	m := *load(t, "t3-blackhole")
	m.Faults, m.From, m.To, m.Duration = nil, 25*time.Second, 55*time.Second, 60*time.Second
	w := newWorld(&m, policy, 1)
	all := func(when time.Duration, s state) {
		w.events.push(event{at: int64(when), kind: change, a: int32(len(w.changes))})
		w.changes = append(w.changes, func() {
			for _, at := range w.regions[1].endpoints {
				if e := &w.endpoints[at]; s == first {
					e.state = s
					w.kill(at)
				} else if e.state = s; first != rejects { // nobody noticed
					e.lastBirth = w.now
				}
			}
		})
	}
	all(10*time.Second, first)
	all(25*time.Second, next)
	return w.run()
}

// TestASickClusterThatReturns is found out with a few requests, and stays at them; in the control run, without gates, it is given its
// whole part in half a minute, and callers see what it fails.
func TestASickClusterThatReturns(t *testing.T) {
	gated, control := sickReturn(t, "isthmus", isBlackHole), sickReturn(t, ungated, isBlackHole)
	t.Logf("errors %.4f %%, %d tries failed; without gates %.4f %%, %d", 100*gated.ErrorRate(), gated.Refused, 100*control.ErrorRate(), control.Refused)
	if gated.ErrorRate() > 1e-4 || gated.Refused > control.Refused/10 {
		t.Errorf("with gates %.4f %% of requests fail, and %d tries", 100*gated.ErrorRate(), gated.Refused)
	}
	if control.ErrorRate() < 0.01 {
		t.Errorf("the control proves nothing: %.4f %% of requests fail", 100*control.ErrorRate())
	}
}

// TestASickClusterWhoseGatewayAnswers is one that refuses every request for 15 s, of which no control plane would know but by what proxies trip:
// its gateway answers, and it says that it is well. When it fails every request then, a few find it out. In the control run, in which
// control planes do not hear of trips, callers see it.
func TestASickClusterWhoseGatewayAnswers(t *testing.T) {
	gated, control := sickReturn(t, "isthmus", rejects), sickReturn(t, deaf, rejects)
	t.Logf("errors %.4f %%, %d tries failed; without hearing of trips %.4f %%, %d", 100*gated.ErrorRate(), gated.Refused, 100*control.ErrorRate(), control.Refused)
	if gated.ErrorRate() > 2e-4 || gated.Refused > control.Refused/10 {
		t.Errorf("with gates %.4f %% of requests fail, and %d tries", 100*gated.ErrorRate(), gated.Refused)
	}
	if control.ErrorRate() < 0.01 {
		t.Errorf("the control proves nothing: %.4f %% of requests fail", 100*control.ErrorRate())
	}
}

// TestAWellClusterWhoseGatewayAnswers is back soon: what it costs to be careful with it is little, beside control planes that do not hear of trips.
func TestAWellClusterWhoseGatewayAnswers(t *testing.T) {
	gated, control := returns(t, "isthmus", rejects, works), returns(t, deaf, rejects, works)
	t.Logf("mean %.1f ms, p99 %.1f ms, errors %.4f %%; without hearing of trips %.1f ms, %.1f ms, %.4f %%", gated.Mean(), gated.P99(), 100*gated.ErrorRate(), control.Mean(), control.P99(), 100*control.ErrorRate())
	if gated.ErrorRate() > 1e-4 || gated.P99() > 1.25*control.P99() || gated.Mean() > 1.5*control.Mean() {
		t.Errorf("a cluster that is well is back late")
	}
}
