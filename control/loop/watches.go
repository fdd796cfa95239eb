package loop

import (
	"errors"
	"fmt"
	"strings"

	"github.com/isthmus-mesh/isthmus/codec/wire"
	"github.com/isthmus-mesh/isthmus/core/compile"
	"github.com/isthmus-mesh/isthmus/core/derive"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/xds"
)

// SystemNamespace is the namespace of the mesh's own parts.
const SystemNamespace = "isthmus-system"

// IngressAccount is the service account of ingress gateways.
const IngressAccount = "ingress"

// Scope authorises a node (xds.Source): an identity of this cluster reads the cluster's
// resources and its own proxy's; slot tables are for gateways, and Gateways for ingress gateways.
func (l *Loop) Scope(n xds.Node, typ string) (string, error) {
	if n.Identity.TrustDomain.Cluster() != l.cfg.Self {
		return "", fmt.Errorf("identity %s is not of cluster %s", n.Identity, l.cfg.Self)
	}
	id, err := mesh.ParseServiceName(n.ID)
	if err != nil || id.Namespace != n.Identity.Namespace {
		return "", fmt.Errorf("node ID %q: want NAMESPACE/WORKLOAD in the namespace of %s", n.ID, n.Identity)
	}
	switch ir.Type(typ) {
	case ir.TypeName, ir.TypeService, ir.TypeEndpoints, ir.TypeAccess, ir.TypeBundle, ir.TypeCluster, ir.TypeSplit:
		return string(l.cfg.Self), nil
	case ir.TypeSlots:
		if n.Identity.Namespace != SystemNamespace {
			return "", errors.New("slot tables are for the gateways of namespace " + SystemNamespace)
		}
		return string(l.cfg.Self), nil
	case ir.TypeGateway:
		if n.Identity.Namespace != SystemNamespace || n.Identity.ServiceAccount != IngressAccount {
			return "", errors.New("gateways are for the ingress gateways: service account " + IngressAccount + " of namespace " + SystemNamespace)
		}
		return string(l.cfg.Self), nil
	case ir.TypeProxy:
		return n.Identity.String(), nil
	}
	return "", fmt.Errorf("resource type %q is not served here", typ)
}

// Watch implements xds.Source.
func (l *Loop) Watch(scope, typ, name string) {
	l.call(func() { l.watch.add(watched{scope, ir.Type(typ), name}) })
}

// Unwatch implements xds.Source.
func (l *Loop) Unwatch(scope, typ, name string) {
	l.call(func() { l.watch.drop(watched{scope, ir.Type(typ), name}) })
}

// watched names a resource of a scope; the name "*" is the whole type.
type watched struct {
	scope string
	typ   ir.Type
	name  string
}

// watches maps what streams subscribed to onto roots of the engine. A resource may be
// watched by its name, as a member of its whole type, or both; the engine counts.
type watches struct {
	loop   *Loop
	byName map[watched]bool
	member map[watched]bool
	// whole types, with the scope that asked.
	whole map[ir.Type]string
	roots map[derive.Ref]watched
	// owed are the values to publish after the next settle even if they did not change.
	owed []watched
}

func (w *watches) add(k watched) {
	w.owed = append(w.owed, k)
	if k.name == "*" {
		w.whole[k.typ] = k.scope
		for f := range w.loop.World().All() {
			w.noticed(f.Key)
		}
		for m := range w.member { // those that somebody else watched before are news to this one
			if m.typ == k.typ {
				w.owed = append(w.owed, m)
			}
		}
		return
	}
	if r, ok := w.root(k); ok && !w.byName[k] {
		w.byName[k] = true
		w.roots[r.ref] = k
		r.watch(w.loop.engine)
	}
}

func (w *watches) drop(k watched) {
	if k.name == "*" {
		delete(w.whole, k.typ)
		for m := range w.member {
			if m.typ == k.typ {
				w.dropMember(m)
			}
		}
		return
	}
	if w.byName[k] {
		delete(w.byName, k)
		w.unwatch(k)
	}
}

func (w *watches) dropMember(k watched) {
	delete(w.member, k)
	w.unwatch(k)
}

func (w *watches) unwatch(k watched) {
	r, _ := w.root(k)
	r.unwatch(w.loop.engine)
	if !w.byName[k] && !w.member[k] {
		delete(w.roots, r.ref)
	}
}

// noticed makes the resource that a fact may bring into being a member of its type, if
// the whole type is watched.
func (w *watches) noticed(key mesh.Key) {
	for _, typ := range memberTypes(key, w.loop.cfg.Self) {
		scope, ok := w.whole[typ]
		if !ok {
			continue
		}
		name, ok := w.memberName(typ, key)
		k := watched{scope, typ, name}
		if !ok || w.member[k] {
			continue
		}
		if r, ok := w.root(k); ok {
			w.member[k] = true
			w.roots[r.ref] = k
			r.watch(w.loop.engine)
			w.owed = append(w.owed, k)
		}
	}
}

// memberTypes lists the whole types whose members facts of a key bring into being.
func memberTypes(key mesh.Key, self mesh.ClusterName) []ir.Type {
	switch key.Kind {
	case mesh.KindRemoteService:
		return []ir.Type{ir.TypeName}
	case mesh.KindBundle:
		return []ir.Type{ir.TypeBundle}
	case mesh.KindGateway:
		return []ir.Type{ir.TypeGateway}
	}
	if key.Origin == self {
		switch key.Kind {
		case mesh.KindService:
			return []ir.Type{ir.TypeName}
		case mesh.KindCluster:
			return []ir.Type{ir.TypeCluster, ir.TypeBundle}
		case mesh.KindSlotTable, mesh.KindServiceExport:
			return []ir.Type{ir.TypeSlots}
		}
	}
	return nil
}

// memberName is the name of the resource of a type that a fact may bring into being.
func (w *watches) memberName(typ ir.Type, key mesh.Key) (string, bool) {
	if typ == ir.TypeBundle && key.Kind == mesh.KindCluster {
		f, ok := w.loop.World().Get(key)
		if !ok {
			return "", false
		}
		td := f.Value.(*mesh.Cluster).TrustDomain
		return string(td), td != ""
	}
	if key.Namespace == "" {
		return key.Name, true
	}
	return key.Namespace + "/" + key.Name, true
}

// settled returns what to publish: changed roots, what is owed, and last the marks of
// complete types. Members whose facts have gone are let go.
func (w *watches) settled(changed []derive.Change) []xds.Update {
	var out []xds.Update
	published := map[watched]bool{}
	publish := func(k watched) {
		if published[k] {
			return
		}
		published[k] = true
		out = append(out, w.update(k))
	}
	for _, c := range changed {
		if k, ok := w.roots[c.Root]; ok {
			publish(k)
		}
	}
	var complete []xds.Update
	for _, k := range w.owed {
		if k.name == "*" {
			complete = append(complete, xds.Update{Scope: k.scope, Type: string(k.typ), Name: "*"})
		} else {
			publish(k)
		}
	}
	w.owed = w.owed[:0]
	for k := range published {
		if w.member[k] && !w.hasFacts(k) {
			w.dropMember(k)
		}
	}
	return append(out, complete...)
}

func (w *watches) update(k watched) xds.Update {
	u := xds.Update{Scope: k.scope, Type: string(k.typ), Name: k.name}
	r, ok := w.root(k)
	if !ok {
		return u
	}
	if v := r.value(w.loop.engine); v != nil {
		_, body := wire.Encode(v)
		u.Resource = &xds.Resource{Type: u.Type, Name: u.Name, Version: ir.DigestOf(v).String(), Body: body}
	}
	return u
}

// hasFacts reports whether any fact could still bring the member into being.
func (w *watches) hasFacts(k watched) bool {
	ns, name, namespaced := strings.Cut(k.name, "/")
	if !namespaced {
		ns, name = "", k.name
	}
	if k.typ == ir.TypeBundle && len(w.loop.World().Members(world.Named(mesh.KindCluster, "", string(mesh.TrustDomain(k.name).Cluster())))) > 0 {
		return true
	}
	for _, kind := range []mesh.Kind{mesh.KindRemoteService, mesh.KindBundle, mesh.KindService, mesh.KindCluster, mesh.KindSlotTable, mesh.KindServiceExport, mesh.KindGateway} {
		for _, key := range w.loop.World().Members(world.Named(kind, ns, name)) {
			for _, typ := range memberTypes(key, w.loop.cfg.Self) {
				if typ == k.typ {
					return true
				}
			}
		}
	}
	return false
}

// root is a derived function at a key, with the types taken off.
type root struct {
	ref     derive.Ref
	watch   func(*derive.Engine)
	unwatch func(*derive.Engine)
	value   func(*derive.Engine) any // nil if there is none
}

func rootFor[K comparable, V any](f *derive.Func[K, *V], k K) (root, bool) {
	return root{f.Ref(k), func(e *derive.Engine) { f.Watch(e, k) }, func(e *derive.Engine) { f.Unwatch(e, k) },
		func(e *derive.Engine) any {
			if v, ok := f.Value(e, k); ok && v != nil {
				return v
			}
			return nil
		}}, true
}

// root finds the function behind a resource; false for a name that names none.
func (w *watches) root(k watched) (root, bool) {
	view := w.loop.View()
	switch k.typ {
	case ir.TypeBundle:
		return rootFor(compile.BundleOf, mesh.TrustDomain(k.name))
	case ir.TypeCluster:
		return rootFor(compile.ClusterOf, mesh.ClusterName(k.name))
	case ir.TypeProxy:
		id, err := mesh.ParseIdentity(k.scope)
		if err != nil {
			return root{}, false
		}
		return rootFor(compile.ProxyOf, compile.ProxyKey{ID: k.name, Identity: id, View: view})
	}
	if k.typ == ir.TypeGateway { // whose name may have dots
		ns, name, ok := strings.Cut(k.name, "/")
		if !ok {
			return root{}, false
		}
		return rootFor(compile.GatewayOf, compile.GatewayKey{Namespace: ns, Name: name, View: view})
	}
	s, err := mesh.ParseServiceName(k.name)
	if err != nil {
		return root{}, false
	}
	switch k.typ {
	case ir.TypeName:
		return rootFor(compile.NameOf, compile.In{Service: s, View: view})
	case ir.TypeService:
		return rootFor(compile.ServiceOf, compile.In{Service: s, View: view})
	case ir.TypeEndpoints:
		return rootFor(compile.EndpointsOf, compile.In{Service: s, View: view})
	case ir.TypeAccess:
		return rootFor(compile.AccessOf, s)
	case ir.TypeSlots:
		return rootFor(compile.SlotsOf, s)
	case ir.TypeSplit:
		return rootFor(compile.SplitOf, s)
	}
	return root{}, false
}
