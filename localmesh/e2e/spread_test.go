package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/api"
	"github.com/isthmus-mesh/isthmus/api/forecast"
)

// laneMesh is two clusters that can serve 80 requests a second each, of 100 ms.
const laneMesh = `
apiVersion: isthmus.dev/v1alpha1
kind: LocalMesh
clusters:
  - {name: eu-west}
  - {name: us-east}
links:
  - {between: [eu-west, us-east], rtt: 20ms}
workloads:
  - {name: echo, namespace: demo, replicas: 1, lanes: 8, run: builtin/echo}
`

const nearest = `
apiVersion: isthmus.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: nearest, namespace: demo}
spec: {targetRefs: [{kind: Service, name: echo}], locality: {strategy: Nearest}}
`

// TestLoadIsSpreadOverClusters: who is asked for more than it can serve sends the rest where there is room, before requests
// wait for long, and keeps what it can serve. Its control is the strategy Nearest, which lets them wait.
func TestLoadIsSpreadOverClusters(t *testing.T) {
	m := newMesh(t, 240)
	m.up("-f", write(t, "mesh.yaml", laneMesh))
	l := m.load(0, echo+"/?delay=100ms", 110)
	defer l.stop()
	away := func() int { return share(t, m) }
	eventually(t, 30*time.Second, "the control plane spreads the load", func() (string, bool) {
		got := away()
		return fmt.Sprintf("%d %% go to us-east", got), got >= 20 && got <= 70
	})
	from := l.now()
	before, crossed := l.servedBy("eu-west"), l.servedBy("us-east")
	<-time.After(8 * time.Second)
	home, there := l.servedBy("eu-west")-before, l.servedBy("us-east")-crossed
	if part := 100 * there / max(home+there, 1); part < 15 || part > 75 {
		t.Errorf("%d %% of %d requests crossed, want about 35 %%", part, home+there)
	}
	spread := median(l.samples(from, l.now()))

	foreseen(t, m)

	m.run("drill", "partition", "eu-west--us-east")
	eventually(t, 20*time.Second, "nothing is meant for a cluster that cannot be reached", func() (string, bool) {
		got := away()
		return fmt.Sprintf("%d %% go to us-east", got), got <= 0
	})
	m.run("drill", "heal", "eu-west--us-east")
	eventually(t, 60*time.Second, "and is again when it can", func() (string, bool) {
		got := away()
		return fmt.Sprintf("%d %% go to us-east", got), got >= 20
	})

	if out, code := m.apply("eu-west", nearest); code != 0 {
		t.Fatalf("apply: exit %d: %s", code, out)
	}
	eventually(t, 10*time.Second, "the policy takes the split back", func() (string, bool) {
		got := away()
		return fmt.Sprintf("%d %% go to us-east", got), got == -1
	})
	<-time.After(4 * time.Second)
	from = l.now()
	<-time.After(2 * time.Second)
	to := l.now()
	eventually(t, 30*time.Second, "requests of these two seconds are answered", func() (string, bool) {
		n := len(l.samples(from, to))
		return fmt.Sprintf("%d are", n), n >= 100
	})
	if waited := median(l.samples(from, to)); waited < 2*spread {
		t.Errorf("with the nearest first half of all requests take %v, and %v where the load is spread: the control shows nothing", waited, spread)
	}
	l.stop()
}

// foreseen: whoever asks what the loss of us-east would do reads that eu-west alone cannot serve what it is asked for.
func foreseen(t *testing.T, m *meshUnder) {
	t.Helper()
	out, _, code := m.apart("simulate", "--fail", "us-east", "-o", "json")
	var f forecast.Answer
	if err := json.NewDecoder(strings.NewReader(string(out))).Decode(&f); err != nil || len(f.Services) != 1 || code != 1 {
		t.Fatalf("simulate --fail us-east: exit %d, %v: %s", code, err, out)
	}
	for _, c := range f.Services[0].Clusters {
		switch {
		case c.Cluster == "us-east" && (c.Before.Load == 0 || c.After.Load != 0),
			c.Cluster == "eu-west" && (c.Before.Shed > 0 || c.After.Shed == 0 || c.After.Utilisation == nil || *c.After.Utilisation < 1):
			t.Errorf("foreseen for %s: %+v, then %+v", c.Cluster, c.Before, c.After)
		}
	}
}

// share is the part of eu-west's requests to echo that is meant for us-east, in percent; -1 where load does not decide.
func share(t *testing.T, m *meshUnder) int {
	t.Helper()
	out, _, code := m.apart("explain", "shell.default@eu-west", "echo.demo", "-o", "json")
	if code < 0 {
		return -2
	}
	var e api.Explanation
	if err := json.NewDecoder(strings.NewReader(string(out))).Decode(&e); err != nil {
		t.Fatalf("explain: %v: %s", err, out)
	}
	for _, b := range e.Backends {
		for _, s := range b.Split {
			if s.Cluster == "us-east" {
				return int(100*s.Share + 0.5)
			}
		}
		if len(b.Split) > 0 {
			return 0
		}
	}
	return -1
}

// median is the time of the middle one.
func median(all []sample) time.Duration {
	if len(all) == 0 {
		return 0
	}
	slices.SortFunc(all, func(a, b sample) int { return int(a.took - b.took) })
	return all[len(all)/2].took
}
