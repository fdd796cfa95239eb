package plane

import (
	"maps"
	"slices"

	"github.com/isthmus-mesh/isthmus/control/verdict"
	"github.com/isthmus-mesh/isthmus/core/liveness"
	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// newVerdicts is what judges clusters, over the rows that load reports carry.
func (p *Plane) newVerdicts() *verdict.Board {
	return verdict.New(verdict.Config{Self: p.cfg.Cluster, Clock: p.clock, Log: p.log, Told: p.events.Verdict,
		Clusters: func() []mesh.ClusterName {
			p.peers.mu.Lock()
			defer p.peers.mu.Unlock()
			return append(slices.Sorted(maps.Keys(p.peers.want)), p.cfg.Cluster)
		},
		Own: func() map[mesh.ClusterName]liveness.Sight {
			out := map[mesh.ClusterName]liveness.Sight{}
			for _, l := range p.Peers() {
				out[l.Cluster] = liveness.Sight{Path: l.State != mesh.Unreachable, Lease: l.Lease}
			}
			return out
		}})
}

// sees takes how a peer sees the others.
func (p *Plane) sees(observer mesh.ClusterName, paths []split.Path) {
	row := make(map[mesh.ClusterName]liveness.Sight, len(paths))
	for _, x := range paths {
		row[x.Cluster] = liveness.Sight{Path: !x.Dead, Lease: x.Lease}
	}
	p.verdicts.Heard(observer, row)
	p.detours.Heard(observer, paths)
}

// Verdicts is what the mesh says of each cluster, as this control plane judges.
func (p *Plane) Verdicts() *verdict.Board { return p.verdicts }
