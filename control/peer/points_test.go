package peer_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/control/peer"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/internal/failpoint"
)

// TestErrorsAndDelaysAtEveryPointConverge makes one side fail or hang at each point of replication, from the
// beginning and again while the other changes what it states: in the end the world is what is stated.
func TestErrorsAndDelaysAtEveryPointConverge(t *testing.T) {
	t.Parallel()
	for _, point := range peer.Failpoints() {
		for name, action := range map[string]failpoint.Action{
			"errors at once": failpoint.Error(errors.New("injected")).Times(3),
			"errors later":   failpoint.Error(errors.New("injected")).After(4).Times(2),
			"hangs":          failpoint.Delay(700 * time.Millisecond).After(1).Times(2),
		} {
			t.Run(fmt.Sprintf("%s/%s", point, name), func(t *testing.T) {
				t.Parallel()
				a, b := pair(t)
				points := failpoint.New(peer.Failpoints()...)
				a.failpoints, b.failpoints = points, points
				if err := points.Enable(point, action); err != nil {
					t.Fatal(err)
				}
				a.serve()
				f := b.follow(a)
				a.exports.Tell("b", []*replica.Resource{a.service("web", 8), a.service("old", 8)}, nil)
				b.has(a, "web", 8)
				a.exports.Tell("b", []*replica.Resource{a.service("web", 16)}, nil)
				a.exports.TellAll([]*replica.Resource{a.policy("deny")}, nil)
				b.has(a, "web", 16)
				a.exports.Tell("b", []*replica.Resource{a.service("new", 8)}, []replica.Name{serviceName("old")})
				b.has(a, "new", 8)
				b.await("without the old one, under the policy", func(w *world.World) bool {
					_, denied := w.Get(policyKey(a, "deny"))
					return denied && b.lanes(w, a, "old") == 0 && b.lanes(w, a, "web") == 16
				})
				f.until(t, "in sync", inSync)
				if strings.HasPrefix(string(point), "peer.cache.") {
					f.stop() // the last state is written at the end, whatever failed before
				}
				if points.Hits(point) == 0 {
					t.Error("the point was never passed")
				}
				if strings.HasPrefix(string(point), "peer.cache.") {
					again := b.follow(a)
					again.until(t, "in sync again", inSync)
				}
			})
		}
	}
}

// TestEditThatFailedIsMadeUpFor has the world refuse an edit that the state machine has stepped over: what it
// set and what it removed must both come with the next.
func TestEditThatFailedIsMadeUpFor(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	a.serve()
	points := failpoint.New(peer.Failpoints()...)
	b.failpoints = points
	f := b.follow(a)
	a.exports.Tell("b", []*replica.Resource{a.service("old", 8)}, nil)
	b.has(a, "old", 8)
	f.until(t, "in sync", inSync)
	if err := points.Enable(peer.PointApply, failpoint.Error(errors.New("no room")).Times(1)); err != nil {
		t.Fatal(err)
	}
	a.exports.Tell("b", []*replica.Resource{a.service("new", 8)}, []replica.Name{serviceName("old")})
	b.has(a, "new", 8)
	b.has(a, "old", 0)
	if points.Hits(peer.PointApply) < 2 {
		t.Errorf("passed %d times: nothing failed", points.Hits(peer.PointApply))
	}
}
