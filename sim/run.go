package sim

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/mesh"
)

type (
	clusterName = mesh.ClusterName
	position    = mesh.Position
	stamp       = mesh.Stamp
)

// primaries have three control-plane replicas each; edge has a relay.
var (
	primaries    = []mesh.ClusterName{"ap-south", "eu-west", "us-east"}
	clusterNames = append(slices.Clone(primaries), "edge")
)

// Control is a defence that a run does without.
type Control string

// The defences, each the reason for a control run.
const (
	All         Control = ""
	NoPositions Control = "positions" // accept what is older than what is known
	NoDigests   Control = "digests"   // never compare roots
	NoSequence  Control = "sequence"  // neither gaps nor roots
	NoBatches   Control = "batches"   // put each message in force as it comes
	NoLastGood  Control = "last-good" // drop a peer's facts with its link
	NoHoldOver  Control = "hold-over" // believe the absences of a new epoch
	NoEpochs    Control = "epochs"    // never begin a new epoch
	NoSnapshot  Control = "snapshot"  // proxies start empty
	NoResume    Control = "resume"    // never say what is held already
	NoDeletions Control = "deletions" // an owner that restarts forgets which policies it deleted
)

// Controls are all of them, each with the checker that must miss it.
func Controls() map[Control]string {
	return map[Control]string{NoPositions: "regressed", NoDigests: "torn", NoSequence: "torn", NoBatches: "torn", NoLastGood: "lost",
		NoHoldOver: "loosened", NoEpochs: "loosened", NoSnapshot: "boot", NoResume: "hand-over", NoDeletions: "resurrected"}
}

// defences are those of the importer that the control run lacks.
func (c Control) defences() replica.Defence {
	switch c {
	case NoPositions:
		return replica.DefencePosition
	case NoDigests:
		return replica.DefenceDigest
	case NoSequence:
		return replica.DefenceDigest | replica.DefenceSequence
	case NoBatches:
		return replica.DefenceBatch
	case NoLastGood:
		return replica.DefenceLastGood
	case NoHoldOver:
		return replica.DefenceHoldOver
	}
	return 0
}

// Config is one run.
type Config struct {
	Seed uint64
	// Faults is how long faults come, in virtual time; default 60 s.
	Faults time.Duration
	// Quiet is how long everything has to converge after the last fault; default 60 s,
	// for a stream that lost message after message waits up to 40 s to ask again.
	Quiet time.Duration
	// Without is the defence that a control run does without.
	Without Control
}

// Result is what a run saw.
type Result struct {
	Complaints []Complaint
	// Counts are of faults, alarms and repairs; Checked of what checkers looked at.
	Counts, Checked map[string]int
	// Trace is equal for equal runs: a digest over every final state.
	Trace string
}

// simMesh is one run's state.
type simMesh struct {
	cfg          Config
	rng          *rand.Rand
	clock        clock
	net          network
	oracle       *oracle
	stores       map[mesh.ClusterName]*store
	nodes        []*node // the relay is the last
	proxies      []*proxy
	caDown       map[mesh.ClusterName]bool
	counts       map[string]int
	sessionCount uint64
	calm         bool
}

func (m *simMesh) count(name string) { m.counts[name]++ }

func (m *simMesh) relay() *node { return m.nodes[len(m.nodes)-1] }

func (m *simMesh) of(c mesh.ClusterName) []*node {
	var out []*node
	for _, n := range m.nodes {
		if n.cluster == c {
			out = append(out, n)
		}
	}
	return out
}

// Run plays one seed from the first fault to quiet.
func Run(cfg Config) Result {
	if cfg.Faults == 0 {
		cfg.Faults = 60 * time.Second
	}
	if cfg.Quiet == 0 {
		cfg.Quiet = 60 * time.Second
	}
	m := build(cfg)
	m.clock.runUntil(start.Add(3 * time.Second))
	m.scheduleFaults()
	m.clock.runUntil(start.Add(3*time.Second + cfg.Faults))
	m.heal()
	m.clock.runUntil(m.clock.now.Add(cfg.Quiet / 2))
	m.forget()
	m.clock.runUntil(m.clock.now.Add(cfg.Quiet / 2))
	m.oracle.quiet()
	return Result{Complaints: m.oracle.faults, Counts: m.counts, Checked: m.oracle.checked, Trace: m.trace()}
}

func build(cfg Config) *simMesh {
	m := &simMesh{cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 0x15a3)), clock: clock{now: start},
		stores: map[mesh.ClusterName]*store{}, caDown: map[mesh.ClusterName]bool{}, counts: map[string]int{}}
	m.net = network{m: m, cut: map[direction]bool{}, slow: map[direction]time.Duration{}, jitter: map[direction]time.Duration{}}
	m.oracle = newOracle(m)
	for _, c := range clusterNames {
		s := newStore(m, c)
		m.stores[c] = s
		var set []*replica.Resource
		for _, n := range names {
			if m.rng.IntN(2) == 0 {
				set = append(set, s.put(n))
			}
		}
		s.write(set, nil, replica.Lineage{})
		replicas := 3
		if c == "edge" {
			replicas = 1
		}
		for i := range replicas {
			n := &node{m: m, cluster: c, id: i, relay: c == "edge", disk: disk{saved: map[mesh.ClusterName]*replica.Saved{}}}
			m.nodes = append(m.nodes, n)
			n.boot()
		}
		for i := range 2 {
			p := &proxy{m: m, cluster: c, id: i}
			m.proxies = append(m.proxies, p)
			m.clock.after(2*time.Second, p.boot)
		}
		m.writeAgain(s)
		m.backUp(s)
	}
	return m
}

// writeAgain keeps a cluster changing. A write goes through a living replica, which
// looks at the store first.
func (m *simMesh) writeAgain(s *store) {
	m.clock.after(time.Duration(200+m.rng.IntN(800))*time.Millisecond, func() {
		if m.calm {
			return
		}
		for _, n := range m.of(s.owner) {
			if n.up {
				n.watch()
				s.edit()
				life := n.life
				m.clock.after(m.watchLag(), func() {
					if n.up && n.life == life {
						n.watch()
					}
				})
				break
			}
		}
		m.writeAgain(s)
	})
}

// backUp keeps some copies of stores and caches, to be restored later.
func (m *simMesh) backUp(s *store) {
	m.clock.after(m.seconds(2, 8), func() {
		if m.calm {
			return
		}
		if s.old = append(s.old, s.backup()); len(s.old) > 3 {
			s.old = s.old[1:]
		}
		for _, n := range m.of(s.owner) {
			if n.up && m.rng.IntN(2) == 0 {
				n.oldDisk = n.disk.clone()
			}
		}
		m.backUp(s)
	})
}

func (m *simMesh) scheduleFaults() {
	m.clock.after(time.Duration(m.rng.IntN(2000))*time.Millisecond, func() {
		if m.calm {
			return
		}
		if k := kinds[m.rng.IntN(len(kinds))]; k.do(m) {
			m.count(k.name)
		}
		m.scheduleFaults()
	})
}

// heal ends all faults; pending restarts still happen by themselves.
func (m *simMesh) heal() {
	m.calm = true
	clear(m.net.cut)
	clear(m.net.slow)
	clear(m.net.jitter)
	for _, n := range m.nodes {
		n.boot()
	}
}

// forget is an operator's last resort, for a lost history that no living witness can
// tell of any more: proxies alone still show a position of it. It takes their
// positions into account by word of command, and the policy checker forgives.
func (m *simMesh) forget() {
	for _, p := range m.proxies {
		if p.config == nil {
			continue
		}
		for _, owner := range clusterNames {
			s, k := m.stores[owner], p.config.known[owner]
			shown := k.Crossed.Union(nil)
			if k.Position != (mesh.Position{}) && k.Position.Epoch != s.part.Position.Epoch {
				shown = shown.Union(replica.Lineage{k.Position.Epoch: k.Position.Revision})
			}
			if s.part.Lineage.Covers(shown) {
				continue
			}
			m.count("operator-forgot")
			m.oracle.forgiven[owner] = true
			s.write(nil, nil, s.part.Lineage.Union(shown))
		}
	}
}

// trace names the final states.
func (m *simMesh) trace() string {
	out := ""
	for _, c := range clusterNames {
		p := m.stores[c].part
		out += string(c) + "=" + p.Position.Epoch.String() + ":" + p.Root().String() + " "
	}
	for _, n := range m.nodes {
		v := mesh.Vector{}
		for owner, k := range n.knowledge() {
			v[owner] = k.Position
		}
		out += v.String() + "; "
	}
	return out
}
