package peer

import (
	"sync"

	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Exports is what each peer is told: one immutable partition a peer, replaced when
// something changes. It is safe for concurrent use; nobody waits for anybody.
type Exports struct {
	self mesh.ClusterName

	mu sync.Mutex
	// shared is what every peer is told: objects and the bundle.
	shared map[replica.Name]*replica.Resource
	peers  map[mesh.ClusterName]*told
	// at and lineage are how far this cluster's history is, and which earlier ones it
	// takes into account.
	at      mesh.Position
	lineage replica.Lineage
}

// told is one peer's partition and those who follow it.
type told struct {
	partition *replica.Partition
	changed   chan struct{} // closed at the next change
}

// NewExports is nothing told to nobody.
func NewExports(self mesh.ClusterName) *Exports {
	return &Exports{self: self, shared: map[replica.Name]*replica.Resource{}, peers: map[mesh.ClusterName]*told{}}
}

// Tell changes what one peer is told.
func (x *Exports) Tell(to mesh.ClusterName, set []*replica.Resource, removed []replica.Name) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.change(x.peer(to), set, removed)
}

// TellAll changes what every peer is told, those that come later included.
func (x *Exports) TellAll(set []*replica.Resource, removed []replica.Name) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.share(set, removed)
}

// Advance says how far this cluster's history is: what was told so far is the whole
// state at p.
func (x *Exports) Advance(p mesh.Position) { x.State(p, nil, nil, nil) }

// State changes what every peer is told and says how far the history is then, in one step: in a
// new epoch an absence means something else than in the old one (core/replica), so an object that
// was lost with the old history must never seem deleted in it. The lineage stays if l is nil. A
// position before the one told changes nothing but content.
func (x *Exports) State(p mesh.Position, l replica.Lineage, set []*replica.Resource, removed []replica.Name) {
	x.mu.Lock()
	defer x.mu.Unlock()
	moved := p.Compare(x.at) > 0
	if moved {
		x.at = p
	}
	if l != nil {
		x.lineage = x.lineage.Union(l)
	}
	if !moved && l == nil && len(set)+len(removed) == 0 {
		return
	}
	x.share(set, removed)
}

// share changes what all are told. The caller holds mu.
func (x *Exports) share(set []*replica.Resource, removed []replica.Name) {
	for _, r := range set {
		x.shared[r.Name] = r
	}
	for _, n := range removed {
		delete(x.shared, n)
	}
	for _, t := range x.peers {
		x.change(t, set, removed)
	}
}

// change replaces the partition of t. The caller holds mu.
func (x *Exports) change(t *told, set []*replica.Resource, removed []replica.Name) {
	t.partition = t.partition.Next(set, removed, x.at, x.lineage)
	close(t.changed)
	t.changed = make(chan struct{})
}

// peer finds or makes what a peer is told. The caller holds mu.
func (x *Exports) peer(n mesh.ClusterName) *told {
	t := x.peers[n]
	if t == nil {
		all := make([]*replica.Resource, 0, len(x.shared))
		for _, r := range x.shared {
			all = append(all, r)
		}
		t = &told{partition: replica.NewPartition(x.self).Next(all, nil, x.at, x.lineage), changed: make(chan struct{})}
		x.peers[n] = t
	}
	return t
}

// current is what a peer is told now, and a channel that closes when that changes.
func (x *Exports) current(n mesh.ClusterName) (*replica.Partition, <-chan struct{}) {
	x.mu.Lock()
	defer x.mu.Unlock()
	t := x.peer(n)
	return t.partition, t.changed
}

// To is what a peer is told now.
func (x *Exports) To(n mesh.ClusterName) *replica.Partition {
	p, _ := x.current(n)
	return p
}

// Told reports whether a peer is told of a service.
func (x *Exports) Told(to mesh.ClusterName, s mesh.ServiceName) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	t := x.peers[to]
	return t != nil && t.partition.Get(replica.Name{Kind: mesh.KindRemoteService, Namespace: s.Namespace, Name: s.Name}) != nil
}

// Position is how far this cluster's history is told.
func (x *Exports) Position() mesh.Position {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.at
}
