package sim

import (
	"math/rand/v2"
	"time"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/sim/catalog"
	"github.com/isthmus-mesh/isthmus/sim/defence"
	"github.com/isthmus-mesh/isthmus/sim/facts"
	"github.com/isthmus-mesh/isthmus/sim/shape"
	"github.com/isthmus-mesh/isthmus/sim/virtual"
)

// start is an arbitrary instant; stamps and epochs are real Unix times.
var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Config is one run.
type Config struct {
	Seed uint64
	// Clusters is how many; 0 is what the seed says: 50 of one seed in twenty, three to eight of the others.
	Clusters int
	// Quiet is how long everything may take to converge after the last fault; default 60 s,
	// for a stream that lost message after message waits up to 40 s to ask again.
	Quiet time.Duration
	// Without is the defence that a control run does without.
	Without defence.Control
}

// Result is what a run saw.
type Result struct {
	Complaints []Complaint
	// Counts are of faults, alarms and repairs; Checked of what checkers looked at.
	Counts, Checked map[string]int
	// Made and Imported count facts by kind: as clusters stated them, and as they came to another.
	Made, Imported map[mesh.Kind]int
	// Clusters and Proxies are how many there were.
	Clusters, Proxies int
	// Converged is how long after the last fault everybody agreed.
	Converged time.Duration
	// Trace is equal for equal runs: a digest over every final state.
	Trace string
}

// simMesh is one run's state.
type simMesh struct {
	cfg          Config
	rng          *rand.Rand
	clock        virtual.Clock
	net          virtual.Network
	shape        shape.Shape
	names        []mesh.ClusterName // of all clusters, sorted
	primaries    []mesh.ClusterName
	catalogs     map[mesh.ClusterName]*catalog.Catalog
	oracle       *oracle
	stores       map[mesh.ClusterName]*store
	nodes        []*node
	byCluster    map[mesh.ClusterName][]*node
	proxies      []*proxy
	services     []mesh.ServiceName
	index        map[mesh.ClusterName]int // of a cluster in names
	nothing      []catalog.Entry          // what a new proxy has: as long as a catalog
	workspace    []catalog.Entry
	caDown       map[mesh.ClusterName]bool
	facts        map[*replica.Resource]readFact
	refers       map[*ir.Service][]mesh.ServiceName
	counts       map[string]int
	made         map[mesh.Kind]int
	imported     map[mesh.Kind]int
	sessionCount uint64
	calm         bool
}

func (m *simMesh) count(name string) { m.counts[name]++ }

func (m *simMesh) of(c mesh.ClusterName) []*node { return m.byCluster[c] }

// between is a time drawn from a range.
func (m *simMesh) between(r [2]time.Duration) time.Duration {
	return r[0] + time.Duration(m.rng.Int64N(int64(r[1]-r[0])+1))
}

// Run plays one seed from the first fault to quiet, and then two drills that have a deadline.
func Run(cfg Config) Result {
	if cfg.Quiet == 0 {
		cfg.Quiet = 60 * time.Second
	}
	m := build(cfg)
	m.clock.RunUntil(start.Add(3 * time.Second))
	m.scheduleFaults()
	m.clock.RunUntil(start.Add(3*time.Second + m.shape.Chaos))
	m.heal()
	took, ok := m.converge()
	if ok {
		m.drills()
	}
	m.oracle.quiet()
	return Result{Complaints: m.oracle.faults, Counts: m.counts, Checked: m.oracle.checked, Made: m.made, Imported: m.imported,
		Clusters: len(m.names), Proxies: len(m.proxies), Converged: took, Trace: m.trace()}
}

func build(cfg Config) *simMesh {
	m := &simMesh{cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 0x15a3)), clock: virtual.Clock{Now: start},
		stores: map[mesh.ClusterName]*store{}, caDown: map[mesh.ClusterName]bool{}, counts: map[string]int{}, byCluster: map[mesh.ClusterName][]*node{},
		catalogs: map[mesh.ClusterName]*catalog.Catalog{}, facts: map[*replica.Resource]readFact{}, refers: map[*ir.Service][]mesh.ServiceName{},
		made: map[mesh.Kind]int{}, imported: map[mesh.Kind]int{}, index: map[mesh.ClusterName]int{}}
	m.net = virtual.NewNetwork(&m.clock, m.rng)
	m.oracle = newOracle(m)
	m.shape = shape.New(cfg.Seed, cfg.Clusters, m.rng)
	m.names = m.shape.Names(func(*mesh.Cluster) bool { return true })
	m.services = facts.Services()
	for i, c := range m.names {
		m.index[c] = i
	}
	m.primaries = m.shape.Names(func(c *mesh.Cluster) bool { return c.Role == mesh.RolePrimary })
	for i, c := range m.shape.Clusters {
		m.catalogs[c.Name] = catalog.New(ir.View{Cluster: c.Name, Network: c.Network}, m.names)
		m.nothing = make([]catalog.Entry, max(len(m.nothing), len(m.catalogs[c.Name].Resources)))
		s := newStore(m, i, c)
		m.stores[c.Name] = s
		s.write(s.first(), replica.Lineage{})
	}
	for _, c := range m.shape.Clusters {
		for i := range m.shape.Replicas[c.Name] {
			n := &node{m: m, cluster: c.Name, id: i, relay: c.Role == mesh.RoleRemote, build: shape.Builds()[0], disk: disk{saved: map[mesh.ClusterName]*replica.Saved{}}}
			m.nodes = append(m.nodes, n)
			m.byCluster[c.Name] = append(m.byCluster[c.Name], n)
		}
	}
	for _, n := range m.nodes {
		n.boot()
	}
	for _, c := range m.names {
		for i := range m.shape.Whole + m.shape.Plain {
			p := &proxy{m: m, cluster: c, id: i, whole: i < m.shape.Whole}
			m.proxies = append(m.proxies, p)
			m.clock.After(2*time.Second, p.boot)
		}
		m.writeAgain(m.stores[c])
		m.backUp(m.stores[c])
	}
	return m
}

// writeAgain keeps a cluster changing. A write goes through a living replica, which
// looks at the store first.
func (m *simMesh) writeAgain(s *store) {
	m.clock.After(m.between(m.shape.Writes), func() {
		if m.calm {
			return
		}
		m.throughReplica(s, s.edit)
		m.writeAgain(s)
	})
}

// throughReplica has a living replica write; false if there is none.
func (m *simMesh) throughReplica(s *store, write func()) bool {
	for _, n := range m.of(s.owner) {
		if n.up && !m.clock.Now.Before(n.hungTil) {
			n.watch()
			s.skew = n.skew
			write()
			n.later(m.watchLag(), n.watch)
			return true
		}
	}
	return false
}

// backUp keeps some copies of stores and caches, to be restored later.
func (m *simMesh) backUp(s *store) {
	m.clock.After(m.seconds(2, 8), func() {
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
	m.clock.After(m.between(m.shape.Faults), func() {
		if m.calm {
			return
		}
		if k := kinds[m.rng.IntN(len(kinds))]; k.do(m) {
			m.count(k.name)
		}
		m.scheduleFaults()
	})
}

// heal ends all faults; pending restarts still happen by themselves. What runs in a version that others refuse is
// upgraded.
func (m *simMesh) heal() {
	m.calm = true
	m.net.Heal()
	for _, n := range m.nodes {
		n.slowUntil, n.fullUntil, n.hungTil = time.Time{}, time.Time{}, time.Time{}
		for _, o := range m.nodes {
			if !shape.Fits(n.build, o.build) {
				n.kill()
				n.build = shape.Builds()[0]
			}
		}
		n.boot()
	}
}

// converge lets time pass until everybody agrees, or until it has taken too long. After a quarter of that an operator gives his word.
func (m *simMesh) converge() (took time.Duration, ok bool) {
	began, agreed, forgot := m.clock.Now, 0, false
	for m.clock.Now.Sub(began) < m.cfg.Quiet {
		m.clock.RunUntil(m.clock.Now.Add(500 * time.Millisecond))
		if took = m.clock.Now.Sub(began); !forgot && took >= m.cfg.Quiet/4 {
			forgot = true
			m.forget()
		}
		if !m.agreed() {
			agreed = 0
			continue
		}
		if agreed++; agreed == 4 { // and it stays so
			return took - 1500*time.Millisecond, true
		}
	}
	return took, false
}

// agreed reports whether everybody holds what its owner tells; the final check is by what owners ought to tell.
func (m *simMesh) agreed() bool {
	for _, n := range m.nodes {
		if !n.up || n.settling || n.own != m.stores[n.cluster].view || n.pub == nil {
			return false
		}
		for _, owner := range m.names {
			im := n.importers[owner]
			if im == nil {
				continue
			}
			for _, o := range m.of(owner) {
				if told := o.tells[n.cluster]; told == nil || !im.Stated().Equal(told) || im.Stated().Position != told.Position || !im.InForce().Equal(m.oracle.inForce(told)) {
					return false
				}
			}
			if len(n.reached) > 0 && n.reached[owner] != mesh.Alive {
				return false
			}
		}
	}
	for _, p := range m.proxies {
		if !p.serving() || p.at == nil || p.config.from != p.at.pub {
			return false
		}
	}
	return true
}

// forget is an operator's last resort, for a lost history that no living witness can
// tell of any more: proxies alone still show a position of it. It takes their
// positions into account by word of command, and the policy checker forgives.
func (m *simMesh) forget() {
	for _, p := range m.proxies {
		if p.config == nil {
			continue
		}
		for _, owner := range m.names {
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
			was := s.part.Position
			if !k.Position.Epoch.Newer(was.Epoch) {
				s.write(change{}, s.part.Lineage.Union(shown))
				continue
			}
			// The history that was lost began after this one, by a clock that was ahead: one more begins after both.
			s.commit(mesh.Position{Epoch: s.mint(k.Position.Epoch), Revision: was.Revision + 1}, change{},
				s.part.Lineage.Union(shown).Union(replica.Lineage{was.Epoch: was.Revision}))
		}
	}
}

// trace names the final states.
func (m *simMesh) trace() string {
	out := ""
	for _, c := range m.names {
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
