package shape

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/sim/facts"
)

// Shape is the mesh that a seed makes: one in twenty is large, the others have three to eight clusters.
type Shape struct {
	Clusters []*mesh.Cluster // by name; those of role Remote have a relay
	// Replicas of each control plane.
	Replicas map[mesh.ClusterName]int
	// Whole and Plain are how many proxies a cluster has that hold everything, and a few services.
	Whole, Plain int
	// Writes, Faults, Settles and Ticks are how far apart these are, at least and at most.
	Writes, Faults, Settles, Ticks [2]time.Duration
	// Chaos is for how long faults come, in virtual time.
	Chaos time.Duration
}

// largeMesh is the number of clusters of one seed in twenty.
const largeMesh = 50

// New is the shape of a seed, or of n clusters if that is not 0.
func New(seed uint64, n int, rng *rand.Rand) Shape {
	switch {
	case n > 0:
	case seed%20 == 0:
		n = largeMesh
	default:
		n = 3 + rng.IntN(6)
	}
	ms := time.Millisecond
	s := Shape{Replicas: map[mesh.ClusterName]int{}, Whole: 2, Plain: 4 + rng.IntN(7), Writes: [2]time.Duration{400 * ms, 1600 * ms}, Faults: [2]time.Duration{0, 700 * ms},
		Settles: [2]time.Duration{2 * ms, 40 * ms}, Ticks: [2]time.Duration{150 * ms, 270 * ms}, Chaos: 20 * time.Second}
	remotes := 1
	if n > 20 {
		s.Plain, s.Writes, s.Faults = 40+rng.IntN(40), [2]time.Duration{4 * time.Second, 10 * time.Second}, [2]time.Duration{0, 500 * ms}
		s.Settles, s.Ticks, s.Chaos = [2]time.Duration{30 * ms, 90 * ms}, [2]time.Duration{300 * ms, 500 * ms}, 12*time.Second
		remotes = 3
	}
	for i := range n {
		c := &mesh.Cluster{Name: mesh.ClusterName(fmt.Sprintf("c%02d", i)), Role: mesh.RolePrimary}
		if i >= n-remotes {
			c.Name, c.Role = mesh.ClusterName(fmt.Sprintf("edge%02d", i)), mesh.RoleRemote
		}
		c.Region, c.Network = mesh.Region("r-"+c.Name), mesh.Network(c.Name)
		if i > 0 && rng.IntN(4) == 0 {
			c.Network = s.Clusters[i-1].Network
		}
		js := facts.Jurisdictions()
		c.Jurisdiction, c.TrustDomain = js[rng.IntN(len(js))], mesh.TrustDomainOf(c.Name, mesh.DefaultDomain)
		s.Clusters = append(s.Clusters, c)
		s.Replicas[c.Name] = s.replicasOf(i, c.Role, n, rng)
	}
	return s
}

// replicasOf is how many replicas the i-th cluster has: three for the first, one of a relay.
func (s *Shape) replicasOf(i int, r mesh.Role, n int, rng *rand.Rand) int {
	switch {
	case r == mesh.RoleRemote:
		return 1
	case i == 0:
		return 3
	case n > 20:
		if i < 6 {
			return 2
		}
		return 1
	}
	return []int{1, 1, 2, 3}[rng.IntN(4)]
}

// Names are those of the clusters that one wants, sorted.
func (s *Shape) Names(want func(*mesh.Cluster) bool) []mesh.ClusterName {
	var out []mesh.ClusterName
	for _, c := range s.Clusters {
		if want(c) {
			out = append(out, c.Name)
		}
	}
	return out
}
