package route

import (
	"fmt"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// Verdict is one route held against a request.
type Verdict struct {
	*ir.Route
	// Others says that the route is for other callers or another port: for this one it is as if it
	// were not attached.
	Others bool
	// Why the route does not take the request, for people; empty where it would.
	Why string
}

// Explain holds every route against a request, in order of precedence: the first without a
// Why is the one that Match returns.
func (t *Table) Explain(h *message.Head, port uint16, datagrams bool, namespace string) []Verdict {
	a := Ask{Head: h, Port: port, Datagrams: datagrams, Namespace: namespace}
	a.begin(t)
	out := make([]Verdict, len(t.routes))
	for i := range t.routes {
		r := &t.routes[i]
		what, at := r.miss(&a)
		out[i] = Verdict{Route: r.Route, Others: what == missConsumer || what == missPort, Why: r.describe(what, at)}
	}
	return out
}

// Redirect is the status with which the route answers by itself, 0 if it forwards.
func (v *Verdict) Redirect(h *message.Head) int {
	var reply message.Head
	if Redirect(&reply, h, v.Route, 0) {
		return reply.Status
	}
	return 0
}

// Forward changes h as the filters of the route and of one of its backends do: what the
// server proxy then decides on.
func (v *Verdict) Forward(h *message.Head, b *ir.Backend) {
	FilterRequest(h, v.Filters, &v.Match)
	FilterRequest(h, b.Filters, &v.Match)
}

// describe says what a miss is.
func (r *Route) describe(what missed, at int) string {
	m := &r.Match
	switch what {
	case missPort:
		switch {
		case r.Datagrams && r.Port == 0:
			return "it is for ports of UDP"
		case r.Datagrams:
			return fmt.Sprintf("it is for port %d of UDP", r.Port)
		}
		return fmt.Sprintf("it is for port %d", r.Port)
	case missConsumer:
		if r.Consumer == "" {
			return "it is for callers of namespaces without routes of their own"
		}
		return "it is for callers of namespace " + r.Consumer
	case missMethod:
		return "the method is not " + m.Method
	case missPath:
		return fmt.Sprintf("the path does not match %s %s", m.PathType, m.Path)
	case missHeader:
		return fmt.Sprintf("header %s is not %s", r.headers[at].Name, r.headers[at].Value)
	case missQuery:
		return fmt.Sprintf("query parameter %s is not %s", r.query[at].Name, r.query[at].Value)
	}
	return ""
}
