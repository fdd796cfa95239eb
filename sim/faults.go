package sim

import (
	"maps"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/sim/defence"
	"github.com/isthmus-mesh/isthmus/sim/shape"
	"github.com/isthmus-mesh/isthmus/sim/virtual"
)

// kinds are the faults that come by themselves, at random times. Those that come
// with messages, and proxy-moved, are counted where they happen.
var kinds = []fault{
	{"kill-replica", (*simMesh).killReplica},
	{"kill-cluster", (*simMesh).killCluster},
	{"kill-relay", (*simMesh).killRelay},
	{"clock-skew", (*simMesh).skewClock},
	{"version-skew", (*simMesh).skewVersion},
	{"slow-disk", (*simMesh).slowDisk},
	{"full-disk", (*simMesh).fillDisk},
	{"stale-replica", (*simMesh).hangReplica},
	{"cluster-cut-off", (*simMesh).cutOff},
	{"corrupted-state", (*simMesh).corrupt},
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
var messageFaults = map[string]int{"lose-in-stream": 3, "miss-change": 10, "duplicate-message": 5, "discovery-stream-cut": 3}

// drillFaults come after all others, in seeds whose mesh has converged: they have deadlines, or need what chance seldom brings together.
var drillFaults = []string{"endpoint-deleted-while-cut", "corrupted-in-quiet", "restart-while-holding-over"}

// Faults are the names of all fault kinds: a run over enough seeds in which one of
// them never fired proves less than it says.
func Faults() []string {
	var out []string
	for _, k := range kinds {
		out = append(out, k.name)
	}
	out = append(out, slices.Sorted(maps.Keys(messageFaults))...)
	return append(out, drillFaults...)
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

// replicaUp picks a living replica, not a relay; nil if the one drawn is none.
func (m *simMesh) replicaUp() *node {
	n := m.nodes[m.rng.IntN(len(m.nodes))]
	if !n.up || n.relay {
		return nil
	}
	return n
}

// relayUp picks a living relay; nil if the one drawn is dead.
func (m *simMesh) relayUp() *node {
	remotes := m.names[len(m.primaries):]
	n := m.of(remotes[m.rng.IntN(len(remotes))])[0]
	if !n.up {
		return nil
	}
	return n
}

func (m *simMesh) aPrimary() mesh.ClusterName { return m.primaries[m.rng.IntN(len(m.primaries))] }

func (m *simMesh) killReplica() bool {
	n := m.replicaUp()
	if n == nil {
		return false
	}
	n.kill()
	m.forgetDeletions(n.cluster)
	m.clock.After(m.seconds(1, 8), n.boot)
	return true
}

func (m *simMesh) killCluster() bool {
	c := m.aPrimary()
	for _, n := range m.of(c) {
		n.kill()
		m.clock.After(m.seconds(4, 12), n.boot)
	}
	m.forgetDeletions(c)
	return true
}

// forgetDeletions is what the control run without stored deletions does at every restart of an owner.
func (m *simMesh) forgetDeletions(c mesh.ClusterName) {
	if m.cfg.Without == defence.NoDeletions {
		m.stores[c].forgetDeletions()
	}
}

func (m *simMesh) killRelay() bool {
	n := m.relayUp()
	if n == nil {
		return false
	}
	n.kill()
	m.clock.After(m.seconds(1, 6), n.boot)
	return true
}

// loseRelayDisk takes the relay's partition with it: it has no other store.
func (m *simMesh) loseRelayDisk() bool {
	n := m.relayUp()
	if n == nil || m.rng.IntN(3) > 0 {
		return false
	}
	n.kill()
	n.disk = disk{saved: map[mesh.ClusterName]*replica.Saved{}}
	m.stores[n.cluster].lose()
	m.clock.After(m.seconds(1, 4), n.boot)
	return true
}

func (m *simMesh) restartBlank() bool {
	n := m.replicaUp()
	if n == nil {
		return false
	}
	n.kill()
	n.disk = disk{saved: map[mesh.ClusterName]*replica.Saved{}}
	m.forgetDeletions(n.cluster)
	m.clock.After(m.seconds(1, 4), n.boot)
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
	m.clock.After(m.seconds(1, 4), n.boot)
	return true
}

func (m *simMesh) aDirection() virtual.Direction {
	a := m.names[m.rng.IntN(len(m.names))]
	for {
		if b := m.names[m.rng.IntN(len(m.names))]; a != b {
			return virtual.Way(a, b)
		}
	}
}

func (m *simMesh) partition() bool {
	d := m.aDirection()
	if m.net.Cut(d) || m.net.Cut(d.Back()) {
		return false
	}
	m.clock.After(m.seconds(2, 25), m.net.Sever(d, d.Back()))
	return true
}

func (m *simMesh) partitionOneWay() bool {
	d := m.aDirection()
	if m.net.Cut(d) {
		return false
	}
	m.clock.After(m.seconds(2, 20), m.net.Sever(d))
	return true
}

func (m *simMesh) lag() bool {
	d := m.aDirection()
	m.net.Slow[d] = time.Duration(m.rng.IntN(2000)) * time.Millisecond
	m.clock.After(m.seconds(2, 15), func() { delete(m.net.Slow, d) })
	return true
}

func (m *simMesh) reorder() bool {
	d := m.aDirection()
	m.net.Jitter[d] = time.Second
	m.clock.After(m.seconds(2, 10), func() { delete(m.net.Jitter, d) })
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
	s := m.stores[m.aPrimary()]
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
	s := m.stores[m.aPrimary()]
	if len(s.old) == 0 || m.rng.IntN(2) > 0 {
		return false
	}
	for _, n := range m.of(s.owner) {
		if n.up && n.own.part.Position == s.part.Position {
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
	s := m.stores[m.aPrimary()]
	if len(s.old) == 0 || m.rng.IntN(3) > 0 {
		return false
	}
	m.rewindUnseen(s, s.old[m.rng.IntN(len(s.old))])
	return true
}

func (m *simMesh) rewindUnseen(s *store, b backup) {
	for _, n := range m.of(s.owner) {
		n.kill()
		n.disk, n.oldDisk = disk{saved: map[mesh.ClusterName]*replica.Saved{}}, nil
		m.clock.After(m.seconds(1, 4), n.boot)
	}
	s.rewind(b, false)
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
		m.clock.After(m.seconds(3, 8), n.boot)
	}
	m.downCA(p.cluster)
	m.clock.After(time.Second, func() {
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
	c := m.names[m.rng.IntN(len(m.names))]
	if m.caDown[c] {
		return false
	}
	m.downCA(c)
	return true
}

func (m *simMesh) downCA(c mesh.ClusterName) {
	m.caDown[c] = true
	m.clock.After(m.seconds(5, 30), func() { delete(m.caDown, c) })
}

// skewVersion restarts a replica in another version.
func (m *simMesh) skewVersion() bool {
	n := m.nodes[m.rng.IntN(len(m.nodes))]
	if !n.up {
		return false
	}
	n.kill()
	m.forgetDeletions(n.cluster)
	n.build = shape.Builds()[m.rng.IntN(len(shape.Builds()))]
	m.clock.After(m.seconds(1, 4), n.boot)
	return true
}

// skewClock restarts a replica with a clock that is up to two minutes wrong; between two of them that is less than
// mesh.MaxStampAhead.
func (m *simMesh) skewClock() bool {
	n := m.nodes[m.rng.IntN(len(m.nodes))]
	if !n.up {
		return false
	}
	n.kill()
	m.forgetDeletions(n.cluster)
	n.skew = time.Duration(m.rng.IntN(240)-120) * time.Second
	m.clock.After(m.seconds(1, 4), n.boot)
	return true
}

// slowDisk makes the cache of a node old by ten seconds.
func (m *simMesh) slowDisk() bool {
	n := m.nodes[m.rng.IntN(len(m.nodes))]
	n.slowUntil = m.clock.Now.Add(m.seconds(3, 20))
	return true
}

// fillDisk keeps a node from writing its cache.
func (m *simMesh) fillDisk() bool {
	n := m.nodes[m.rng.IntN(len(m.nodes))]
	n.fullUntil = m.clock.Now.Add(m.seconds(3, 20))
	return true
}

// hangReplica keeps a replica from hearing of its own store, while it tells peers what it knows.
func (m *simMesh) hangReplica() bool {
	n := m.replicaUp()
	if n == nil {
		return false
	}
	n.hungTil = m.clock.Now.Add(m.seconds(2, 12))
	return true
}

// cutOff cuts a cluster from all others, while its endpoints come and go.
func (m *simMesh) cutOff() bool {
	m.isolate(m.names[m.rng.IntN(len(m.names))], m.seconds(3, 15))
	return true
}

// isolate cuts all links of a cluster for a time.
func (m *simMesh) isolate(c mesh.ClusterName, d time.Duration) {
	m.clock.After(d, m.net.Isolate(c, m.names...))
}
