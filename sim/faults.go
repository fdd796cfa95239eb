package sim

import (
	"time"

	"github.com/isthmus-mesh/isthmus/core/replica"
)

// kinds are the faults that come by themselves, at random times. The two that come
// with messages, and proxy-moved, are counted where they happen.
var kinds = []fault{
	{"kill-replica", (*simMesh).killReplica},
	{"kill-cluster", (*simMesh).killCluster},
	{"kill-relay", (*simMesh).killRelay},
	{"relay-disk-lost", (*simMesh).loseRelayDisk},
	{"restart-without-disk", (*simMesh).restartBlank},
	{"restore-old-disk", (*simMesh).restoreDisk},
	{"partition", (*simMesh).partition},
	{"partition-one-way", (*simMesh).partitionOneWay},
	{"lag", (*simMesh).lag},
	{"reorder", (*simMesh).reorder},
	{"link-reset", (*simMesh).resetLink},
	{"store-restored", (*simMesh).restoreStore},
	{"store-rolled-back", (*simMesh).rollBackStore},
	{"store-rolled-back-unseen", (*simMesh).rollBackUnseen},
	{"proxy-restart", (*simMesh).restartProxy},
	{"proxy-restart-all-dead", (*simMesh).restartProxyAlone},
	{"proxy-hand-over", (*simMesh).moveProxy},
	{"ca-down", (*simMesh).stopCA},
}

// fault does its harm, arranges its own end, and reports whether it could.
type fault struct {
	name string
	do   func(*simMesh) bool
}

// messageFaults happen to messages, each with this chance in 1,000.
var messageFaults = map[string]int{"lose-in-stream": 3, "miss-change": 10}

// Faults are the names of all fault kinds: a run over enough seeds in which one of
// them never fired proves less than it says.
func Faults() []string {
	var out []string
	for _, k := range kinds {
		out = append(out, k.name)
	}
	return append(out, "lose-in-stream", "miss-change")
}

// faulty rolls the dice for a fault of messages.
func (m *simMesh) faulty(name string) bool {
	if m.calm || m.rng.IntN(1000) >= messageFaults[name] {
		return false
	}
	m.count(name)
	return true
}

func (m *simMesh) seconds(from, to int) time.Duration {
	return time.Duration(from*1000+m.rng.IntN((to-from)*1000)) * time.Millisecond
}

// replicaUp picks a living replica, not the relay.
func (m *simMesh) replicaUp() *node {
	n := m.nodes[m.rng.IntN(len(m.nodes)-1)]
	if !n.up {
		return nil
	}
	return n
}

func (m *simMesh) killReplica() bool {
	n := m.replicaUp()
	if n == nil {
		return false
	}
	n.kill()
	m.forgetDeletions(n.cluster)
	m.clock.after(m.seconds(1, 8), n.boot)
	return true
}

func (m *simMesh) killCluster() bool {
	c := primaries[m.rng.IntN(len(primaries))]
	for _, n := range m.of(c) {
		n.kill()
		m.clock.after(m.seconds(4, 12), n.boot)
	}
	m.forgetDeletions(c)
	return true
}

// forgetDeletions is what the control run without stored deletions does at every restart of an owner.
func (m *simMesh) forgetDeletions(c clusterName) {
	if m.cfg.Without == NoDeletions {
		m.stores[c].forgetDeletions()
	}
}

func (m *simMesh) killRelay() bool {
	n := m.relay()
	if !n.up {
		return false
	}
	n.kill()
	m.clock.after(m.seconds(1, 6), n.boot)
	return true
}

// loseRelayDisk takes the relay's partition with it: it has no other store.
func (m *simMesh) loseRelayDisk() bool {
	n := m.relay()
	if !n.up || m.rng.IntN(3) > 0 {
		return false
	}
	n.kill()
	n.disk = *disk{}.clone()
	n.disk.saved = map[clusterName]*replica.Saved{}
	s := m.stores[n.cluster]
	before := s.part.Position
	s.part, s.tombs, s.truth = replica.NewPartition(n.cluster), map[replica.Name]stamp{}, map[replica.Name]stamp{}
	s.epochs += 100
	s.commit(position{Epoch: s.mint(before.Epoch), Revision: 1}, nil, nil, replica.Lineage{})
	m.clock.after(m.seconds(1, 4), n.boot)
	return true
}

func (m *simMesh) restartBlank() bool {
	n := m.replicaUp()
	if n == nil {
		return false
	}
	n.kill()
	n.disk = disk{saved: map[clusterName]*replica.Saved{}}
	m.forgetDeletions(n.cluster)
	m.clock.after(m.seconds(1, 4), n.boot)
	return true
}

// restoreDisk starts a replica from its cache of some time ago.
func (m *simMesh) restoreDisk() bool {
	n := m.replicaUp()
	if n == nil || n.oldDisk == nil {
		return false
	}
	n.kill()
	n.disk = *n.oldDisk.clone()
	m.clock.after(m.seconds(1, 4), n.boot)
	return true
}

func (m *simMesh) aDirection() direction {
	a := clusterNames[m.rng.IntN(len(clusterNames))]
	for {
		if b := clusterNames[m.rng.IntN(len(clusterNames))]; a != b {
			return direction{a, b}
		}
	}
}

func (m *simMesh) partition() bool {
	d := m.aDirection()
	back := direction{d.to, d.from}
	if m.net.cut[d] || m.net.cut[back] {
		return false
	}
	m.net.cut[d], m.net.cut[back] = true, true
	m.clock.after(m.seconds(2, 25), func() { delete(m.net.cut, d); delete(m.net.cut, back) })
	return true
}

func (m *simMesh) partitionOneWay() bool {
	d := m.aDirection()
	if m.net.cut[d] {
		return false
	}
	m.net.cut[d] = true
	m.clock.after(m.seconds(2, 20), func() { delete(m.net.cut, d) })
	return true
}

func (m *simMesh) lag() bool {
	d := m.aDirection()
	m.net.slow[d] = time.Duration(m.rng.IntN(2000)) * time.Millisecond
	m.clock.after(m.seconds(2, 15), func() { delete(m.net.slow, d) })
	return true
}

func (m *simMesh) reorder() bool {
	d := m.aDirection()
	m.net.jitter[d] = time.Second
	m.clock.after(m.seconds(2, 10), func() { delete(m.net.jitter, d) })
	return true
}

// resetLink ends a stream: the importer goes to another replica or a sibling.
func (m *simMesh) resetLink() bool {
	n := m.nodes[m.rng.IntN(len(m.nodes))]
	if !n.up {
		return false
	}
	all := n.allSessions()
	if len(all) == 0 {
		return false
	}
	all[m.rng.IntN(len(all))].close()
	return true
}

// restoreStore is an operator's: an old backup, declared by a new epoch.
func (m *simMesh) restoreStore() bool {
	s := m.stores[primaries[m.rng.IntN(len(primaries))]]
	if len(s.old) == 0 || m.rng.IntN(2) > 0 {
		return false
	}
	s.rewind(s.old[m.rng.IntN(len(s.old))], true)
	return true
}

// rollBackStore puts an old disk under the store and tells nobody. One replica that
// has seen the end of the history is up, and its watch breaks: without any such
// witness a rollback is not a fault that can be noticed, see ADR 2.
func (m *simMesh) rollBackStore() bool {
	s := m.stores[primaries[m.rng.IntN(len(primaries))]]
	if len(s.old) == 0 || m.rng.IntN(2) > 0 {
		return false
	}
	for _, n := range m.of(s.owner) {
		if n.up && n.own.Position == s.part.Position {
			s.rewind(s.old[m.rng.IntN(len(s.old))], false)
			n.watch()
			return true
		}
	}
	return false
}

// rollBackUnseen puts an old disk under the store while every replica of the cluster
// is dead and starts blank: only peers and proxies remember.
func (m *simMesh) rollBackUnseen() bool {
	s := m.stores[primaries[m.rng.IntN(len(primaries))]]
	if len(s.old) == 0 || m.rng.IntN(3) > 0 {
		return false
	}
	for _, n := range m.of(s.owner) {
		n.kill()
		n.disk, n.oldDisk = disk{saved: map[clusterName]*replica.Saved{}}, nil
		m.clock.after(m.seconds(1, 4), n.boot)
	}
	s.rewind(s.old[m.rng.IntN(len(s.old))], false)
	return true
}

func (m *simMesh) aProxy() *proxy { return m.proxies[m.rng.IntN(len(m.proxies))] }

func (m *simMesh) restartProxy() bool {
	p := m.aProxy()
	if !p.up {
		return false
	}
	p.boot()
	m.oracle.booted(p)
	return true
}

// restartProxyAlone restarts a proxy while every control plane of its cluster and
// its CA are dead.
func (m *simMesh) restartProxyAlone() bool {
	p := m.aProxy()
	if !p.up || m.caDown[p.cluster] || m.rng.IntN(2) > 0 {
		return false
	}
	for _, n := range m.of(p.cluster) {
		n.kill()
		m.clock.after(m.seconds(3, 8), n.boot)
	}
	m.downCA(p.cluster)
	m.clock.after(time.Second, func() {
		p.boot()
		m.oracle.booted(p)
	})
	return true
}

func (m *simMesh) moveProxy() bool {
	p := m.aProxy()
	if !p.up || p.at == nil {
		return false
	}
	was := p.at
	p.move()
	return p.at != was
}

func (m *simMesh) stopCA() bool {
	c := clusterNames[m.rng.IntN(len(clusterNames))]
	if m.caDown[c] {
		return false
	}
	m.downCA(c)
	return true
}

func (m *simMesh) downCA(c clusterName) {
	m.caDown[c] = true
	m.clock.after(m.seconds(5, 30), func() { delete(m.caDown, c) })
}
