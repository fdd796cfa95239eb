package proxy

import (
	"errors"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/tenancy"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// errEvicted is why a request was cut short whose client did not take the answer, or send the body,
// while others waited for the application.
var errEvicted = errors.New("the client kept a connection of the application waiting that others needed")

// openApp opens a stream to the application. One of HTTP/1.1 is a connection to itself, of which there
// are only so many: for that the request must have a place.
func (r *request) openApp() (message.Stream, *refusal) {
	if r.place == nil && r.far.IsHTTP() && !r.far.IsHTTP2() {
		t := r.proxy.placesAt(r.to.target)
		if err := t.Enter(&r.tenant, r.peer.Identity, r.deadline, r.wake); err != nil {
			if gone := r.lostClient(); gone != nil {
				return nil, refusedBody(gone)
			}
			return nil, notExecuted(mesh.ReasonOverloaded, "the application at "+r.to.target+": "+err.Error())
		}
		r.place = t
	}
	s, err := r.proxy.cfg.App(r.to.target, r.far)
	if err != nil {
		reason := mesh.ReasonAppUnreachable
		var known interface{ Reason() mesh.Reason }
		if errors.As(err, &known) {
			reason = known.Reason()
		}
		return nil, notExecuted(reason, "the application at "+r.to.target+": "+err.Error())
	}
	return s, nil
}

// leaveApp gives the place back.
func (r *request) leaveApp() {
	if r.place != nil {
		r.place.Leave(&r.tenant)
		r.place = nil
	}
}

func (p *Proxy) placesAt(target string) *tenancy.Table {
	if t, ok := p.places.Load(target); ok {
		return t.(*tenancy.Table)
	}
	t, _ := p.places.LoadOrStore(target, tenancy.New(p.cfg.Places))
	return t.(*tenancy.Table)
}

// evict is told that another has the request's place. It is called while the request has it.
func (r *request) evict() {
	r.lose(errEvicted)
	r.ex.Abort(errEvicted)
}
