package plane

import (
	"github.com/isthmus-mesh/isthmus/control/peer"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Tells is what each cluster that has joined is told.
func (p *Plane) Tells() map[mesh.ClusterName]*replica.Partition {
	out := map[mesh.ClusterName]*replica.Partition{}
	p.peers.mu.Lock()
	defer p.peers.mu.Unlock()
	for n := range p.peers.want {
		out[n] = p.exports.To(n)
	}
	return out
}

// Holds is what is known of each cluster that is followed.
func (p *Plane) Holds() map[mesh.ClusterName]peer.Holding {
	out := map[mesh.ClusterName]peer.Holding{}
	p.peers.mu.Lock()
	defer p.peers.mu.Unlock()
	for n, l := range p.peers.on {
		out[n] = l.follower.Holding()
	}
	return out
}
