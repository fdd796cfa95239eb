package traffic

import (
	"testing"
)

// TestUndeclaredIsNearDeclared: where no endpoint declares its lanes, a lasting skew is served as if they did, once the limits were
// met; an overload everywhere and some slow endpoints move nothing that they should not. Without a split, in the control run, a tenth of all requests fails.
func TestUndeclaredIsNearDeclared(t *testing.T) {
	runs := func(scenario, policy string) *Measured {
		var all []*Measured
		for seed := range uint64(3) {
			all = append(all, newWorld(load(t, scenario), policy, seed+1).run())
		}
		return pool(all)
	}
	learnt, declared, alone := runs("t3-steady", undeclared), runs("t3-steady", "isthmus"), runs("t3-steady", "local")
	if learnt.Mean() > 1.05*declared.Mean() || learnt.P99() > 1.1*declared.P99() || learnt.ErrorRate() > 1e-4 {
		t.Errorf("steady: mean %.1f ms, p99 %.0f ms, errors %.5f; declared %.1f and %.0f ms", learnt.Mean(), learnt.P99(), learnt.ErrorRate(), declared.Mean(), declared.P99())
	}
	if alone.ErrorRate() < 0.05 || alone.Mean() < 2*learnt.Mean() {
		t.Errorf("control run: mean %.1f ms, errors %.4f without a split", alone.Mean(), alone.ErrorRate())
	}
	for _, name := range []string{"t3-slowdown", "t3-burst"} {
		learnt, alone := runs(name, undeclared), runs(name, "local")
		if learnt.ErrorRate() > 0.2*alone.ErrorRate() || learnt.Mean() > 0.85*alone.Mean() {
			t.Errorf("%s: mean %.1f ms, errors %.4f; without a split %.1f ms, %.4f", name, learnt.Mean(), learnt.ErrorRate(), alone.Mean(), alone.ErrorRate())
		}
	}
	if out, known := newWorld(tree(t), undeclared, 1).run(), newWorld(tree(t), "isthmus", 1).run(); out.ErrorRate() > 0.01 || out.Mean() > 2*known.Mean() {
		t.Errorf("a tree of services: mean %.1f ms, errors %.4f; declared %.1f ms", out.Mean(), out.ErrorRate(), known.Mean())
	}
	if out := runs("t3-overload", undeclared); out.Goodput < 0.98*6000 || part(out.Crossed, out.Requests) > 0.1 {
		t.Errorf("overload: %.0f requests a second are served of 6,000, %.3f cross", out.Goodput, part(out.Crossed, out.Requests))
	}
	if out := runs("t3-brownout", undeclared); out.ErrorRate() > 1e-4 || part(out.Crossed, out.Requests) > 0.05 {
		t.Errorf("three slow endpoints: errors %.5f, %.3f cross", out.ErrorRate(), part(out.Crossed, out.Requests))
	}
}
