package sim

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/sim/defence"
	"github.com/isthmus-mesh/isthmus/sim/facts"
)

// view is a whole state of a store at one position. It is immutable.
type view struct {
	// part are the objects that travel, and statements of deletion.
	part *replica.Partition
	// local are the facts that stay.
	local map[mesh.Key]*mesh.Fact
}

func newView(owner mesh.ClusterName) *view {
	return &view{replica.NewPartition(owner), map[mesh.Key]*mesh.Fact{}}
}

// store is the store of one cluster: linearizable, one history, which a fault may
// rewind.
type store struct {
	m     *simMesh
	owner mesh.ClusterName
	*view
	tombs  map[replica.Name]mesh.Stamp // what this history says that it deleted, and when
	truth  map[replica.Name]mesh.Stamp // what it did delete: the checkers' memory
	clock  replica.HLC
	skew   time.Duration // of the clock of who writes
	make   *facts.Maker
	epochs int
	old    []backup
	// line is what the history holds at each position, as a store can be asked for.
	line map[mesh.Position]*replica.Partition
}

// backup is a copy of a store, as a disk snapshot holds it.
type backup struct {
	*view
	tombs, truth map[replica.Name]mesh.Stamp
}

// change is what one transaction does.
type change struct {
	set     []*replica.Resource
	removed []replica.Name
	local   []world.Edit
}

func newStore(m *simMesh, number int, owner *mesh.Cluster) *store {
	s := &store{m: m, owner: owner.Name, view: newView(owner.Name), tombs: map[replica.Name]mesh.Stamp{},
		truth: map[replica.Name]mesh.Stamp{}, clock: replica.HLC{Origin: owner.Name}, line: map[mesh.Position]*replica.Partition{}}
	s.make = &facts.Maker{Rand: m.rng, Self: owner.Name, Number: number, Clusters: m.shape.Clusters, Suffix: fmt.Sprintf("-%d", m.cfg.Seed%1000)}
	s.become(&view{s.part.At(mesh.Position{Epoch: s.mint(mesh.Epoch{})}, replica.Lineage{}), s.local})
	return s
}

// become is what every write ends with.
func (s *store) become(v *view) {
	s.view = v
	s.line[v.part.Position] = v.part
	s.m.oracle.record(s)
}

// parted reports whether what somebody has seen of the history is no longer in it, although it has gone on as far.
func (s *store) parted(seen *replica.Partition) bool {
	at := seen.Position
	return at.Epoch == s.part.Position.Epoch && at.Revision <= s.part.Position.Revision && s.line[at] != seen
}

func (s *store) now() time.Time { return s.m.clock.Now.Add(s.skew) }

// joined are the facts without which a cluster is none of the mesh.
func (s *store) joined() []world.Edit {
	var out []world.Edit
	for _, c := range s.m.shape.Clusters {
		v := *c
		if c.Name == s.owner && s.m.rng.IntN(2) == 0 {
			v.Accepts = []mesh.Accept{{Origin: "*", Kind: "*", Namespace: "*"}}
		}
		out = append(out, world.Put(s.make.Cluster(&v)))
	}
	return append(out, world.Put(s.make.Make(mesh.KindBundle)))
}

// first is what a cluster begins with.
func (s *store) first() change {
	c := change{local: s.joined()}
	for _, n := range facts.Services() {
		if s.m.rng.IntN(3) == 0 {
			continue
		}
		c.local = append(c.local, world.Put(s.make.Service(n)))
		for i := range s.m.rng.IntN(3) {
			c.local = append(c.local, world.Put(s.make.Workload(n, i)))
		}
		if s.m.rng.IntN(3) > 0 {
			c.local = append(c.local, world.Put(s.make.Export(n)))
		}
	}
	for _, k := range facts.Kinds() {
		if s.m.rng.IntN(2) == 0 {
			s.put(&c, s.make.Make(k))
		}
	}
	return c
}

// mint makes an epoch after a known one.
func (s *store) mint(after mesh.Epoch) mesh.Epoch {
	s.epochs++
	return mesh.Epoch{StartMillis: max(s.now().UnixMilli(), after.StartMillis+1), ID: fmt.Sprintf("e%d", s.epochs)}
}

func (s *store) backup() backup { return backup{s.view, maps.Clone(s.tombs), maps.Clone(s.truth)} }

// write is one transaction; the caller has made sure that its view is not ahead.
func (s *store) write(c change, lineage replica.Lineage) {
	pos := s.part.Position
	pos.Revision++
	s.commit(pos, c, lineage)
}

func (s *store) commit(pos mesh.Position, c change, lineage replica.Lineage) {
	set, forgotten := c.set, []replica.Name(nil)
	for _, n := range c.removed {
		s.tombs[n] = s.clock.Tick(s.now())
		s.truth[n] = s.tombs[n]
		s.m.oracle.deleted(s.owner, n, s.tombs[n])
		if replica.Tightens(n.Kind) {
			set = append(set, replica.NewGone(n, pos, s.tombs[n]))
		} else {
			forgotten = append(forgotten, n)
		}
	}
	for _, r := range set {
		if r.Gone {
			s.tombs[r.Name], s.truth[r.Name] = r.Stamp, r.Stamp
		}
	}
	local := s.local
	if len(c.local) > 0 {
		local = maps.Clone(local)
	}
	for _, e := range c.local {
		if e.Fact == nil {
			delete(local, e.Key)
			continue
		}
		f := *e.Fact
		f.Position = pos
		local[e.Key] = &f
		s.m.made[f.Kind]++
	}
	s.become(&view{s.part.Next(set, forgotten, pos, lineage), local})
}

// put adds a fact to a transaction: as an object that travels, or as one that stays.
func (s *store) put(c *change, f *mesh.Fact) {
	if !f.Kind.Replicated() || f.Home {
		c.local = append(c.local, world.Put(f))
		return
	}
	pos := s.part.Position
	pos.Revision++
	c.set = append(c.set, replica.NewResource(replica.NameOf(f.Key), pos, s.clock.Tick(s.now()), f.Digest, f.Raw))
	s.m.made[f.Kind]++
}

// restart is what a replica does when it learns that the history was rewound: a new
// epoch after the known one, which takes nothing of the old one for granted. What
// the replica itself remembers of policies it puts back in the same transaction.
func (s *store) restart(known mesh.Position, remembered *replica.Partition) {
	if s.m.cfg.Without == defence.NoEpochs {
		return
	}
	lineage := s.part.Lineage
	var set []*replica.Resource
	if remembered != nil {
		set = s.missing(slices.Collect(remembered.All()))
		lineage = lineage.Union(remembered.Lineage).Union(replica.Lineage{remembered.Position.Epoch: remembered.Position.Revision})
	}
	pos := mesh.Position{Epoch: s.mint(known.Epoch), Revision: s.part.Position.Revision + 1}
	s.commit(pos, change{set: set}, lineage)
	s.m.count("epoch-minted")
}

// adopt takes over what a witness holds of an earlier epoch.
func (s *store) adopt(w *replica.Witness) {
	if s.part.Lineage.Covers(w.Crossed) {
		return
	}
	set := s.missing(w.Orphans)
	s.m.counts["policies-adopted"] += len(set)
	s.m.count("witness-heard")
	s.write(change{set: set}, s.part.Lineage.Union(w.Crossed))
}

// missing are the policies of a lost history, and its deletions, that this one neither
// has a later version of nor has deleted since.
func (s *store) missing(rs []*replica.Resource) []*replica.Resource {
	var set []*replica.Resource
	for _, r := range rs {
		if !replica.Tightens(r.Kind) || s.tombs[r.Name].Compare(r.Stamp) > 0 {
			continue
		}
		if have := s.part.Get(r.Name); have == nil || have.Stamp.Compare(r.Stamp) < 0 {
			set = append(set, r)
		}
	}
	return set
}

// rewind puts an old disk under the store. If it is declared, the restorer begins a
// new epoch; if not, somebody who remembers must notice.
func (s *store) rewind(b backup, declared bool) {
	before := s.part.Position
	s.view, s.tombs, s.truth = b.view, maps.Clone(b.tombs), maps.Clone(b.truth)
	maps.DeleteFunc(s.line, func(at mesh.Position, _ *replica.Partition) bool {
		return at.Epoch == b.part.Position.Epoch && at.Revision > b.part.Position.Revision
	})
	if declared && s.m.cfg.Without != defence.NoEpochs {
		lineage := b.part.Lineage.Union(replica.Lineage{b.part.Position.Epoch: b.part.Position.Revision})
		s.commit(mesh.Position{Epoch: s.mint(before.Epoch), Revision: b.part.Position.Revision + 1}, change{}, lineage)
	}
}

// lose takes the disk: a new history begins with nothing but the knowledge of who is in the mesh.
func (s *store) lose() {
	before := s.part.Position
	s.view, s.tombs, s.truth = newView(s.owner), map[replica.Name]mesh.Stamp{}, map[replica.Name]mesh.Stamp{}
	s.epochs += 100
	s.commit(mesh.Position{Epoch: s.mint(before.Epoch), Revision: 1}, change{local: s.joined()}, replica.Lineage{})
}

// forgetDeletions is what an owner does that keeps its statements of deletion in memory only, when
// it restarts.
func (s *store) forgetDeletions() {
	at := s.part.Position
	at.Revision++
	s.tombs = map[replica.Name]mesh.Stamp{}
	s.become(&view{s.part.Live().At(at, s.part.Lineage), s.local})
}

// edit is a person or a controller at work: a few facts change at once, endpoints most often, policies often.
func (s *store) edit() {
	n := 1
	if s.m.rng.IntN(8) == 0 {
		n = 10 // a rollout
	}
	var c change
	touched := map[mesh.Key]bool{}
	kinds := facts.Kinds()
	for range n {
		kind := kinds[s.m.rng.IntN(len(kinds))]
		switch s.m.rng.IntN(12) {
		case 0, 1, 2, 3:
			kind = mesh.KindWorkload
		case 4, 5:
			kind = mesh.KindAccessPolicy
		case 6:
			kind = mesh.KindResidencyPolicy
		}
		f := s.make.Make(kind)
		if touched[f.Key] {
			continue
		}
		touched[f.Key] = true
		if s.m.rng.IntN(3) > 0 || !s.remove(&c, f) {
			s.put(&c, f)
		}
	}
	s.write(c, s.part.Lineage)
}

// remove adds the deletion of what a fact names to a transaction; false if there is nothing to delete, or it may not be.
func (s *store) remove(c *change, f *mesh.Fact) bool {
	if f.Kind == mesh.KindCluster || f.Kind == mesh.KindBundle {
		return false
	}
	if s.local[f.Key] != nil {
		c.local = append(c.local, world.Remove(f.Key))
		return true
	}
	n := replica.NameOf(f.Key)
	if have := s.part.Get(n); have == nil || have.Gone {
		return false
	}
	c.removed = append(c.removed, n)
	return true
}

// facts yields every fact of a view, in order; it is what its cluster's world holds.
func (v *view) facts(m *simMesh, owner mesh.ClusterName) func(func(*mesh.Fact) bool) {
	return func(yield func(*mesh.Fact) bool) {
		for _, k := range slices.SortedFunc(maps.Keys(v.local), mesh.Key.Compare) {
			if !yield(v.local[k]) {
				return
			}
		}
		for r := range v.part.All() {
			if f := m.fact(owner, r); f != nil && !yield(f) {
				return
			}
		}
	}
}

// watchLag is how long a replica may hear late of a change in its own store.
func (m *simMesh) watchLag() time.Duration {
	return time.Duration(1+m.rng.IntN(120)) * time.Millisecond
}
