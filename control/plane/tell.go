package plane

import (
	"context"
	"maps"
	"slices"

	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// state takes a step of the own history into the world. Peers are told how far the history is then, and what is replicated of it
// (by name; nil is no longer told), once all that follows from the step has been computed and handed out. Until then the position
// would be a lie: after a restart the world is read before the exports are derived from it, and a peer that was told of that
// position without them would take every service for deleted.
func (p *Plane) state(ctx context.Context, edits []world.Edit, at mesh.Position, l replica.Lineage, changed map[replica.Name]*replica.Resource) error {
	return p.loop.EditAndTell(ctx, edits, mesh.Vector{p.cfg.Cluster: at}, func() {
		set, removed := sorted(changed)
		p.exports.State(at, l, set, removed)
	})
}

// sorted are what is told and what is no longer, by name.
func sorted(changed map[replica.Name]*replica.Resource) (set []*replica.Resource, removed []replica.Name) {
	for _, n := range slices.SortedFunc(maps.Keys(changed), replica.Name.Compare) {
		if r := changed[n]; r != nil {
			set = append(set, r)
		} else {
			removed = append(removed, n)
		}
	}
	return set, removed
}
