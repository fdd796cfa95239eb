package e2e

import (
	"encoding/json"
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/api/drains"
)

var (
	drainRate   = flag.Int("drains-rate", 200, "requests a second to what is drained, in TestAPlannedDrainAndFailback")
	drainRounds = flag.Int("drains-rounds", 1, "how often it is drained and taken back, in a mesh of its own each time")
	drainOver   = flag.Duration("drains-over", 4*time.Second, "how long a drain takes, and the way back")
)

// TestAPlannedDrainAndFailback: the cluster of the callers is drained and taken back, under a load of every tenth a POST. No request
// fails; none that began after the drain is served there; and after the way back, whose every step is proved, all are.
func TestAPlannedDrainAndFailback(t *testing.T) {
	for range *drainRounds {
		drainAndBack(t)
	}
}

func drainAndBack(t *testing.T) {
	m := newMesh(t, 238)
	m.up("-f", write(t, "mesh.yaml", drainMesh))
	defer m.run("down")
	l := m.mixed(0, echo+"/", *drainRate)
	defer l.stop()
	l.settles(t, "eu-west", *drainRate)
	begun, answer := l.now(), drains.Answer{}
	if err := json.Unmarshal([]byte(m.run("drain", "eu-west", "--over", drainOver.String(), "--wait=false", "-o", "json")), &answer); err != nil {
		t.Fatal(err)
	}
	ends := l.now() + time.Until(answer.State.Ends)
	eventually(t, *drainOver+20*time.Second, "the drain ends", func() (string, bool) {
		s := l.samples(max(0, l.now()-time.Second), l.now())
		return fmt.Sprint(len(s)), l.now() > ends+time.Second
	})
	last := time.Duration(0)
	for _, s := range l.samples(begun, l.now()) {
		if s.cluster == "eu-west" {
			last = max(last, s.begin)
		}
	}
	if zero := l.samples(begun, l.now()); last > ends+100*time.Millisecond || len(zero) == 0 {
		t.Errorf("a request that began %v after the end of the drain was served there", last-ends)
	}
	back := l.now()
	m.run("undrain", "eu-west", "--over", drainOver.String(), "--wait=false")
	whole := l.settles(t, "eu-west", *drainRate) - back
	l.stop()
	var failed []string
	all := l.samples(0, l.now())
	for _, s := range all {
		if s.failed != "" {
			failed = append(failed, fmt.Sprintf("%.2fs: %s", s.begin.Seconds(), s.failed))
		}
	}
	t.Logf("%d requests at %d a second, %d failed; drained over %v: the last request there began after %.2f s; back: all there after %.1f s", len(all), *drainRate, len(failed),
		*drainOver, (last - begun).Seconds(), whole.Seconds())
	if len(failed) > 0 {
		t.Errorf("%d of %d requests failed, the first: %s", len(failed), len(all), strings.Join(failed[:min(5, len(failed))], "; "))
	}
	steps := m.run("events", "--cluster", "eu-west", "--kind", "failback", "-o", "json")
	if !strings.Contains(steps, "failback_begun") || !strings.Contains(steps, "failback_ended") {
		t.Errorf("no way back is told: %s", steps)
	}
}

// settles waits until a second's answers come from a cluster, and returns when on the load's clock that second began.
func (l *mixedLoad) settles(t *testing.T, cluster string, rate int) time.Duration {
	t.Helper()
	at := time.Duration(0)
	eventually(t, 90*time.Second, "all are served in "+cluster, func() (string, bool) {
		at = l.now() - 1500*time.Millisecond // what began in the last half second may not have ended
		s := l.samples(at, at+time.Second)
		n := len(slices.DeleteFunc(slices.Clone(s), func(x mixed) bool { return x.cluster != cluster }))
		return fmt.Sprintf("%d of %d", n, len(s)), n == len(s) && n >= rate*8/10
	})
	return at
}

// abortMesh is two clusters that can serve 80 requests a second each, of 100 ms.
const abortMesh = `
apiVersion: isthmus.dev/v1alpha1
kind: LocalMesh
clusters:
  - {name: eu-west}
  - {name: us-east}
links:
  - {between: [eu-west, us-east], rtt: 20ms}
workloads:
  - {name: echo, namespace: demo, replicas: 2, lanes: 4, run: builtin/echo}
`

// TestADrainIsTurnedRoundByLoad: a drain that was begun because there was room is given up when its receiver's own callers ask for
// more meanwhile, so that it passes 85 %. The target serves its whole part again and no request fails. The control is forced: it
// goes on.
func TestADrainIsTurnedRoundByLoad(t *testing.T) {
	m := newMesh(t, 238)
	m.up("-f", write(t, "mesh.yaml", abortMesh))
	url := echo + "/?delay=100ms"
	home, there := m.mixed(0, url, 30), m.mixed(1, url, 20)
	defer home.stop()
	defer there.stop()
	home.settles(t, "eu-west", 30)
	there.settles(t, "us-east", 20)
	var more *mixedLoad
	defer func() {
		if more != nil {
			more.stop()
		}
	}()
	for _, forced := range []bool{false, true} {
		args := []string{"drain", "eu-west", "--over", "10s", "--wait=false"}
		if forced {
			args = append(args, "--force")
		}
		m.run(args...)
		if more == nil {
			more = m.mixed(1, url, 22) // 72 of 80
		}
		state := func() (s drains.State) {
			var rows []struct {
				Cluster string
				Drains  []drains.State
			}
			out, _ := m.try("status", "-o", "json")
			if err := json.Unmarshal([]byte(out), &rows); err != nil || len(rows) == 0 || len(rows[0].Drains) == 0 {
				return drains.State{Reason: out}
			}
			return rows[0].Drains[0]
		}
		if forced {
			eventually(t, 30*time.Second, "the control: a forced drain ends", func() (string, bool) {
				s := state()
				return fmt.Sprintf("%+v", s), s.Goal == "Drained" && s.Done
			})
			continue
		}
		eventually(t, 30*time.Second, "it is given up", func() (string, bool) {
			s := state()
			return fmt.Sprintf("%+v", s), s.Goal == "Serving" && strings.Contains(s.Reason, "given up")
		})
		home.settles(t, "eu-west", 30)
		if told := m.run("events", "--cluster", "eu-west", "--kind", "drain", "-o", "json"); !strings.Contains(told, "drain_given_up") {
			t.Errorf("it is not told: %s", told)
		}
	}
	for _, l := range []*mixedLoad{home, there, more} {
		l.stop()
		for _, s := range l.samples(0, l.now()) {
			if s.failed != "" {
				t.Errorf("%.2fs: %s", s.begin.Seconds(), s.failed)
			}
		}
	}
	t.Logf("%d requests, none failed unless said", len(home.all)+len(there.all)+len(more.all))
}
