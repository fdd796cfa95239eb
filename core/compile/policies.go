package compile

import (
	"cmp"
	"slices"

	"github.com/isthmus-mesh/isthmus/core/derive"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// attached lists the policies of a kind in force on a service, the most specific
// first: its own, its namespace's, the mesh's.
func attached(c *derive.Ctx, kind mesh.Kind, s mesh.ServiceName) []*mesh.Fact {
	var out []*mesh.Fact
	for _, b := range [][]world.Bucket{
		{world.Targeting(kind, "Service", s.Namespace, s.Name), world.Targeting(kind, "ServiceImport", s.Namespace, s.Name)},
		{world.Targeting(kind, "Namespace", "", s.Namespace)},
		{world.Targeting(kind, "Mesh", "", "")},
	} {
		for _, f := range gather(c, b...) {
			if !slices.ContainsFunc(out, func(o *mesh.Fact) bool { return o.Key == f.Key }) {
				out = append(out, f)
			}
		}
	}
	return out
}

// law is the jurisdictions a service may be in; unbound allows all.
type law struct {
	bound   bool
	allowed []mesh.Jurisdiction
	// by names the policy that removed a jurisdiction, or the first that binds.
	by []string
}

func sameLaw(a, b law) bool {
	return a.bound == b.bound && slices.Equal(a.allowed, b.allowed) && slices.Equal(a.by, b.by)
}

// lawOf intersects all residency policies of a service, every origin's: they only
// tighten, so that a loosening in one cluster never outvotes another's law. One that could not be
// understood allows nothing.
var lawOf = derive.NewFunc("law", sameLaw, func(c *derive.Ctx, s mesh.ServiceName) law {
	var l law
	kind := mesh.KindResidencyPolicy
	for _, b := range []world.Bucket{
		world.Targeting(kind, "Service", s.Namespace, s.Name), world.Targeting(kind, "ServiceImport", s.Namespace, s.Name),
		world.Targeting(kind, "Namespace", "", s.Namespace), world.Targeting(kind, "Mesh", "", ""),
	} {
		for _, k := range world.Index.Get(c, b) {
			f, ok := world.Facts.Get(c, k)
			if !ok {
				continue
			}
			p := f.Value.(*mesh.ResidencyPolicy)
			allowed := p.Allowed
			if p.Invalid != "" {
				allowed = nil
			}
			if !l.bound {
				l.bound, l.allowed = true, slices.Clone(allowed)
			} else {
				l.allowed = slices.DeleteFunc(l.allowed, func(j mesh.Jurisdiction) bool { return !slices.Contains(allowed, j) })
			}
			l.by = append(l.by, k.String())
		}
	}
	return l
})

// forbidden names the policy that keeps traffic of a service between the view's cluster and
// another out of the law, or is empty. Both ends must be lawful: a request carries data one
// way and its answer the other.
func forbidden(c *derive.Ctx, s mesh.ServiceName, there, here mesh.ClusterName) string {
	l := lawOf.Get(c, s)
	if !l.bound {
		return ""
	}
	for _, n := range []mesh.ClusterName{there, here} {
		cl := clusterNamed(c, n)
		if cl == nil || !slices.Contains(l.allowed, cl.Jurisdiction) {
			return l.by[len(l.by)-1]
		}
	}
	return ""
}

// transit lists the jurisdictions through which requests to a service may be passed on by a third cluster's gateways. They cannot
// read what they pass; it passes there all the same, and may be kept. So the law is that of both ends.
func transit(c *derive.Ctx, s mesh.ServiceName) []mesh.Jurisdiction {
	if l := lawOf.Get(c, s); l.bound {
		return l.allowed
	}
	return []mesh.Jurisdiction{ir.Anywhere}
}

// access gathers who may call a service of this cluster.
func access(c *derive.Ctx, s mesh.ServiceName) *ir.Access {
	if own[mesh.Service](c, mesh.KindService, s.Namespace, s.Name) == nil {
		return nil
	}
	a := &ir.Access{Service: s, Strict: settings.Get(c, struct{}{}).Strict}
	if e := own[mesh.ServiceExport](c, mesh.KindServiceExport, s.Namespace, s.Name); e != nil {
		a.Exported, a.Consumers = true, e.Consumers
	}
	for _, f := range attached(c, mesh.KindAccessPolicy, s) {
		a.Policies = append(a.Policies, ir.AccessEntry{Object: f.Key.String(), Policy: *f.Value.(*mesh.AccessPolicy)})
	}
	slices.SortFunc(a.Policies, func(x, y ir.AccessEntry) int { return cmp.Compare(x.Object, y.Object) })
	self := world.Self.Get(c, struct{}{})
	for _, k := range world.Index.Get(c, world.Small(mesh.KindCluster)) {
		if k.Origin != self {
			continue
		}
		if cl := clusterNamed(c, mesh.ClusterName(k.Name)); cl != nil {
			a.Clusters = append(a.Clusters, ir.Caller{TrustDomain: cl.TrustDomain, Cluster: cl.Name, Jurisdiction: cl.Jurisdiction})
		}
	}
	return a
}
