package proxy

import "github.com/isthmus-mesh/isthmus/dataplane/route"

// belong asks for the endpoint that the request's session or key names: of what the application
// sent, before filters changed it.
func (r *request) belong() {
	affinity := r.target.Traffic.Affinity
	if r.matched != nil && r.matched.Affinity != nil {
		affinity = r.matched.Affinity
	}
	r.session = route.ReadSession(r.ex.Request(), affinity, r.rec.Start)
	r.ask.Session = r.session.Find(r.target.View)
	if keys := r.target.Traffic.Balancing.Keys; len(keys) > 0 {
		source := ""
		if r.state.Self != nil { // a sidecar has one caller, whose identity and address its ID stands for
			source = r.state.Self.ID
		}
		r.ask.Hash, r.ask.Hashed = route.HashKey(r.ex.Request(), keys, source)
	}
}

// stayingBackend is the index of the matched route's backend that has the endpoint of the
// request's session (GEP-1619: a session outranks weights); -1 if there is none.
func (r *request) stayingBackend() int {
	if r.matched.Affinity == nil || len(r.matched.Backends) < 2 {
		return -1
	}
	session := route.ReadSession(r.ex.Request(), r.matched.Affinity, r.rec.Start)
	for i := range r.matched.Backends {
		b := &r.matched.Backends[i]
		if svc := r.state.Services[b.Service]; b.Weight > 0 && b.Missing == "" && svc != nil && session.Find(svc.View) != nil {
			return i
		}
	}
	return -1
}

// learn takes in what a server proxy says of its endpoint beside the answer.
func (r *request) learn() {
	e := r.dest.Endpoint
	if tag := r.reply.Get(FieldTag); tag != nil {
		r.rec.Endpoint = e.Learn(r.target.Name, tag)
	}
	if load := r.reply.Get(FieldLoad); load != nil {
		e.Report(load, r.now.UnixNano())
	}
}

// tell says what goes with an answer: to client proxies what they balance by, to the
// application its session.
func (r *request) tell() {
	switch {
	case r.peer.HBONE: // it would not know what that is
	case r.rec.Inbound:
		if tag := r.proxy.cfg.Tag; tag != "" {
			r.reply.Add(FieldTag, tag)
		}
		r.scratch = r.proxy.meter.AppendReport(r.scratch[:0])
		addBytes(&r.reply, FieldLoad, r.scratch)
	case r.trusted:
		r.scratch = r.session.Tell(&r.reply, r.dest.Endpoint, r.ask.Session, r.now, string(r.head.Scheme) == "https", r.scratch)
	}
}
