package plane

import (
	"context"
	"maps"
	"slices"

	"github.com/isthmus-mesh/isthmus/control/authority"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// openAuthority loads or makes the authority, and this process's own certificate.
func (p *Plane) openAuthority(ctx context.Context) (err error) {
	c := authority.Config{Cluster: p.cfg.Cluster, TrustDomain: p.cfg.TrustDomain(), TTL: p.cfg.CertificateTTL, StateDir: p.cfg.StateDir, SealKey: p.sealKey,
		Clock: p.clock, Log: p.log}
	if p.cfg.shared() {
		c.Objects, c.Tokens = p.claim, p.store
	}
	if p.authority, err = authority.Open(ctx, c); err == nil {
		p.source = p.authority.Source
	}
	return err
}

// attachAuthority tells it who verifies.
func (p *Plane) attachAuthority() {
	p.authority.Attach(authority.Mesh{Proxies: p.census.Proxies, Changed: p.stateBundle,
		Wrote:    func(x authority.Act) { p.events.Authority(p.cfg.TrustDomain(), x.Reason, x.Cause, x.Effect) },
		Believed: func() string { return p.xds.Digest(string(p.cfg.Cluster), string(ir.TypeBundle)) },
		Workloads: func() (out []string) {
			for f := range p.loop.World().All() {
				if w, ok := f.Value.(*mesh.Workload); ok && f.Origin == p.cfg.Cluster && w.Proxy.IsValid() {
					out = append(out, f.Namespace+"/"+f.Name)
				}
			}
			return out
		},
		Clusters: func() []mesh.ClusterName {
			p.peers.mu.Lock()
			defer p.peers.mu.Unlock()
			return slices.Sorted(maps.Keys(p.peers.want))
		}})
}

// Authority is the cluster's.
func (p *Plane) Authority() *authority.Authority { return p.authority }
