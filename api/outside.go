package api

import (
	"github.com/isthmus-mesh/isthmus/api/entry"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// enter finds the listener of a Gateway that takes what comes from outside the mesh; false when that ends it.
func (x *explainer) enter() (o Outcome, ok bool) {
	s, why, err := entry.Find(x.world, x.view, entry.Ask{Scheme: x.scheme, Host: x.out.Request.Host, Port: x.out.Request.Port, Head: &x.head})
	if s == nil {
		x.err = err
		return refused(mesh.ReasonNoRoute, "%s", why), false
	}
	x.service, x.name, x.out.Source.Note = s, s.Name, "a client outside the mesh, at "+entry.Listener(s.Name)
	return o, true
}
