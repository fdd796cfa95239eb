package cli_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/control/events"
	"github.com/isthmus-mesh/isthmus/core/event"
	"github.com/isthmus-mesh/isthmus/core/liveness"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// still is noon, for good.
type still struct{ clock.Real }

func (still) Now() time.Time { return noon }

// recorded is what a cluster remembers: that it lost the other.
func recorded(self, other mesh.ClusterName) *events.Recorder {
	r := events.New(events.Config{Cluster: self, Clock: still{}, Look: func() events.Seen { return events.Seen{} }})
	r.Path(other, liveness.State{PathDown: true})
	return r
}

// TestEventsOfAllClusters in one order, filtered, for people and for machines; a cluster that does not answer is named.
func TestEventsOfAllClusters(t *testing.T) {
	g := newGround(t)
	out, errs, code := g.run("", "events")
	if code != 0 || errs != "" || strings.Count(out, ": started\n") != 2 || strings.Count(out, "path_lost\n") != 2 || !strings.Contains(out, "    so       requests from eu-west go to other clusters than us-east\n") {
		t.Errorf("exit %d, %s%s", code, out, errs)
	}
	if out, _, _ := g.run("", "events", "--kind", "path", "--cluster", "us-east", "--since", "10m"); strings.Count(out, "because") != 1 || !strings.Contains(out, "us-east #2  path eu-west") {
		t.Errorf("of one: %s", out)
	}
	if out, _, _ := g.run("", "events", "--since", "1m"); out != "" {
		t.Errorf("of five minutes ago: %s", out)
	}
	g.dead = "us-east"
	out, errs, code = g.run("", "events", "-o", "json")
	var got struct {
		Events   []event.Event
		Clusters []struct{ Cluster, Problem string }
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != 1 || !strings.Contains(errs, "us-east: ") || len(got.Events) != 2 || len(got.Clusters) != 2 || got.Clusters[1].Problem == "" {
		t.Errorf("exit %d, %v, %s%s", code, err, out, errs)
	}
	if _, errs, code := g.run("", "events", "--kind", "walk", "--since", "soon"); code != 2 || !strings.Contains(errs, `kind "walk"`) || !strings.Contains(errs, `"soon"`) {
		t.Errorf("exit %d, %s", code, errs)
	}
	if out, _, _ := g.run("", "__completeNoDesc", "events", "--kind", ""); !slices.Contains(strings.Split(out, "\n"), "split") {
		t.Errorf("kinds: %q", out)
	}
}
