package sim

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// store is the store of one cluster: linearizable, one history, which a fault may
// rewind. Its partition is what the cluster exports.
type store struct {
	m      *simMesh
	owner  mesh.ClusterName
	part   *replica.Partition
	tombs  map[replica.Name]mesh.Stamp // what this history says that it deleted, and when
	truth  map[replica.Name]mesh.Stamp // what it did delete: the checkers' memory
	clock  replica.HLC
	epochs int
	old    []backup
}

// backup is a copy of a store, as a disk snapshot holds it.
type backup struct {
	part         *replica.Partition
	tombs, truth map[replica.Name]mesh.Stamp
}

func newStore(m *simMesh, owner mesh.ClusterName) *store {
	s := &store{m: m, owner: owner, part: replica.NewPartition(owner), tombs: map[replica.Name]mesh.Stamp{},
		truth: map[replica.Name]mesh.Stamp{}, clock: replica.HLC{Origin: owner}}
	s.part = s.part.At(mesh.Position{Epoch: s.mint(mesh.Epoch{})}, replica.Lineage{})
	s.m.oracle.record(s)
	return s
}

// mint makes an epoch after a known one.
func (s *store) mint(after mesh.Epoch) mesh.Epoch {
	s.epochs++
	return mesh.Epoch{StartMillis: max(s.m.clock.now.UnixMilli(), after.StartMillis+1), ID: fmt.Sprintf("e%d", s.epochs)}
}

func (s *store) backup() backup { return backup{s.part, maps.Clone(s.tombs), maps.Clone(s.truth)} }

// write is one transaction; the caller has made sure that its view is not ahead.
func (s *store) write(set []*replica.Resource, removed []replica.Name, lineage replica.Lineage) {
	pos := s.part.Position
	pos.Revision++
	s.commit(pos, set, removed, lineage)
}

func (s *store) commit(pos mesh.Position, set []*replica.Resource, removed []replica.Name, lineage replica.Lineage) {
	var forgotten []replica.Name
	for _, n := range removed {
		s.tombs[n] = s.clock.Tick(s.m.clock.now)
		s.truth[n] = s.tombs[n]
		s.m.oracle.deleted(s.owner, n, s.tombs[n])
		if replica.Tightens(n.Kind) {
			set = append(set, replica.NewGone(n, pos, s.tombs[n]))
		} else {
			forgotten = append(forgotten, n)
		}
	}
	removed = forgotten
	for _, r := range set {
		if r.Gone {
			s.tombs[r.Name], s.truth[r.Name] = r.Stamp, r.Stamp
		}
	}
	s.part = s.part.With(set, removed).At(pos, lineage)
	s.m.oracle.record(s)
}

// put makes a resource of the owner with random content.
func (s *store) put(n replica.Name) *replica.Resource {
	var digest [16]byte
	for i := range digest {
		digest[i] = byte(s.m.rng.Uint32())
	}
	body := make([]byte, 40+s.m.rng.IntN(200))
	for i := range body {
		body[i] = byte('a' + s.m.rng.IntN(26))
	}
	pos := s.part.Position
	pos.Revision++
	return replica.NewResource(n, pos, s.clock.Tick(s.m.clock.now), digest, body)
}

// restart is what a replica does when it learns that the history was rewound: a new
// epoch after the known one, which takes nothing of the old one for granted. What
// the replica itself remembers of policies it puts back in the same transaction.
func (s *store) restart(known mesh.Position, remembered *replica.Partition) {
	if s.m.cfg.Without == NoEpochs {
		return
	}
	lineage := s.part.Lineage
	var set []*replica.Resource
	if remembered != nil {
		set = s.missing(slices.Collect(remembered.All()))
		lineage = lineage.Union(remembered.Lineage).Union(replica.Lineage{remembered.Position.Epoch: remembered.Position.Revision})
	}
	pos := mesh.Position{Epoch: s.mint(known.Epoch), Revision: s.part.Position.Revision + 1}
	s.commit(pos, set, nil, lineage)
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
	s.write(set, nil, s.part.Lineage.Union(w.Crossed))
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
	s.part, s.tombs, s.truth = b.part, maps.Clone(b.tombs), maps.Clone(b.truth)
	if declared && s.m.cfg.Without != NoEpochs {
		lineage := b.part.Lineage.Union(replica.Lineage{b.part.Position.Epoch: b.part.Position.Revision})
		s.commit(mesh.Position{Epoch: s.mint(before.Epoch), Revision: b.part.Position.Revision + 1}, nil, nil, lineage)
	}
}

// forgetDeletions is what an owner does that keeps its statements of deletion in memory only, when
// it restarts.
func (s *store) forgetDeletions() {
	at := s.part.Position
	at.Revision++
	s.tombs = map[replica.Name]mesh.Stamp{}
	s.part = s.part.Live().At(at, s.part.Lineage)
	s.m.oracle.record(s)
}

// edit is a person or a controller at work: a few objects change at once.
func (s *store) edit() {
	n := 1
	if s.m.rng.IntN(8) == 0 {
		n = 10 // a rollout
	}
	var set []*replica.Resource
	var removed []replica.Name
	touched := map[replica.Name]bool{}
	for range n {
		name := names[s.m.rng.IntN(len(names))]
		if touched[name] {
			continue
		}
		touched[name] = true
		if have := s.part.Get(name); have != nil && !have.Gone && s.m.rng.IntN(3) == 0 {
			removed = append(removed, name)
		} else {
			set = append(set, s.put(name))
		}
	}
	s.write(set, removed, s.part.Lineage)
}

// names are those that every cluster states objects of.
var names = func() []replica.Name {
	var out []replica.Name
	add := func(k mesh.Kind, n int) {
		for i := range n {
			out = append(out, replica.Name{Kind: k, Namespace: "shop", Name: fmt.Sprintf("n%d", i)})
		}
	}
	add(mesh.KindRemoteService, 14)
	add(mesh.KindAccessPolicy, 6)
	add(mesh.KindResidencyPolicy, 3)
	add(mesh.KindHTTPRoute, 5)
	return out
}()

// watchLag is how long a replica may hear late of a change in its own store.
func (m *simMesh) watchLag() time.Duration {
	return time.Duration(1+m.rng.IntN(120)) * time.Millisecond
}
