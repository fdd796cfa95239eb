package plane

import (
	"context"
	"maps"
	"time"

	"github.com/isthmus-mesh/isthmus/control/detour"
	"github.com/isthmus-mesh/isthmus/control/peer"
	"github.com/isthmus-mesh/isthmus/control/probe"
	"github.com/isthmus-mesh/isthmus/core/compile"
	"github.com/isthmus-mesh/isthmus/core/liveness"
	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// newDetours is what finds ways through third clusters.
func (p *Plane) newDetours() *detour.Keeper {
	return detour.New(detour.Config{Self: p.cfg.Cluster, Clock: p.clock, Log: p.log, Told: p.events.Detour, Paths: p.paths, Probe: p.probeBy,
		Clusters: func() map[mesh.ClusterName]mesh.Cluster {
			p.peers.mu.Lock()
			defer p.peers.mu.Unlock()
			return maps.Clone(p.peers.want)
		},
		Leaves: func(n mesh.ClusterName) bool {
			part, drained := compile.Drained(p.loop.World(), p.clock.Now().UnixNano())[n]
			return drained && part < 1
		},
		State: func(ctx context.Context, to, by mesh.ClusterName, rtt time.Duration) {
			p.peers.state(ctx, to, func(r mesh.Reach) mesh.Reach { r.Via, r.ViaRTT = by, rtt; return r })
		}})
}

// paths are the direct ways to peers.
func (p *Plane) paths() (out []split.Path) {
	for _, p := range p.Peers() {
		out = append(out, split.Path{Cluster: p.Cluster, RTT: p.RTT, Dead: p.State == mesh.Unreachable, Lease: p.Lease, Loss: p.Loss, StaleSinceMillis: p.StaleSinceMillis})
	}
	return out
}

// probeBy watches the way to a cluster by the gateways of another: it is the destination's gateways that are pinged, and known by
// their identity.
func (p *Plane) probeBy(to, by mesh.Cluster, changed func(liveness.State)) detour.Prober {
	to.Gateways = by.Gateways
	return probe.New(probe.Config{Peer: to, Source: p.source, Clock: p.clock, Log: p.log.With("by", by.Name), Dial: probe.Through(p.cfg.Local, by.TrustDomain),
		Gateway: mesh.Identity{TrustDomain: to.TrustDomain, Namespace: peer.SystemNamespace, ServiceAccount: "gateway"},
		Name:    "gateway." + string(to.TrustDomain),
		Changed: func(_ mesh.ClusterName, s liveness.State) { changed(s) }})
}
