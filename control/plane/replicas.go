package plane

import (
	"context"

	"github.com/isthmus-mesh/isthmus/control/authority"
	"github.com/isthmus-mesh/isthmus/control/census"
	"github.com/isthmus-mesh/isthmus/control/peer"
	"github.com/isthmus-mesh/isthmus/control/sibling"
	"github.com/isthmus-mesh/isthmus/mesh"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func (p *Plane) newSiblings() *sibling.Set {
	return sibling.New(sibling.Config{Cluster: p.cfg.Cluster, Shared: p.cfg.shared(), Store: p.store, Links: p.sharedLinks,
		Self: sibling.Replica{Federation: p.cfg.Federation, Control: p.cfg.Control, API: p.cfg.API, Started: p.clock.Now().UnixMilli()},
		Dial: peer.DialConfig{Source: p.source, TrustDomain: p.cfg.TrustDomain(), Local: p.cfg.Local, Clock: p.clock}, Clock: p.clock, Log: p.log,
		Ask: func(ctx context.Context, r sibling.Replica) error { return p.census.Ask(ctx, r) }})
}

// newCensus asks the replicas what they see of proxies.
func (p *Plane) newCensus() *census.Census {
	return &census.Census{Self: p.siblings.Self().Name, All: p.siblings.All, Silent: p.siblings.Silent, Answered: p.siblings.Answered, Clock: p.clock,
		Own:  &census.Server{TrustDomain: p.cfg.TrustDomain(), Identify: authority.Identify, Version: p.cfg.Build.Version, Proxies: p.Proxies},
		Dial: peer.DialConfig{Source: p.source, TrustDomain: p.cfg.TrustDomain(), Local: p.cfg.Local, Clock: p.clock}}
}

// Census is what the replicas of this control plane see of proxies.
func (p *Plane) Census() *census.Census { return p.census }

// sharedLinks are the links that replicas share out; a remote cluster is attached where its relay chose.
func (p *Plane) sharedLinks() map[mesh.ClusterName]*peer.Follower {
	p.peers.mu.Lock()
	defer p.peers.mu.Unlock()
	out := make(map[mesh.ClusterName]*peer.Follower, len(p.peers.on))
	for n, l := range p.peers.on {
		if l.cluster.Role != mesh.RoleRemote {
			out[n] = l.follower
		}
	}
	return out
}

// retell serves a sibling.
func (p *Plane) retell(call peer.Call, up peer.FollowStream) error {
	p.peers.mu.Lock()
	l := p.peers.on[call.Owner]
	p.peers.mu.Unlock()
	if l == nil {
		return status.Errorf(codes.NotFound, "this replica follows no cluster %s", call.Owner)
	}
	return p.federation.Retell(call, up, l.follower)
}

// Replicas lists the processes of this control plane that are known, by name; this one alone where it has a store of its own.
func (p *Plane) Replicas() []sibling.Replica { return p.siblings.All() }
