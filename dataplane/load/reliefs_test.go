package load

import (
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/outage"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestReliefs: an outage begins with the first answer of a fallback, lasts while it answers, and is over after ten seconds without;
// another one after that is another.
func TestReliefs(t *testing.T) {
	r, n := reliefs{}, mesh.ServiceName{Namespace: "shop", Name: "catalog"}
	now := int64(time.Hour)
	says := func(after time.Duration, answered int64, state outage.State, times uint32) {
		t.Helper()
		now += int64(after)
		want := outage.Outage{Place: outage.Place{Service: n}, Why: outage.Relieved, State: state}
		if o, at, ok := r.look(n, answered, now); !ok || o != want || at != times {
			t.Errorf("%+v, the %dth, %v; want %+v, the %dth", o, at, ok, want, times)
		}
	}
	if _, _, ok := r.look(n, 0, now); ok {
		t.Error("one that never answered is told")
	}
	says(0, 3, outage.Out, 1)
	says(rests-1, 3, outage.Out, 1)
	says(0, 4, outage.Out, 1)
	says(rests, 4, outage.Over, 1)
	says(time.Hour, 4, outage.Over, 1)
	says(0, 5, outage.Out, 2)
	if _, _, ok := r.look(n, 0, now); ok || len(r) != 0 { // another plan counts from nothing
		t.Errorf("%v is remembered", r)
	}
	says(0, 1, outage.Out, 1)
}
