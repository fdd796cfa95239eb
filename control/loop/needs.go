package loop

import (
	"github.com/isthmus-mesh/isthmus/core/compile"
	"github.com/isthmus-mesh/isthmus/core/derive"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// needs follows what each service wants of the cluster's addresses. It is owned by the loop's goroutine.
type needs struct {
	loop    *Loop
	watched map[mesh.ServiceName]bool
}

// noticed watches the service that a fact may bring into being.
func (n *needs) noticed(key mesh.Key) {
	s := mesh.ServiceName{Namespace: key.Namespace, Name: key.Name}
	if n.loop.cfg.Need == nil || !isNeed(key.Kind) || n.watched[s] {
		return
	}
	n.watched[s] = true
	compile.NeedOf.Watch(n.loop.engine, s)
}

func isNeed(k mesh.Kind) bool {
	return k == mesh.KindService || k == mesh.KindServiceImport || k == mesh.KindRemoteService
}

// settled hands out what changed and lets go of what no fact speaks of any more.
func (n *needs) settled(changed []derive.Change) {
	for _, c := range changed {
		s, _, v, ok := compile.NeedOf.Change(c)
		if !ok {
			continue
		}
		if v != nil || !c.First {
			n.loop.cfg.Need(s, v)
		}
		if v == nil && !n.stands(s) {
			delete(n.watched, s)
			compile.NeedOf.Unwatch(n.loop.engine, s)
		}
	}
}

func (n *needs) stands(s mesh.ServiceName) bool {
	for _, k := range []mesh.Kind{mesh.KindService, mesh.KindServiceImport, mesh.KindRemoteService} {
		if len(n.loop.World().Members(world.Named(k, s.Namespace, s.Name))) > 0 {
			return true
		}
	}
	return false
}
