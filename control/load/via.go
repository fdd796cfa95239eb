package load

import (
	"slices"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// passes reports whether requests to a service may and can take a path that is a way through a third cluster. It is said of the
// callers of all clusters: they have the same law, and each applies its own.
func (b *Balancer) passes(e *ir.Endpoints, path split.Path) bool {
	if path.Via == "" || b.jurisdiction == nil || e == nil {
		return false
	}
	if path.Cluster != b.self && slices.ContainsFunc(e.Groups, func(g ir.Group) bool { return g.Cluster == path.Cluster && len(g.Slots) == 0 }) {
		return false // in one network: behind no gateway
	}
	return e.Allows(b.jurisdiction(path.Via))
}

// by is the third cluster through which requests to a service go from one to another; "" is none.
func (b *Balancer) by(s *service, own *peer, from, to mesh.ClusterName) mesh.ClusterName {
	p := b.peers[from]
	if from == b.self {
		p = own
	}
	if p == nil {
		return ""
	}
	if path, ok := p.paths[to]; ok && path.Dead && b.passes(s.endpoints, path) {
		return path.Via
	}
	return ""
}

// without is paths when a whole cluster is lost: nothing is passed on by it.
func without(paths []split.Path, l Loss) []split.Path {
	out := slices.Clone(paths)
	for i := range out {
		if l.Endpoint == nil && out[i].Via == l.Cluster {
			out[i].Via = ""
		}
	}
	return out
}

// cost is that of a GiB on its way, which is paid twice where a third cluster passes it on.
func (b *Balancer) cost(from, by, to mesh.ClusterName) float64 {
	if by == "" {
		return b.costs(from, to)
	}
	return b.costs(from, by) + b.costs(by, to)
}
