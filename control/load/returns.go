package load

import (
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/isthmus-mesh/isthmus/core/failback"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// saw counts how a proxy's tries ended. The caller holds mu.
func (b *Balancer) saw(n *node) {
	for i := range n.samples {
		if s := b.services[n.samples[i].Service]; s != nil {
			for _, r := range n.samples[i].Results {
				s.gates.Saw(r)
				n.saw(place{n.samples[i].Service, r.Cluster}, r)
			}
		}
	}
}

// Returning are the splits in which a cluster is on its way back, by service, as they stand.
func (b *Balancer) Returning() (out []*mesh.Split) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, n := range slices.SortedFunc(maps.Keys(b.services), mesh.ServiceName.Compare) {
		if r := b.services[n].returning(); len(r) > 0 {
			out = append(out, &mesh.Split{Service: n, Returning: r})
		}
	}
	return out
}

// returning are clusters on their way back, by name.
func (s *service) returning() (out []mesh.Return) {
	s.gates.Returning(func(c mesh.ClusterName, g *failback.Gate) {
		out = append(out, mesh.Return{Cluster: c, Parts: uint32(math.Round(g.Part() * mesh.AllParts)), Ended: g.Seen.Ended, Failed: g.Seen.Failed,
			SinceMillis: g.Since.UnixMilli(), Hold: g.Hold})
	})
	slices.SortFunc(out, func(a, b mesh.Return) int { return strings.Compare(string(a.Cluster), string(b.Cluster)) })
	return out
}
