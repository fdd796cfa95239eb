package plane

import (
	"context"
	"crypto/rand"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/control/authority"
	"github.com/isthmus-mesh/isthmus/control/drain"
	"github.com/isthmus-mesh/isthmus/control/load"
	"github.com/isthmus-mesh/isthmus/core/compile"
	"github.com/isthmus-mesh/isthmus/core/derive"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/price"
	"github.com/isthmus-mesh/isthmus/core/split"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// newLoad is what spreads services over clusters by load.
func (p *Plane) newLoad() *load.Driver {
	return load.NewDriver(load.Config{Cluster: p.cfg.Cluster, TrustDomain: p.cfg.TrustDomain(), Identify: authority.Identify, Clock: p.clock, Log: p.log,
		IgnoreLearnt: p.cfg.IgnoreLearntCapacity,
		Edit:         func(ctx context.Context, edits []world.Edit) error { return p.loop.Edit(ctx, edits, nil) },
		Paths:        func() []split.Path { return p.detours.Over(p.paths()) },
		Sees:         p.sees,
		Beliefs:      p.authority.Beliefs, Believes: p.authority.Believes,
		Unserved:     unservedHere(p.loop.World),
		Told:         p.events.Split,
		LeftOut:      p.events.LeftOut,
		Region:       p.region,
		Jurisdiction: p.jurisdiction,
		Costs:        p.costs,
		Drained: func(now time.Time) map[mesh.ClusterName]float64 {
			return compile.Drained(p.loop.World(), now.UnixNano())
		},
		Services: p.services,
		// What a peer is told of, or serves itself.
		May: func(to mesh.ClusterName, s mesh.ServiceName) bool {
			if p.exports.Told(to, s) {
				return true
			}
			_, serves := p.loop.World().Get(mesh.Key{Kind: mesh.KindRemoteService, Origin: to, Namespace: s.Namespace, Name: s.Name})
			return serves
		}})
}

// Load is what spreads services over clusters, for those who ask what it does and would do.
func (p *Plane) Load() *load.Driver { return p.load }

// costs is what a GiB from one cluster to another costs: what the sender's owner states, else by list.
func (p *Plane) costs(from, to mesh.ClusterName) float64 {
	w := p.loop.World()
	stated := 0.0
	if c := clusterOf(w, from, to); c != nil {
		stated = c.EgressPerGiB
	}
	return price.Between(clusterOf(w, w.Self(), from), clusterOf(w, w.Self(), to), stated).PerGiB
}

// unservedHere are the listeners of Gateways that are not served in the world of the moment; it looks again when that is another one.
func unservedHere(now func() *world.World) func() []string {
	var mu sync.Mutex
	var of *world.World
	var last []string
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		if w := now(); w != of {
			of, last = w, nil
			if v, err := derive.Eval(w, compile.IngressOf, struct{}{}); err == nil && v != nil {
				last = v.Unserved
			}
		}
		return last
	}
}

// services are where those of this cluster can be reached, also of those that no proxy has asked for.
func (p *Plane) services() (out []*ir.Endpoints) {
	w, view := p.loop.World(), p.loop.View()
	for f := range w.All() {
		if s, ok := f.Value.(*mesh.Service); ok && f.Origin == p.cfg.Cluster {
			if e, err := derive.Eval(w, compile.EndpointsOf, compile.In{Service: s.ServiceName, View: view}); err == nil && e != nil {
				out = append(out, e)
			}
		}
	}
	return out
}

// region is where a cluster is, as this one knows it.
func (p *Plane) region(n mesh.ClusterName) mesh.Region {
	if c := clusterOf(p.loop.World(), p.cfg.Cluster, n); c != nil {
		return c.Region
	}
	return ""
}

// jurisdiction is the law under which a cluster stands, as this one knows it.
func (p *Plane) jurisdiction(n mesh.ClusterName) mesh.Jurisdiction {
	if c := clusterOf(p.loop.World(), p.cfg.Cluster, n); c != nil {
		return c.Jurisdiction
	}
	return ""
}

// clusterOf is what an origin states of a cluster; nil is nothing.
func clusterOf(w *world.World, origin, n mesh.ClusterName) *mesh.Cluster {
	if f, ok := w.Get(mesh.Key{Kind: mesh.KindCluster, Origin: origin, Name: string(n)}); ok {
		return f.Value.(*mesh.Cluster)
	}
	return nil
}

// newDrains is what takes things out of use, for people.
func (p *Plane) newDrains() *drain.Keeper {
	return drain.New(drain.Config{Cluster: p.cfg.Cluster, World: p.World, Objects: p.store, Forecast: p.load.Forecast, Stamp: p.Stamp, Clock: p.clock,
		Unheard: p.unheard, Random: rand.Reader, Log: p.log})
}

// unheard are the peers that can be reached and whose word is not the newest: whoever has just started, or lost the link.
func (p *Plane) unheard() (out []mesh.ClusterName) {
	for _, peer := range p.Peers() {
		if peer.State.Usable() && (!peer.Status.InSync || peer.Status.Stale) {
			out = append(out, peer.Cluster)
		}
	}
	return out
}

// Drains takes things out of use.
func (p *Plane) Drains() *drain.Keeper { return p.drains }
