package compile

import (
	"slices"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/core/derive"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// objectName names a configured object whoever states it.
type objectName struct {
	Kind            mesh.Kind
	Namespace, Name string
}

// String is "Kind namespace/name".
func (n objectName) String() string {
	return mesh.Key{Kind: n.Kind, Namespace: n.Namespace, Name: n.Name}.String()
}

// effective is the one object in force under a name among all origins that state
// it.
var effective = derive.NewFunc("effective", sameFact, func(c *derive.Ctx, n objectName) *mesh.Fact {
	self := world.Self.Get(c, struct{}{})
	var facts []*mesh.Fact
	for _, k := range world.Index.Get(c, world.Named(n.Kind, n.Namespace, n.Name)) {
		f, ok := world.Facts.Get(c, k)
		if ok && (f.Origin == self || obeyed.Get(c, f.Key)) {
			facts = append(facts, f)
		}
	}
	if len(facts) == 0 {
		return nil
	}
	return Winner(facts)
})

// Winner is the fact in force among those of several origins under one name, by the
// rule of replica.Effective. The losers are kept as facts and shown as a conflict. There must
// be at least one fact.
func Winner(facts []*mesh.Fact) *mesh.Fact {
	candidates := make([]replica.Candidate, len(facts))
	for i, f := range facts {
		candidates[i] = replica.Candidate{Origin: f.Origin, Stamp: f.Stamp, Digest: f.Digest}
	}
	winner, _ := replica.Effective(candidates)
	return facts[winner]
}

// sameFact leaves positions and stamps out: only what the object says counts, and when it
// was created, which its digest does not cover.
func sameFact(a, b *mesh.Fact) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Key == b.Key && a.Digest == b.Digest && created(a).Equal(created(b))
}

// created is when a route was made; of everything else it does not matter.
func created(f *mesh.Fact) time.Time {
	if r, ok := f.Value.(*mesh.Route); ok {
		return r.Created
	}
	return time.Time{}
}

// obeyed reports whether this cluster lets a foreign object act: its own Cluster
// object lists the origin, or the object can only tighten.
var obeyed = derive.NewFunc("obeyed", derive.Same[bool], func(c *derive.Ctx, k mesh.Key) bool {
	f, ok := world.Facts.Get(c, k)
	if !ok {
		return false
	}
	var accepts []mesh.Accept
	if cl := ownCluster(c); cl != nil {
		accepts = cl.Accepts
	}
	switch replica.AuthorityOf(world.Self.Get(c, struct{}{}), accepts, k) {
	case replica.MayAll:
		return true
	case replica.MayTighten:
		p, isAccess := f.Value.(*mesh.AccessPolicy)
		return !isAccess || p.Action != mesh.Allow // one that allows does more than tighten
	}
	return false
})

// Accepts reports whether a list obeys the origin of an object; see replica.Accepts.
func Accepts(list []mesh.Accept, k mesh.Key) bool {
	return replica.Accepts(list, k.Origin, k.Kind, k.Namespace)
}

// gather returns the objects in force whose keys stand in any of the buckets, by
// namespace and name, each once.
func gather(c *derive.Ctx, buckets ...world.Bucket) []*mesh.Fact {
	var names []objectName
	for _, b := range buckets {
		for _, k := range world.Index.Get(c, b) {
			n := objectName{k.Kind, k.Namespace, k.Name}
			if !slices.Contains(names, n) {
				names = append(names, n)
			}
		}
	}
	slices.SortFunc(names, func(a, b objectName) int { return strings.Compare(a.String(), b.String()) })
	var out []*mesh.Fact
	for _, n := range names {
		if f := effective.Get(c, n); f != nil {
			out = append(out, f)
		}
	}
	return out
}

// own reads a fact of this cluster.
func own[V any](c *derive.Ctx, kind mesh.Kind, namespace, name string) *V {
	f, ok := world.Facts.Get(c, mesh.Key{Kind: kind, Origin: world.Self.Get(c, struct{}{}), Namespace: namespace, Name: name})
	if !ok {
		return nil
	}
	return f.Value.(*V)
}

func ownCluster(c *derive.Ctx) *mesh.Cluster {
	return own[mesh.Cluster](c, mesh.KindCluster, "", string(world.Self.Get(c, struct{}{})))
}

// clusterNamed is a cluster as this cluster's own Cluster object describes it.
func clusterNamed(c *derive.Ctx, n mesh.ClusterName) *mesh.Cluster {
	return own[mesh.Cluster](c, mesh.KindCluster, "", string(n))
}

// settings are the mesh-wide defaults in force.
var settings = derive.NewFunc("settings", derive.Same[mesh.Settings], func(c *derive.Ctx, _ struct{}) mesh.Settings {
	s := mesh.Settings{Domain: mesh.DefaultDomain}
	keys := world.Index.Get(c, world.Small(mesh.KindMesh))
	if len(keys) == 0 {
		return s
	}
	if f := effective.Get(c, objectName{mesh.KindMesh, keys[0].Namespace, keys[0].Name}); f != nil {
		s = *f.Value.(*mesh.Settings)
		if s.Domain == "" {
			s.Domain = mesh.DefaultDomain
		}
	}
	return s
})
