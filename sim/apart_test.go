package sim

import (
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/sim/defence"
)

// apart cuts the first cluster of a seed off from all others for an hour, in which everybody goes on writing, and returns what checkers complained of and how
// long after the hour everybody agreed.
func apart(seed uint64, without defence.Control) ([]Complaint, time.Duration) {
	m := build(Config{Seed: seed, Clusters: 4, Quiet: time.Minute, Without: without})
	m.clock.RunUntil(start.Add(5 * time.Second))
	m.shape.Writes = [2]time.Duration{5 * time.Second, 40 * time.Second}
	m.isolate(m.names[0], time.Hour)
	m.clock.RunUntil(start.Add(5*time.Second + time.Hour))
	m.calm = true
	took, ok := m.converge()
	if !ok {
		took = m.cfg.Quiet
	}
	m.oracle.quiet()
	return m.oracle.faults, took
}

// TestAnHourApart: what was told before the hour stays in force during it, nothing that was deleted meanwhile comes back, and after it everybody agrees
// within 5 s. Proxies of either side serve all the while (checkers "lost", "boot", "resurrected", "absent-backend"). Without the last good state a checker
// complains.
func TestAnHourApart(t *testing.T) {
	var worst time.Duration
	for seed := range uint64(5) {
		complaints, took := apart(seed+1, defence.All)
		for _, c := range complaints {
			t.Errorf("seed %d: %s: %s", seed+1, c.Checker, c.Detail)
		}
		worst = max(worst, took)
	}
	t.Logf("the slowest of five agreed %s after the hour", worst)
	if worst > 5*time.Second {
		t.Errorf("the slowest agreed %s after the hour, want 5s", worst)
	}
	if complaints, _ := apart(1, defence.NoLastGood); len(complaints) == 0 {
		t.Error("no checker complains of a mesh that drops a peer's facts with its link")
	}
}

// dark kills every control plane and relay of a seed for an hour, and with them all certificate authorities, while every proxy restarts once, and returns what
// checkers complained of, how many restarts were looked at, and how long after the hour everybody agreed.
func dark(seed uint64, without defence.Control) (complaints []Complaint, boots int, took time.Duration) {
	m := build(Config{Seed: seed, Clusters: 4, Quiet: time.Minute, Without: without})
	m.clock.RunUntil(start.Add(5 * time.Second))
	before := m.oracle.checked["boot"]
	for _, n := range m.nodes {
		n.kill()
		m.clock.After(time.Hour, n.boot)
	}
	for _, c := range m.names {
		m.caDown[c] = true
		m.clock.After(time.Hour, func() { delete(m.caDown, c) })
	}
	for _, p := range m.proxies {
		m.clock.After(m.seconds(60, 3540), func() {
			p.boot()
			m.oracle.booted(p)
		})
	}
	m.clock.RunUntil(start.Add(5*time.Second + time.Hour))
	boots = m.oracle.checked["boot"] - before
	m.calm = true
	took, ok := m.converge()
	if !ok {
		took = m.cfg.Quiet
	}
	m.oracle.quiet()
	return m.oracle.faults, boots, took
}

// TestAnHourWithoutControlPlanes: a proxy that restarts meanwhile serves at once what it had, nothing that was in force is lost or loosened, and when control
// planes start from their disks everybody agrees. Without snapshots a checker complains.
func TestAnHourWithoutControlPlanes(t *testing.T) {
	var worst time.Duration
	boots := 0
	for seed := range uint64(5) {
		complaints, n, took := dark(seed+1, defence.All)
		for _, c := range complaints {
			t.Errorf("seed %d: %s: %s", seed+1, c.Checker, c.Detail)
		}
		boots, worst = boots+n, max(worst, took)
	}
	t.Logf("%d restarts of proxies looked at; the slowest of five seeds agreed %s after the hour", boots, worst)
	if boots == 0 {
		t.Error("no restart was looked at")
	}
	if complaints, _, _ := dark(1, defence.NoSnapshot); len(complaints) == 0 {
		t.Error("no checker complains of proxies that start empty")
	}
}
