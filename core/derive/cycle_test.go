package derive_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/isthmus-mesh/isthmus/core/derive"
)

// Routes that delegate to each other by name, as users write them.
var delegate = derive.NewFact("delegate", func(w map[string]string, k string) (string, bool) { v, ok := w[k]; return v, ok })

// newTarget follows delegations to their end. The function reads itself, so it cannot be a package variable.
func newTarget() *derive.Func[string, string] {
	var target *derive.Func[string, string]
	target = derive.NewFunc("target", derive.Same[string], func(c *derive.Ctx, route string) string {
		next, ok := delegate.Get(c, route)
		if !ok {
			return route
		}
		return target.Get(c, next)
	})
	return target
}

func TestCycleFailsItsRootsAndNobodyElse(t *testing.T) {
	for _, workers := range []int{1, 2, 16} {
		target := newTarget()
		w := map[string]string{"a": "b", "b": "end", "x": "end"}
		e := derive.New(w)
		for _, k := range []string{"c", "b", "a", "x", "0"} {
			target.Watch(e, k)
		}
		e.Settle(workers)

		w = map[string]string{"a": "b", "b": "c", "c": "a", "0": "c", "x": "other"}
		e.Commit(w, delegate.Ref("b"), delegate.Ref("c"), delegate.Ref("0"), delegate.Ref("x"))
		res := e.Settle(workers)

		got := ""
		for _, f := range res.Failed {
			var cycle *derive.CycleError
			if !errors.As(error(f.Err), &cycle) {
				t.Fatalf("%v failed with %v, want a CycleError", f.Root, f.Err)
			}
			got += fmt.Sprintf("%v: %v\n", f.Root, cycle)
		}
		const circle = "derived value depends on itself: target(a) → target(b) → target(c) → target(a)\n"
		want := "target(c): " + circle + "target(b): " + circle + "target(a): " + circle + "target(0): " + circle
		if got != want {
			t.Errorf("%d workers: failed\n%swant\n%s", workers, got, want)
		}
		if len(res.Changed) != 1 || res.Changed[0].New != "other" {
			t.Errorf("%d workers: changed %v, want x alone", workers, res.Changed)
		}
		if v, ok := target.Value(e, "a"); !ok || v != "end" {
			t.Errorf("%d workers: a failed root's value is %q, want its last good one", workers, v)
		}

		// Cut where no root that failed reads it directly, and a root recovers to what it was.
		w = map[string]string{"a": "b", "b": "c", "c": "end", "0": "c", "x": "other"}
		e.Commit(w, delegate.Ref("c"))
		res = e.Settle(workers)
		if len(res.Failed) != 0 {
			t.Errorf("%d workers: still failing: %v", workers, res.Failed)
		}
		changed := ""
		for _, ch := range res.Changed {
			changed += fmt.Sprintf("%v: %v → %v\n", ch.Root, ch.Old, ch.New)
		}
		if want := "target(c): c → end\ntarget(0): 0 → end\n"; changed != want {
			t.Errorf("%d workers: after the cut changed\n%swant\n%s", workers, changed, want)
		}
	}
}

func TestEvalReportsACycle(t *testing.T) {
	target := newTarget()
	if v, err := derive.Eval(map[string]string{"a": "b"}, target, "a"); err != nil || v != "b" {
		t.Errorf("Eval = %q, %v; want b", v, err)
	}
	_, err := derive.Eval(map[string]string{"a": "a"}, target, "a")
	var cycle *derive.CycleError
	if !errors.As(err, &cycle) || len(cycle.Path) != 1 {
		t.Errorf("Eval of a route to itself: %v, want a cycle of one", err)
	}
}

func TestAFunctionCannotSwallowItsAbort(t *testing.T) {
	target := newTarget()
	stubborn := derive.NewFunc("stubborn", derive.Same[string], func(c *derive.Ctx, k string) (out string) {
		defer func() {
			if recover() != nil {
				out = "fine"
			}
		}()
		return target.Get(c, k)
	})
	if v, err := derive.Eval(map[string]string{"a": "a"}, stubborn, "a"); err == nil {
		t.Errorf("Eval = %q, want the cycle", v)
	}
}
